"""`make bench`: stoq beside aioquic, qh3, a bare UDP echo and the spike, over loopback at MTU 1500.

Every case is run by every lane in turn, then again (A, B, C, A, B, C ...), so that what disturbs the machine disturbs
all alike. Client and server are processes on a core each, in a network namespace of their own. Needs root.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from perf import report
from perf.e2e import certificate, runner
from perf.e2e.lanes import ALL, LANES
from perf.machine import Placement, bench_lock, description, in_child, own_session, private_loopback


def measure(o: argparse.Namespace) -> dict[str, Any]:
    """All rounds; the result as it is written to the file."""
    lanes = [lane for lane in LANES if not o.lane or lane.name in o.lane]
    skipped = {}
    for lane in lanes:
        reason = runner.available(lane)
        if reason:
            skipped[lane.name] = reason
            print(f"skipping {lane.name}: {reason}", file=sys.stderr)
    lanes = [lane for lane in lanes if lane.name not in skipped]
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    errors: list[str] = []
    placement = Placement()
    with tempfile.TemporaryDirectory() as folder:
        files = certificate.write(Path(folder))
        for turn in range(o.rounds):
            for case in o.case:
                for lane in lanes:
                    if case not in lane.cases:
                        continue
                    row = rows.setdefault((case, lane.name), {"case": case, "lane": lane.name, "runs": []})
                    try:
                        result, distance = placement.settled(
                            partial(runner.run, lane, case, files, o.seconds), tries=o.tries
                        )
                    except runner.RunFailed as error:
                        errors.append(f"{lane.name} {case}: {error}")
                        print(f"  {errors[-1]}", file=sys.stderr, flush=True)
                        row["runs"].append(None)
                        continue
                    row["runs"].append(result | {"distance": round(distance)})
                    if o.verbose:
                        far = " (cores apart)" if placement.far(distance) else ""
                        print(
                            f"  {turn + 1} {case} {lane.name}: {result['value']:.4g}{far}", file=sys.stderr, flush=True
                        )
    return {
        "machine": description(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "rounds": o.rounds,
        "seconds": o.seconds,
        "nearest": round(placement.nearest),
        "skipped": skipped,
        "errors": errors,
        "rows": list(rows.values()),
    }


def main() -> None:
    names = [lane.name for lane in LANES]
    p = argparse.ArgumentParser(prog="python -m perf.e2e", description=__doc__)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=1.5, help="length of one run")
    p.add_argument("--case", nargs="*", choices=ALL, default=list(ALL))
    p.add_argument("--lane", nargs="*", choices=names, default=[])
    p.add_argument("--tries", type=int, default=6, help="repeat a run so often when the host moves the cores apart")
    p.add_argument("--output", type=Path, default=Path("build/bench.json"))
    p.add_argument("--check", action="store_true", help="a missed target is an error")
    p.add_argument("--verbose", action="store_true")
    o = p.parse_args()
    in_child()
    own_session()
    private_loopback()
    with bench_lock():
        result = measure(o)
    o.output.parent.mkdir(parents=True, exist_ok=True)
    o.output.write_text(json.dumps(result, indent=1) + "\n")
    met = report.show(result)
    print(f"\nresult file: {o.output}")
    raise SystemExit(1 if result["errors"] or (o.check and not met) else 0)


if __name__ == "__main__":
    main()
