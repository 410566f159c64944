"""Where the time of one case goes on either side: `python -m perf.e2e.profile --case down` (root, linux-perf).

Samples the CPU clock while one lane runs one case. Work of the kernel counts for the process it interrupts: on
loopback the receive path runs in the sender's time.
Functions without a symbol (the assembly of libcrypto) are added up under their library.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from perf.e2e import certificate, runner
from perf.e2e.lanes import ALL, LANES
from perf.machine import Placement, bench_lock, in_child, own_session, private_loopback

FREQUENCY = 4000  # samples a second and core


def functions(data: Path, pid: int, start: float) -> tuple[Counter[str], int]:
    """Samples by function of one process, from `start` seconds after its first one on."""
    text = subprocess.run(
        ["perf", "script", "-i", str(data), "--pid", str(pid), "-F", "time,ip,sym,dso"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    found: Counter[str] = Counter()
    first = None
    for row in text.splitlines():
        match = re.match(r"\s*([\d.]+):\s+[0-9a-f]+ (.*) \((.*)\)$", row)
        if match is None:
            continue
        when, symbol, library = float(match[1]), match[2], match[3]
        first = when if first is None else first
        if when < first + start:
            continue
        library = library.rsplit("/", 1)[-1].split(".cpython")[0].split(".so")[0]
        symbol = re.sub(r"^__pyx_\w*?\d+(?=[a-z])", "", symbol)
        found[f"{library}: (without symbol)" if symbol == "[unknown]" else f"{library}: {symbol}"] += 1
    return found, sum(found.values())


def main() -> None:
    lanes = {lane.name: lane for lane in LANES}
    p = argparse.ArgumentParser(prog="python -m perf.e2e.profile", description=__doc__)
    p.add_argument("--lane", choices=list(lanes), default="stoq")
    p.add_argument("--case", choices=ALL, default="down")
    p.add_argument("--seconds", type=float, default=3.0)
    p.add_argument("--top", type=int, default=15)
    o = p.parse_args()
    in_child()
    own_session()
    private_loopback()
    with bench_lock(), tempfile.TemporaryDirectory() as scratch:
        files = certificate.write(Path(scratch))
        data = Path(scratch) / "perf.data"

        def sampled() -> dict[str, Any]:
            recorder = subprocess.Popen(
                ["perf", "record", "-q", "-a", "-e", "cpu-clock", "-F", str(FREQUENCY), "-o", str(data)],
                stderr=subprocess.DEVNULL,
            )
            try:
                return runner.run(lanes[o.lane], o.case, files, o.seconds)
            finally:
                recorder.terminate()
                recorder.wait()

        result, _ = Placement().settled(sampled)
        print(f"{o.lane} {o.case}: {result['value']:.2f} (slowed by the sampling)")
        for side, pid in zip(("client", "server"), result["pids"], strict=True):
            found, total = functions(data, pid, 1.0)
            print(f"\n{side}, {total} samples")
            for name, samples in found.most_common(o.top):
                print(f"  {samples / total * 100:5.1f} %  {name}")


if __name__ == "__main__":
    main()
