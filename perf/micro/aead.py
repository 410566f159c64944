"""Cost of packet protection and of the key schedule: python perf/micro/aead.py [--runs N]

Per packet of 1350 bytes in batches of 44, each line the minimum over the runs, every suite and backend; then the
Python face of HKDF. Hold the machine's benchmark lock around it.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
from collections.abc import Callable
from time import perf_counter_ns

from stoq.crypto import aead, keys

BATCH = 44
SIZE = 1350
HEAD = 13  # bytes in front of a tail: a STREAM frame's head
SOURCE = 64 << 20  # more than any cache holds
CALLS = 400  # batches a run

SUITES = {"AES-128-GCM": aead.AES_128_GCM, "AES-256-GCM": aead.AES_256_GCM, "ChaCha20": aead.CHACHA20_POLY1305}


def per_packet(step: Callable[[], object], runs: int) -> float:
    """Nanoseconds a packet of `step`, which treats one batch."""
    best = float("inf")
    for _ in range(runs):
        start = perf_counter_ns()
        for _ in range(CALLS):
            step()
        best = min(best, (perf_counter_ns() - start) / (CALLS * BATCH))
    return best


def per_call(step: Callable[[], object], runs: int, calls: int = 4000) -> float:
    best = float("inf")
    for _ in range(runs):
        start = perf_counter_ns()
        for _ in range(calls):
            step()
        best = min(best, (perf_counter_ns() - start) / calls)
    return best


def cold_seal(key: aead.PacketKey, source: bytes) -> Callable[[], None]:
    """Seals the next stretch of `source` each time it is called."""
    stride = SIZE - HEAD
    batch = aead.PacketBatch([(i, bytes(HEAD), bytes(HEAD)) for i in range(BATCH)], [bytes(stride)] * BATCH)
    offsets = itertools.cycle(range(0, SOURCE - BATCH * stride, BATCH * stride))

    def step() -> None:
        batch.point_tails(source, next(offsets), stride)
        batch.seal(key)

    return step


def measure(suite: int, backend: str, source: bytes, runs: int) -> list[float]:
    """seal, open, mask, seal with a cold tail: ns a packet."""
    length = 16 if suite == aead.AES_128_GCM else 32
    key = aead.PacketKey(suite, bytes(length), bytes(12), bytes(length), backend)
    batch = aead.PacketBatch([(i, bytes(HEAD), bytes(SIZE)) for i in range(BATCH)])
    seal = per_packet(lambda: batch.seal(key), runs)
    # After the first time there is nothing authentic left to open, so open follows a seal each time.

    def seal_and_open() -> None:
        batch.seal(key)
        batch.open(key)

    both = per_packet(seal_and_open, runs)
    samples = bytes(16 * BATCH)
    mask = per_packet(lambda: key.header_masks(samples), runs)
    return [seal, both - seal, mask, per_packet(cold_seal(key, source), runs)]


def bytes_per_key(suite: int) -> tuple[int, int]:
    """(bytes that a key takes from malloc before its first use, after sealing once), with glibc."""

    class Mallinfo(ctypes.Structure):
        # Ten numbers (malloc.h); the eighth is the bytes in use.
        _fields_ = [(name, ctypes.c_size_t) for name in ("a", "b", "c", "d", "e", "f", "g", "uordblks", "h", "i")]

    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = Mallinfo
    length = 16 if suite == aead.AES_128_GCM else 32
    count = 64
    made: list[aead.PacketKey | None] = [None] * count
    start = mallinfo().uordblks
    for i in range(count):
        made[i] = aead.PacketKey(suite, bytes(length), bytes(12), bytes(length))
    fresh = mallinfo().uordblks - start
    for key in made:
        assert key is not None
        key.seal(0, b"", b"")
    return fresh // count, (mallinfo().uordblks - start) // count


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=9)
    runs: int = parser.parse_args().runs
    source = bytes(bytearray(range(256)) * (SOURCE // 256))
    print(f"{'ns per packet':24}{'seal':>8}{'open':>8}{'mask':>8}{'seal, cold tail':>18}")
    for backend in aead.backends():
        for name, suite in SUITES.items():
            seal, opened, mask, tail = measure(suite, backend, source, runs)
            print(f"{backend + ' ' + name:24}{seal:8.1f}{opened:8.1f}{mask:8.1f}{tail:18.1f}")
    for name, suite in SUITES.items():
        fresh, used = bytes_per_key(suite)
        print(f"bytes per key, {name}: {fresh} fresh, {used} used in one direction")
    secret = bytes(32)
    long_secret = bytes(48)
    steps: dict[str, Callable[[], object]] = {
        "hkdf_expand_label sha256": lambda: keys.hkdf_expand_label("sha256", secret, b"c hs traffic", secret, 32),
        "hkdf_expand_label sha384": lambda: keys.hkdf_expand_label(
            "sha384", long_secret, b"c hs traffic", long_secret, 48
        ),
        "hkdf_extract sha256": lambda: keys.hkdf_extract("sha256", secret, secret),
        "initial_secrets": lambda: keys.initial_secrets(1, b"12345678"),
        "packet_key AES-128-GCM": lambda: keys.packet_key(1, aead.AES_128_GCM, secret),
        "retry_integrity_tag": lambda: keys.retry_integrity_tag(1, b"12345678", bytes(100)),
    }
    for name, step in steps.items():
        print(f"{name:28}{per_call(step, runs):8.0f} ns")


if __name__ == "__main__":
    main()
