"""Cancelled calls of the native API: nothing is lost, nothing is left behind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest
from native_peers import LOOPS, connect, joined, open_files, run, serving, until

import stoq

each_loop = pytest.mark.parametrize("loop", LOOPS)
DATA = random.Random(8).randbytes(600_000)


async def interrupted(coroutine: Coroutine[Any, Any, Any], turns: int) -> Any:
    """The result, or None when it was not there after so many turns of the loop."""
    task = asyncio.create_task(coroutine)
    for _ in range(turns):
        if task.done():
            break
        await asyncio.sleep(0)
    task.cancel()
    (result,) = await asyncio.gather(task, return_exceptions=True)
    if isinstance(result, asyncio.CancelledError):
        return None
    if isinstance(result, BaseException):
        raise result
    return result


@each_loop
@pytest.mark.parametrize("seed", range(4))
def test_reads_of_every_kind_cancelled_at_any_time(loop: str, seed: int) -> None:
    async def read(stream: stoq.Stream, rng: random.Random) -> bytes:
        got = bytearray()
        while len(got) < len(DATA):
            size = rng.choice((1, 10, 1000, 20_000, 100_000))
            turns = rng.choice((0, 1, 1, 2, 3, 10, 50))
            kind = rng.randrange(4)
            if kind == 0:
                piece = await interrupted(stream.read(size), turns)
            elif kind == 1:
                piece = await interrupted(stream.readexactly(min(size, len(DATA) - len(got))), turns)
            elif kind == 2:
                piece = await interrupted(anext(stream), turns)
            else:
                piece = await interrupted(stream.read(), turns)
            got += piece or b""
        assert await stream.read() == b""
        return bytes(got)

    async def test() -> None:
        rng = random.Random(seed)
        async with joined() as (client, server):
            stream = client.open_stream()

            async def write() -> None:
                at = 0
                while at < len(DATA):
                    size = rng.randrange(1, 40_000)
                    await stream.write(DATA[at : at + size])
                    at += size
                    await asyncio.sleep(0)
                stream.finish()

            writing = asyncio.create_task(write())
            assert await read(await server.accept_stream(), rng) == DATA
            await writing

    run(loop, test)


@each_loop
def test_a_cancelled_write_has_written(loop: str) -> None:
    """write() queues all at once and waits afterwards: what is cancelled is the waiting."""

    async def test() -> None:
        async with joined() as (client, server):
            stream = client.open_stream()
            expected = b""
            for number in range(12):
                piece = bytes([number]) * (400_000 + number)
                expected += piece
                await interrupted(stream.write(piece), number % 4 + 1)
            await interrupted(stream.drain(), 1)
            stream.finish()
            await interrupted(stream.wait_sent(), 1)
            assert await (await server.accept_stream()).read() == expected
            await stream.wait_sent()
            assert stream.buffered == 0

    run(loop, test)


@each_loop
def test_a_cancelled_accept_leaves_its_stream_to_the_next(loop: str) -> None:
    async def test() -> None:
        async with joined() as (client, server):
            seen = []
            rng = random.Random(5)
            for number in range(60):
                stream = client.open_stream()
                waiting = [asyncio.create_task(server.accept_stream()) for _ in range(3)]
                await asyncio.sleep(0)
                stream.write_nowait(b"%d" % number)
                stream.finish()
                for _ in range(rng.randrange(12)):
                    await asyncio.sleep(0)
                victims = rng.sample(waiting, 2)
                for victim in victims:
                    victim.cancel()
                (survivor,) = set(waiting) - set(victims)
                results = await asyncio.gather(*victims, return_exceptions=True)
                taken = [result for result in results if isinstance(result, stoq.Stream)]
                if taken:
                    survivor.cancel()
                    await asyncio.gather(survivor, return_exceptions=True)
                    assert survivor.cancelled()
                else:
                    taken = [await survivor]
                assert len(taken) == 1
                seen.append(int(await taken[0].read()))
                taken[0].reset()
            assert seen == list(range(60))

    run(loop, test)


@each_loop
def test_cancelled_waits_for_a_stream_do_not_use_up_credit(loop: str) -> None:
    async def test() -> None:
        async with joined(server={"max_streams_bidi": 2}) as (client, server):
            held = [client.open_stream() for _ in range(2)]
            waiting = [asyncio.create_task(client.wait_open_stream()) for _ in range(10)]
            for stream in held:
                stream.write_nowait(b"x")
                stream.finish()
            await asyncio.sleep(0)
            for task in waiting[:9]:
                task.cancel()
            await asyncio.gather(*waiting[:9], return_exceptions=True)
            for _ in held:
                arrived = await server.accept_stream()
                assert await arrived.read() == b"x"
                arrived.finish()
            stream = await waiting[9]
            await stream.write(b"y")
            assert (await server.accept_stream()).id == stream.id == 8

    run(loop, test)


@each_loop
def test_connect_cancelled_at_every_turn(loop: str) -> None:
    """No descriptor and no connection is left, whenever it happens; and the server serves the next client."""

    async def test() -> None:
        accepted: asyncio.Queue[stoq.Connection] = asyncio.Queue()
        async with serving(accepted.put) as server:
            async with connect(server) as client:  # what is opened once and kept
                stream = client.open_stream()
                await stream.write(b"x")
            await until(lambda: not server.connections)
            before = open_files()

            async def attempt() -> bool:
                async with connect(server):
                    return True

            connected = turns = 0
            while connected < 3 and turns < 400:
                connected += bool(await interrupted(attempt(), turns))
                turns += 1
            assert connected == 3
            await until(lambda: not server.connections)
            assert server.endpoint.half_open == 0
            await until(lambda: open_files() <= before)
            async with connect(server) as client:
                assert client.close_reason is None

    run(loop, test)


@each_loop
def test_a_cancelled_handler_leaves_the_connection_usable(loop: str) -> None:
    async def test() -> None:
        running: asyncio.Queue[asyncio.Task[Any]] = asyncio.Queue()
        connections: asyncio.Queue[stoq.Connection] = asyncio.Queue()

        async def handler(connection: stoq.Connection) -> None:
            task = asyncio.current_task()
            assert task is not None
            running.put_nowait(task)
            connections.put_nowait(connection)
            await connection.accept_stream()

        async with serving(handler) as server, connect(server) as client:
            task = await running.get()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()
            connection = await connections.get()
            stream = client.open_stream()
            await stream.write(b"to somebody else")
            stream.finish()
            assert await (await connection.accept_stream()).read() == b"to somebody else"

    run(loop, test)
