"""Differential: our client and server against upstream aioquic's TLS, in memory, in both roles."""

from __future__ import annotations

import datetime as dt
import os
from typing import Any

import pytest
from aioquic import tls as upstream
from aioquic.buffer import Buffer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from tls_pair import CLIENT_PARAMETERS, SERVER_PARAMETERS

from stoq.crypto.certificates import Credentials, Issued, TrustStore, make_leaf, make_test_ca
from stoq.crypto.groups import SECP256R1, X25519
from stoq.tls import AlertDescription, Epoch, Handshake, Secret, TlsAlert, TlsConfiguration

# Upstream reads the clock itself.
REAL_NOW = dt.datetime.now(dt.UTC)
AUTHORITY = make_test_ca(REAL_NOW)
KEYS: dict[str, Any] = {
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "RSA": rsa.generate_private_key(65537, 2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
}
LEAVES = {name: make_leaf(AUTHORITY, ["localhost", "127.0.0.1"], REAL_NOW, private_key=k) for name, k in KEYS.items()}
SUITES = {code: upstream.CipherSuite(code) for code in (0x1301, 0x1302)}
ORDER = [(upstream.Epoch.INITIAL, Epoch.INITIAL), (upstream.Epoch.HANDSHAKE, Epoch.HANDSHAKE)]
ORDER.append((upstream.Epoch.ONE_RTT, Epoch.ONE_RTT))


class Upstream:
    """aioquic.tls.Context with the buffers and callbacks that its QUIC layer gives it."""

    def __init__(self, is_client: bool, issued: Issued | None = None, suite: int = 0x1301, **options: Any) -> None:
        self.context = upstream.Context(
            is_client=is_client,
            alpn_protocols=["hq-interop", "h3"],
            cadata=AUTHORITY.certificate_pem,
            cipher_suites=[SUITES[suite]],
            **options,
        )
        parameters = CLIENT_PARAMETERS if is_client else SERVER_PARAMETERS
        self.context.handshake_extensions = [(upstream.ExtensionType.QUIC_TRANSPORT_PARAMETERS, parameters)]
        if issued is not None:
            self.context.certificate = issued.certificate
            self.context.certificate_private_key = issued.private_key
        self.secrets: set[tuple[int, bool, int, bytes]] = set()
        self.context.update_traffic_key_cb = self._secret
        self.buffers = {epoch: Buffer(capacity=16384) for epoch in upstream.Epoch}

    def _secret(self, direction: upstream.Direction, epoch: upstream.Epoch, suite: Any, secret: bytes) -> None:
        self.secrets.add((epoch.value, direction is upstream.Direction.ENCRYPT, int(suite), secret))

    def receive(self, data: bytes) -> None:
        self.context.handle_message(data, self.buffers)

    def take_output(self) -> list[tuple[Epoch, bytes]]:
        found = []
        for theirs, ours in ORDER:
            data = self.buffers[theirs].data
            if data:
                found.append((ours, data))
            self.buffers[theirs].seek(0)
        return found

    @property
    def peer_parameters(self) -> bytes:
        return dict(self.context.received_extensions or [])[upstream.ExtensionType.QUIC_TRANSPORT_PARAMETERS]


def mirrored(secrets: list[Secret]) -> set[tuple[int, bool, int, bytes]]:
    return {(int(s.epoch), not s.sending, s.suite, s.secret) for s in secrets}


def ours(configuration: TlsConfiguration) -> Handshake:
    parameters = CLIENT_PARAMETERS if configuration.is_client else SERVER_PARAMETERS
    return Handshake(
        configuration,
        transport_parameters=parameters,
        random=os.urandom,
        now=lambda: REAL_NOW,
    )


def feed(side: Handshake, output: list[tuple[Epoch, bytes]], size: int = 1 << 20) -> None:
    for epoch, data in output:
        for at in range(0, len(data), size):
            side.receive(epoch, data[at : at + size])


def our_client(**changes: Any) -> Handshake:
    fields: dict[str, Any] = {
        "alpn_protocols": ["h3", "hq-interop"],
        "server_name": "localhost",
        "trust": TrustStore([AUTHORITY.certificate]),
    }
    return ours(TlsConfiguration(is_client=True, **(fields | changes)))


def check_client(client: Handshake, peer: Upstream) -> None:
    assert client.complete
    assert peer.context.state is upstream.State.SERVER_POST_HANDSHAKE
    assert client.alpn == peer.context.alpn_negotiated
    assert client.peer_transport_parameters == SERVER_PARAMETERS
    assert peer.peer_parameters == CLIENT_PARAMETERS
    assert mirrored(client.take_secrets()) == peer.secrets


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("suite", [0x1301, 0x1302])
def test_our_client(key: str, suite: int) -> None:
    peer = Upstream(False, LEAVES[key], suite)
    client = our_client()
    client.start()
    peer.receive(client.take_output()[0][1])
    feed(client, peer.take_output(), 100)
    peer.receive(client.take_output()[0][1])
    check_client(client, peer)
    assert client.cipher_suite == suite


@pytest.mark.parametrize("group", [X25519, SECP256R1])
def test_our_client_with_each_group(group: int) -> None:
    peer = Upstream(False, LEAVES["P-256"])
    client = our_client(groups=[group])
    client.start()
    peer.receive(client.take_output()[0][1])
    feed(client, peer.take_output())
    peer.receive(client.take_output()[0][1])
    check_client(client, peer)
    assert client.group == group


@pytest.mark.parametrize("with_certificate", [True, False])
def test_our_client_is_asked_for_a_certificate(with_certificate: bool) -> None:
    peer = Upstream(False, LEAVES["P-256"])
    peer.context._request_client_certificate = True
    credentials: Credentials | None = LEAVES["RSA"].credentials() if with_certificate else None
    client = our_client(credentials=credentials)
    client.start()
    peer.receive(client.take_output()[0][1])
    feed(client, peer.take_output())
    peer.receive(client.take_output()[0][1])
    check_client(client, peer)
    got = peer.context._peer_certificate
    assert got == (LEAVES["RSA"].certificate if with_certificate else None)
    assert got is None or isinstance(got, x509.Certificate)


def test_tickets_of_upstream() -> None:
    """None comes, since we offer no psk_key_exchange_modes; one that comes anyway is read and dropped."""
    peer = Upstream(False, LEAVES["P-256"], max_early_data=0xFFFFFFFF)
    tickets: list[upstream.SessionTicket] = []
    peer.context.new_session_ticket_cb = tickets.append
    client = our_client()
    client.start()
    peer.receive(client.take_output()[0][1])
    feed(client, peer.take_output())
    peer.receive(client.take_output()[0][1])
    check_client(client, peer)
    assert not tickets
    assert peer.take_output() == []
    buffer = Buffer(capacity=1024)
    ticket = upstream.NewSessionTicket(
        ticket_lifetime=86400, ticket_age_add=1, ticket_nonce=b"n", ticket=bytes(64), max_early_data_size=0xFFFFFFFF
    )
    upstream.push_new_session_ticket(buffer, ticket)
    feed(client, [(Epoch.ONE_RTT, buffer.data)], 7)
    assert client.complete


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("suite", [0x1301, 0x1302])
def test_our_server(key: str, suite: int) -> None:
    peer = Upstream(True, suite=suite, server_name="localhost")
    configuration = TlsConfiguration(
        is_client=False, alpn_protocols=["h3", "hq-interop"], credentials=LEAVES[key].credentials()
    )
    server = ours(configuration)
    peer.receive(b"")
    feed(server, peer.take_output(), 50)
    for _, data in server.take_output():
        peer.receive(data)
    feed(server, peer.take_output(), 1)
    assert server.complete
    assert peer.context.state is upstream.State.CLIENT_POST_HANDSHAKE
    assert server.alpn == peer.context.alpn_negotiated == "h3"
    assert server.cipher_suite == suite
    assert server.server_name == "localhost"
    assert server.peer_transport_parameters == CLIENT_PARAMETERS
    assert peer.peer_parameters == SERVER_PARAMETERS
    assert mirrored(server.take_secrets()) == peer.secrets


def test_both_refuse_the_same_server_certificates() -> None:
    stranger = make_leaf(make_test_ca(REAL_NOW, name="stranger"), ["localhost"], REAL_NOW)
    expired = make_leaf(AUTHORITY, ["localhost"], REAL_NOW - dt.timedelta(days=9), days=1)
    cases = [
        (stranger, "localhost", upstream.AlertBadCertificate, AlertDescription.UNKNOWN_CA),
        (expired, "localhost", upstream.AlertCertificateExpired, AlertDescription.CERTIFICATE_EXPIRED),
        (LEAVES["P-256"], "other", upstream.AlertBadCertificate, AlertDescription.BAD_CERTIFICATE),
        (LEAVES["P-256"], "127.0.0.2", upstream.AlertBadCertificate, AlertDescription.BAD_CERTIFICATE),
    ]
    for issued, name, theirs, expected in cases:
        server_configuration = TlsConfiguration(
            is_client=False, alpn_protocols=["h3"], credentials=issued.credentials()
        )
        server = ours(server_configuration)
        peer = Upstream(True, server_name=name)
        peer.receive(b"")
        feed(server, peer.take_output())
        flight = b"".join(data for _, data in server.take_output())
        with pytest.raises(theirs):
            peer.receive(flight)
        server = ours(server_configuration)
        client = our_client(server_name=name)
        client.start()
        feed(server, client.take_output())
        with pytest.raises(TlsAlert) as caught:
            feed(client, server.take_output())
        assert caught.value.description is expected
