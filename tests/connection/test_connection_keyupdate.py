"""Key update: on request, before the limit of a key, by the peer; under loss and reordering (RFC 9001 §6)."""

from __future__ import annotations

from typing import Any

import pytest
from connection_pair import MS, Forge, Pair

DATA = bytes(range(256)) * 4000


def exchange(pair: Pair) -> None:
    """DATA each way, byte by byte equal."""
    assert pair.transfer(pair.client, DATA) == DATA
    assert pair.transfer(pair.server, DATA) == DATA


@pytest.mark.parametrize(
    "link", [{}, {"loss": 0.1}, {"reorder": 0.2, "duplicate": 0.1}, {"loss": 0.05, "reorder": 0.3}], ids=str
)
def test_keys_change_before_they_wear_out(link: dict[str, Any]) -> None:
    pair = Pair(both={"knobs": {"key_update_packets": 40}}, **link).handshake()
    exchange(pair)
    for connection in (pair.client, pair.server):
        assert connection.stats()["key_updates"] >= 4
        assert connection.stats()["auth_failures"] == 0
        assert connection.close_reason is None


@pytest.mark.parametrize("by_client", [True, False])
def test_on_request_and_not_twice_in_a_row(by_client: bool) -> None:
    pair = Pair().handshake()
    pair.settle()
    one, other = (pair.client, pair.server) if by_client else (pair.server, pair.client)
    assert one.update_keys()
    pair.settle()
    assert (one.stats()["key_updates"], other.stats()["key_updates"]) == (1, 1)
    assert one.update_keys()
    assert [len(d) for d, _ in one.datagrams_to_send(pair.now)] != []
    # §6.1: not again before a packet of the new phase is acknowledged.
    assert not one.update_keys()
    exchange(pair)


def test_not_before_the_handshake_is_confirmed() -> None:
    pair = Pair()
    assert not pair.client.update_keys()


def test_a_forged_phase_bit_changes_nothing() -> None:
    pair = Pair().handshake()
    pair.settle()
    datagram = bytearray(Forge(pair, client=True).seal(b"\x01"))
    for bit in range(8):
        forged = bytearray(datagram)
        forged[0] ^= 0x04
        forged[-1] ^= 1 << bit
        pair.give(pair.server, bytes(forged))
    assert pair.server.stats()["key_updates"] == 0
    assert pair.server.stats()["auth_failures"] == 8
    exchange(pair)


def test_late_packets_of_the_old_phase_are_read() -> None:
    pair = Pair().handshake()
    pair.settle()
    stream = pair.client.open_stream()
    stream.write(b"late")
    held = [d for d, _ in pair.client.datagrams_to_send(pair.now)]
    pair.now += 1 * MS
    # The server's packets acknowledge nothing of those; the client changes its keys and goes on.
    assert pair.client.update_keys()
    stream.write(b" or not")
    stream.finish()
    pair.settle()
    assert pair.server.stats()["key_updates"] == 1
    for datagram in held:
        pair.give(pair.server, datagram)
    assert pair.server.stats()["auth_failures"] == 0
    pair.settle()
    assert bytes(pair.sinks[stream.id].data) == b"late or not"
