"""Runs the spike of docs/adr/0001: `python perf/spike/run.py [--floor PROGRAM] [--set NAME ...]` (as root, on Linux).

Two processes on cores 0 and 1 in an own network namespace whose `lo` has MTU 1500. Every variant of a set runs once
per round, in turn with the others, so that a disturbance hits all alike; the printed figures are medians over rounds,
the ratio is the median of each round's ratio to the set's first row (the floor program, when given). Runs during which
the host moved the two cores apart are repeated (perf/machine.py).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shlex
import socket
import statistics
import subprocess
import sys
import threading
import time
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from perf import extension
from perf.machine import CLIENT_CORE, SERVER_CORE, Placement, bench_lock, in_child, own_session, private_loopback

HERE = Path(__file__).resolve().parent
UDP_GRO = 104
BASE = {
    "mode": 0,  # SealMode: 0 copy, 1 two updates, 2 two updates on a block boundary
    "buffers": 4,
    "window": 512 << 10,
    "nogil": 0,
    "ack": 1,
    "loop": "asyncio",
    "timer": "none",
    "thread": 0,
}
SETS: dict[str, list[dict[str, Any]]] = {
    "base": [{}],
    "seal": [{"mode": m} for m in (0, 1, 2)],
    "buffers": [{"buffers": b} for b in (1, 2, 4, 8, 16)],
    "window": [{"window": w << 10} for w in (128, 256, 512, 1024, 2048, 4096, 8192)],
    "gil": [{"nogil": 0}, {"nogil": 1}, {"nogil": 0, "thread": 1}, {"nogil": 1, "thread": 1}],
    "ack": [{"ack": 1}, {"ack": 2}, {"ack": 2, "buffers": 1}, {"ack": 1, "buffers": 1}],
    "loop": [{"loop": "asyncio"}, {"loop": "uvloop"}],
    "timer": [{"timer": "none"}, {"timer": "rearm"}, {"timer": "lazy"}],
}


@cache
def build() -> None:
    """Compiles spike.pyx into build/spike and makes it importable."""
    sys.path.insert(0, str(extension.build(HERE / "spike.pyx", ("crypto",))))


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "uvloop":
        loop: asyncio.AbstractEventLoop = import_module("uvloop").new_event_loop()
        return loop
    return asyncio.new_event_loop()


class Timer:
    """A loss timer that moves with every batch: by cancel and call_at, or lazily (checked when it fires)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, kind: str) -> None:
        self.loop, self.kind, self.deadline = loop, kind, 0.0
        self.handle: asyncio.TimerHandle | None = None
        self.fired = 0

    def touch(self) -> None:
        if self.kind == "none":
            return
        self.deadline = self.loop.time() + 0.05
        if self.handle is None:
            self.handle = self.loop.call_at(self.deadline, self.fire)
        elif self.kind == "rearm":
            self.handle.cancel()
            self.handle = self.loop.call_at(self.deadline, self.fire)

    def fire(self) -> None:
        self.fired += 1
        self.handle = None
        if self.kind == "lazy" and self.loop.time() < self.deadline:
            self.handle = self.loop.call_at(self.deadline, self.fire)


class Side:
    engine: Any  # of the compiled module

    def progress(self) -> int:
        """Stream bytes so far."""
        raise NotImplementedError

    def __init__(self, core: int, o: dict[str, Any], seconds: float) -> None:
        os.sched_setaffinity(0, {core})
        self.o, self.seconds = o, seconds
        self.loop = new_loop(o["loop"])
        self.timer = Timer(self.loop, o["timer"])
        self.first: tuple[float, ...] = ()
        self.last: tuple[float, ...] = ()
        if o["thread"]:
            threading.Thread(target=self.spin, daemon=True).start()

    def spin(self) -> None:
        x = 0
        while True:
            x += 1

    def snap(self) -> tuple[float, ...]:
        r = resource.getrusage(resource.RUSAGE_SELF)
        return (time.perf_counter(), r.ru_utime, r.ru_stime, self.engine.packets, self.progress(), self.engine.calls)

    def report(self) -> dict[str, Any]:
        wall, user, system, packets, size, calls = (b - a for a, b in zip(self.first, self.last, strict=True))
        return {
            "gbps": size * 8e-9 / wall,
            "user_ns": user / packets * 1e9,
            "sys_ns": system / packets * 1e9,
            "busy": (user + system) / wall,
            "per_call": packets / calls,
            "failed": self.engine.failed,
        }


class SendSide(Side):
    def __init__(self, fd: int, app: bytes, o: dict[str, Any], seconds: float) -> None:
        super().__init__(CLIENT_CORE, o, seconds)
        self.engine = import_module("spike").Sender(fd, app, o["window"], o["mode"], o["nogil"])
        self.loop.add_reader(fd, self.step)
        self.pending = False
        self.seen = 0

    def progress(self) -> int:
        return int(self.engine.offset)

    def step(self) -> None:
        if not self.engine.on_readable() and not self.pending:
            self.pending = True
            self.loop.call_soon(self.again)
        self.timer.touch()

    def again(self) -> None:
        self.pending = False
        self.step()

    def watch(self) -> None:
        self.seen = self.engine.forget(self.seen)
        self.loop.call_later(0.1, self.watch)

    def run(self) -> dict[str, Any]:
        self.loop.call_later(0.3, lambda: setattr(self, "first", self.snap()))
        self.loop.call_later(0.3 + self.seconds, self.stop)
        self.loop.call_soon(self.step)
        self.loop.call_later(0.1, self.watch)
        self.loop.run_forever()
        return self.report() | {"stalls": self.engine.stalls}

    def stop(self) -> None:
        self.last = self.snap()
        self.loop.stop()


class ReceiveSide(Side):
    def __init__(self, fd: int, app: bytes, o: dict[str, Any], seconds: float, verify: bool) -> None:
        super().__init__(SERVER_CORE, o, seconds)
        self.app, self.verify, self.got, self.period = app, verify, 0, len(app) - 65536
        self.engine = import_module("spike").Receiver(fd, o["buffers"], o["ack"], o["nogil"], self.deliver)
        self.loop.add_reader(fd, self.step)

    def progress(self) -> int:
        return int(self.engine.bytes)

    def step(self) -> None:
        self.engine.on_readable()
        self.timer.touch()

    def deliver(self, data: bytes) -> None:
        if self.verify:
            at = self.got % self.period
            expected = self.app[at : min(at + len(data), self.period)]
            expected += self.app[: len(data) - len(expected)]
            assert expected == data, f"content differs near byte {self.got}"
        self.got += len(data)

    def run(self) -> dict[str, Any]:
        self.loop.call_later(0.3, lambda: setattr(self, "first", self.snap()))
        self.loop.call_later(0.3 + self.seconds, self.stop)
        self.loop.run_forever()
        return self.report() | {
            "misordered": self.engine.misordered,
            "batch": self.engine.packets / self.engine.batches,
        }

    def stop(self) -> None:
        self.last = self.snap()
        self.loop.stop()


def udp_socket() -> socket.socket:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setblocking(False)
    s.bind(("127.0.0.1", 0))
    for option in (32, 33):  # SO_SNDBUFFORCE, SO_RCVBUFFORCE
        s.setsockopt(socket.SOL_SOCKET, option, 64 << 20)
    return s


def measure(o: dict[str, Any], app: bytes, seconds: float, verify: bool) -> dict[str, Any]:
    """One run of one variant: sender and receiver as forked processes."""
    a, b = udp_socket(), udp_socket()
    a.connect(b.getsockname())
    b.connect(a.getsockname())
    b.setsockopt(socket.SOL_UDP if hasattr(socket, "SOL_UDP") else 17, UDP_GRO, 1)
    pipes = []
    for is_receiver in (True, False):
        r, w = os.pipe()
        if os.fork() == 0:
            code = 1
            try:
                side = (
                    ReceiveSide(b.fileno(), app, o, seconds, verify)
                    if is_receiver
                    else SendSide(a.fileno(), app, o, seconds)
                )
                os.write(w, json.dumps(side.run()).encode())
                code = 0
            finally:
                os._exit(code)
        os.close(w)
        pipes.append(r)
    answers = []
    for r in pipes:
        with os.fdopen(r) as f:
            answers.append(json.loads(f.read() or '{"gbps": 0}'))
    for _ in pipes:
        os.wait()
    a.close()
    b.close()
    return {"rx": answers[0], "tx": answers[1]}


@cache
def application_buffer() -> bytes:
    """What the sender cycles through: more than any cache holds."""
    app = os.urandom(64 << 20)
    return app + app[:65536]  # a packet may read past the wrap


def run_floor(command: str, seconds: float) -> dict[str, Any]:
    out = subprocess.run(
        [*shlex.split(command), "--seconds", str(seconds), "--mtu", "0"], capture_output=True, text=True, check=True
    ).stdout
    j = json.loads(out)
    return {
        "rx": {"gbps": j["goodput_gbps"], "user_ns": j["rx_side"]["user_ns"], "sys_ns": j["rx_side"]["sys_ns"],
               "busy": j["rx_side"]["busy"], "batch": j["rx_side"]["pkts_per_call"]},
        "tx": {"user_ns": j["tx"]["user_ns"], "sys_ns": j["tx"]["sys_ns"], "busy": j["tx"]["busy"]},
    }  # fmt: skip


def one(job: Any, app: bytes, o: argparse.Namespace) -> dict[str, Any]:
    return run_floor(job, o.seconds) if isinstance(job, str) else measure(job, app, o.seconds, o.verify)


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--set", nargs="*", default=list(SETS), choices=list(SETS))
    p.add_argument("--floor", action="append", default=[], help="command of a floor program, run beside the variants")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=1.0)
    p.add_argument("--verify", action="store_true", help="compare every byte (slow: not for timing)")
    p.add_argument("--with", dest="changes", default="{}", help="JSON of options that hold for all variants")
    o = p.parse_args()
    build()
    in_child()
    own_session()
    private_loopback(1500)
    with bench_lock():
        compare(o)


def compare(o: argparse.Namespace) -> None:
    placement = Placement()
    app = application_buffer()
    base = BASE | json.loads(o.changes)
    print(f"{'':34}  Gbit/s (min-max)    ratio   tx user+sys busy   rx user+sys busy   pkts/batch")
    for name in o.set:
        jobs: list[tuple[str, Any]] = [(f"floor{i}: {c.split('--aead')[-1]}", c) for i, c in enumerate(o.floor)]
        jobs += [(f"{name} {json.dumps(v)}", base | v) for v in SETS[name]]
        results: dict[str, list[dict[str, Any]]] = {n: [] for n, _ in jobs}
        for _ in range(o.rounds):
            for label, job in jobs:
                result, distance = placement.settled(partial(one, job, app, o))
                results[label].append(result)
                if placement.far(distance):
                    print(f"  {label}: the cores stayed apart", flush=True)
        first = [r["rx"]["gbps"] for r in results[jobs[0][0]]]
        for label, rows in results.items():
            rates = [r["rx"]["gbps"] for r in rows]

            def m(side: str, key: str, rows: list[dict[str, Any]] = rows) -> float:
                return float(statistics.median(r[side].get(key, 0) for r in rows))

            bad = sum(r["tx"].get("failed", 0) + r["rx"].get("failed", 0) + r["rx"].get("misordered", 0)
                      + r["tx"].get("stalls", 0) for r in rows)  # fmt: skip
            print(
                f"{label:34}  {statistics.median(rates):6.2f} ({min(rates):5.2f}-{max(rates):5.2f})  "
                f"{statistics.median(a / b for a, b in zip(rates, first, strict=True)):5.2f}   "
                f"{m('tx', 'user_ns'):5.0f}+{m('tx', 'sys_ns'):4.0f} {m('tx', 'busy'):4.2f}   "
                f"{m('rx', 'user_ns'):5.0f}+{m('rx', 'sys_ns'):4.0f} {m('rx', 'busy'):4.2f}   {m('rx', 'batch'):6.1f}"
                + (f"  bad={bad}" if bad else ""),
                flush=True,
            )
        print()


if __name__ == "__main__":
    main()
