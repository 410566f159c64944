"""The benchmark's machine: own network namespace, own session, pinned cores, and where the cores lie.

A virtual machine's cores may be moved by the host between core complexes that share no cache. While they are apart,
every byte that crosses from one core to the other costs several times more (measured here: a cache line 35 ns or
180 ns; the C floor of bulk transfer 11 or 7 Gbit/s). `core_distance` tells the two states apart, so that runs of one
state are compared with runs of the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import platform
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

CLONE_NEWNET, CLONE_NEWUSER = 0x40000000, 0x10000000
SIOCSIFMTU, SIOCSIFFLAGS = 0x8922, 0x8914
CLIENT_CORE, SERVER_CORE = 0, min(1, (os.cpu_count() or 1) - 1)
LOCK = "stoq-bench.lock"


@contextlib.contextmanager
def bench_lock() -> Iterator[None]:
    """Holds the machine's benchmark lock: one timed run at a time.

    Does nothing when a program that started this one (`flock FILE python -m perf.e2e`) holds it already: to wait for
    it here would be to wait for ourselves.
    """
    path = Path(tempfile.gettempdir()) / LOCK
    with open(path, "w") as f:
        if not inherited(os.fstat(f.fileno()), f.fileno()):
            fcntl.flock(f, fcntl.LOCK_EX)
        yield


def inherited(file: os.stat_result, own: int) -> bool:
    """Whether a descriptor other than `own` is of the same file, and locked."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) == own:
            continue
        try:
            other = os.fstat(int(name))
        except OSError:
            continue  # the directory's own descriptor, closed by now
        if os.path.samestat(other, file) and "FLOCK" in Path(f"/proc/self/fdinfo/{name}").read_text():
            return True
    return False


def private_loopback(mtu: int = 1500) -> None:
    """Moves this process into a network namespace of its own whose `lo` has the given MTU.

    Without root, in a user namespace of its own too (socket buffers then stay within the system's limits).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNET):
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET):
            raise SystemExit(
                "perf: no network namespace of its own: that needs root, or unprivileged user namespaces. "
                "On the machine's own loopback, with its MTU of 65,536, the numbers would compare nothing."
            )
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, SIOCSIFMTU, struct.pack("16si12x", b"lo", mtu))
        fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", 0x41))  # up, running


def own_session() -> None:
    """A session of its own, at the highest weight if that is allowed: niceness does not cross sessions."""
    if os.getsid(0) != os.getpid():
        os.setsid()
    group = Path("/proc/self/autogroup")
    if group.exists():
        with contextlib.suppress(PermissionError):
            group.write_text("-20")


def in_child() -> None:
    """Forks; the parent waits and leaves with the child's exit code, the child goes on (it may start a session)."""
    pid = os.fork()
    if pid:
        try:
            _, status = os.waitpid(pid, 0)
        except KeyboardInterrupt:
            os.kill(pid, 2)
            _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)


def core_distance(rounds: int = 5, hops: int = 2000) -> float:
    """Nanoseconds for one hand-over of a cache line between the client's and the server's core, as seen by two
    spinning interpreters (which adds a constant of theirs). The fastest of `rounds`."""
    page = mmap.mmap(-1, 4096)
    pid = os.fork()
    if pid == 0:
        try:
            os.sched_setaffinity(0, {SERVER_CORE})
            limit = time.monotonic() + 2
            for i in range(rounds * hops):
                want = (2 * i + 1) & 0xFF
                spin = 0
                while page[0] != want:
                    spin += 1
                    if spin > 1_000_000 and time.monotonic() > limit:
                        os._exit(1)
                page[0] = (want + 1) & 0xFF
        finally:
            os._exit(0)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {CLIENT_CORE})
    best = float("inf")
    limit = time.monotonic() + 2
    i = 0
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(hops):
            want = (2 * i + 2) & 0xFF
            page[0] = (2 * i + 1) & 0xFF
            spin = 0
            while page[0] != want:
                spin += 1
                if spin > 1_000_000 and time.monotonic() > limit:
                    break
            i += 1
        best = min(best, (time.perf_counter() - start) / hops / 2 * 1e9)
    os.waitpid(pid, 0)
    os.sched_setaffinity(0, before)
    page.close()
    return best


class Placement:
    """Keeps to runs made while the two cores were as near to each other as they have been seen to be."""

    FAR = 1.45  # between the two states seen: 150 to 215 and 260 to 335

    def __init__(self) -> None:
        self.nearest = min(core_distance() for _ in range(3))

    def look(self) -> float:
        """The distance now, in the unit of `core_distance`."""
        distance = core_distance()
        self.nearest = min(self.nearest, distance)
        return distance

    def far(self, distance: float) -> bool:
        return distance > self.FAR * self.nearest

    def settled(self, run: Callable[[], T], tries: int = 8, wait: float = 1.0) -> tuple[T, float]:
        """Calls `run` while the cores are near and returns its result with the larger of the distances before and
        after. A run during which they moved apart is repeated; after `tries` the last one is returned as it is."""
        for _ in range(tries):
            before = self.look()
            if self.far(before):
                time.sleep(wait)
                before = self.look()
            result = run()
            distance = max(before, self.look())
            if not self.far(distance):
                break
        return result, distance


def description() -> dict[str, str]:
    """What the numbers were made on: processor, kernel, Python (no host name)."""
    model = next(
        (x.split(":", 1)[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), "?"
    )
    return {
        "processor": model,
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
