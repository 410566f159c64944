"""A server and clients over loopback UDP in one process, on asyncio or uvloop."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import uvloop

import stoq
from stoq.testing.certificates import Issued, make_leaf, make_test_ca

ALPN = "native"
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
SECONDS = 60.0  # of patience with a busy machine; nothing here waits for time to pass


@functools.cache
def issued() -> tuple[Issued, Issued]:
    """(authority, leaf), valid since yesterday."""
    now = datetime.now(UTC) - timedelta(days=1)
    authority = make_test_ca(now)
    return authority, make_leaf(authority, ["localhost", "127.0.0.1"], now)


class Kept(logging.Handler):
    """Keeps warnings and worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def run(loop: str, test: Callable[[], Awaitable[None]], *, logged: tuple[str, ...] = ()) -> None:
    """Run a coroutine function. What the loop reports fails the test, and so does a warning without one of `logged`."""
    reported: list[dict[str, Any]] = []
    kept = Kept()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        async with asyncio.timeout(SECONDS):
            await test()

    logging.getLogger("stoq").addHandler(kept)
    try:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(main())
    finally:
        logging.getLogger("stoq").removeHandler(kept)
    assert not reported, reported
    assert [line for line in kept.lines if not any(part in line for part in logged)] == []
    assert len(kept.lines) >= len(logged)


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop turn until something holds (run() limits how long)."""
    while not condition():
        await asyncio.sleep(0)


async def serve(handler: Any = None, **options: Any) -> stoq.Server:
    _, leaf = issued()
    chosen: dict[str, Any] = {"alpn": ALPN, "certificate": leaf.chain_pem, "private_key": leaf.key_pem} | options
    return await stoq.serve(handler, "127.0.0.1", chosen.pop("port", 0), **chosen)


@asynccontextmanager
async def serving(handler: Any = None, **options: Any) -> AsyncIterator[stoq.Server]:
    server = await serve(handler, **options)
    try:
        yield server
    finally:
        server.close()
        await server.wait_closed()


def connect(server: stoq.Server, **options: Any) -> Any:
    authority, _ = issued()
    chosen: dict[str, Any] = {"alpn": ALPN, "ca_data": authority.certificate_pem} | options
    return stoq.connect("127.0.0.1", server.sockname[1], **chosen)


@asynccontextmanager
async def joined(
    client: dict[str, Any] | None = None, server: dict[str, Any] | None = None
) -> AsyncIterator[tuple[stoq.Connection, stoq.Connection]]:
    """(client's connection, server's connection), both complete. Nobody takes the streams."""
    accepted: asyncio.Queue[stoq.Connection] = asyncio.Queue()
    async with serving(accepted.put, **(server or {})) as listening, connect(listening, **(client or {})) as connection:
        yield connection, await accepted.get()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident() -> int:
    """Bytes of memory that this process has now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
