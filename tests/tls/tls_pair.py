"""Shared by the TLS tests: certificates made once, handshakes in memory, messages taken apart and put together."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from stoq.crypto.certificates import Issued, TrustStore, make_leaf, make_test_ca
from stoq.crypto.simulated import (
    SIMULATED_GROUP,
    SIMULATED_SCHEME,
    register_simulated,
    simulated_authority,
    simulated_leaf,
)
from stoq.tls import Epoch, Handshake, TlsConfiguration
from stoq.tls.reader import extension, message, parse_extensions, vector8, vector16

NOW = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)
CLIENT_PARAMETERS = b"\x01\x04\x80\x00\x75\x30"
SERVER_PARAMETERS = b"\x04\x04\x80\x10\x00\x00\x08\x01\x40"
NAMES = ("localhost", "quic.example", "127.0.0.1", "::1")


@cache
def authority() -> Issued:
    return make_test_ca(NOW)


@cache
def leaf() -> Issued:
    return make_leaf(authority(), NAMES, NOW)


@cache
def trust() -> TrustStore:
    return TrustStore.from_pem(authority().certificate_pem)


def client_configuration(**changes: Any) -> TlsConfiguration:
    fields: dict[str, Any] = {"alpn_protocols": ["hq-interop"], "server_name": "localhost", "trust": trust()}
    return TlsConfiguration(is_client=True, **(fields | changes))


def server_configuration(**changes: Any) -> TlsConfiguration:
    fields: dict[str, Any] = {"alpn_protocols": ["h3", "hq-interop"], "credentials": leaf().credentials()}
    return TlsConfiguration(is_client=False, **(fields | changes))


def cheap(**changes: Any) -> dict[str, Any]:
    """Fields for simulated cryptography."""
    register_simulated()
    return {"groups": [SIMULATED_GROUP], "signature_schemes": [SIMULATED_SCHEME], **changes}


def cheap_client(**changes: Any) -> TlsConfiguration:
    return client_configuration(**cheap(trust=TrustStore([simulated_authority().certificate]), **changes))


def cheap_server(**changes: Any) -> TlsConfiguration:
    return server_configuration(**cheap(credentials=simulated_leaf().credentials(), **changes))


def make(configuration: TlsConfiguration, random: Callable[[int], bytes] = os.urandom) -> Handshake:
    parameters = CLIENT_PARAMETERS if configuration.is_client else SERVER_PARAMETERS
    return Handshake(configuration, transport_parameters=parameters, random=random, now=lambda: NOW)


def pump(source: Handshake, sink: Handshake, size: int = 1 << 20) -> None:
    """Move everything that waits in `source` into `sink`, in pieces of `size` bytes."""
    for epoch, data in source.take_output():
        for at in range(0, len(data), size):
            sink.receive(epoch, data[at : at + size])


def run(client: Handshake, server: Handshake, size: int = 1 << 20) -> None:
    client.start()
    pump(client, server, size)
    pump(server, client, size)
    pump(client, server, size)


def shake(size: int = 1 << 20, **changes: Any) -> tuple[Handshake, Handshake]:
    """A whole handshake with the defaults; `changes` go to the client's configuration."""
    client, server = make(client_configuration(**changes)), make(server_configuration())
    run(client, server, size)
    return client, server


def client_hello(configuration: TlsConfiguration | None = None) -> bytes:
    client = make(configuration or client_configuration())
    client.start()
    return client.take_output()[0][1]


def split(flight: bytes) -> list[bytes]:
    """A flight to its messages."""
    found = []
    while flight:
        size = 4 + int.from_bytes(flight[1:4], "big")
        found.append(flight[:size])
        flight = flight[size:]
    return found


class Hello:
    """A ClientHello or ServerHello whose fields can be changed."""

    def __init__(self, data: bytes) -> None:
        self.kind = data[0]
        self.version = data[4:6]
        self.random = data[6:38]
        at = 38
        self.session_id = data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
        if self.kind == 1:
            size = int.from_bytes(data[at : at + 2], "big")
            self.suites = data[at + 2 : at + 2 + size]
            at += 2 + size
            self.compressions = data[at + 1 : at + 1 + data[at]]
            at += 1 + data[at]
        else:
            self.suites = data[at : at + 2]
            self.compressions = data[at + 2 : at + 3]
            at += 3
        self.extensions: list[tuple[int, bytes]] = list(parse_extensions(data[at + 2 :], "test").items())

    def __getitem__(self, code: int) -> bytes:
        return dict(self.extensions)[code]

    def __setitem__(self, code: int, data: bytes) -> None:
        self.extensions = [(c, data if c == code else d) for c, d in self.extensions]
        if code not in dict(self.extensions):
            self.extensions.append((code, data))

    def __delitem__(self, code: int) -> None:
        self.extensions = [(c, d) for c, d in self.extensions if c != code]

    def encode(self, tail: bytes = b"") -> bytes:
        body = self.version + self.random + vector8(self.session_id)
        body += (
            vector16(self.suites) + vector8(self.compressions) if self.kind == 1 else self.suites + self.compressions
        )
        return message(self.kind, body + vector16(extension_block(self.extensions)) + tail)


def extension_block(rows: Iterable[tuple[int, bytes]]) -> bytes:
    return b"".join(extension(code, data) for code, data in rows)


class ServerFlight:
    """What a real server answers to a real client, message by message; `client` waits for it."""

    def __init__(self, client: TlsConfiguration | None = None, server: TlsConfiguration | None = None) -> None:
        self.client = make(client or client_configuration())
        self.server = make(server or server_configuration())
        self.client.start()
        pump(self.client, self.server)
        (_, self.hello), (_, flight) = self.server.take_output()
        self.encrypted_extensions, self.certificate, self.verify, self.finished = split(flight)

    def play(self, *handshake_messages: bytes, hello: bytes | None = None) -> None:
        self.client.receive(Epoch.INITIAL, self.hello if hello is None else hello)
        for data in handshake_messages:
            self.client.receive(Epoch.HANDSHAKE, data)
