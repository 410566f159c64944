"""RangeSet: shapes, bounds and cost."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable

import pytest

from stoq.core.containers import RangeSetView
from stoq.core.memory import refuse_after

MANY = 100_000


def pairs(ranges: Iterable[tuple[int, int]]) -> bytes:
    return array("Q", [n for r in ranges for n in r]).tobytes()


def made(*ranges: tuple[int, int]) -> RangeSetView:
    s = RangeSetView()
    for r in ranges:
        s.add(*r)
    assert s.valid
    return s


def order(name: str, count: int) -> list[int]:
    numbers = list(range(count))
    if name == "descending":
        numbers.reverse()
    elif name == "random":
        random.Random(3).shuffle(numbers)
    elif name == "inward":
        numbers = [n for pair in zip(numbers, reversed(numbers), strict=True) for n in pair][:count]
    return numbers


def test_empty_set() -> None:
    s = RangeSetView()
    assert len(s) == 0
    assert s.covered == 0
    assert s.ranges() == []
    assert s.seek(0) is None
    assert s.first_gap(3, 9) == (3, 9)
    assert s.first_gap(3, 3) is None
    assert s.covers(5, 5)
    assert not s.covers(5, 6)
    assert s.trim_low(0) == 0
    s.remove(0, 100)
    s.add(7, 7)
    assert len(s) == 0
    assert s.memory == 0


def test_one_range_owns_no_memory() -> None:
    s = made((10, 11))
    for n in range(11, 5000):
        s.add(n, n + 1)
    assert s.ranges() == [(10, 5000)]
    assert s.memory == 0
    assert s.size <= 64


def test_memory_is_given_back() -> None:
    s = made(*((2 * n, 2 * n + 1) for n in range(1000)))
    assert s.memory > 16_000
    s.add(0, 2000)
    assert s.ranges() == [(0, 2000)]
    assert s.memory == 0
    s.add(3000, 3001)
    s.remove(0, 2000)
    assert s.ranges() == [(3000, 3001)]
    assert s.memory == 0
    s.clear()
    assert len(s) == 0


@pytest.mark.parametrize(
    ("start", "end", "result"),
    [
        (5, 8, [(5, 8), (10, 20), (30, 40), (50, 60)]),
        (5, 10, [(5, 20), (30, 40), (50, 60)]),
        (5, 15, [(5, 20), (30, 40), (50, 60)]),
        (12, 18, [(10, 20), (30, 40), (50, 60)]),
        (15, 25, [(10, 25), (30, 40), (50, 60)]),
        (20, 30, [(10, 40), (50, 60)]),
        (21, 29, [(10, 20), (21, 29), (30, 40), (50, 60)]),
        (15, 35, [(10, 40), (50, 60)]),
        (0, 100, [(0, 100)]),
        (20, 50, [(10, 60)]),
        (45, 50, [(10, 20), (30, 40), (45, 60)]),
        (41, 49, [(10, 20), (30, 40), (41, 49), (50, 60)]),
        (35, 55, [(10, 20), (30, 60)]),
        (55, 70, [(10, 20), (30, 40), (50, 70)]),
        (60, 61, [(10, 20), (30, 40), (50, 61)]),
        (62, 63, [(10, 20), (30, 40), (50, 60), (62, 63)]),
        (0, 50, [(0, 60)]),
        (0, 49, [(0, 49), (50, 60)]),
    ],
)
def test_add(start: int, end: int, result: list[tuple[int, int]]) -> None:
    s = made((30, 40), (10, 20), (50, 60))
    s.add(start, end)
    assert s.valid
    assert s.ranges() == result


@pytest.mark.parametrize(
    ("start", "end", "result"),
    [
        (0, 10, [(10, 20), (30, 40), (50, 60)]),
        (0, 15, [(15, 20), (30, 40), (50, 60)]),
        (10, 20, [(30, 40), (50, 60)]),
        (12, 15, [(10, 12), (15, 20), (30, 40), (50, 60)]),
        (15, 35, [(10, 15), (35, 40), (50, 60)]),
        (20, 30, [(10, 20), (30, 40), (50, 60)]),
        (30, 60, [(10, 20)]),
        (35, 55, [(10, 20), (30, 35), (55, 60)]),
        (52, 55, [(10, 20), (30, 40), (50, 52), (55, 60)]),
        (50, 60, [(10, 20), (30, 40)]),
        (55, 100, [(10, 20), (30, 40), (50, 55)]),
        (0, 50, [(50, 60)]),
        (0, 100, []),
        (60, 100, [(10, 20), (30, 40), (50, 60)]),
    ],
)
def test_remove(start: int, end: int, result: list[tuple[int, int]]) -> None:
    s = made((10, 20), (30, 40), (50, 60))
    s.remove(start, end)
    assert s.valid
    assert s.ranges() == result


def test_queries() -> None:
    s = made((10, 20), (30, 40), (50, 60))
    assert s.first() == (10, 20)
    assert s.last() == (50, 60)
    assert [s.seek(n) for n in (0, 10, 19, 20, 45, 59, 60)] == [
        (10, 20), (10, 20), (10, 20), (30, 40), (50, 60), (50, 60), None,
    ]  # fmt: skip
    assert [n in s for n in (9, 10, 19, 20, 35, 49, 50, 59, 60)] == [
        False, True, True, False, True, False, True, True, False,
    ]  # fmt: skip
    assert s.covers(10, 20)
    assert not s.covers(10, 21)
    assert not s.covers(15, 35)
    assert s.first_gap(0, 100) == (0, 10)
    assert s.first_gap(10, 100) == (20, 30)
    assert s.first_gap(10, 25) == (20, 25)
    assert s.first_gap(12, 20) is None
    assert s.first_gap(55, 100) == (60, 100)
    assert s.first_gap(45, 47) == (45, 47)


def test_numbers_of_62_bits() -> None:
    top = 2**62 - 1
    s = made((top - 1, top), (0, 1), (2**61, 2**61 + 5))
    assert s.ranges() == [(0, 1), (2**61, 2**61 + 5), (top - 1, top)]
    assert s.first_gap(1, top) == (1, 2**61)
    s.add(0, top)
    assert s.covered == top


def test_trim_low_keeps_the_highest() -> None:
    # 0, 3, 6 ... : what an ACK tracker does under a peer that skips packet numbers.
    s = RangeSetView()
    for n in range(0, 30_000, 3):
        s.add(n, n + 1)
        s.trim_low(64)
        assert len(s) <= 64
    assert s.valid
    assert s.first() == (29_997 - 63 * 3, 29_998 - 63 * 3)
    assert s.memory <= 1100
    assert s.trim_low(10) == 29_998 - 10 * 3
    assert len(s) == 10
    assert s.trim_low(10) == 0
    assert s.trim_low(0) == 29_998
    assert s.memory == 0


@pytest.mark.parametrize("name", ["ascending", "descending", "random", "inward"])
def test_many_ranges(name: str) -> None:
    numbers = order(name, MANY)
    s = RangeSetView()
    s.add_many(pairs((2 * n, 2 * n + 1) for n in numbers))
    assert s.valid
    assert len(s) == s.covered == MANY
    # 16 bytes a range, and at most as much again for half-empty leaves in the worst order.
    assert s.memory <= 24 * MANY
    assert s.first() == (0, 1)
    assert s.last() == (2 * MANY - 2, 2 * MANY - 1)
    assert s.first_gap(0, 10) == (1, 2)
    assert s.seek(99_999) == (100_000, 100_001)
    s.add_many(pairs((2 * n + 1, 2 * n + 2) for n in numbers))
    assert s.valid
    assert s.ranges() == [(0, 2 * MANY)]
    assert s.memory == 0


@pytest.mark.parametrize("name", ["ascending", "descending", "random"])
def test_many_removals_leave_no_sparse_leaves(name: str) -> None:
    s = RangeSetView()
    s.add_many(pairs((2 * n, 2 * n + 1) for n in range(20_000)))
    numbers = [n for n in order(name, 20_000) if n % 50]
    s.remove_many(pairs((2 * n, 2 * n + 1) for n in numbers))
    assert s.valid
    assert s.ranges() == [(2 * n, 2 * n + 1) for n in range(0, 20_000, 50)]
    # Leaves are at least 3/8 full on average.
    assert s.memory <= 44 * len(s) + 2 * 1040


def test_no_memory_leaves_the_set_as_it_was() -> None:
    r = random.Random(7)
    failures = 0
    try:
        for _ in range(20):
            s = RangeSetView()
            for _ in range(400):
                start = r.randrange(1500)
                end = start + r.choice((1, 1, 1, 2, 9))
                act = s.add if r.random() < 0.8 else s.remove
                before = s.ranges()
                refuse_after(0)
                try:
                    act(start, end)
                except MemoryError:
                    failures += 1
                    assert s.valid
                    assert s.ranges() == before
                    refuse_after(r.choice((1, 9)))
                    try:
                        act(start, end)
                    except MemoryError:  # a split needs a leaf, and then more room for leaves
                        assert s.ranges() == before
                        refuse_after(None)
                        act(start, end)
                refuse_after(None)
                assert s.valid
    finally:
        refuse_after(None)
    assert failures > 100
