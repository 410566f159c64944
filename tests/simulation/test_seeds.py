"""Random scenarios over impaired links, the invariants watched (stoq.testing.scenario): 300 seeds in every run."""

from __future__ import annotations

import pytest

from stoq.testing.replay import Tap, summary
from stoq.testing.scenario import draw, run_seed

SEEDS = 300
CHUNK = 25


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_seeds(first: int) -> None:
    failed = []
    for seed in range(first, first + CHUNK):
        try:
            run_seed(seed)
        except Exception as error:
            failed.append(f"{type(error).__name__}: {error}\n    python -m stoq.testing.replay --seed {seed} --verbose")
    assert not failed, "\n" + "\n".join(failed)


@pytest.mark.parametrize("seed", [1, 7, 23])
def test_a_seed_replays_exactly(seed: int) -> None:
    def run() -> dict[str, object]:
        tap = Tap(verbose=False)
        return summary(run_seed(seed, tap), tap)

    assert run() == run()


def test_the_seeds_cover_what_they_should() -> None:
    """A change of draw() must not quietly leave a kind of trouble out."""
    scenarios = [draw(seed) for seed in range(SEEDS)]
    links = [link for each in scenarios for link in (each.client_link, each.server_link)]
    for name in ("loss", "burst_enter", "reorder", "duplicate", "corrupt", "jitter_ns", "bit_rate", "blackholes"):
        assert sum(bool(getattr(link, name)) for link in links) > 20, name
    assert max(link.loss for link in links) > 0.15
    assert min(link.delay_ns for link in links) <= 1_000_000
    assert max(link.delay_ns for link in links) >= 400_000_000
    assert min(link.mtu for link in links) < 1260
    assert 30 < sum(each.retry for each in scenarios) < 100
    assert 100 < sum(each.close_by_client for each in scenarios) < 250
    flows = [flow for each in scenarios for plan in each.plans for flow in plan.flows.values()]
    ends = [flow.end for flow in flows]
    assert min(ends.count("reset"), ends.count("stop")) > 50
    assert sum(flow.size > 100_000 for flow in flows) > 50
    assert sum(plan.answer_after_end for each in scenarios for plan in each.plans) > 100
