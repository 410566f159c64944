"""stoq.endpoint.timerheap."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoq.endpoint.timerheap import TimerHeap


def test_calls_in_order() -> None:
    heap, called = TimerHeap(), []
    slots = [heap.register(lambda now, i=i: called.append((i, now))) for i in range(5)]
    for slot, deadline in zip(slots, (50, 20, 40, 10, 30), strict=True):
        heap.schedule(slot, deadline)
    assert heap.next_deadline() == 10
    assert heap.run(9) == 0
    assert heap.run(30) == 3
    assert called == [(3, 30), (1, 30), (4, 30)]
    assert heap.next_deadline() == 40
    assert heap.run(1000) == 2
    assert heap.next_deadline() is None


def test_later_deadlines_are_lazy() -> None:
    heap, called = TimerHeap(), []
    slot = heap.register(called.append)
    for deadline in range(100, 10_100, 100):
        heap.schedule(slot, deadline)
    assert len(heap) == 1
    assert heap.run(9_999) == 0
    assert heap.next_deadline() == 10_000
    assert heap.run(10_000) == 1
    assert called == [10_000]


def test_earlier_and_cleared() -> None:
    heap, called = TimerHeap(), []
    slot, other = heap.register(called.append), heap.register(called.append)
    heap.schedule(slot, 500)
    heap.schedule(other, 300)
    heap.schedule(slot, 100)
    assert heap.next_deadline() == 100
    heap.schedule(slot, 0)
    assert heap.next_deadline() == 300
    heap.schedule(slot, 200)
    assert heap.run(250) == 1
    heap.cancel(other)
    assert heap.next_deadline() is None
    with pytest.raises(KeyError):
        heap.schedule(other, 1)
    assert heap.register(called.append) == other


def test_a_callback_may_schedule_itself() -> None:
    heap, called = TimerHeap(), []

    def tick(now: int) -> None:
        called.append(now)
        heap.schedule(slot, now + 10)

    slot = heap.register(tick)
    heap.schedule(slot, 10)
    assert heap.run(10) == 1
    assert heap.run(35) == 1
    assert heap.next_deadline() == 45


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 50)), max_size=200))
def test_against_a_model(steps: list[tuple[int, int]]) -> None:
    """Deadlines set at random, time moving on: what is due is called, once, and nothing else."""
    heap, called = TimerHeap(), []
    slots = [heap.register(lambda now, i=i: called.append(i)) for i in range(10)]
    model: dict[int, int] = {}
    now = 1
    for who, what in steps:
        if what < 40:
            deadline = now + what if what else 0
            heap.schedule(slots[who], deadline)
            model.pop(who, None)
            if deadline:
                model[who] = deadline
        else:
            now += what - 39
            called.clear()
            heap.run(now)
            due = [i for i, deadline in model.items() if deadline <= now]
            assert sorted(called) == sorted(due)
            for i in due:
                del model[i]
        assert heap.next_deadline() == min(model.values(), default=None)
