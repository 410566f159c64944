"""Instructions per packet, per request and per handshake, counted by callgrind over a simulated connection.

The packets are not encrypted (backend `null`) and the handshake's key exchange and signature are simulated, so the
counts are those of the engine and of its Python, and nearly independent of the processor.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from perf.extension import ROOT, build

HERE = Path(__file__).resolve().parent
BUDGETS = ROOT / "perf" / "budgets.toml"
TOLERANCE = 0.03
LIMIT = 300.0  # seconds; it takes about 15
HEADER = """\
# Instructions (both sides together) of a simulated connection without encryption: a bulk packet with its share of
# ACKs, a 64-byte echo on a new stream, a handshake. Checked by tests/perf/test_budgets.py with 3 % tolerance.
# Rewritten by: python -m perf.icount --update
"""


class CountFailed(Exception):
    """The program did not run, or counted nothing."""


def missing() -> str | None:
    """What a count lacks here, or None."""
    if shutil.which("valgrind") is None:
        return "valgrind is not installed"
    if not Path("/usr/include/valgrind/callgrind.h").exists():
        return "valgrind's headers are not installed"
    return None


def totals(folder: Path) -> dict[str, tuple[int, Path]]:
    """Instructions, and the profile, of each phase."""
    found = {}
    for path in folder.glob("profile.*"):
        text = path.read_text()
        name = re.search(r"^desc: Trigger: Client Request: (\w+)$", text, re.MULTILINE)
        total = re.search(r"^totals: (\d+)", text, re.MULTILINE)
        if name and total:
            found[name[1]] = int(total[1]), path
    return found


def count(keep: Path | None = None) -> dict[str, int]:
    """Instructions per unit, by phase. `keep`: a folder for the profiles, to be read with callgrind_annotate."""
    extension = build(HERE / "exchange.pyx")
    with tempfile.TemporaryDirectory() as scratch:
        folder = keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/profile",
             sys.executable, str(HERE / "program.py")],
            capture_output=True, text=True, cwd=ROOT, timeout=LIMIT, check=False,
            env=os.environ | {"PYTHONHASHSEED": "0", "PYTHONPATH": f"{ROOT}:{extension}", "PYTHONMALLOC": "pymalloc"},
        )  # fmt: skip
        if done.returncode:
            raise CountFailed(done.stderr[-3000:])
        units = json.loads(done.stdout)["units"]
        found = totals(folder)
    counts = {}
    for name in [key[:-1] for key in units if key.endswith("1")]:
        if f"{name}1" not in found or f"{name}2" not in found:
            raise CountFailed(f"no count of phase {name}")
        instructions = found[f"{name}2"][0] - found[f"{name}1"][0]
        counts[name] = round(instructions / (units[f"{name}2"] - units[f"{name}1"]))
    return counts


def budgets() -> dict[str, int]:
    """The table of perf/budgets.toml."""
    table: dict[str, int] = tomllib.loads(BUDGETS.read_text())["instructions"]
    return table


def compare(counts: dict[str, int], allowed: dict[str, int]) -> list[str]:
    """One line for each count that differs from its budget by more than the tolerance, in either direction: a
    budget that is no longer true is corrected, not left."""
    lines = []
    for name, now in counts.items():
        budget = allowed.get(name)
        if budget is None:
            lines.append(f"{name}: {now:,} instructions and no budget")
        elif abs(now - budget) > TOLERANCE * budget:
            lines.append(f"{name}: {now:,} instructions, budget {budget:,} ({(now / budget - 1) * 100:+.1f} %)")
    return lines


def main() -> None:
    p = argparse.ArgumentParser(prog="python -m perf.icount", description=__doc__)
    p.add_argument("--check", action="store_true", help="exit with 1 when a count is off its budget by more than 3 %%")
    p.add_argument("--update", action="store_true", help="write the counts into perf/budgets.toml")
    p.add_argument("--keep", type=Path, help="keep the profiles in this folder")
    o = p.parse_args()
    lack = missing()
    if lack:
        raise SystemExit(f"icount: {lack}")
    counts = count(o.keep)
    for name, value in counts.items():
        print(f"{name:10} {value:>12,} instructions")
    if o.update:
        rows = "".join(f"{name} = {value}\n" for name, value in counts.items())
        BUDGETS.write_text(f"{HEADER}\n[instructions]\n{rows}")
    elif o.check:
        off = compare(counts, budgets())
        print(*off, sep="\n")
        raise SystemExit(bool(off))


if __name__ == "__main__":
    main()
