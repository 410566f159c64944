"""RangeSet against a Python set of integers."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from stoq.core.containers import RangeSetView

Act = tuple[str, int, int]

# Small universes make merges and splits likely; the large one has room for several leaves.
ACTS = st.sampled_from([40, 400, 4000]).flatmap(
    lambda top: st.lists(
        st.tuples(
            st.sampled_from(["add", "add", "add", "remove", "comb", "trim"]),
            st.integers(0, top),
            st.integers(0, 1 + top // 8),
        ),
        max_size=60,
    )
)


def ranges_of(numbers: set[int]) -> list[tuple[int, int]]:
    starts = sorted(n for n in numbers if n - 1 not in numbers)
    ends = sorted(n + 1 for n in numbers if n + 1 not in numbers)
    return list(zip(starts, ends, strict=True))


@settings(max_examples=200, deadline=None)
@given(ACTS, st.integers(0, 4100), st.integers(0, 600))
def test_same_as_a_set_of_integers(acts: list[Act], start: int, length: int) -> None:
    s = RangeSetView()
    model: set[int] = set()
    for kind, at, n in acts:
        if kind == "add":
            s.add(at, at + n)
            model.update(range(at, at + n))
        elif kind == "remove":
            s.remove(at, at + n)
            model.difference_update(range(at, at + n))
        elif kind == "comb":  # many ranges of one number
            for m in range(at, at + 2 * n, 2):
                s.add(m, m + 1)
                model.add(m)
        else:
            before = ranges_of(model)
            dropped = before[: max(0, len(before) - n)]
            assert s.trim_low(n) == (dropped[-1][1] if dropped else 0)
            model.difference_update(*(range(*r) for r in dropped))
        assert s.valid
    expected = ranges_of(model)
    assert s.ranges() == expected
    assert s.covered == len(model)
    if expected:
        assert s.first() == expected[0]
        assert s.last() == expected[-1]
    else:
        assert s.memory == 0
    end = start + length
    assert (start in s) == (start in model)
    assert s.covers(start, end) == (model >= set(range(start, end)))
    assert s.seek(start) == next((r for r in expected if r[1] > start), None)
    missing = [n for n in range(start, end) if n not in model]
    gap = s.first_gap(start, end)
    if not missing:
        assert gap is None
    else:
        stop = next((n for n in range(missing[0], end) if n in model), end)
        assert gap == (missing[0], stop)
