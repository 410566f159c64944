"""SendBuf: order, loss, FIN, owners and memory."""

from __future__ import annotations

import random
import sys
from array import array
from collections.abc import Iterable

import pytest

from stoq.core.containers import SendBuffer
from stoq.core.memory import refuse_after

KIB = 1024
DATA = random.Random(12).randbytes(1 << 20)


def pairs(runs: Iterable[tuple[int, int]]) -> bytes:
    return array("Q", [n for r in runs for n in r]).tobytes()


def filled(size: int, keep: bool = True) -> SendBuffer:
    b = SendBuffer()
    b.write(DATA[:size], keep=keep)
    return b


def references(objects: list[bytes]) -> list[int]:
    return [sys.getrefcount(objects[i]) for i in range(len(objects))]


def test_nothing_to_send() -> None:
    b = SendBuffer()
    assert b.peek(1000) is None
    assert b.memory == 0
    assert not b.complete
    b.write(b"")
    assert b.peek(1000) is None


def test_new_data_in_order() -> None:
    b = filled(3000)
    assert b.peek(1400) == (0, 1400, False, True)
    assert b.peek(1400) == (0, 1400, False, True)  # peek changes nothing
    b.sent(0, 1400)
    assert b.peek(1400, limit=2000) == (1400, 600, False, True)
    b.sent(1400, 600)
    assert b.peek(1400, limit=2000) is None
    assert b.peek(1400, limit=10) is None
    assert b.peek(0) is None
    assert b.peek(1400) == (2000, 1000, False, True)
    assert b.copy(0, 3000) == DATA[:3000]


def test_a_prefix_may_be_sent() -> None:
    b = filled(3000)
    b.finish()
    assert b.peek(4000) == (0, 3000, True, True)
    b.sent(0, 1000, fin=False)
    assert b.peek(4000) == (1000, 2000, True, True)


def test_lost_goes_first_and_acked_is_not_resent() -> None:
    b = filled(10_000)
    assert b.pump(1000) == 10
    b.acked(3000, 1000)
    b.lost(2000, 3000)
    assert b.peek(1400) == (2000, 1000, False, False)
    b.sent(2000, 500)
    assert b.peek(1400) == (2500, 500, False, False)
    b.acked(2500, 500)
    assert b.peek(1400) == (4000, 1000, False, False)
    b.sent(4000, 1000)
    assert b.peek(1400) is None
    # The first copy of a resent run is acknowledged, then the second one is declared lost.
    b.acked(4000, 1000)
    b.lost(4000, 1000)
    assert b.peek(1400) is None
    b.lost(9500, 500)
    b.write(b"new")
    assert b.peek(1400) == (9500, 500, False, False)
    assert b.valid


def test_in_order_acks_release_chunks() -> None:
    b = SendBuffer()
    for n in range(0, 10_000, 1000):
        b.write(DATA[n : n + 1000], keep=True)
    assert b.chunks == 10
    b.pump(700)
    b.acked(0, 999)
    assert (b.base, b.chunks, b.drain()) == (999, 10, 0)
    b.acked(999, 1)
    assert (b.base, b.chunks, b.drain()) == (1000, 9, 1)
    b.acked(3000, 2000)
    assert (b.base, b.chunks, b.drain()) == (1000, 9, 0)
    b.acked(1000, 2000)
    assert (b.base, b.chunks, b.drain()) == (5000, 5, 4)
    b.acked(0, 10_000)
    assert (b.base, b.chunks, b.drain(), b.memory) == (10_000, 0, 5, 0)
    assert b.valid


def test_acks_in_reverse_and_at_odd_places() -> None:
    b = filled(1 << 20)
    b.pump(1024)
    runs = [(n, 1024) for n in range(0, 1 << 20, 1024)]
    b.acked_many(pairs(reversed(runs[1::2])))
    assert b.base == 0
    assert b.memory <= 512 * 24 + 1040
    b.acked_many(pairs(reversed(runs[::2])))
    assert b.base == 1 << 20
    assert b.memory == 0
    assert b.drain() == 1


def test_acks_of_unsent_bytes_are_ignored() -> None:
    b = filled(3000)
    b.finish()
    b.sent(0, 1000)
    b.acked(0, 3000, fin=True)
    assert b.base == 1000
    b.acked(2000, 500)
    b.lost(2000, 500, fin=True)
    b.lost(0, 3000)
    assert b.valid
    assert b.peek(5000) == (1000, 2000, True, True)
    assert not b.complete


def test_bare_fin() -> None:
    b = SendBuffer()
    b.finish()
    assert b.peek(0) == (0, 0, True, True)
    b.sent(0, 0, fin=True)
    assert b.peek(1000) is None
    b.lost(0, 0, fin=True)
    assert b.peek(1000) == (0, 0, True, False)
    b.sent(0, 0, fin=True)
    assert not b.complete
    b.acked(0, 0, fin=True)
    assert b.complete
    b.lost(0, 0, fin=True)
    assert b.peek(1000) is None


def test_fin_after_all_data_was_sent() -> None:
    b = filled(100)
    b.sent(0, 100)
    b.finish()
    assert b.peek(1000, limit=100) == (100, 0, True, True)
    b.sent(100, 0, fin=True)
    b.acked(100, 0, fin=True)
    assert not b.complete
    b.acked(0, 100)
    assert b.complete


def test_fin_waits_for_new_data_and_rides_on_the_last_run() -> None:
    b = filled(2000)
    b.finish()
    assert b.peek(1400, limit=1000) == (0, 1000, False, True)
    b.sent(0, 1000)
    assert b.peek(1400, limit=1000) is None  # flow control holds the data back, and FIN with it
    assert b.peek(1400) == (1000, 1000, True, True)
    b.sent(1000, 1000, fin=True)
    b.lost(1000, 1000, fin=True)
    assert b.peek(600) == (1000, 600, False, False)
    b.sent(1000, 600)
    assert b.peek(600) == (1600, 400, True, False)
    b.sent(1600, 400, fin=True)
    b.acked(0, 2000)
    assert not b.complete
    b.acked(1600, 400, fin=True)
    assert b.complete


def test_lost_fin_whose_data_arrived_goes_bare() -> None:
    b = filled(100)
    b.finish()
    b.sent(0, 100)
    b.sent(100, 0, fin=True)
    b.lost(0, 100)
    assert b.peek(1000) == (0, 100, False, False)  # FIN is in flight still
    b.lost(100, 0, fin=True)
    assert b.peek(1000) == (0, 100, True, False)
    b.acked(0, 100)
    assert b.peek(1000) == (100, 0, True, False)
    assert b.peek(0) == (100, 0, True, False)


def test_write_after_fin_is_refused() -> None:
    b = SendBuffer()
    b.finish()
    with pytest.raises(MemoryError):
        b.write(b"x")
    with pytest.raises(MemoryError):
        b.write(b"x", keep=True)
    assert b.end == 0


def test_small_writes_are_gathered() -> None:
    b = SendBuffer()
    for n in range(100_000):
        b.write(DATA[n : n + 1])
    assert b.chunks == -(-100_000 // 4096)
    assert b.memory <= 100_000 + 4096 + 64 * 32
    assert b.copy(0, 100_000) == DATA[:100_000]
    assert b.run(0, 10_000) == DATA[:4096]
    b.pump(1000)
    b.acked(0, 50_000)
    assert b.memory <= 50_000 + 2 * 4096 + 64 * 32
    assert b.copy(50_000, 50_000) == DATA[50_000:100_000]


def test_one_small_write_costs_little() -> None:
    b = SendBuffer()
    b.write(b"ping" * 16)
    assert b.memory <= 64 + 128
    b.pump(1400)
    b.write(b"pong" * 16)  # behind what was sent, in the same chunk
    assert b.chunks == 1
    assert b.peek(1000) == (64, 64, False, True)
    assert b.copy(0, 128) == b"ping" * 16 + b"pong" * 16
    b.pump(1400)
    b.acked(0, 128)
    assert b.memory == 0


def test_references_and_copies_mixed() -> None:
    b = SendBuffer()
    r = random.Random(1)
    at = 0
    kept = 0
    while at < 300_000:
        n = r.choice((1, 7, 100, 5000))
        keep = r.random() < 0.5
        b.write(DATA[at : at + n], keep=keep)
        kept += keep
        at += n
    assert b.valid
    for _ in range(300):
        start = r.randrange(at)
        n = r.randrange(at - start)
        assert b.copy(start, n) == DATA[start : start + n]
        run = b.run(start, n)
        assert run == DATA[start : start + len(run)]
        assert len(run) > 0 or n == 0
    b.pump(1400)
    b.acked(0, at)
    assert b.drain() == kept


def test_owners_are_released_exactly_once() -> None:
    owners = [bytes([n]) * 1000 for n in range(1, 40)]
    before = references(owners)
    b = SendBuffer()
    for i in range(len(owners)):
        b.write(owners[i], keep=True)
        b.write(b"own")
    assert references(owners) == [n + 1 for n in before]
    b.pump(1400)
    b.acked(0, 10_030)
    assert b.drain() == 10
    b.clear()
    assert b.waiting
    assert b.drain() == len(owners) - 10
    assert not b.waiting
    assert (b.base, b.next, b.end, b.memory) == (0, 0, 0, 0)
    assert references(owners) == before
    # Notices of packets that were in flight when the stream was reset.
    b.acked(0, 500)
    b.lost(0, 500, fin=True)
    assert b.peek(1000) is None
    assert b.valid


@pytest.mark.parametrize("allowed", range(4))
def test_no_owner_is_lost_without_memory(allowed: int) -> None:
    owners = [bytes([n]) * 100 for n in range(1, 101)]
    before = references(owners)
    b = SendBuffer()
    for i in range(len(owners)):
        b.write(owners[i], keep=True)
        b.write(b"own")
    b.pump(1400)
    total = b.end
    try:
        refuse_after(allowed)
        b.acked(0, 103 * 60)
        assert b.base == 103 * 60
        assert b.valid
        assert b.copy(b.base, 100) == owners[60]
        b.acked(103 * 60, 103)
        b.clear()
    finally:
        refuse_after(None)
    assert b.drain() == 100
    assert total == 10_300
    assert references(owners) == before


def test_two_cleared_rings_wait_side_by_side() -> None:
    owners = [bytes([n]) * 100 for n in range(1, 31)]
    before = references(owners)
    b = SendBuffer()
    for start in (0, 10, 20):
        for i in range(start, start + 10):
            b.write(owners[i], keep=True)
        try:
            refuse_after(0)
            b.clear()
        finally:
            refuse_after(None)
        assert b.memory == 0
    assert b.drain() == 30
    assert references(owners) == before


def test_no_memory_leaves_the_buffer_valid() -> None:
    r = random.Random(9)
    failures = 0
    for seed in range(60):
        r.seed(seed)
        b = SendBuffer()
        text = bytearray()
        try:
            for _ in range(150):
                act = r.random()
                refuse_after(r.choice((0, 1, 9)))
                try:
                    if act < 0.3:
                        data = r.randbytes(r.choice((1, 100, 3000)))
                        b.write(data, keep=r.random() < 0.5)
                        text += data
                    elif act < 0.6 and (due := b.peek(r.choice((100, 1400)))):
                        b.sent(due[0], due[1])
                    elif b.next > b.base:
                        start = r.randrange(b.base, b.next)
                        length = r.randrange(b.next - start + 1)
                        if act < 0.8:
                            b.acked(start, length)
                        else:
                            b.lost(start, length)
                except MemoryError:
                    failures += 1
                refuse_after(None)
                assert b.valid
                assert b.end == len(text)
                assert b.copy(b.base, b.end - b.base) == text[b.base :]
        finally:
            refuse_after(None)
        # The end is still reached.
        b.lost(0, b.end)
        b.finish()
        b.pump(1000)
        b.acked(0, b.end, fin=True)
        assert b.complete
    assert failures > 20


def test_drop_list_is_given_back_after_a_burst() -> None:
    b = SendBuffer()
    for n in range(5000):
        b.write(DATA[n : n + 2], keep=True)
    b.pump(1000)
    b.acked(0, b.end)
    assert b.drain() == 5000
    assert not b.waiting
