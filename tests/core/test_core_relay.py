"""Frames handed from one connection to another (DESIGN section 4, "Relay"): owner, bound, notices."""

from __future__ import annotations

import threading

from connection_pair import CLIENT, Pair
from test_core_seams import DATA, VALUE, quiet

from stoq.testing.hooks import FrameTap
from stoq.wire.varint import encode_varint

NOT_OWNER, FULL, QUEUE_MAX = -2, -3, 1024


def test_a_frame_of_one_connection_leaves_through_another() -> None:
    first, second = quiet(), quiet()
    here, relay = FrameTap(first.client, VALUE, DATA, 1), FrameTap(first.server, VALUE, DATA, 1)
    onward, there = FrameTap(second.client, VALUE, DATA, 1), FrameTap(second.server, VALUE, DATA, 1)
    assert here.send(encode_varint(VALUE) + encode_varint(77), 1) == 0
    for datagram, _ in first.client.datagrams_to_send(first.now):
        relay.receive(datagram, CLIENT, first.now)
    for _, value, *_ in relay.frames:
        assert onward.send(encode_varint(VALUE) + encode_varint(value), 2) == 0
    for datagram, _ in second.client.datagrams_to_send(second.now):
        there.receive(datagram, CLIENT, second.now)
    assert [frame[1] for frame in there.frames] == [77]


def test_only_the_owner_may_hand_over() -> None:
    pair: Pair = quiet()
    tap = FrameTap(pair.client, VALUE, DATA, 1)
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(tap.send(encode_varint(VALUE) + b"\x01", 1)))
    thread.start()
    thread.join()
    assert results == [NOT_OWNER]


def test_the_queue_is_bounded() -> None:
    pair: Pair = quiet()
    tap = FrameTap(pair.client, VALUE, DATA, 1)
    frame = encode_varint(VALUE) + b"\x01"
    assert [tap.send(frame, i) for i in range(QUEUE_MAX + 1)] == [0] * QUEUE_MAX + [FULL]
