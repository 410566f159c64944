"""The containers give back to malloc what they took, as malloc itself counts it."""

from __future__ import annotations

import ctypes
import gc
import random
from collections.abc import Callable

import pytest

from stoq.core.containers import RangeSetView, RecvBuffer, SendBuffer

DATA = random.Random(13).randbytes(60_000)
CYCLES = 500
FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class MallInfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]


def in_use() -> int:
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        pytest.skip("mallinfo2 is glibc's (2.33)")
    mallinfo2.restype = MallInfo
    gc.collect()
    info = mallinfo2()
    return int(info.uordblks) + int(info.hblkhd)


def ranges() -> None:
    s = RangeSetView()
    for n in range(0, 600, 2):
        s.add(n, n + 1)
    s.remove(100, 300)


def receive() -> None:
    b = RecvBuffer()
    for n in range(0, 60_000, 5000):
        b.push(n + 1, DATA[n + 1 : n + 1000])
    b.push(0, DATA[:9000])
    b.detach()
    b.take_some(3000)
    for n in range(40):
        b.push(b.next, DATA[n : n + 20])


def send() -> None:
    b = SendBuffer()
    for n in range(0, 20_000, 1000):
        b.write(DATA[n : n + 1000])
        b.write(DATA, keep=True)
    b.pump(1400, False)
    b.acked(0, 100_000)
    b.acked(200_000, 70_000)
    b.lost(300_000, 50_000)


@pytest.mark.parametrize("cycle", [ranges, receive, send])
def test_no_growth(cycle: Callable[[], None]) -> None:
    for _ in range(50):
        cycle()
    before = in_use()
    for _ in range(CYCLES):
        cycle()
    # The smallest block of the containers is 64 bytes; the rest of the process may grow a little.
    assert in_use() - before < CYCLES * 64
