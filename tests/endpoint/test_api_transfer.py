"""The native API over loopback: handshake, streams, backpressure."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
from pathlib import Path
from typing import Any

import pytest
from endpoint_loopback import ALPN, connect, echo, echo_stream, eventually, run, serving

import stoq
from stoq.errors import ConfigurationError, StreamLimitError, StreamReset, StreamStopped

LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


@LOOPS
def test_facts_of_a_connection(loop: str) -> None:
    async def test() -> None:
        async with serving(echo) as server, connect(server) as connection:
            assert connection.alpn == ALPN
            assert connection.cipher_suite == "TLS_AES_128_GCM_SHA256"
            assert connection.group
            assert connection.version == 1
            assert connection.is_client
            assert connection.close_reason is None
            assert connection.peer_address == server.sockname
            assert len(connection.peer_certificates) >= 1
            assert connection.stats()["packets_sent"] > 0
            await eventually(lambda: [each.alpn for each in server.connections] == [ALPN])
            assert not server.connections[0].is_client

    run(loop, test)


@LOOPS
@pytest.mark.parametrize("size", [0, 1, 1200, 100_000, 5_000_000])
def test_echo(loop: str, size: int) -> None:
    async def test() -> None:
        data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        async with serving(echo) as server, await connect(server) as connection:
            stream = connection.open_stream()

            async def write() -> None:
                await stream.write(data)
                stream.finish()

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(write())
                if size < 1 << 20:
                    assert await stream.read() == data
                else:
                    got = hashlib.sha256(await stream.readexactly(1000))
                    async for chunk in stream:
                        got.update(chunk)
                    assert got.digest() == hashlib.sha256(data).digest()
            assert await stream.read() == b""
            assert await stream.read(10) == b""
            await stream.wait_sent()
            assert stream.buffered == 0

    run(loop, test)


@LOOPS
def test_a_hundred_streams(loop: str) -> None:
    async def test() -> None:
        async with serving(echo) as server, connect(server) as connection:

            async def one(i: int) -> None:
                stream = await connection.wait_open_stream()
                data = bytes([i]) * (1 + 700 * i)
                await stream.write(data)
                stream.finish()
                assert await stream.read() == data

            await asyncio.gather(*map(one, range(100)))
            assert connection.stats()["streams_opened"] == 100

    run(loop, test)


def test_write_and_finish_leave_in_one_packet() -> None:
    async def test() -> None:
        async with serving(echo) as server, connect(server) as connection:
            await asyncio.sleep(0.1)  # acknowledgements and new connection IDs of the handshake
            before = connection.stats()["datagrams_sent"]
            stream = connection.open_stream()
            await stream.write(b"a")
            await stream.write(b"b")
            stream.finish()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert connection.stats()["datagrams_sent"] == before + 1
            assert await stream.read() == b"ab"

    run("asyncio", test)


@LOOPS
def test_write_applies_backpressure(loop: str) -> None:
    async def test() -> None:
        go_on = asyncio.Event()
        total = 0

        async def slow(stream: stoq.Stream) -> None:
            nonlocal total
            await go_on.wait()
            async for data in stream:
                total += len(data)
            stream.finish()

        async with serving(on_stream=slow) as server, connect(server) as connection:
            stream = connection.open_stream()
            written = 0
            chunk = b"x" * 65_536
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.3):
                    while True:
                        written += len(chunk)  # a write that is cancelled has queued its bytes
                        await stream.write(chunk)
            # What the peer's window takes, and one buffer: nothing of the 64 MiB that could have been written.
            assert stream.buffered <= (1 << 20) + len(chunk)
            assert written < 8 << 20
            go_on.set()
            await stream.drain()
            await stream.write(b"the end")
            stream.finish()
            assert await stream.read() == b""
            assert total == written + 7

    run(loop, test)


@LOOPS
def test_reads_of_every_kind(loop: str) -> None:
    async def test() -> None:
        async with serving(echo) as server, connect(server) as connection:
            stream = connection.open_stream()
            await stream.write(b"0123456789")
            assert await stream.read(0) == b""
            assert await stream.readexactly(0) == b""
            assert await stream.readexactly(3) == b"012"
            assert await stream.read(2) == b"34"
            assert await stream.read(100) == b"56789"
            stream.finish()
            with pytest.raises(asyncio.IncompleteReadError) as caught:
                await stream.readexactly(1)
            assert caught.value.partial == b""
            stream = connection.open_stream()
            await stream.write(b"short")
            stream.finish()
            with pytest.raises(asyncio.IncompleteReadError) as caught:
                await stream.readexactly(6)
            assert caught.value.partial == b"short"
            with pytest.raises(ValueError, match="number of bytes"):
                await stream.readexactly(-1)

    run(loop, test)


def test_unidirectional_streams_both_ways() -> None:
    async def test() -> None:
        async def handler(connection: stoq.Connection) -> None:
            stream = await connection.accept_stream()
            assert stream.is_unidirectional
            assert not stream.is_local
            with pytest.raises(ConfigurationError):
                await stream.write(b"no")
            back = connection.open_stream(unidirectional=True)
            await back.write(b"got " + await stream.read())
            back.finish()

        async with serving(handler) as server, connect(server) as connection:
            stream = connection.open_stream(unidirectional=True)
            assert stream.is_local
            assert stream.id & 3 == 2
            await stream.write(b"one way")
            stream.finish()
            back = await connection.accept_stream()
            assert back.id & 3 == 3
            assert await back.read() == b"got one way"

    run("asyncio", test)


@LOOPS
def test_reset_and_stop(loop: str) -> None:
    async def test() -> None:
        seen: list[Any] = []

        async def handler(stream: stoq.Stream) -> None:
            command = await stream.readexactly(5)
            if command == b"reset":
                stream.reset(77)
            elif command == b"stop!":
                stream.stop(88)
            else:
                try:
                    await stream.read()
                except StreamReset as error:
                    seen.append((error.error_code, error.stream_id))

        async with serving(on_stream=handler) as server, connect(server) as connection:
            stream = connection.open_stream()
            await stream.write(b"reset")
            with pytest.raises(StreamReset) as caught:
                await stream.read()
            assert caught.value.error_code == 77
            stream = connection.open_stream()
            await stream.write(b"stop!")

            async def fill() -> None:
                while True:
                    await stream.write(b"x" * 100_000)

            with pytest.raises(StreamStopped) as stopped:
                await fill()
            assert stopped.value.error_code == 88
            stream = connection.open_stream()
            await stream.write(b"hello")
            await asyncio.sleep(0.05)
            stream.reset(99)
            await eventually(lambda: seen)
            assert seen == [(99, stream.id)]
            stream.stop(1)
            with pytest.raises(ConfigurationError, match="stopped"):
                await stream.read()
            with pytest.raises(ConfigurationError):
                await stream.write(b"after reset")

    run(loop, test)


def test_a_cancelled_read_takes_nothing_more() -> None:
    """A read that was given up gives the peer no credit; the receiver that comes next gets everything."""

    async def test() -> None:
        async with serving(echo) as server, connect(server) as connection:
            stream = connection.open_stream()
            await stream.write(b"begin")
            for read in (stream.read, lambda: stream.readexactly(100)):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await read()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    while True:
                        await stream.write(b"x" * 65_536)
            assert stream.unread <= 2 << 20
            got = bytearray()
            ended = asyncio.Event()

            def received(_: stoq.Stream, data: bytes | None, end: bool) -> None:
                got.extend(data or b"")
                if end:
                    ended.set()

            stream.deliver(received)
            stream.finish()
            await ended.wait()
            assert got.startswith(b"beginxxx")
            assert len(got) % 65_536 == 5

    run("asyncio", test)


def test_wait_sent_ends_with_a_reset() -> None:
    async def test() -> None:
        gate = asyncio.Event()

        async def on_stream(stream: stoq.Stream) -> None:
            await gate.wait()

        async with serving(on_stream=on_stream) as server, connect(server) as connection:
            stream = connection.open_stream()
            writing = asyncio.create_task(stream.write(b"x" * 8_000_000))
            await asyncio.sleep(0)
            stream.finish()
            waiting = asyncio.create_task(stream.wait_sent())
            await asyncio.sleep(0.02)
            stream.reset(1)
            await writing
            with pytest.raises(ConfigurationError, match="was reset"):
                await waiting
            gate.set()

    run("asyncio", test)


def test_on_stream_may_be_a_lambda_around_a_coroutine() -> None:
    async def test() -> None:
        handler = functools.partial(lambda function, stream: function(stream), echo_stream)
        async with serving(on_stream=handler) as server, connect(server) as connection:
            stream = connection.open_stream()
            await stream.write(b"hello")
            stream.finish()
            assert await stream.read() == b"hello"

    run("asyncio", test)


def test_misuse_of_streams() -> None:
    async def test() -> None:
        async with serving(echo) as server, connect(server) as connection:
            stream = connection.open_stream()
            with pytest.raises(TypeError):
                await stream.write("text")
            with pytest.raises(ConfigurationError):
                stream.reset(1 << 62)
            with pytest.raises(ConfigurationError):
                await stream.wait_sent()
            reading = asyncio.create_task(stream.read())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="another task"):
                await stream.read()
            stream.finish()
            with pytest.raises(ConfigurationError, match="finish"):
                await stream.write(b"late")
            assert await reading == b""

    run("asyncio", test)


@LOOPS
def test_stream_limits(loop: str) -> None:
    async def test() -> None:
        async with serving(echo, max_streams_bidi=2) as server, connect(server) as connection:
            first, second = connection.open_stream(), connection.open_stream()
            with pytest.raises(StreamLimitError):
                connection.open_stream()
            waiting = asyncio.create_task(connection.wait_open_stream())
            await asyncio.sleep(0.02)
            assert not waiting.done()
            for stream in (first, second):
                await stream.write(b"x")
                stream.finish()
                assert await stream.read() == b"x"
            third = await waiting
            await third.write(b"y")
            third.finish()
            assert await third.read() == b"y"

    run(loop, test)


@LOOPS
def test_deliver_without_tasks(loop: str) -> None:
    async def test() -> None:
        ends: list[bool] = []

        def received(stream: stoq.Stream, data: bytes | None, end: bool) -> None:
            if data:
                stream.write_nowait(data)
            if end:
                ends.append(data is not None)
                stream.finish()

        def on_stream(stream: stoq.Stream) -> None:
            stream.deliver(received)

        async with serving(on_stream=on_stream) as server, connect(server) as connection:
            for size in (0, 10, 3_000_000):
                stream = connection.open_stream()
                writing = asyncio.create_task(stream.write(b"z" * size))
                total = 0
                if size:
                    total = len(await stream.readexactly(size))
                await writing
                stream.finish()
                assert await stream.read() == b""
                assert total == size
            assert ends == [True, True, True]
            stream = connection.open_stream()
            await stream.write(b"a")
            assert await stream.read(1) == b"a"
            stream.reset(5)
            await eventually(lambda: len(ends) == 4)
            assert ends[3] is False

    run(loop, test)


def test_deliver_holds_back_what_is_not_drained() -> None:
    """An echo by deliver() does not buffer without bound for a client that never reads."""

    async def test() -> None:
        buffered = 0

        def received(stream: stoq.Stream, data: bytes | None, end: bool) -> None:
            nonlocal buffered
            if data:
                buffered = max(buffered, stream.write_nowait(data))

        async with serving(on_stream=lambda stream: stream.deliver(received)) as server, connect(server) as connection:
            stream = connection.open_stream()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    while True:
                        await stream.write(b"x" * 65_536)
            # Two windows of 1 MiB at first, doubled when tuned, and what arrives in one batch.
            assert buffered < 6 << 20

    run("asyncio", test)


def test_key_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        log = tmp_path / "keys.log"
        async with serving(echo) as server:
            async with connect(server, keylog=log):
                pass
            lines = log.read_text().splitlines()
            labels = {line.split()[0] for line in lines}
            assert {"CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_TRAFFIC_SECRET_0"} <= labels
            assert log.stat().st_mode & 0o77 == 0
            other = tmp_path / "other.log"
            monkeypatch.setenv("SSLKEYLOGFILE", str(other))
            async with connect(server, keylog=True):
                pass
            assert "CLIENT_TRAFFIC_SECRET_0" in other.read_text()
            with pytest.raises(ConfigurationError, match="key log"):
                await connect(server, keylog=tmp_path)

    run("asyncio", test)
