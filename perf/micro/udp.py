"""Gbit/s of the bare UDP transport: segmented sends (GSO) to trains (GRO) between two pinned processes.

Runs in its own network namespace with `lo` at MTU 1500 (needs root). One JSON line a measurement.

    python perf/micro/udp.py                     # the default shape
    python perf/micro/udp.py --sweep             # receive buffers, queue sizes, send entries, ECN, connected or not
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from typing import Any

from stoq.io.bench import blast, drain
from stoq.io.udp import open_udp

DEFAULTS: dict[str, Any] = {
    "segment": 1452,
    "segments": 44,
    "entries": 1,
    "window": 1 << 20,
    "touch": False,
    "ecn": 0,
    "connected": True,
    "wildcard": False,
    "gso": True,
    "gro": True,
    "receive_slots": None,
    "send_slots": 4,
    "receive_buffer": 4 << 20,
    "family": 4,
}

SWEEP: list[dict[str, Any]] = [
    {},
    {"family": 6},
    {"touch": True},
    *({"touch": touch, "receive_slots": n} for touch in (False, True) for n in (1, 2, 4, 8, 16, 32)),
    *({"touch": True, "send_slots": n, "entries": n} for n in (1, 2, 4)),
    *({"touch": True, "window": 4 * r, "receive_buffer": r} for r in (256 << 10, 1 << 20, 2 << 20, 4 << 20, 8 << 20)),
    *({"segments": n, "connected": c, "ecn": e} for n in (1, 10) for c in (True, False) for e in (0, 2)),
    {"segments": 10, "connected": False, "wildcard": True},
    {"gro": False},
    {"segments": 1, "gro": False},
]


def pin(core: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(seconds: float, shape: dict[str, Any]) -> dict[str, float]:
    """One run: the receiver in a child on the second core, the sender here on the first."""
    host = "127.0.0.1" if shape["family"] == 4 else "::1"
    any_host = "0.0.0.0" if shape["family"] == 4 else "::"
    receiver = open_udp(
        any_host if shape["wildcard"] else host,
        gro=shape["gro"],
        receive_slots=shape["receive_slots"],
        receive_buffer=shape["receive_buffer"],
    )
    to = (host, receiver.local_address[1])
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            pin(1)
            before = cpu()
            total, datagrams, entries, calls, ns = drain(receiver, seconds + 2, shape["window"] // 8, shape["touch"])
            used = cpu() - before
            os.write(
                writer,
                json.dumps(
                    {
                        "gbps": total * 8 / max(ns, 1),
                        "received": datagrams,
                        "train": datagrams / max(entries, 1),
                        "per_call": entries / max(calls, 1),
                        "rx_ns": used * 1e9 / max(datagrams, 1),
                        "overflow": receiver.counters.receive_overflow,
                    }
                ).encode(),
            )
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    pin(0)
    sender = open_udp(
        host,
        remote=to if shape["connected"] else None,
        gso=shape["gso"],
        send_slots=shape["send_slots"],
    )
    before = cpu()
    _, datagrams, _, stalls, _ = blast(
        sender,
        to,
        seconds,
        shape["segment"],
        shape["segments"],
        shape["entries"],
        shape["window"],
        shape["touch"],
        shape["ecn"],
    )
    used = cpu() - before
    with os.fdopen(reader, "rb") as result:
        out: dict[str, float] = json.loads(result.read())
    os.waitpid(child, 0)
    sender.close()
    receiver.close()
    return {**out, "tx_ns": used * 1e9 / max(datagrams, 1), "stalls": stalls, "lost": datagrams - out["received"]}


def report(name: dict[str, Any], runs: list[dict[str, float]]) -> None:
    median = {key: round(statistics.median(run[key] for run in runs), 2) for key in runs[0]}
    best = round(max(run["gbps"] for run in runs), 1)
    print(json.dumps({**name, **median, "best_gbps": best}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", action="store_true", help="many shapes instead of one")
    parser.add_argument("--seconds", type=float, default=0.4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON", help="change the shape")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.inside:
        os.execvp("unshare", ["unshare", "-n", sys.executable, __file__, *sys.argv[1:], "--inside"])
    subprocess.run(["ip", "link", "set", "lo", "mtu", "1500", "up"], check=True)
    if os.getpid() != os.getpgrp():
        os.setsid()
    try:
        with open("/proc/self/autogroup", "w") as group:
            group.write("-20")
    except OSError:
        print("autogroup: refused", file=sys.stderr)
    changed = {key: json.loads(value) for key, _, value in (item.partition("=") for item in args.set)}
    shapes = SWEEP if args.sweep else [{}]
    results: list[list[dict[str, float]]] = [[] for _ in shapes]
    for _ in range(args.runs):  # interleaved, so that other load of the machine hits every shape alike
        for shape, runs in zip(shapes, results, strict=True):
            runs.append(measure(args.seconds, {**DEFAULTS, **changed, **shape}))
    for shape, runs in zip(shapes, results, strict=True):
        report({**changed, **shape}, runs)


if __name__ == "__main__":
    main()
