"""Prints a result file of `perf.e2e` as tables: `python -m perf.report FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from perf.e2e.lanes import ALL, LANES, SAME, TARGETS, TITLES, Target
from perf.machine import Placement

Result = dict[str, Any]


def runs_of(result: Result, case: str, lane: str) -> list[Result | None]:
    """The runs of one lane in one case; None for one that broke."""
    found: list[Result | None] = next(
        (r["runs"] for r in result["rows"] if r["case"] == case and r["lane"] == lane), []
    )
    return found


def values(result: Result, case: str, lane: str) -> list[float | None]:
    """One value a round; None where the run broke or was made while the cores lay apart (unless all were)."""
    runs = runs_of(result, case, lane)
    limit = Placement.FAR * result["nearest"]
    near = [r["value"] if r and r["distance"] <= limit else None for r in runs]
    return near if any(v is not None for v in near) else [r["value"] if r else None for r in runs]


def present(numbers: list[float | None]) -> list[float]:
    return [v for v in numbers if v is not None]


def ratios(result: Result, case: str, lane: str, against: str) -> list[float]:
    """Each value of `lane` over the median of `against`: the spread is the lane's own."""
    base = present(values(result, case, against))
    return [v / median(base) for v in present(values(result, case, lane))] if base else []


def judge(result: Result, target: Target) -> tuple[bool, str] | None:
    """Whether a target is met, with the figure; None when there is no measurement."""
    mine = present(values(result, target.case, target.lane))
    base = present(values(result, target.case, target.against))
    if not mine or not base:
        return None
    if target.plus is not None:
        over = median(mine) - median(base)
        return over <= target.plus, f"+{over:.0f} us"
    ratio = median(mine) / median(base)
    if target.case == "ping":
        ratio, mine, base = 1 / ratio, base, mine
    if target.factor != 1:
        return ratio >= target.factor, f"{ratio:.2f}x"
    overlap = max(mine) >= min(base) and max(base) >= min(mine) and len(mine) > 1
    return ratio >= SAME or overlap, f"{ratio:.2f}x" + (" (within the spread)" if ratio < SAME and overlap else "")


def number(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def cpu(result: Result, case: str, lane: str) -> str:
    """CPU seconds per 1e9 bytes, client + server."""
    runs = [r for r in runs_of(result, case, lane) if r and r.get("bytes")]
    if not runs:
        return ""
    client = median(r["cpu"] / r["bytes"] * 1e9 for r in runs)
    return f"  client {client:.2f} CPU s/GB"


def show(result: Result) -> bool:
    """Prints the tables; True when every target that was measured is met."""
    print(" ".join(f"{k}: {v}" for k, v in result["machine"].items()))
    print(f"{result['time']}, {result['rounds']} rounds of {result['seconds']} s, lo at MTU 1500")
    for case in ALL:
        if not any(r["case"] == case for r in result["rows"]):
            continue
        print(f"\n{TITLES[case]}")
        for lane in LANES:
            mine = present(values(result, case, lane.name))
            if not mine:
                continue
            text = f"  {lane.name:12} {number(median(mine)):>10}  ({number(min(mine))} to {number(max(mine))})"
            for peer in ("aioquic", "qh3"):
                r = ratios(result, case, lane.name, peer)
                if r and peer != lane.name:
                    text += f"  {median(r):6.2f}x {peer} ({min(r):.2f}-{max(r):.2f})"
            if case == "ping":
                text += f"  p99 {median(r['p99'] for r in runs_of(result, case, lane.name) if r):.0f}"
            print(text + cpu(result, case, lane.name))
    print("\ntargets")
    met = True
    for target in TARGETS:
        verdict = judge(result, target)
        if verdict is None:
            continue
        met = met and verdict[0]
        print(f"  {'PASS' if verdict[0] else 'MISS'}  {target.lane:12} {target.case:10} {target.text:24} {verdict[1]}")
    for name, reason in result["skipped"].items():
        print(f"  not run: {name} ({reason})")
    for error in result["errors"]:
        print(f"  broken: {error}")
    return met


if __name__ == "__main__":
    show(json.loads(Path(sys.argv[1]).read_text()))
