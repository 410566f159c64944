"""What the native API raises, by what ended the connection; and what can still be done afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from native_peers import LOOPS, connect, joined, run, serve, serving, until

import stoq
from stoq.errors import (
    ApplicationClosed,
    ConfigurationError,
    ConnectionClosedError,
    HandshakeFailed,
    IdleTimeout,
    StatelessReset,
    StreamReset,
    StreamStopped,
    TransportClosed,
    TransportErrorCode,
)

each_loop = pytest.mark.parametrize("loop", LOOPS)
KEYS = {"reset_key": b"the same key before and after", "token_key": b"another key for the tokens"}

Act = Callable[[stoq.Connection, stoq.Stream], Awaitable[Any]]


async def call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


async def write_on(stream: stoq.Stream) -> None:
    while True:
        await stream.write(bytes(1 << 16))


async def anext_of(iterable: Any) -> Any:
    return await anext(aiter(iterable))


# Everything that needs a connection.
ACTS: dict[str, Act] = {
    "open_stream": lambda connection, _: call(connection.open_stream),
    "wait_open_stream": lambda connection, _: connection.wait_open_stream(),
    "accept_stream": lambda connection, _: connection.accept_stream(),
    "read": lambda _, stream: stream.read(),
    "read some": lambda _, stream: stream.read(10),
    "readexactly": lambda _, stream: stream.readexactly(10),
    "async for of a stream": lambda _, stream: anext_of(stream),
    "write": lambda _, stream: stream.write(b"x"),
    "write_nowait": lambda _, stream: call(stream.write_nowait, b"x"),
    "wait_sent": lambda _, stream: stream.wait_sent(),
}


async def ended_by(cause: str, client: stoq.Connection, server: stoq.Connection) -> tuple[type, int, bool]:
    """End a connection; (class, code, whether the peer did it) as the client should see it."""
    match cause:
        case "closed by us":
            await client.close(7, "enough")
            return ApplicationClosed, 7, False
        case "closed by the peer":
            await server.close(8, "enough")
            await client.wait_closed()
            return ApplicationClosed, 8, True
        case "error of the peer":
            server.connection.close(int(TransportErrorCode.PROTOCOL_VIOLATION), "enough", application=False)
            await client.wait_closed()
            return TransportClosed, TransportErrorCode.PROTOCOL_VIOLATION, True
        case _:
            await client.wait_closed()
            return IdleTimeout, 0, False


@each_loop
@pytest.mark.parametrize("cause", ["closed by us", "closed by the peer", "error of the peer", "silence"])
def test_use_after_the_end_raises_the_reason(loop: str, cause: str) -> None:
    async def test() -> None:
        options = {"idle_timeout": 0.2} if cause == "silence" else {}
        async with joined(client=options) as (client, server):
            stream = client.open_stream()
            await stream.write(b"hello")
            expected, code, by_peer = await ended_by(cause, client, server)
            reason = client.close_reason
            assert type(reason) is expected
            assert (reason.error_code, reason.by_peer) == (code, by_peer)
            assert reason.reason == ("enough" if expected is not IdleTimeout else "")
            for name, act in ACTS.items():
                with pytest.raises(ConnectionClosedError) as caught:
                    await act(client, stream)
                assert type(caught.value) is expected, name
                assert caught.value.args == reason.args, name
            # What gives something up has nothing to complain about.
            stream.finish()
            stream.reset(1)
            stream.stop(1)
            await client.close(99)
            await client.wait_closed()
            client.ping()
            assert client.close_reason is reason
            assert isinstance(client.stats(), dict)
            assert client.alpn == "native"

    run(loop, test)


@each_loop
@pytest.mark.parametrize("cause", ["closed by us", "closed by the peer", "error of the peer", "silence"])
def test_waiting_calls_wake_up_with_the_reason(loop: str, cause: str) -> None:
    async def test() -> None:
        options: dict[str, Any] = {"idle_timeout": 0.2} if cause == "silence" else {}
        async with joined(client=options, server={"max_streams_bidi": 6}) as (client, server):
            streams = [client.open_stream() for _ in range(6)]
            blocked = streams[3]
            blocked.write_nowait(bytes(4 << 20))
            sent = streams[4]
            sent.write_nowait(bytes(4 << 20))
            sent.finish()
            waiting = {
                "read": streams[0].read(),
                "read some": streams[1].read(5),
                "readexactly": streams[2].readexactly(5),
                "write": blocked.write(b"more"),
                "drain": blocked.drain(),
                "wait_sent": sent.wait_sent(),
                "accept_stream": client.accept_stream(),
                "wait_open_stream": client.wait_open_stream(),
            }
            tasks = {name: asyncio.create_task(coroutine) for name, coroutine in waiting.items()}
            # Both large writes wait for credit, and what credit there was has arrived.
            await until(lambda: client.stats()["bytes_in_flight"] == 0 and server.stats()["stream_bytes_received"] > 0)
            assert not any(task.done() for task in tasks.values())
            expected, code, by_peer = await ended_by(cause, client, server)
            done = await asyncio.gather(*tasks.values(), return_exceptions=True)
            for name, error in zip(tasks, done, strict=True):
                assert type(error) is expected, name
                assert isinstance(error, ConnectionClosedError)
                assert (error.error_code, error.by_peer) == (code, by_peer), name

    run(loop, test)


@each_loop
def test_what_had_arrived_can_still_be_read(loop: str) -> None:
    async def test() -> None:
        async with joined() as (client, server):
            stream = client.open_stream()
            await stream.write(b"a" * 5000)
            other = client.open_stream()
            await other.write(b"b" * 5000)
            other.finish()
            arrived = [await server.accept_stream(), await server.accept_stream()]
            await until(lambda: all(s.unread == 5000 for s in arrived))
            await client.close(3)
            await server.wait_closed()
            assert await arrived[0].readexactly(4000) == b"a" * 4000
            assert await arrived[0].readexactly(1000) == b"a" * 1000
            with pytest.raises(ApplicationClosed):
                await arrived[0].read(4000)
            assert await arrived[1].read() == b"b" * 5000
            assert await arrived[1].read(1) == b""

    run(loop, test)


@each_loop
def test_an_error_in_a_handler_is_an_internal_error_to_the_peer(loop: str) -> None:
    async def handler(connection: stoq.Connection) -> None:
        await connection.accept_stream()
        raise ZeroDivisionError("a mistake")

    async def test() -> None:
        async with serving(handler) as server, connect(server) as client:
            stream = client.open_stream()
            await stream.write(b"x")
            with pytest.raises(TransportClosed) as caught:
                await stream.read()
            assert caught.value.error_code == TransportErrorCode.INTERNAL_ERROR
            assert caught.value.by_peer
            assert "mistake" not in str(caught.value)

    run(loop, test, logged=("handler",))


@each_loop
def test_a_server_that_forgot_its_connections(loop: str) -> None:
    """A new process on the same port, with the same reset key, ends the old one's connections at once."""

    async def test() -> None:
        accepted: asyncio.Queue[stoq.Connection] = asyncio.Queue()
        old = await serve(accepted.put, **KEYS)
        client = await connect(old)
        stream = client.open_stream()
        await stream.write(b"x")
        await accepted.get()
        port = old.sockname[1]
        old.endpoint.driver.stop()  # it dies: nothing is said
        async with serving(accepted.put, port=port, **KEYS) as new:
            await stream.write(b"y" * 100)
            with pytest.raises(StatelessReset):
                await stream.read()
            assert type(client.close_reason) is StatelessReset
            assert new.counters()["resets"] >= 1

    run(loop, test)


@each_loop
def test_an_early_end_of_a_stream_is_not_one_of_the_connection(loop: str) -> None:
    async def test() -> None:
        async with joined() as (client, server):
            stream = client.open_stream()
            await stream.write(b"x")
            arrived = await server.accept_stream()
            arrived.reset(11)
            with pytest.raises(StreamReset) as reset:
                await stream.read()
            assert (reset.value.error_code, reset.value.stream_id) == (11, stream.id)
            arrived.stop(12)
            with pytest.raises(StreamStopped) as stopped:
                await write_on(stream)
            assert (stopped.value.error_code, stopped.value.stream_id) == (12, stream.id)
            with pytest.raises(StreamStopped):
                await stream.wait_sent()
            assert client.close_reason is None
            again = client.open_stream()
            await again.write(b"still here")
            again.finish()
            assert await (await server.accept_stream()).read() == b"still here"

    run(loop, test)


@pytest.mark.parametrize(
    ("server", "client", "alert"),
    [
        ({}, {"alpn": "other"}, 120),
        ({}, {"server_name": "another.example"}, 42),
        ({"cipher_suites": [0x1301]}, {"cipher_suites": [0x1302]}, 40),
    ],
    ids=["protocol", "name", "cipher"],
)
def test_handshakes_that_fail_say_why(server: dict[str, Any], client: dict[str, Any], alert: int) -> None:
    async def test() -> None:
        accepted: asyncio.Queue[stoq.Connection] = asyncio.Queue()
        async with serving(accepted.put, **server) as listening:
            with pytest.raises(HandshakeFailed) as caught:
                await connect(listening, **client)
            assert caught.value.alert == alert
            assert caught.value.error_code == 0x100 + alert
            assert accepted.empty(), "the handler ran for a connection that never was"

    run("asyncio", test)


def test_codes_and_reasons_that_cannot_be_sent() -> None:
    async def test() -> None:
        async with joined() as (client, server):
            stream = client.open_stream()
            for act in (client.abort, stream.reset, stream.stop):
                with pytest.raises((ConfigurationError, OverflowError)):
                    act(1 << 62)
            assert client.close_reason is None
            await client.close(2**62 - 1, "\u00e9" * 4000)
            await server.wait_closed()
            assert server.close_reason.error_code == 2**62 - 1
            assert 0 < len(server.close_reason.reason) < 1200
            assert set(server.close_reason.reason.rstrip("\N{REPLACEMENT CHARACTER}")) == {"\u00e9"}

    run("asyncio", test)
