"""RecvBuf: order, ends, memory and cost."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable

import pytest

from stoq.core.containers import RecvBuffer
from stoq.core.memory import refuse_after

OK, NO_MEMORY, FINAL_SIZE = 0, -1, -2
KIB = 1024
DATA = random.Random(11).randbytes(1 << 20)


def pairs(frames: Iterable[tuple[int, int]]) -> bytes:
    return array("Q", [n for f in frames for n in f]).tobytes()


def test_in_order_bytes_need_no_heap() -> None:
    b = RecvBuffer()
    for i in range(2):
        assert b.push(100 * i, DATA[100 * i : 100 * i + 100]) == OK
    assert (b.next, b.highest, b.pending, b.spans, b.memory) == (200, 200, 200, 2, 0)
    assert b.take() == DATA[:200]
    assert (b.pending, b.spans) == (0, 0)


def test_a_batch_of_spans_is_given_back_by_take() -> None:
    b = RecvBuffer()
    for i in range(64):
        assert b.push(1400 * i, DATA[1400 * i : 1400 * i + 1400]) == OK
    assert b.memory <= 64 * 32
    assert b.take() == DATA[: 64 * 1400]
    assert b.memory == 0


def test_frames_adjacent_in_memory_make_one_span() -> None:
    b = RecvBuffer()
    b.push_many(DATA, 0, pairs([(0, 100), (100, 50), (150, 1)]))
    assert (b.spans, b.pending) == (1, 151)
    b.push_many(DATA, 0, pairs([(151, 100), (251, 50)]), stride=200)
    assert (b.spans, b.pending) == (3, 301)
    assert b.take() == DATA[:151] + DATA[:100] + DATA[200:250]


def test_hole_is_filled() -> None:
    b = RecvBuffer()
    assert b.push(1400, DATA[1400:4200]) == OK
    assert (b.next, b.highest, b.pending, b.ahead) == (0, 4200, 0, 2800)
    assert b.push(0, DATA[:1400]) == OK
    assert (b.next, b.pending, b.ahead, b.spans) == (4200, 4200, 0, 2)
    assert b.take() == DATA[:4200]
    assert b.memory == 0


def test_duplicates_and_overlaps() -> None:
    b = RecvBuffer()
    for offset, length in ((50, 10), (40, 30), (45, 5), (0, 10), (0, 5), (3, 60), (0, 70), (0, 80)):
        assert b.push(offset, DATA[offset : offset + length]) == OK
        assert b.valid
    assert b.take() == DATA[:80]
    assert b.push(0, DATA[:80]) == OK
    assert (b.pending, b.memory) == (0, 0)


def test_the_first_copy_of_a_byte_wins() -> None:
    b = RecvBuffer()
    assert b.push(4, b"4567") == OK
    assert b.push(2, b"abcdefghij") == OK
    assert b.push(0, b"01XXXXXXXXXXXX") == OK
    assert b.take() == b"01ab4567ghijXX"


def test_many_holes_closed_by_one_frame_make_two_spans() -> None:
    b = RecvBuffer()
    b.push_many(DATA, 0, pairs((n, 1) for n in range(1, 1400, 2)))
    assert b.push(0, DATA[:1400]) == OK
    assert (b.next, b.spans, b.ahead) == (1400, 2, 0)
    assert b.take() == DATA[:1400]


def test_detach_then_take_after_more_data() -> None:
    b = RecvBuffer()
    assert b.push(0, DATA[:3000]) == OK
    assert b.push(5000, DATA[5000:6000]) == OK
    b.detach()  # RecvBuffer overwrites the datagrams here
    assert b.spans == 1
    assert b.push(3000, DATA[3000:5000]) == OK
    assert b.pending == 6000
    b.detach()
    assert b.push(6000, DATA[6000:9000]) == OK
    assert b.take_some(4500) == DATA[:4500]
    assert b.take_some(0) == b""
    assert b.valid
    assert b.take() == DATA[4500:9000]
    assert b.memory == 0


def test_taking_in_small_pieces_gives_pages_back() -> None:
    b = RecvBuffer()
    assert b.push(0, DATA[: 200 * KIB]) == OK
    b.detach()
    full = b.memory
    taken = b"".join(b.take_some(700) for _ in range(200))
    assert b.memory < full - len(taken)
    assert b.valid
    assert taken + b.take() == DATA[: 200 * KIB]
    assert b.memory == 0


def test_small_spans_are_gathered() -> None:
    # One byte a frame, in order, nobody reading, all in one batch.
    b = RecvBuffer()
    for n in range(20_000):
        assert b.push(n, DATA[n : n + 1]) == OK
    assert b.spans <= 1024
    assert b.memory < 64 * KIB
    assert b.take() == DATA[:20_000]


def test_large_spans_are_not_copied() -> None:
    b = RecvBuffer()
    for n in range(0, 3000 * 100, 100):
        assert b.push(n, DATA[n : n + 100]) == OK
    assert b.spans == 3000
    assert b.memory <= 4096 * 16
    assert b.take() == DATA[:300_000]
    assert b.memory == 0


def test_final_size() -> None:
    b = RecvBuffer()
    assert b.final_size is None
    assert b.push(100, b"x" * 50) == OK
    assert b.push(0, b"x" * 120, fin=True) == FINAL_SIZE  # below what was seen
    assert (b.next, b.final_size, b.highest) == (0, None, 150)
    assert b.push(150, b"", fin=True) == OK
    assert b.final_size == 150
    assert b.push(150, b"", fin=True) == OK
    assert b.push(149, b"", fin=True) == FINAL_SIZE
    assert b.push(151, b"", fin=True) == FINAL_SIZE
    assert b.push(151, b"") == FINAL_SIZE
    assert b.push(140, b"x" * 11) == FINAL_SIZE
    assert not b.complete
    assert b.push(0, b"x" * 100) == OK
    assert b.complete
    assert b.pending == 150
    assert b.push(0, b"x" * 150, fin=True) == OK


def test_empty_stream_and_reset_at_a_distance() -> None:
    b = RecvBuffer()
    assert b.push(0, b"", fin=True) == OK
    assert b.complete
    b = RecvBuffer()
    assert b.push(5000, b"", fin=True) == OK  # what a RESET_STREAM tells
    assert (b.highest, b.final_size, b.complete, b.memory) == (5000, 5000, False, 0)
    b.clear()
    assert (b.highest, b.final_size) == (0, None)


def test_far_offsets_cost_no_directory() -> None:
    b = RecvBuffer()
    for offset in (2**62 - 2, 2**61, 2**50, 10, 2**40):
        assert b.push(offset, b"z") == OK
    assert b.valid
    assert b.memory <= 5 * 1024
    assert b.push(2**62 - 2, b"z", fin=True) == OK


def test_one_byte_at_offset_10000_on_100_streams() -> None:
    # SECURITY: 1.25 MB in the baseline.
    buffers = [RecvBuffer() for _ in range(100)]
    for b in buffers:
        assert b.push(10_000, b"!") == OK
    assert sum(b.memory for b in buffers) <= 100 * KIB


@pytest.mark.parametrize("window", [200_000, 1 << 20])
@pytest.mark.parametrize("name", ["ascending", "descending", "random"])
def test_row_6_one_byte_at_odd_offsets(name: str, window: int) -> None:
    step = window // 100_000 // 2 * 2
    offsets = [1 + step * n for n in range(100_000)]
    if name == "descending":
        offsets.reverse()
    elif name == "random":
        random.Random(5).shuffle(offsets)
    b = RecvBuffer()
    assert b.push_many(DATA, 0, pairs((o, 1) for o in offsets)) == 0
    assert b.ahead == 100_000
    assert b.memory <= 1.25 * window + 16 * KIB < 4_000_000
    # Again: nothing new, nothing more held.
    held = b.memory
    assert b.push_many(DATA, 0, pairs((o, 1) for o in offsets)) == 0
    assert (b.ahead, b.memory) == (100_000, held)
    assert b.push_many(DATA, 0, pairs((n, 1000) for n in range(0, window, 1000) if n + 1000 <= window)) == 0
    b.push_many(DATA, 0, pairs([(window - 1000, 1000)]))
    assert b.valid
    assert (b.next, b.ahead) == (window, 0)
    assert b.memory <= 1.25 * window + 16 * KIB + 1024 * 16
    assert b.take() == DATA[:window]
    assert b.memory == 0


def test_a_window_of_scattered_bytes_is_bounded() -> None:
    # The worst for pages: two cells touched in each, so that all become whole.
    window = 1 << 20
    b = RecvBuffer()
    for n in range(0, window, 2048):
        assert b.push(n + 1, b"y") == OK
    assert b.memory <= 1.25 * window + 16 * KIB


def test_shuffled_packets_of_a_large_window() -> None:
    packets = [(n, min(1350, len(DATA) - n)) for n in range(0, len(DATA), 1350)]
    random.Random(6).shuffle(packets)
    b = RecvBuffer()
    got = bytearray()
    for i in range(0, len(packets), 64):
        assert b.push_many(DATA, 0, pairs(packets[i : i + 64])) == 0
        assert b.memory <= 1.25 * len(DATA) + 16 * KIB
        if i % 3 == 0:
            b.detach()
        elif i % 3 == 1:
            got += b.take()
    got += b.take()
    assert got == DATA
    assert b.memory == 0


def test_no_memory_changes_nothing() -> None:
    r = random.Random(8)
    failures = 0
    for seed in range(40):
        r.seed(seed)
        b = RecvBuffer()
        got = bytearray()
        try:
            for _ in range(120):
                offset = r.randrange(40_000) if r.random() < 0.7 else b.next
                data = DATA[offset : offset + r.choice((1, 10, 1400, 9000))]
                before = (b.next, b.highest, b.pending, b.ahead, b.final_size)
                refuse_after(r.choice((0, 1, 2, 3)))
                if b.push(offset, data) == NO_MEMORY:
                    failures += 1
                    assert (b.next, b.highest, b.pending, b.ahead, b.final_size) == before
                    assert b.valid
                    refuse_after(None)
                    assert b.push(offset, data) == OK
                if r.random() < 0.2:
                    refuse_after(r.choice((0, 1)))
                    try:
                        b.detach()
                    except MemoryError:
                        failures += 1
                        refuse_after(None)
                        b.detach()
                elif r.random() < 0.2:
                    got += b.take_some(r.randrange(20_000))
                assert b.valid
        finally:
            refuse_after(None)
        got += b.take()
        assert got == DATA[: b.next]
        assert b.ahead or b.memory == 0
    assert failures > 100
