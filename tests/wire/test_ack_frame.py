"""ACK frames (RFC 9000 §19.3): walking, malformed range lists, and fitting into little room."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stoq.errors import FrameError
from stoq.wire.frame_codec import FrameType, encode_frame, parse_frames
from stoq.wire.varint import encode_varint


def ack(largest: int, delay: int, count: int, first: int, *gaps_and_lengths: int) -> bytes:
    return b"\x02" + b"".join(map(encode_varint, (largest, delay, count, first, *gaps_and_lengths)))


def ranges_of(payload: bytes) -> list[tuple[int, int]]:
    (frame,) = parse_frames(payload)
    found: list[tuple[int, int]] = frame.fields["ranges"]
    return found


def test_walk() -> None:
    # §19.3.1: largest = smallest of the range before - gap - 2
    assert ranges_of(ack(10, 3, 0, 0)) == [(10, 10)]
    assert ranges_of(ack(10, 3, 0, 10)) == [(0, 10)]
    assert ranges_of(ack(10, 3, 1, 2, 0, 0)) == [(8, 10), (6, 6)]
    assert ranges_of(ack(10, 3, 2, 2, 0, 1, 1, 2)) == [(8, 10), (5, 6), (0, 2)]


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (ack(10, 0, 0, 11), "the first range begins below 0"),
        (ack(0, 0, 0, 1), "the first range begins below 0"),
        (ack(10, 0, 1, 2, 7, 0), "the gap ends below 0"),
        (ack(10, 0, 1, 2, 6, 1), "the second range begins below 0"),
        (ack(10, 0, 1, 10, 0, 0), "nothing is left for a second range"),
        (ack(10, 0, 1, 9, 0, 0), "only the gap fits"),
        (ack(10, 0, 1, 0, 2**62 - 1, 2**62 - 1), "sums of the largest numbers"),
        (ack(2**62 - 1, 0, 2, 0, 2**61, 2**61 - 3, 2**62 - 1, 2**62 - 1), "the same one range later"),
        (ack(10, 0, 2, 0, 0, 0), "one range missing"),
        (ack(10, 0, 1, 0, 0), "half a range missing"),
        (ack(10, 0, 2**62 - 1, 0, 0, 0, 0, 0), "2^62 - 1 ranges"),
    ],
)
def test_malformed(payload: bytes, why: str) -> None:
    with pytest.raises(FrameError, match="malformed"):
        parse_frames(payload)


def test_the_last_list_that_is_allowed() -> None:
    assert ranges_of(ack(10, 0, 1, 2, 6, 0)) == [(8, 10), (0, 0)]
    assert ranges_of(ack(10, 0, 1, 8, 0, 0)) == [(2, 10), (0, 0)]
    assert ranges_of(ack(2**62 - 1, 0, 1, 2**62 - 3, 0, 0)) == [(2, 2**62 - 1), (0, 0)]


def test_as_many_ranges_as_a_packet_holds() -> None:
    count = 700
    payload = ack(10_000, 0, count, 0, *[0, 0] * count)
    assert len(ranges_of(payload)) == count + 1
    with pytest.raises(FrameError):
        parse_frames(payload[:-1])


@st.composite
def descending(draw: st.DrawFn) -> list[tuple[int, int]]:
    low = draw(st.integers(2**30, 2**62 - 1))
    high = min(low + draw(st.integers(0, 300)), 2**62 - 1)
    ranges = [(low, high)]
    for gap, length in draw(st.lists(st.tuples(st.integers(2, 2**15), st.integers(0, 2**14)), max_size=100)):
        high = low - gap
        low = high - length
        ranges.append((low, high))
    return ranges


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(descending(), st.integers(0, 2**20), st.booleans(), st.data())
def test_little_room_drops_the_lowest_ranges(
    ranges: list[tuple[int, int]], delay: int, ecn: bool, data: st.DataObject
) -> None:
    kind = FrameType.ACK_ECN if ecn else FrameType.ACK
    counts = {"ect0": 70, "ect1": 0, "ce": 20_000} if ecn else {}

    def encode(some: list[tuple[int, int]], room: int | None = None) -> bytes:
        return encode_frame(kind, room=room, ranges=some, ack_delay=delay, **counts)

    whole = encode(ranges)
    assert ranges_of(whole) == ranges
    least = len(encode(ranges[:1]))
    # The count of a long list takes two bytes, and its room is kept free even when a shorter list is written.
    reserve = 1 if len(ranges) > 64 else 0
    for room in data.draw(st.lists(st.integers(0, len(whole)), max_size=20)):
        if room < least + reserve:
            if room < least:
                with pytest.raises(ValueError, match="fit"):
                    encode(ranges, room)
            continue
        encoded = encode(ranges, room)
        written = ranges_of(encoded)
        assert len(encoded) <= room
        assert written == ranges[: len(written)]
        if len(written) < len(ranges):
            assert len(encode(ranges[: len(written) + 1])) + reserve > room
    assert encode(ranges, len(whole)) == whole


@pytest.mark.parametrize(
    "ranges",
    [[], [(5, 4)], [(5, 9), (4, 4)], [(5, 9), (3, 5)], [(5, 9), (20, 30)], [(1, 9), (0, 0)], [(5, 2**62)], [(-1, 5)]],
)
def test_ranges_that_cannot_be_written(ranges: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match=r"descend|fit"):
        encode_frame(FrameType.ACK, ranges=ranges, ack_delay=0)
