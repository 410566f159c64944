"""A server and clients over loopback UDP in one process, for the tests of the native API."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import uvloop

import stoq
from stoq.testing.certificates import Issued, make_leaf, make_test_ca

ALPN = "test"
FACTORIES: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


@functools.cache
def authority() -> Issued:
    return make_test_ca(datetime.now(UTC) - timedelta(days=1))


@functools.cache
def leaf() -> Issued:
    return make_leaf(authority(), ("localhost", "127.0.0.1"), datetime.now(UTC) - timedelta(days=1))


def run(loop: str, test: Callable[[], Awaitable[None]], seconds: float = 20) -> None:
    """Run a coroutine function on one kind of loop; anything that the loop had to report fails the test."""
    reported: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        await asyncio.wait_for(test(), seconds)  # type: ignore[arg-type]
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=FACTORIES[loop]) as runner:
        runner.run(main())
    assert not reported, reported


async def serve(handler: Any = None, **options: Any) -> stoq.Server:
    chosen: dict[str, Any] = {"alpn": ALPN, "certificate": leaf().chain_pem, "private_key": leaf().key_pem} | options
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
    chosen: dict[str, Any] = {"alpn": ALPN, "ca_data": authority().certificate_pem} | options
    return stoq.connect("127.0.0.1", server.sockname[1], **chosen)


async def echo_stream(stream: stoq.Stream) -> None:
    async for data in stream:
        await stream.write(data)
    stream.finish()


async def echo(connection: stoq.Connection) -> None:
    """Echoes every stream."""
    async with asyncio.TaskGroup() as tasks:
        async for stream in connection:
            tasks.create_task(echo_stream(stream))


async def eventually(condition: Callable[[], Any], seconds: float = 5.0) -> None:
    """Wait for something that the other side brings about."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)
