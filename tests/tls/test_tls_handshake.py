"""Handshakes in memory: both sides agree, however the bytes are cut."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tls_pair import (
    CLIENT_PARAMETERS,
    NOW,
    SERVER_PARAMETERS,
    Hello,
    cheap_client,
    cheap_server,
    client_configuration,
    client_hello,
    leaf,
    make,
    pump,
    run,
    server_configuration,
    shake,
    split,
    trust,
)

from stoq.crypto.groups import SECP256R1, X25519
from stoq.errors import ConfigurationError
from stoq.tls import Epoch, Handshake, Secret, TlsConfiguration
from stoq.tls.codes import GREASE
from stoq.tls.handshake import STEPS
from stoq.tls.session import State


def by_direction(secrets: Iterable[Secret], flip: bool) -> set[tuple[int, bool, int, bytes]]:
    return {(s.epoch, s.sending is not flip, s.suite, s.secret) for s in secrets}


def check_agreement(client: Handshake, server: Handshake) -> None:
    assert client.complete
    assert server.complete
    assert client.peer_transport_parameters == SERVER_PARAMETERS
    assert server.peer_transport_parameters == CLIENT_PARAMETERS
    for name in ("alpn", "cipher_suite", "group", "signature_scheme"):
        assert getattr(client, name) == getattr(server, name)
        assert getattr(client, name) is not None
    ours, theirs = client.take_secrets(), server.take_secrets()
    assert by_direction(ours, False) == by_direction(theirs, True)
    assert len(ours) == len(theirs) == 4
    assert client.export(b"EXPORTER-x", b"c", 40) == server.export(b"EXPORTER-x", b"c", 40)
    assert client.export(b"EXPORTER-x", b"c", 40) != client.export(b"EXPORTER-y", b"c", 40)
    assert client.export(b"EXPORTER-x", b"", 40) != client.export(b"EXPORTER-x", b"c", 40)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 16, 33, 100, 101, 255, 256, 500, 1000, 5000])
def test_pieces_of_every_size(size: int) -> None:
    client, server = make(cheap_client()), make(cheap_server())
    run(client, server, size)
    check_agreement(client, server)


def test_real_cryptography_in_single_bytes() -> None:
    client, server = shake(1)
    check_agreement(client, server)
    assert (client.alpn, client.cipher_suite, client.group) == ("hq-interop", 0x1301, X25519)
    assert server.server_name == "localhost"
    assert client.peer_certificates == leaf().credentials().certificates


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), cuts=st.lists(st.integers(1, 300), min_size=1, max_size=30))
def test_random_cuts(seed: int, cuts: list[int]) -> None:
    source = random.Random(seed)
    client, server = make(cheap_client(), source.randbytes), make(cheap_server(), source.randbytes)
    client.start()
    for sender, receiver in ((client, server), (server, client), (client, server)):
        for epoch, data in sender.take_output():
            at = turn = 0
            while at < len(data):
                step = cuts[turn % len(cuts)]
                receiver.receive(epoch, data[at : at + step])
                at += step
                turn += 1
    check_agreement(client, server)


@pytest.mark.parametrize("suite", [0x1301, 0x1302])
@pytest.mark.parametrize("group", [X25519, SECP256R1])
def test_suites_and_groups(suite: int, group: int) -> None:
    client, server = shake(groups=[group], cipher_suites=[suite])
    check_agreement(client, server)
    assert (client.cipher_suite, client.group) == (suite, group)


def test_chacha_only_where_the_aead_layer_has_it() -> None:
    with pytest.raises(ConfigurationError, match="no cipher suite"):
        make(client_configuration(cipher_suites=[0x1303]))
    both = {"cipher_suites": [0x1303], "supported_suites": frozenset((0x1301, 0x1303))}
    client, server = make(client_configuration(**both)), make(server_configuration(**both))
    run(client, server)
    check_agreement(client, server)
    assert client.cipher_suite == 0x1303


def test_the_server_prefers() -> None:
    server = make(server_configuration(cipher_suites=[0x1302, 0x1301], groups=[SECP256R1, X25519]))
    client = make(client_configuration(key_shares=2, alpn_protocols=["hq-interop", "h3"]))
    run(client, server)
    check_agreement(client, server)
    assert (server.cipher_suite, server.group, server.alpn) == (0x1302, SECP256R1, "h3")


def test_epochs_and_order() -> None:
    """RFC 9001 §4.1.4, figure 5: when each secret is there, and which epoch carries which bytes."""
    client, server = make(cheap_client()), make(cheap_server())
    client.start()
    assert client.take_secrets() == []
    pump(client, server)
    secrets = server.take_secrets()
    assert [(s.epoch, s.sending) for s in secrets] == [
        (Epoch.HANDSHAKE, True),
        (Epoch.HANDSHAKE, False),
        (Epoch.ONE_RTT, True),
    ]
    output = server.take_output()
    assert [(epoch, [m[0] for m in split(data)]) for epoch, data in output] == [
        (Epoch.INITIAL, [2]),
        (Epoch.HANDSHAKE, [8, 11, 15, 20]),
    ]
    client.receive(*output[0])
    assert [(s.epoch, s.sending) for s in client.take_secrets()] == [(Epoch.HANDSHAKE, False), (Epoch.HANDSHAKE, True)]
    with pytest.raises(RuntimeError):
        client.export(b"x", b"", 8)
    assert len(server.export(b"x", b"", 8)) == 8
    client.receive(*output[1])
    assert client.complete
    assert not server.complete
    assert {(s.epoch, s.sending) for s in client.take_secrets()} == {(Epoch.ONE_RTT, False), (Epoch.ONE_RTT, True)}
    pump(client, server)
    assert [(s.epoch, s.sending) for s in server.take_secrets()] == [(Epoch.ONE_RTT, False)]
    assert server.complete
    assert client.take_output() == server.take_output() == []


def test_transport_parameters_until_the_answer() -> None:
    client, server = make(cheap_client()), make(cheap_server())
    client.transport_parameters = b"late client"
    client.start()
    server.transport_parameters = b"late server"
    pump(client, server)
    pump(server, client)
    assert (server.peer_transport_parameters, client.peer_transport_parameters) == (b"late client", b"late server")


def test_without_alpn_on_both_sides() -> None:
    client, server = make(cheap_client(alpn_protocols=[])), make(cheap_server(alpn_protocols=[]))
    run(client, server)
    assert client.complete
    assert server.complete
    assert client.alpn is server.alpn is None


def test_no_sni_for_an_address() -> None:
    client, server = shake(server_name="127.0.0.1")
    assert client.complete
    assert server.server_name is None
    assert 0 not in dict(Hello(client_hello(client_configuration(server_name="::1"))).extensions)
    with_dot = Hello(client_hello(client_configuration(server_name="localhost.")))
    assert with_dot[0].endswith(b"localhost")


def test_grease_is_sent_and_varies() -> None:
    """RFC 8701 §3.1"""
    seen = set()
    for choice in range(16):
        source = random.Random(choice)

        def fixed(n: int, choice: int = choice, source: random.Random = source) -> bytes:
            return source.randbytes(n - 1) + bytes([choice])

        client = make(client_configuration(), fixed)
        client.start()
        hello = Hello(client.take_output()[0][1])
        value = int.from_bytes(hello.suites[:2], "big")
        assert value in GREASE
        assert value in dict(hello.extensions)
        assert int.from_bytes(hello[10][2:4], "big") == value
        seen.add(value)
        server = make(server_configuration())
        server.receive(Epoch.INITIAL, hello.encode())
        assert server.take_output()
    assert len(seen) == 16


def test_grease_of_the_peer_is_ignored() -> None:
    """A hello as browsers send it: reserved values everywhere, a second share, versions, padding."""
    client = make(client_configuration())
    client.start()
    hello = Hello(client.take_output()[0][1])
    hello.suites = b"\xfa\xfa" + hello.suites + b"\x00\xff"
    hello[43] = b"\x06\x2a\x2a\x03\x04\x03\x03"
    hello[51] = (
        len(hello[51] + b"12345" + b"12345").to_bytes(2, "big") + b"\x4a\x4a\x00\x01\0" + hello[51][2:]
        + b"\x11\xec\x00\x03\1\2\3"
    )  # fmt: skip
    hello[51] = (len(hello[51]) - 2).to_bytes(2, "big") + hello[51][2:]
    hello[10] = b"\x00\x08\x4a\x4a\x11\xec\x00\x1d\x00\x17"
    hello[13] = (len(hello[13])).to_bytes(2, "big") + b"\x5a\x5a" + hello[13][2:]
    hello[21] = bytes(300)
    hello[0x5A5A] = b"\0"
    server = make(server_configuration())
    server.receive(Epoch.INITIAL, hello.encode())
    assert server.group == X25519
    assert len(server.take_output()) == 2


def test_client_hello_over_many_pieces_keeps_only_what_arrived() -> None:
    hello = Hello(client_hello())
    hello[21] = bytes(9000)
    data = hello.encode()
    server = make(server_configuration())
    for at in range(0, len(data), 1100):
        server.receive(Epoch.INITIAL, data[at : at + 1100])
    assert server.take_output()


def test_buffers_other_than_bytes() -> None:
    client, server = make(cheap_client()), make(cheap_server())
    client.start()
    for (epoch, data), kind in zip(client.take_output(), (bytearray,), strict=True):
        server.receive(epoch, kind(data))  # type: ignore[arg-type]
    for epoch, data in server.take_output():
        client.receive(epoch, memoryview(data))  # type: ignore[arg-type]
    assert client.complete


def test_keylog_lines() -> None:
    lines: dict[bool, list[str]] = {True: [], False: []}
    client = make(client_configuration(keylog=lines[True].append))
    server = make(server_configuration(keylog=lines[False].append))
    run(client, server)
    assert lines[True] == lines[False]
    secrets = {(s.epoch, s.sending): s.secret.hex() for s in client.take_secrets()}
    expected = {
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET": secrets[Epoch.HANDSHAKE, True],
        "SERVER_HANDSHAKE_TRAFFIC_SECRET": secrets[Epoch.HANDSHAKE, False],
        "CLIENT_TRAFFIC_SECRET_0": secrets[Epoch.ONE_RTT, True],
        "SERVER_TRAFFIC_SECRET_0": secrets[Epoch.ONE_RTT, False],
    }
    rows = [line.split(" ") for line in lines[True]]
    assert all(len(row) == 3 and len(row[1]) == 64 for row in rows)
    assert len({row[1] for row in rows}) == 1
    found = {label: secret for label, _, secret in rows}
    assert found.pop("EXPORTER_SECRET")
    assert found == expected


def test_simulated_handshakes_replay_exactly() -> None:
    def once(seed: int) -> list[object]:
        source = random.Random(seed)
        client, server = make(cheap_client(), source.randbytes), make(cheap_server(), source.randbytes)
        client.start()
        seen: list[object] = []
        for sender, receiver in ((client, server), (server, client), (client, server)):
            output = sender.take_output()
            seen.append(output)
            for epoch, data in output:
                receiver.receive(epoch, data)
        seen.append(client.take_secrets())
        assert server.complete
        return seen

    assert once(7) == once(7)
    assert once(7) != once(8)


def test_after_the_handshake_little_is_kept() -> None:
    client, server = shake()
    for side in (client, server):
        assert not side.client_hello
        assert not side.privates
        assert not side.client_secret + side.server_secret
        assert side.peer_chain is None
        assert side.keys().transcript is None


def test_start_is_once_and_for_clients() -> None:
    client = make(client_configuration())
    client.start()
    with pytest.raises(RuntimeError):
        client.start()
    with pytest.raises(RuntimeError):
        make(server_configuration()).start()


def test_the_table_names_every_state() -> None:
    assert set(STEPS) == set(State)


def test_configuration_can_be_shared_and_changed() -> None:
    configuration = client_configuration()
    prepared = configuration.prepared()
    make(configuration)
    assert configuration.prepared() is prepared
    configuration.server_name = "quic.example"
    assert configuration.prepared() is not prepared
    assert Hello(client_hello(configuration))[0].endswith(b"quic.example")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"is_client": True}, "trust store"),
        ({"is_client": True, "trust": "store"}, "server's name"),
        ({"is_client": True, "verify": False, "server_name": "not a name"}, "neither a host name"),
        ({"is_client": True, "verify": False, "cipher_suites": [0x1399]}, "unknown cipher suite 0x1399"),
        ({"is_client": True, "verify": False, "groups": [0x9999]}, "unknown group 0x9999"),
        ({"is_client": True, "verify": False, "signature_schemes": [0x9999]}, "unknown signature scheme"),
        ({"is_client": True, "verify": False, "groups": []}, "at least one group"),
        ({"is_client": True, "verify": False, "key_shares": 0}, "key_shares"),
        ({"is_client": True, "verify": False, "alpn_protocols": [""]}, "ALPN name"),
        ({"is_client": True, "verify": False, "alpn_protocols": ["x" * 256]}, "ALPN name"),
        ({"is_client": False}, "certificate and a private key"),
        ({"is_client": False, "credentials": "leaf", "signature_schemes": [0x0807]}, "fits the certificate's key"),
    ],
)
def test_configurations_that_cannot_work(fields: dict[str, object], text: str) -> None:
    if "trust" in fields:
        fields = fields | {"trust": trust()}
    if "credentials" in fields:
        fields = fields | {"credentials": leaf().credentials()}
    configuration = TlsConfiguration(**fields)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=text) as caught:
        Handshake(configuration, transport_parameters=b"", random=bytes, now=lambda: NOW)
    assert "\n" not in str(caught.value)
