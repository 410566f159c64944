"""Many connections in one process, and what they leave behind."""

from __future__ import annotations

import asyncio
import gc

import pytest
from native_peers import LOOPS, connect, open_files, run, serving, until

import stoq

CONNECTIONS = 200

each_loop = pytest.mark.parametrize("loop", LOOPS)


async def echo(connection: stoq.Connection) -> None:
    async for stream in connection:
        await stream.write(await stream.read())
        stream.finish()


@each_loop
def test_two_hundred_connections(loop: str) -> None:
    """All open at once; each works; afterwards the server has none, and no descriptor is left."""

    async def one(server: stoq.Server, number: int, everybody: asyncio.Barrier) -> int:
        async with connect(server) as connection:
            await everybody.wait()
            stream = connection.open_stream()
            await stream.write(b"%d" % number)
            stream.finish()
            answer = int(await stream.read())
            await everybody.wait()
        return answer

    async def test() -> None:
        before = open_files()
        async with serving(echo) as server:
            everybody = asyncio.Barrier(CONNECTIONS + 1)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(server, number, everybody)) for number in range(CONNECTIONS)]
                await everybody.wait()
                assert len(server.connections) == CONNECTIONS
                assert len({c.peer_address for c in server.connections}) == CONNECTIONS
                await until(lambda: server.endpoint.half_open == 0)
                await everybody.wait()
            assert [task.result() for task in tasks] == list(range(CONNECTIONS))
            await until(lambda: not server.connections)
            assert server.counters()["accepted"] == CONNECTIONS
            assert server.counters()["late_timers"] == 0
        await until(lambda: open_files() == before)

    run(loop, test)


@each_loop
def test_connections_one_after_another_leave_nothing(loop: str) -> None:
    async def test() -> None:
        async with serving(echo) as server:
            counts = []
            for number in range(120):
                async with connect(server) as connection:
                    stream = connection.open_stream()
                    await stream.write(b"x")
                    stream.finish()
                    assert await stream.read() == b"x"
                if number in (59, 119):
                    await until(lambda: not server.connections)
                    del connection, stream
                    files = open_files()
                    await until(lambda: gc.collect() is not None)
                    counts.append((len([o for o in gc.get_objects() if isinstance(o, stoq.Connection)]), files))
            (first, first_files), (last, last_files) = counts
            assert last <= first + 2
            assert last_files <= first_files + 2

    run(loop, test)


@each_loop
def test_server_with_more_clients_than_it_takes(loop: str) -> None:
    """Those beyond max_connections are told at once; the places of those that leave are free again."""

    async def test() -> None:
        async with serving(echo, max_connections=5) as server:
            connections = [await connect(server) for _ in range(5)]
            with pytest.raises(stoq.errors.HandshakeFailed) as caught:
                await connect(server)
            assert caught.value.error_code == stoq.errors.TransportErrorCode.CONNECTION_REFUSED
            assert caught.value.by_peer
            for connection in connections:
                await connection.close()
            await until(lambda: not server.connections)
            async with connect(server) as connection:
                assert connection.close_reason is None

    run(loop, test)
