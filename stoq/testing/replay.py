"""`python -m stoq.testing.replay --seed N [--verbose]`: run one random scenario again, exactly."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import logging
import sys
import traceback
from typing import Any

from stoq.errors import StoqError
from stoq.io.sim import LinkConfig
from stoq.testing.pair import InvariantError
from stoq.testing.scenario import Run, draw, run_seed
from stoq.wire.header import PacketType, parse_datagram


def describe(data: bytes) -> str:
    """The packets of a datagram, as far as they can be seen without keys."""
    parts = []
    for _, header in parse_datagram(data):
        name = PacketType(header.type).name.lower()
        parts.append(f"{name} dcid {header.dcid.hex()[:8]} {header.packet_length} B")
    return f"{len(data)} B: {'; '.join(parts) or data[:16].hex()}"


class Tap:
    """Sees every datagram that is sent, and takes a digest of all."""

    def __init__(self, verbose: bool) -> None:
        self.verbose = verbose
        self.digest = hashlib.sha256()

    def __call__(self, link: LinkConfig, arrow: str) -> LinkConfig:
        def see(data: bytes, number: int, now_ns: int) -> bool:
            self.digest.update(f"{arrow} {now_ns} {len(data)} ".encode() + data)
            if self.verbose:
                print(f"{now_ns / 1e9:12.6f} {arrow} #{number} {describe(data)}")
            return False

        return dataclasses.replace(link, drop_if=see)


def summary(run: Run, tap: Tap) -> dict[str, Any]:
    return run.facts() | {"digest": tap.digest.hexdigest()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m stoq.testing.replay", description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--verbose", action="store_true", help="print every datagram")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO)
    print(draw(chosen.seed).describe())
    tap = Tap(chosen.verbose)
    try:
        run = run_seed(chosen.seed, tap)
    except (InvariantError, StoqError) as error:
        if chosen.verbose:
            traceback.print_exc()
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    for name, value in summary(run, tap).items():
        print(f"{name}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
