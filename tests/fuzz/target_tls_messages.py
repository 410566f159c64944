"""Fuzz target: bytes from a peer at every state of the TLS handshake. Run as a program, it rewrites its corpus.

The first byte chooses the state (modulo the number of them), the second how the rest is cut into pieces. Randomness,
certificates and time are fixed, so that an input means the same in every process. Cryptography is the simulated one.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

from stoq.crypto.certificates import ChainError, PeerChain, TrustStore
from stoq.crypto.simulated import (
    SIMULATED_GROUP,
    SIMULATED_SCHEME,
    register_simulated,
    simulated_authority,
    simulated_leaf,
)
from stoq.tls import Epoch, Handshake, TlsAlert, TlsConfiguration

CORPUS = Path(__file__).parent / "corpus" / "tls_messages"
NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)

# The ClientHello of RFC 9001 §A.2.
RFC9001_CLIENT_HELLO = bytes.fromhex(
    "010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c00000413011302010000c000000010000e"
    "00000b6578616d706c652e636f6dff01000100000a00080006001d0017001800100007000504616c706e00050005010000000000330026"
    "0024001d00209370b2c9caa47fbabaf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b0003020304000d0010000e04030503"
    "06030203080408050806002d00020101001c00024001003900320408ffffffffffffffff05048000ffff07048000ffff08011001048000"
    "75300901100f088394c8f03e51570806048000ffff"
)


@cache
def configurations() -> tuple[TlsConfiguration, TlsConfiguration, TlsConfiguration]:
    """(client, server, server with real groups and schemes beside the simulated ones)."""
    register_simulated()
    trust = TrustStore([simulated_authority().certificate])
    credentials = simulated_leaf().credentials()
    groups, schemes = [SIMULATED_GROUP], [SIMULATED_SCHEME]
    alpn = ["alpn", "h3"]
    client = TlsConfiguration(True, alpn, "localhost", trust=trust, groups=groups, signature_schemes=schemes)
    server = TlsConfiguration(False, alpn, credentials=credentials, groups=groups, signature_schemes=schemes)
    real = TlsConfiguration(
        False,
        alpn,
        credentials=credentials,
        groups=[*groups, 0x1D, 0x17],
        signature_schemes=[*schemes, 0x0403],
    )
    return client, server, real


def make(configuration: TlsConfiguration, seed: int) -> Handshake:
    source = random.Random(seed)
    return Handshake(configuration, transport_parameters=b"\1\1\1", random=source.randbytes, now=lambda: NOW)


def messages() -> tuple[Handshake, Handshake, list[bytes]]:
    """A client that waits, a server that waits, and [ClientHello, ServerHello, EE, Certificate, Verify, Finished]."""
    client_configuration, server_configuration, _ = configurations()
    client, server = make(client_configuration, 1), make(server_configuration, 2)
    client.start()
    hello = client.take_output()[0][1]
    server.receive(Epoch.INITIAL, hello)
    (_, answer), (_, flight) = server.take_output()
    found = [hello, answer]
    while flight:
        size = 4 + int.from_bytes(flight[1:4], "big")
        found.append(flight[:size])
        flight = flight[size:]
    return client, server, found


def client_after(count: int) -> tuple[Handshake, Epoch]:
    """A client that has the first `count` messages of the server."""
    client, _, found = messages()
    for at, data in enumerate(found[1 : 1 + count]):
        client.receive(Epoch.HANDSHAKE if at else Epoch.INITIAL, data)
    return client, (Epoch.INITIAL, *[Epoch.HANDSHAKE] * 4, Epoch.ONE_RTT)[count]


STATES: tuple[Callable[[], tuple[Handshake, Epoch]], ...] = (
    lambda: (make(configurations()[1], 2), Epoch.INITIAL),
    lambda: (make(configurations()[2], 2), Epoch.INITIAL),
    lambda: (messages()[1], Epoch.HANDSHAKE),
    lambda: client_after(0),
    lambda: client_after(1),
    lambda: client_after(2),
    lambda: client_after(3),
    lambda: client_after(4),
    lambda: client_after(5),
)
CHAIN = len(STATES)  # one more choice: the rest is a certificate


def refusal(side: Handshake, epoch: Epoch, data: bytes) -> TlsAlert | None:
    try:
        side.receive(epoch, data)
    except TlsAlert as alert:
        return alert
    return None


def fuzz_one(data: bytes) -> None:
    """Any input ends in success or in TlsAlert (ChainError for a certificate); everything else propagates."""
    if len(data) < 2:
        return
    choice, cut, rest = data[0] % (CHAIN + 1), data[1], data[2:]
    if choice == CHAIN:
        trust = configurations()[0].trust
        assert trust is not None
        with suppress(ChainError):
            trust.verify(PeerChain([rest]), "localhost", NOW)
        return
    side, epoch = STATES[choice]()
    size = cut or len(rest) or 1
    for at in range(0, len(rest), size):
        alert = refusal(side, epoch, rest[at : at + size])
        if alert is not None:
            assert "\n" not in str(alert)
            assert side.take_output() == []
            again = refusal(side, epoch, b"\0")
            assert again is not None, "a failed handshake went on"
            assert again.args == alert.args
            return


def seeds() -> dict[str, bytes]:
    """Valid input of every state, to start from."""
    _, _, found = messages()
    client, _, _ = messages()
    for at, data in enumerate(found[1:]):
        client.receive(Epoch.HANDSHAKE if at else Epoch.INITIAL, data)
    client_finished = client.take_output()[0][1]
    ticket = bytes.fromhex("0400001500000e10000000010101000461626364000800" + "2a0004ffffffff")
    ticket = b"\x04" + (len(ticket) - 4).to_bytes(3, "big") + ticket[4:]
    request = bytes.fromhex("0d00000b0000080" + "00d000400020403")
    inputs = {
        "client_hello": bytes((0, 0)) + found[0],
        "client_hello_in_pieces": bytes((0, 7)) + found[0],
        "client_hello_rfc9001": bytes((1, 0)) + RFC9001_CLIENT_HELLO,
        "client_finished": bytes((2, 0)) + client_finished,
        "server_hello": bytes((3, 0)) + found[1],
        "server_flight": bytes((4, 0)) + b"".join(found[2:]),
        "server_flight_in_bytes": bytes((4, 1)) + b"".join(found[2:]),
        "certificate": bytes((5, 0)) + found[3],
        "certificate_request": bytes((5, 0)) + request + found[3],
        "certificate_verify": bytes((6, 0)) + found[4],
        "server_finished": bytes((7, 0)) + found[5],
        "session_ticket": bytes((8, 0)) + ticket,
        "key_update": bytes((8, 0)) + b"\x18\0\0\1\0",
        "declares_16_mib": bytes((4, 0)) + b"\x08\xff\xff\xff",
        "chain": bytes((CHAIN, 0)) + simulated_leaf().credentials().certificates[0],
        "empty": b"\0\0",
    }
    return inputs


if __name__ == "__main__":
    CORPUS.mkdir(parents=True, exist_ok=True)
    for name, content in seeds().items():
        (CORPUS / name).write_bytes(content)
