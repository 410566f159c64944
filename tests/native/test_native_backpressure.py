"""Backpressure of the native API: what a fast side can make a slow one hold."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import random

import pytest
from native_peers import LOOPS, connect, joined, resident, run, serving, until

import stoq
from stoq.errors import StreamLimitError
from stoq.testing.seams import core_memory, heap_in_use

MIB = 1 << 20
HIGH_WATER = MIB  # of Stream.write()
STREAM_WINDOW = MIB  # where stream_window begins
CHUNK = random.Random(3).randbytes(1 << 16)

each_loop = pytest.mark.parametrize("loop", LOOPS)


@pytest.mark.plain_build  # resident memory; the sanitizer keeps what is freed
@each_loop
def test_two_hundred_megabytes_to_a_slow_reader(loop: str) -> None:
    """The writer never has more than the mark and one piece outstanding; the process does not grow by the rest."""
    total = 200 * MIB
    most = grown = 0

    async def write(stream: stoq.Stream) -> None:
        nonlocal most
        for _ in range(total // len(CHUNK)):
            await stream.write(CHUNK)
            most = max(most, stream.buffered)
        stream.finish()

    async def test() -> None:
        nonlocal grown
        async with joined() as (client, server):
            stream = client.open_stream()
            writing = asyncio.create_task(write(stream))
            arrived = await server.accept_stream()
            before = resident()
            digest = hashlib.sha256()
            count = 0
            # Slow: small reads, and the loop turns between them.
            while data := await arrived.read(1 << 16):
                digest.update(data)
                count += len(data)
                grown = max(grown, resident() - before) if count % 64 == 0 else grown
                await asyncio.sleep(0)
            await writing
            assert count == total
            expected = hashlib.sha256()
            for _ in range(total // len(CHUNK)):
                expected.update(CHUNK)
            assert digest.digest() == expected.digest()

    run(loop, test)
    assert most <= HIGH_WATER + len(CHUNK)
    # The windows grow to 8 MiB while the reader keeps up; the pieces behind them, twice.
    assert grown <= 40 * MIB


@each_loop
def test_a_reader_that_never_reads(loop: str) -> None:
    """The writer stops at window plus mark, and nothing is lost when the reader wakes up."""
    accepted = 0

    async def write(stream: stoq.Stream) -> None:
        nonlocal accepted
        for _ in range(16 * MIB // len(CHUNK)):
            await stream.write(CHUNK)
            accepted += len(CHUNK)
        stream.finish()

    async def test() -> None:
        async with joined() as (client, server):
            stream = client.open_stream()
            writing = asyncio.create_task(write(stream))
            arrived = await server.accept_stream()
            await until(lambda: arrived.unread == STREAM_WINDOW)
            # Everything that is in flight has been acknowledged: nothing moves any more.
            await until(lambda: stream.buffered <= HIGH_WATER + len(CHUNK) and client.stats()["bytes_in_flight"] == 0)
            turns = 0
            while turns < 200:
                turns += 1
                await asyncio.sleep(0)
                assert arrived.unread == STREAM_WINDOW
                assert stream.buffered <= HIGH_WATER + len(CHUNK)
            assert not writing.done()
            assert accepted <= STREAM_WINDOW + HIGH_WATER + len(CHUNK)
            assert await arrived.read() == CHUNK * (16 * MIB // len(CHUNK))
            await writing

    run(loop, test)


def test_many_streams_that_nobody_reads_share_the_window_of_the_connection() -> None:
    """What a server holds unread is bounded by its connection window, whatever the number of streams."""
    streams = 100

    async def test() -> None:
        async with joined() as (client, server):
            opened = [client.open_stream() for _ in range(streams)]
            before = heap_in_use()
            for stream in opened:
                stream.write_nowait(CHUNK)
                stream.finish()
            arrived = [await server.accept_stream() for _ in range(streams - 80)]
            window = server.connection.knobs()["receive_window"]
            await until(lambda: client.stats()["bytes_in_flight"] == 0 and sum(s.unread for s in arrived) > 0)
            held = server.stats()["stream_bytes_received"]
            assert held <= window
            assert core_memory(server.connection)["total"] < 4 * MIB
            assert heap_in_use() - before < 32 * MIB
            # Reading gives credit: each stream ends as it was written.
            async with asyncio.TaskGroup() as group:
                reads = [group.create_task(stream.read()) for stream in arrived]
                for _ in range(streams - len(arrived)):
                    reads.append(group.create_task((await server.accept_stream()).read()))
            assert all(read.result() == CHUNK for read in reads)

    run("asyncio", test)


@pytest.mark.parametrize("kind", ["unidirectional", "reset and stopped"])
def test_streams_that_nobody_accepts_are_bounded(kind: str) -> None:
    """A peer that opens and ends streams, faster than they are accepted, runs into the limit (SECURITY row 7)."""

    async def test() -> None:
        async with joined(server={"max_streams_bidi": 20, "max_streams_uni": 20}) as (client, server):
            opened = 0
            for _ in range(300):
                try:
                    stream = client.open_stream(unidirectional=kind == "unidirectional")
                except StreamLimitError:
                    # The peer may not have heard of all of them: let everything arrive and be acknowledged.
                    await until(lambda: client.stats()["bytes_in_flight"] == 0)
                    for _ in range(20):
                        await asyncio.sleep(0)
                    if not client.connection.can_open_stream(kind == "unidirectional"):
                        break
                    continue
                opened += 1
                if kind == "unidirectional":
                    stream.write_nowait(b"x")
                    stream.finish()
                else:
                    stream.reset(1)
                    stream.stop(1)
                await asyncio.sleep(0)
            assert opened == 20
            # Accepting them, one by one, permits as many again.
            for _ in range(20):
                await server.accept_stream()
            for _ in range(20):
                stream = await client.wait_open_stream(unidirectional=kind == "unidirectional")
                stream.reset(2)
                if kind != "unidirectional":
                    stream.stop(2)
                await server.accept_stream()

    run("asyncio", test)


def test_tasks_of_streams_are_bounded() -> None:
    """on_stream as a coroutine function: no more of them run at once than streams are permitted."""
    running = most = 0

    async def test() -> None:
        nonlocal running, most
        gate = asyncio.Event()
        ended = asyncio.Queue[int]()

        async def on_stream(stream: stoq.Stream) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await gate.wait()
            running -= 1
            ended.put_nowait(stream.id)

        async with serving(on_stream=on_stream, max_streams_uni=10) as server, connect(server) as client:
            for _ in range(10):
                client.open_stream(unidirectional=True).finish()
            await until(lambda: running == 10)
            with pytest.raises(StreamLimitError):
                client.open_stream(unidirectional=True)
            gate.set()
            for _ in range(90):
                (await client.wait_open_stream(unidirectional=True)).finish()
            for _ in range(100):
                await ended.get()
        assert most == 10

    run("asyncio", test)


@each_loop
def test_two_thousand_streams_one_after_another_leave_nothing(loop: str) -> None:
    rounds = 2000

    async def echo(connection: stoq.Connection) -> None:
        async for stream in connection:
            await stream.write(await stream.read())
            stream.finish()

    async def test() -> None:
        async with serving(echo) as server, connect(server) as client:
            measured = []
            for number in range(rounds):
                stream = client.open_stream()
                await stream.write(b"%d" % number)
                stream.finish()
                assert await stream.read() == b"%d" % number
                if number in (rounds // 2, rounds - 1):
                    (other,) = server.connections
                    gc.collect()
                    cores = [core_memory(c.connection)["total"] for c in (client, other)]
                    measured.append((heap_in_use(), len(gc.get_objects()), *cores))
            first, last = measured
            assert last[0] - first[0] < 64 << 10
            assert last[1] - first[1] < 100
            assert last[2] <= first[2] + 4096
            assert last[3] <= first[3] + 4096

    run(loop, test)
