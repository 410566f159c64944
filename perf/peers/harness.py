"""What every peer program of the benchmark shares: the command line, the cases and the line protocol.

    python -m perf.peers.NAME server --core 1 --certificate FILE --key FILE
    python -m perf.peers.NAME client --core 0 --port N --ca FILE --case CASE --seconds S

A server prints `{"ready": {"port": N}}` and serves until its standard input ends; then it prints `{"server": {...}}`
(CPU time since the first request). A client prints `{"result": {...}}`. Further lines are JSON too, or ignored.

The application protocol is the same for all: the client opens a bidirectional stream and sends a command, `D` and a
64-bit count (send me so many bytes), `U` and a count (I send so many bytes; answer with the count received), or 64
bytes that begin with `E` and come back unchanged. Both ends finish the stream.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import statistics
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

COMMAND = struct.Struct("!cQ")
ECHO = b"E" + bytes(range(63))
HOST, SERVER_NAME, ALPN = "127.0.0.1", "localhost", "perf"
CHUNK = 1 << 20
IN_FLIGHT = 32
WARM_UP_BYTES = 8 << 20


class Session(Protocol):
    """A connection whose handshake is complete."""

    async def request(self, data: bytes) -> bytes:
        """Sends `data` on a new stream and returns everything that comes back on it."""

    async def download(self, count: int) -> int:
        """Asks for `count` bytes on a new stream; returns how many came."""

    async def upload(self, count: int) -> int:
        """Sends `count` bytes on a new stream; returns what the server says that it got."""

    def drop(self) -> None:
        """Closes the connection without waiting for the end of its closing period."""


class Peer(Protocol):
    """An implementation under test."""

    async def serve(self, certificate: str, key: str) -> int:
        """Starts to listen on HOST; returns the port."""

    async def dial(self, port: int, ca: str) -> Session:
        """Connects, verifies the server's certificate for SERVER_NAME, returns when the handshake is complete."""


@dataclass
class Options:
    """The client's command line, as far as the cases need it."""

    port: int
    ca: str
    seconds: float
    bytes: int
    count: int


def cpu_seconds() -> float:
    """User and system time of this process."""
    r = resource.getrusage(resource.RUSAGE_SELF)
    return r.ru_utime + r.ru_stime


async def bulk(peer: Peer, o: Options, direction: str) -> dict[str, Any]:
    """One stream, one direction: a first transfer warms up and measures the rate, the second one counts."""
    session = await peer.dial(o.port, o.ca)
    move: Callable[[int], Awaitable[int]] = getattr(session, direction)
    size = WARM_UP_BYTES
    if o.bytes:
        size = o.bytes
    else:
        for _ in range(2):  # the second estimate no longer contains slow start
            start = time.perf_counter()
            await move(size)
            rate = size / (time.perf_counter() - start)
            size = max(WARM_UP_BYTES, int(rate * o.seconds / 2))
        size *= 2
    cpu = cpu_seconds()
    start = time.perf_counter()
    moved = await move(size)
    wall = time.perf_counter() - start
    session.drop()
    if moved != size:
        raise RuntimeError(f"{moved} of {size} bytes arrived")
    return {"value": size * 8e-9 / wall, "bytes": size, "seconds": wall, "cpu": cpu_seconds() - cpu}


async def down(peer: Peer, o: Options) -> dict[str, Any]:
    """Server to client."""
    return await bulk(peer, o, "download")


async def up(peer: Peer, o: Options) -> dict[str, Any]:
    """Client to server."""
    return await bulk(peer, o, "upload")


async def handshake(peer: Peer, o: Options) -> dict[str, Any]:
    """Full handshakes, one after the other; each connection is closed at once, its closing period not awaited."""
    for _ in range(5):
        (await peer.dial(o.port, o.ca)).drop()
    cpu = cpu_seconds()
    start = time.perf_counter()
    made = 0
    while made < o.count if o.count else time.perf_counter() - start < o.seconds:
        (await peer.dial(o.port, o.ca)).drop()
        made += 1
    wall = time.perf_counter() - start
    return {"value": made / wall, "count": made, "seconds": wall, "cpu": cpu_seconds() - cpu}


async def echo(session: Session) -> None:
    if await session.request(ECHO) != ECHO:
        raise RuntimeError("the echo differs")


async def ping(peer: Peer, o: Options) -> dict[str, Any]:
    """A 64-byte echo on a new stream each time, one outstanding."""
    session = await peer.dial(o.port, o.ca)
    for _ in range(200):
        await echo(session)
    cpu = cpu_seconds()
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < o.count if o.count else time.perf_counter() - start < o.seconds:
        before = time.perf_counter()
        await echo(session)
        times.append(time.perf_counter() - before)
    session.drop()
    cuts = statistics.quantiles(times, n=100)
    return {"value": cuts[49] * 1e6, "p99": cuts[98] * 1e6, "count": len(times), "cpu": cpu_seconds() - cpu}


async def flight(peer: Peer, o: Options) -> dict[str, Any]:
    """The same echo with IN_FLIGHT of them outstanding at all times."""
    session = await peer.dial(o.port, o.ca)
    for _ in range(50):
        await echo(session)
    done = 0
    start = time.perf_counter()

    async def worker() -> None:
        nonlocal done
        while done < o.count if o.count else time.perf_counter() - start < o.seconds:
            await echo(session)
            done += 1

    cpu = cpu_seconds()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    wall = time.perf_counter() - start
    session.drop()
    return {"value": done / wall, "count": done, "seconds": wall, "cpu": cpu_seconds() - cpu}


CASES = {"down": down, "up": up, "handshake": handshake, "ping": ping, "flight": flight}


def say(**line: Any) -> None:
    """One line of the protocol."""
    print(json.dumps(line), flush=True)


async def run_server(peer: Peer, certificate: str, key: str) -> None:
    loop = asyncio.get_running_loop()
    port = await peer.serve(certificate, key)
    cpu = cpu_seconds()
    say(ready={"port": port})
    over = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), over.set)
    await over.wait()
    say(server={"cpu": cpu_seconds() - cpu, "rss_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss})
    os._exit(0)  # connections that clients left behind are not to be wound down


async def run_client(peer: Peer, case: str, o: Options) -> None:
    say(result=await CASES[case](peer, o))
    os._exit(0)


def main(peer: Peer, argv: list[str] | None = None) -> None:
    """The whole of a peer program."""
    p = argparse.ArgumentParser()
    p.add_argument("role", choices=["server", "client"])
    p.add_argument("--core", type=int)
    p.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    p.add_argument("--certificate")
    p.add_argument("--key")
    p.add_argument("--port", type=int, default=0)
    p.add_argument("--ca", default="")
    p.add_argument("--case", choices=list(CASES), default="down")
    p.add_argument("--seconds", type=float, default=1.0)
    p.add_argument("--bytes", type=int, default=0, help="bulk: so many bytes, without warm-up")
    p.add_argument("--count", type=int, default=0, help="other cases: so many operations instead of --seconds")
    o = p.parse_args(argv)
    if o.core is not None:
        os.sched_setaffinity(0, {o.core})
    gc.freeze()  # modules and configuration are not looked at again by every full collection
    if o.role == "server":
        task = run_server(peer, o.certificate, o.key)
    else:
        task = run_client(peer, o.case, Options(o.port, o.ca, o.seconds, o.bytes, o.count))
    if o.loop == "uvloop":
        import uvloop  # noqa: PLC0415

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(task)
    else:
        asyncio.run(task)
