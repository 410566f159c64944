"""Instructions per packet, request and handshake against perf/budgets.toml (3 % tolerance)."""

from __future__ import annotations

import pytest

from perf.icount import __main__ as counter


@pytest.mark.plain_build
@pytest.mark.timeout(400)
def test_counts_stay_within_their_budgets() -> None:
    lack = counter.missing()
    if lack:
        pytest.skip(lack)
    off = counter.compare(counter.count(), counter.budgets())
    assert not off, "; ".join(off) + " (a change that is meant: python -m perf.icount --update)"


def test_a_count_beyond_the_tolerance_is_reported() -> None:
    assert counter.compare({"packet": 1030, "request": 97_000}, {"packet": 1000, "request": 100_000}) == []
    assert len(counter.compare({"packet": 1031, "request": 96_900}, {"packet": 1000, "request": 100_000})) == 2
    assert counter.compare({"handshake": 5}, {}) == ["handshake: 5 instructions and no budget"]
