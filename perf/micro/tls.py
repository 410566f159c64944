"""Cost of a TLS handshake in memory, both sides together: python perf/micro/tls.py [--runs N] [--profile]

Microseconds, each the minimum over the runs of the mean of 100 handshakes: P-256 ECDSA leaf under one root, X25519,
AES-128-GCM, chain verified. "first" has an empty memory of verified chains each time. "simulated" leaves out real
cryptography: it is the cost of our Python, HKDF included. Upstream aioquic stands beside it, driven as its QUIC layer
does: with its defaults, and with X25519 alone. Hold the machine's benchmark lock around it.
"""

from __future__ import annotations

import argparse
import cProfile
import datetime as dt
import functools
import os
import pstats
from collections.abc import Callable
from time import perf_counter
from typing import Any

from aioquic import tls as upstream
from aioquic._buffer import Buffer
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, x25519

from stoq.crypto.certificates import PeerChain, TrustStore, make_leaf, make_test_ca
from stoq.crypto.simulated import (
    SIMULATED_GROUP,
    SIMULATED_SCHEME,
    register_simulated,
    simulated_authority,
    simulated_leaf,
)
from stoq.tls import Handshake, TlsConfiguration

HANDSHAKES = 100
NOW = dt.datetime.now(dt.UTC)
AUTHORITY = make_test_ca(NOW)
LEAF = make_leaf(AUTHORITY, ["localhost"], NOW)
PARAMETERS = os.urandom(60)


def now() -> dt.datetime:
    return NOW


def mean_us(step: Callable[[], object], runs: int, count: int = HANDSHAKES) -> float:
    best = float("inf")
    for _ in range(runs):
        start = perf_counter()
        for _ in range(count):
            step()
        best = min(best, (perf_counter() - start) / count)
    return best * 1e6


class Pair:
    """Our client and server; `client_us` and `server_us` are sums over the handshakes."""

    def __init__(self, client: TlsConfiguration, server: TlsConfiguration) -> None:
        self.configurations = client, server
        self.reset()

    def reset(self) -> None:
        self.client_us = self.server_us = 0.0
        self.count = 0

    def make(self, configuration: TlsConfiguration) -> Handshake:
        return Handshake(configuration, transport_parameters=PARAMETERS, random=os.urandom, now=now)

    def shake(self) -> None:
        started = perf_counter()
        client = self.make(self.configurations[0])
        client.start()
        ((epoch, data),) = client.take_output()
        sent = perf_counter()
        server = self.make(self.configurations[1])
        server.receive(epoch, data)
        output = server.take_output()
        server.take_secrets()
        answered = perf_counter()
        for epoch, data in output:
            client.receive(epoch, data)
        ((epoch, data),) = client.take_output()
        client.take_secrets()
        finished = perf_counter()
        server.receive(epoch, data)
        server.take_secrets()
        ended = perf_counter()
        assert client.complete
        assert server.complete
        self.client_us += (sent - started + finished - answered) * 1e6
        self.server_us += (answered - sent + ended - finished) * 1e6
        self.count += 1


def real_pair() -> Pair:
    trust = TrustStore([AUTHORITY.certificate])
    return Pair(
        TlsConfiguration(is_client=True, alpn_protocols=["h3"], server_name="localhost", trust=trust),
        TlsConfiguration(is_client=False, alpn_protocols=["h3"], credentials=LEAF.credentials()),
    )


def simulated_pair() -> Pair:
    register_simulated()
    trust = TrustStore([simulated_authority().certificate])
    cheap: dict[str, Any] = {"groups": [SIMULATED_GROUP], "signature_schemes": [SIMULATED_SCHEME]}
    return Pair(
        TlsConfiguration(is_client=True, alpn_protocols=["h3"], server_name="localhost", trust=trust, **cheap),
        TlsConfiguration(is_client=False, alpn_protocols=["h3"], credentials=simulated_leaf().credentials(), **cheap),
    )


def upstream_side(is_client: bool, x25519_only: bool) -> tuple[upstream.Context, dict[upstream.Epoch, Buffer]]:
    context = upstream.Context(
        is_client=is_client,
        alpn_protocols=["h3"],
        cadata=AUTHORITY.certificate_pem,
        cipher_suites=[upstream.CipherSuite.AES_128_GCM_SHA256],
        server_name="localhost" if is_client else None,
    )
    if x25519_only:
        # The same cryptography as ours. By default upstream sends shares for four groups and prefers P-256.
        context._supported_groups = [upstream.Group.X25519]
    context.handshake_extensions = [(upstream.ExtensionType.QUIC_TRANSPORT_PARAMETERS, PARAMETERS)]
    if not is_client:
        context.certificate = LEAF.certificate
        context.certificate_private_key = LEAF.private_key
    return context, {epoch: Buffer(capacity=4096) for epoch in upstream.Epoch}


def upstream_shake(x25519_only: bool) -> None:
    client, client_out = upstream_side(True, x25519_only)
    server, server_out = upstream_side(False, x25519_only)
    client.handle_message(b"", client_out)
    server.handle_message(client_out[upstream.Epoch.INITIAL].data, server_out)
    client.handle_message(server_out[upstream.Epoch.INITIAL].data, client_out)
    client.handle_message(server_out[upstream.Epoch.HANDSHAKE].data, client_out)
    server.handle_message(client_out[upstream.Epoch.HANDSHAKE].data, server_out)
    assert server.state is upstream.State.SERVER_POST_HANDSHAKE
    assert client.state is upstream.State.CLIENT_POST_HANDSHAKE


def primitives(runs: int) -> dict[str, float]:
    """What the cryptography itself costs, called as the providers call it."""
    ecdsa = ec.ECDSA(hashes.SHA256())
    data = os.urandom(130)
    key = LEAF.private_key
    signature, public = key.sign(data, ecdsa), key.public_key()
    seed = os.urandom(32)
    private = x25519.X25519PrivateKey.from_private_bytes(seed)
    share = private.public_key().public_bytes_raw()
    chain = PeerChain(LEAF.credentials().certificates)
    trust = TrustStore([AUTHORITY.certificate])

    def exchange() -> None:
        private.exchange(x25519.X25519PublicKey.from_public_bytes(share))

    def verify_chain() -> None:
        trust._verified.clear()
        trust.verify(chain, "localhost", NOW)

    def make_key() -> None:
        x25519.X25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()

    return {
        "X25519 key": mean_us(make_key, runs),
        "X25519 exchange": mean_us(exchange, runs),
        "ECDSA P-256 sign": mean_us(lambda: key.sign(data, ecdsa), runs),
        "ECDSA P-256 verify": mean_us(lambda: public.verify(signature, data, ecdsa), runs),
        "X.509 chain verify": mean_us(verify_chain, runs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--profile", action="store_true", help="the costliest functions of 1000 handshakes")
    options = parser.parse_args()
    real, simulated = real_pair(), simulated_pair()

    trust = real.configurations[0].trust
    assert trust is not None

    def first() -> None:
        trust._verified.clear()
        real.shake()

    if options.profile:
        profile = cProfile.Profile()
        real.shake()
        profile.runcall(mean_us, real.shake, 1, 1000)
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
        return
    parts = primitives(options.runs)
    for name, cost in parts.items():
        print(f"{name:34} {cost:8.1f} us")
    sum_of_parts = 2 * (parts["X25519 key"] + parts["X25519 exchange"])
    sum_of_parts += parts["ECDSA P-256 sign"] + parts["ECDSA P-256 verify"]
    print(f"{'sum of primitives, chain known':34} {sum_of_parts:8.1f} us")
    # Interleaved, so that a change of the machine's clock meets all of them.
    best = dict.fromkeys(("stoq", "stoq, first", "aioquic, X25519", "aioquic"), float("inf"))
    split = [float("inf"), float("inf")]
    for _ in range(options.runs):
        best["stoq"] = min(best["stoq"], mean_us(real.shake, 1))
        simulated.reset()
        mean_us(simulated.shake, 1)
        split = [
            min(a, b / simulated.count) for a, b in zip(split, (simulated.client_us, simulated.server_us), strict=True)
        ]
        best["stoq, first"] = min(best["stoq, first"], mean_us(first, 1))
        for name, only in (("aioquic, X25519", True), ("aioquic", False)):
            best[name] = min(best[name], mean_us(functools.partial(upstream_shake, only), 1, HANDSHAKES // 4))
    for name, cost in best.items():
        print(f"{name + ', client + server':34} {cost:8.1f} us")
    print(f"{'simulated, client':34} {split[0]:8.1f} us")
    print(f"{'simulated, server':34} {split[1]:8.1f} us")
    print(f"{'ratio aioquic / stoq':34} {best['aioquic'] / best['stoq']:8.1f}")


if __name__ == "__main__":
    main()
