"""Sizes that a peer chooses are bounded (SECURITY row 14), and cutting messages small costs linear time."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from tls_pair import ServerFlight, cheap_client, cheap_server, make, run, server_configuration

from stoq.tls import (
    CLIENT_HELLO_MAX,
    HANDSHAKE_MESSAGE_MAX,
    NEW_SESSION_TICKET_MAX,
    AlertDescription,
    Epoch,
    Handshake,
    TlsAlert,
)
from stoq.tls import messages as codec
from stoq.tls.reader import message, vector24


def head(kind: int, size: int) -> bytes:
    return bytes([kind]) + size.to_bytes(3, "big")


def waiting_server() -> tuple[Handshake, Epoch, int, int]:
    return make(server_configuration()), Epoch.INITIAL, 1, CLIENT_HELLO_MAX


def waiting_client() -> tuple[Handshake, Epoch, int, int]:
    flight = ServerFlight(cheap_client(), cheap_server())
    flight.play(flight.encrypted_extensions)
    return flight.client, Epoch.HANDSHAKE, 11, HANDSHAKE_MESSAGE_MAX


def connected_client() -> tuple[Handshake, Epoch, int, int]:
    client, server = make(cheap_client()), make(cheap_server())
    run(client, server)
    return client, Epoch.ONE_RTT, 4, NEW_SESSION_TICKET_MAX


@pytest.mark.parametrize("situation", [waiting_server, waiting_client, connected_client])
def test_declared_size_is_refused_from_the_head(situation: Callable[[], tuple[Handshake, Epoch, int, int]]) -> None:
    for size in (1, 0xFFFFFF):
        side, epoch, kind, limit = situation()
        tracemalloc.start()
        try:
            with pytest.raises(TlsAlert) as caught:
                side.receive(epoch, head(kind, limit + size if size == 1 else size))
            assert tracemalloc.get_traced_memory()[1] < 4096  # the pass number of row 14
        finally:
            tracemalloc.stop()
        assert caught.value.description is AlertDescription.ILLEGAL_PARAMETER
        assert "too long" in caught.value.message


@pytest.mark.parametrize("situation", [waiting_server, waiting_client, connected_client])
def test_the_largest_size_is_kept_as_it_arrives(situation: Callable[[], tuple[Handshake, Epoch, int, int]]) -> None:
    side, epoch, kind, limit = situation()
    tracemalloc.start()
    try:
        side.receive(epoch, head(kind, limit))
        assert tracemalloc.get_traced_memory()[1] < 4096
        for _ in range(limit - 1):
            side.receive(epoch, b"\0")
        # A bytearray grows by at most an eighth at a time, old and new copy at once.
        assert tracemalloc.get_traced_memory()[1] < 2.5 * limit + 4096
    finally:
        tracemalloc.stop()
    with pytest.raises(TlsAlert):
        side.receive(epoch, b"\0")
    assert not side._partial


def test_unexpected_type_is_refused_from_its_first_byte() -> None:
    server = make(server_configuration())
    with pytest.raises(TlsAlert) as caught:
        server.receive(Epoch.INITIAL, b"\x0b")
    assert caught.value.description is AlertDescription.UNEXPECTED_MESSAGE


def test_tickets_without_end_leave_nothing() -> None:
    client, epoch, kind, limit = connected_client()
    ticket = message(kind, bytes(8) + b"\0" + (8000).to_bytes(2, "big") + bytes(8000) + b"\0\0")
    client.receive(epoch, ticket)
    tracemalloc.start()
    try:
        for _ in range(500):
            client.receive(epoch, ticket)
        assert tracemalloc.get_traced_memory()[0] < 4096
        assert tracemalloc.get_traced_memory()[1] < 2 * limit
    finally:
        tracemalloc.stop()


def test_parsed_chains_are_kept_up_to_a_limit() -> None:
    der = ServerFlight().server.prepared.credentials.certificates[0]  # type: ignore[union-attr]
    for extra in range(codec.CHAIN_CACHE_ENTRIES + 10):
        filler = b"x" * (extra + 1)
        data = message(11, b"\0" + vector24(vector24(der) + b"\0\0" + vector24(filler) + b"\0\0"))
        chain = codec.parse_certificate(data, frozenset())
        assert chain is codec.parse_certificate(data, frozenset())
    assert codec._parse_certificate.cache_info().currsize == codec.CHAIN_CACHE_ENTRIES
    large = message(11, b"\0" + vector24(vector24(der) + b"\0\0" + vector24(bytes(20000)) + b"\0\0"))
    assert codec.parse_certificate(large, frozenset()) is not codec.parse_certificate(large, frozenset())
