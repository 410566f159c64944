"""Nanoseconds per operation of the core's containers, measured without Python in between.

Usage: python perf/micro/containers.py [rounds]
Each line is the median and the best of `rounds` runs (default 9).
"""

from __future__ import annotations

import random
import sys
import time
from array import array
from collections.abc import Callable, Iterable
from statistics import median

from stoq.core.containers import RangeSetView, RecvBuffer, SendBuffer

MANY = 100_000
MIB = 1 << 20
DATA = random.Random(1).randbytes(MIB)

Timed = Callable[[], tuple[float, int]]  # -> seconds, operations


def pairs(numbers: Iterable[tuple[int, int]]) -> bytes:
    return array("Q", [n for pair in numbers for n in pair]).tobytes()


def order(name: str, count: int) -> list[int]:
    numbers = list(range(count))
    if name == "descending":
        numbers.reverse()
    elif name == "random":
        random.Random(2).shuffle(numbers)
    return numbers


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def ranges(packed: bytes, first: bytes = b"", remove: bool = False) -> Timed:
    def run() -> tuple[float, int]:
        s = RangeSetView()
        s.add_many(first)
        return timed(lambda: s.remove_many(packed) if remove else s.add_many(packed)), len(packed) // 16

    return run


def frames(packed: bytes, first: bytes = b"") -> Timed:
    def run() -> tuple[float, int]:
        b = RecvBuffer()
        b.push_many(DATA, 0, first)
        return timed(lambda: b.push_many(DATA, 0, packed)), len(packed) // 16

    return run


def batches(packed: bytes, then: str) -> Timed:
    """Push a batch, and detach it perhaps, 200 times; the figure is for one frame."""

    def run() -> tuple[float, int]:
        total = 0.0
        for _ in range(200):
            b = RecvBuffer()
            total += timed(lambda b=b: b.push_many(DATA, 0, packed, 1450))  # type: ignore[misc]
            if then == "detach":
                total += timed(b.detach)
        return total, 200 * len(packed) // 16

    return run


def sending(copy: bool) -> Timed:
    def run() -> tuple[float, int]:
        total, count = 0.0, 0
        for _ in range(20):
            b = SendBuffer()
            b.write(DATA, keep=True)
            total += timed(lambda b=b: b.pump(1400, copy))  # type: ignore[misc]
            count += -(-MIB // 1400)
        return total, count

    return run


def acking(runs: list[tuple[int, int]]) -> Timed:
    packed = pairs(runs)

    def run() -> tuple[float, int]:
        total = 0.0
        for _ in range(20):
            b = SendBuffer()
            b.write(DATA, keep=True)
            b.pump(1400, False)
            total += timed(lambda b=b: b.acked_many(packed))  # type: ignore[misc]
            assert b.base == MIB
        return total, 20 * len(runs)

    return run


def rows() -> dict[str, Timed]:
    table: dict[str, Timed] = {
        "rangeset: next number in order": ranges(pairs((n, n + 1) for n in range(10 * MANY))),
        "rangeset: a number that is there, among 60 ranges": ranges(
            pairs((2 * n, 2 * n + 1) for n in range(60)) * 1000
        ),
    }
    for name in ("ascending", "descending", "random"):
        numbers = order(name, MANY)
        odd = pairs((2 * n + 1, 2 * n + 2) for n in numbers)
        even = pairs((2 * n, 2 * n + 1) for n in numbers)
        table[f"rangeset: 100k scattered, {name}"] = ranges(odd)
        table[f"rangeset: 100k gaps filled, {name}"] = ranges(even, odd)
        table[f"rangeset: 100k removed, {name}"] = ranges(odd, odd, remove=True)
    packets = [(1400 * n, 1400) for n in range(64)]
    table["recvbuf: push in order, batch of 64 x 1400"] = batches(pairs(packets), "")
    table["recvbuf: push in order and detach"] = batches(pairs(packets), "detach")
    table["recvbuf: push out of order, 64 x 1400"] = batches(pairs(packets[1:]), "")
    table["recvbuf: the same and the first one at last"] = batches(pairs(packets[1:] + packets[:1]), "")
    table["recvbuf: 1 byte in order"] = frames(pairs((n, 1) for n in range(MANY)))
    for name in ("ascending", "descending", "random"):
        numbers = order(name, MANY)
        odd = pairs((2 * n + 1, 1) for n in numbers)
        table[f"recvbuf: 100k frames of 1 byte at odd offsets, {name}"] = frames(odd)
        table[f"recvbuf: 100k gaps of 1 byte filled, {name}"] = frames(pairs((2 * n, 1) for n in numbers), odd)
    table["sendbuf: peek + sent, 1400"] = sending(False)
    table["sendbuf: peek + copy + sent, 1400 (memcpy included)"] = sending(True)
    runs = [(n, min(1400, MIB - n)) for n in range(0, MIB, 1400)]
    table["sendbuf: ack in order"] = acking(runs)
    table["sendbuf: ack in descending order"] = acking(runs[::-1])
    table["sendbuf: ack every second one, then the others"] = acking(runs[1::2] + runs[::2])
    return table


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    print(f"{'operation':<66} {'median ns':>9} {'best ns':>9}")
    for name, run in rows().items():
        samples = []
        for _ in range(rounds):
            seconds, count = run()
            samples.append(seconds / count * 1e9)
        print(f"{name:<66} {median(samples):>9.1f} {min(samples):>9.1f}")


if __name__ == "__main__":
    main()
