"""How the benchmark judges: medians, targets, runs made while the cores lay apart."""

from __future__ import annotations

from typing import Any

from perf import report
from perf.e2e.lanes import Target


def result(**lanes: list[float]) -> dict[str, Any]:
    rows = [
        {"case": "down", "lane": lane, "runs": [{"value": v, "distance": 100} for v in values]}
        for lane, values in lanes.items()
    ]
    return {"rows": rows, "nearest": 100}


def test_a_target_compares_medians() -> None:
    measured = result(stoq=[5.0, 50.0, 6.0], aioquic=[0.2, 0.1, 0.2])
    assert report.judge(measured, Target("down", "stoq", "aioquic", 30)) == (True, "30.00x")
    assert report.judge(measured, Target("down", "stoq", "aioquic", 31)) == (False, "30.00x")


def test_a_target_may_be_a_margin_in_microseconds() -> None:
    measured = result(stoq=[150.0], udp=[100.0])
    assert report.judge(measured, Target("down", "stoq", "udp", plus=50)) == (True, "+50 us")
    assert report.judge(measured, Target("down", "stoq", "udp", plus=49)) == (False, "+50 us")


def test_no_slower_allows_ranges_that_overlap() -> None:
    target = Target("down", "stoq", "aioquic")
    apart = report.judge(result(stoq=[8.0, 8.1, 8.2], aioquic=[10.0, 10.1, 10.2]), target)
    overlapping = report.judge(result(stoq=[8.0, 8.1, 10.1], aioquic=[10.0, 10.1, 10.2]), target)
    assert apart is not None
    assert overlapping is not None
    assert (apart[0], overlapping[0]) == (False, True)


def test_without_a_measurement_there_is_no_verdict() -> None:
    assert report.judge(result(stoq=[1.0]), Target("down", "stoq", "aioquic", 2)) is None


def test_runs_made_with_the_cores_apart_do_not_count() -> None:
    measured = result(stoq=[10.0, 7.0])
    measured["rows"][0]["runs"][1]["distance"] = 190
    assert report.values(measured, "down", "stoq") == [10.0, None]
    measured["rows"][0]["runs"][0]["distance"] = 190
    assert report.values(measured, "down", "stoq") == [10.0, 7.0]
