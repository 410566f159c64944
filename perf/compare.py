"""Two result files of `perf.e2e` side by side: `python -m perf.compare OLD NEW`.

A change counts when the ranges of the two runs do not overlap; within them it is noise.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median

from perf.e2e.lanes import ALL, LANES, TITLES
from perf.report import number, present, values


def main(old_file: str, new_file: str) -> None:
    old, new = (json.loads(Path(f).read_text()) for f in (old_file, new_file))
    for case in ALL:
        lines = []
        for lane in LANES:
            a, b = (present(values(r, case, lane.name)) for r in (old, new))
            if not a or not b:
                continue
            change = (median(b) / median(a) - 1) * 100
            apart = min(b) > max(a) or max(b) < min(a)
            lines.append(
                f"  {lane.name:12} {number(median(a)):>10} -> {number(median(b)):>10}  {change:+6.1f} %"
                + ("" if apart else "  (within the spread)")
            )
        if lines:
            print(TITLES[case], *lines, sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:3])
