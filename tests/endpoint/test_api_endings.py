"""The native API over loopback: how connections begin badly and end, limits, cancellation."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from endpoint_loopback import ALPN, authority, connect, echo, eventually, leaf, run, serve, serving

import stoq
from stoq.errors import (
    ApplicationClosed,
    ConfigurationError,
    ConnectionClosedError,
    HandshakeFailed,
    IdleTimeout,
    StreamReset,
    TransportClosed,
    TransportErrorCode,
)
from stoq.io.transport import TransportError
from stoq.testing.certificates import make_test_ca

LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


@LOOPS
def test_close_codes_both_ways(loop: str) -> None:
    async def test() -> None:
        reasons: list[Exception] = []

        async def handler(connection: stoq.Connection) -> None:
            stream = await connection.accept_stream()
            if await stream.readexactly(1) == b"c":
                await connection.close(9, "server says so")
            try:
                await stream.read()
            except ConnectionClosedError as error:
                reasons.append(error)

        async with serving(handler) as server:
            async with connect(server) as connection:
                stream = connection.open_stream()
                await stream.write(b"c")
                with pytest.raises(ApplicationClosed, match="server says so") as caught:
                    await stream.read()
                assert (caught.value.error_code, caught.value.by_peer) == (9, True)
                with pytest.raises(ApplicationClosed):
                    await stream.write(b"x")
                with pytest.raises(ApplicationClosed):
                    connection.open_stream()
                with pytest.raises(ApplicationClosed):
                    await connection.accept_stream()
                await connection.wait_closed()
            connection = await connect(server)
            stream = connection.open_stream()
            await stream.write(b"x")
            await asyncio.sleep(0.02)
            await connection.close(7, "client says so")
            await connection.close(8)
            await eventually(lambda: len(reasons) == 2)
            error = reasons[1]
            assert isinstance(error, ApplicationClosed)
            assert (error.error_code, error.reason, error.by_peer) == (7, "client says so", True)
            assert isinstance(connection.close_reason, ApplicationClosed)
            assert not connection.close_reason.by_peer

    run(loop, test)


@LOOPS
def test_iteration_ends_with_an_orderly_close(loop: str) -> None:
    async def test() -> None:
        ended: list[str] = []

        async def handler(connection: stoq.Connection) -> None:
            try:
                async for _ in connection:
                    pass
                ended.append("orderly")
            except ApplicationClosed as error:
                ended.append(f"code {error.error_code}")

        async with serving(handler) as server:
            await (await connect(server)).close()
            await (await connect(server)).close(3)
            await eventually(lambda: len(ended) == 2)
            assert sorted(ended) == ["code 3", "orderly"]

    run(loop, test)


def test_refused_alpn() -> None:
    async def test() -> None:
        async with serving(echo) as server:
            with pytest.raises(HandshakeFailed, match="no_application_protocol") as caught:
                await connect(server, alpn="other")
            assert caught.value.alert == 120
            await eventually(lambda: server.endpoint.half_open == 0)

    run("asyncio", test)


def test_wrong_authority_and_wrong_name() -> None:
    async def test() -> None:
        other = make_test_ca(datetime.now(UTC) - timedelta(days=1))
        async with serving(echo) as server:
            with pytest.raises(HandshakeFailed) as caught:
                await connect(server, ca_data=other.certificate_pem)
            assert caught.value.alert is not None
            assert not caught.value.by_peer
            with pytest.raises(HandshakeFailed):
                await connect(server, server_name="other.example")
            # The server hears of it: no half-open connection waits for its ten seconds.
            await eventually(lambda: not server.connections, 2)
            async with connect(server, ca_data=other.certificate_pem, verify=False) as connection:
                assert connection.alpn == ALPN

    run("asyncio", test)


def test_nobody_listens_and_nobody_answers() -> None:
    async def test() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
            mute.bind(("127.0.0.1", 0))
            port = mute.getsockname()[1]
            with pytest.raises(HandshakeFailed, match=r"did not answer within 0\.2 s"):
                await stoq.connect("127.0.0.1", port, alpn=ALPN, ca_data=authority().certificate_pem, timeout=0.2)
        begun = asyncio.get_running_loop().time()
        with pytest.raises(TransportError, match="nobody listens"):
            await stoq.connect("127.0.0.1", port, alpn=ALPN, ca_data=authority().certificate_pem)
        assert asyncio.get_running_loop().time() - begun < 2

    run("asyncio", test)


def test_localhost_tries_every_address() -> None:
    async def test() -> None:
        async with serving(echo) as server:
            ca = authority().certificate_pem
            async with stoq.connect("localhost", server.sockname[1], alpn=ALPN, ca_data=ca) as connection:
                assert connection.peer_address == server.sockname

    run("asyncio", test)


def test_arguments_that_cannot_work() -> None:
    async def test() -> None:
        async with serving(echo) as server:
            port = server.sockname[1]
            with pytest.raises(TransportError, match="in use"):
                await serve(echo, port=port)
            with pytest.raises(ConfigurationError, match="unknown option 'speed'"):
                await connect(server, speed="high")
            with pytest.raises(ConfigurationError, match="No such file"):
                await stoq.connect("127.0.0.1", port, alpn=ALPN, ca_file="/nonexistent.pem")
            with pytest.raises(ConfigurationError, match="not both"):
                await connect(server, ca_file="x.pem")
            with pytest.raises(ConfigurationError, match="congestion"):
                await connect(server, congestion="magic")
            with pytest.raises(ConfigurationError, match="port"):
                await stoq.connect("127.0.0.1", 70000, alpn=ALPN, verify=False)
            with pytest.raises(TransportError, match="resolve"):
                await stoq.connect("no.such.host.invalid", port, alpn=ALPN, verify=False)
        with pytest.raises(ConfigurationError, match="certificate"):
            await stoq.serve(echo, "127.0.0.1", 0, alpn=ALPN)
        with pytest.raises(ConfigurationError, match="handler"):
            await serve(None)
        with pytest.raises(ConfigurationError, match="coroutine"):
            await serve(42)
        for options in (
            {"congestion": "magic"}, {"backend": "none such"}, {"knobs": {"nope": 1}}, {"handshake_timeout": 0},
            {"idle_timeout": "3"}, {"idle_timeout": float("nan")},
        ):  # fmt: skip
            with pytest.raises(ConfigurationError):
                await serve(echo, **options)
        with pytest.raises(ConfigurationError, match="private key"):
            await serve(echo, certificate=None)
        with pytest.raises(stoq.StoqError):
            await serve(echo, certificate=str(Path("/nonexistent.pem")), private_key="/nonexistent.pem")

    run("asyncio", test)


@LOOPS
def test_idle_timeout(loop: str) -> None:
    async def test() -> None:
        async with serving(echo, idle_timeout=0.15) as server, connect(server) as connection:
            with pytest.raises(IdleTimeout):
                await connection.accept_stream()
            with pytest.raises(IdleTimeout):
                connection.open_stream()
            await eventually(lambda: not server.connections)

    run(loop, test)


def test_limit_on_connections() -> None:
    async def test() -> None:
        async with serving(echo, max_connections=1) as server:
            async with connect(server):
                with pytest.raises(HandshakeFailed) as caught:
                    await connect(server)
                assert caught.value.error_code == TransportErrorCode.CONNECTION_REFUSED
                assert server.counters()["refused"] >= 1
            await eventually(lambda: not server.connections)
            async with connect(server):
                pass

    run("asyncio", test)


@LOOPS
@pytest.mark.parametrize("options", [{"retry": True}, {"half_open_retry": 0}])
def test_retry(loop: str, options: dict[str, object]) -> None:
    async def test() -> None:
        async with serving(echo, **options) as server, connect(server) as connection:
            assert server.counters()["retries"] == 1
            stream = connection.open_stream()
            await stream.write(b"after retry")
            stream.finish()
            assert await stream.read() == b"after retry"

    run(loop, test)


def test_half_open_threshold() -> None:
    """Clients whose first packet is all that comes fill the half-open places; then others must prove their address."""

    async def test() -> None:
        async with serving(echo, half_open_retry=2, half_open_max=3, handshake_timeout=0.4) as server:
            port = server.sockname[1]
            tasks = [asyncio.create_task(half_open(port)) for _ in range(2)]
            await eventually(lambda: server.endpoint.half_open == 2)
            async with connect(server):
                assert server.counters()["retries"] == 1
            await eventually(lambda: server.endpoint.half_open == 0)
            for task in tasks:
                await task

    async def half_open(port: int) -> None:
        """A client behind a relay that hands its first datagram on, and nothing back."""
        loop = asyncio.get_running_loop()
        first: asyncio.Future[bytes] = loop.create_future()

        class Relay(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, _: object) -> None:
                if not first.done():
                    first.set_result(data)

        relay, _ = await loop.create_datagram_endpoint(Relay, local_addr=("127.0.0.1", 0))
        client = asyncio.create_task(attempt(relay.get_extra_info("sockname")[1]))
        relay.sendto(await first, ("127.0.0.1", port))
        await client
        relay.close()

    async def attempt(port: int) -> None:
        with pytest.raises(HandshakeFailed):
            await stoq.connect("127.0.0.1", port, alpn=ALPN, ca_data=authority().certificate_pem, timeout=0.2)

    run("asyncio", test)


def test_connect_is_a_coroutine() -> None:
    async def test() -> None:
        async with serving(echo) as server:
            connection = await asyncio.create_task(connect(server))
            with pytest.raises(ConfigurationError, match="error code"):
                await connection.close(-1)
            with pytest.raises(ConfigurationError, match="error code"):
                await connection.close(1 << 62)
            await connection.close()
            with pytest.raises(ConfigurationError, match="1024"):
                await connect(server, token=bytes(1025))

    run("asyncio", test)


@LOOPS
def test_drain(loop: str) -> None:
    async def test() -> None:
        server = await serve(echo)
        connection = await connect(server)
        draining = asyncio.create_task(server.drain(5))
        await asyncio.sleep(0)
        with pytest.raises(HandshakeFailed):
            await connect(server, timeout=0.1)
        stream = connection.open_stream()
        await stream.write(b"still served")
        stream.finish()
        assert await stream.read() == b"still served"
        assert not draining.done()
        await connection.close()
        await draining
        assert not server.connections

        server = await serve(echo)
        connection = await connect(server)
        await server.drain(0.05)
        with pytest.raises(ApplicationClosed):
            await connection.accept_stream()

    run(loop, test)


@LOOPS
def test_server_close_frees_the_port(loop: str) -> None:
    async def test() -> None:
        server = await serve(echo)
        port = server.sockname[1]
        async with connect(server) as connection:
            await eventually(lambda: server.endpoint.half_open == 0)
            server.close(4, "going")
            with pytest.raises(ApplicationClosed, match="going"):
                await connection.accept_stream()
            await server.wait_closed()
        async with serving(echo, port=port):
            pass

    run(loop, test)


@LOOPS
def test_cancelled_waits_lose_nothing(loop: str) -> None:
    async def test() -> None:
        async with serving(echo) as server, connect(server) as connection:
            stream = connection.open_stream()
            for wait in (stream.read(), stream.read(10), stream.readexactly(8)):
                task = asyncio.create_task(wait)
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            task = asyncio.create_task(stream.readexactly(8))
            await stream.write(b"1234")
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await stream.read(3) == b"123"
            await stream.write(b"56789")
            assert await stream.readexactly(6) == b"456789"
            accepting = [asyncio.create_task(connection.accept_stream()) for _ in range(2)]
            await asyncio.sleep(0)
            accepting[0].cancel()
            back = server.connections[0].open_stream()
            await back.write(b"hi")
            assert await (await accepting[1]).read(2) == b"hi"

    run(loop, test)


def test_cancelled_connect() -> None:
    async def test() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
            mute.bind(("127.0.0.1", 0))
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await stoq.connect(
                            "127.0.0.1", mute.getsockname()[1], alpn=ALPN, ca_data=authority().certificate_pem
                        )

    run("asyncio", test)


def test_handlers_that_fail(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async def handler(connection: stoq.Connection) -> None:
            raise RuntimeError("handler broke")

        async with serving(handler) as server, connect(server) as connection:
            with pytest.raises(TransportClosed) as caught:
                await connection.accept_stream()
            assert caught.value.error_code == TransportErrorCode.INTERNAL_ERROR

        async def on_stream(stream: stoq.Stream) -> None:
            await stream.readexactly(1)
            raise RuntimeError("stream handler broke")

        def plain(stream: stoq.Stream) -> None:
            raise RuntimeError("plain handler broke")

        def broken(stream: stoq.Stream, data: bytes | None, end: bool) -> None:
            raise RuntimeError("receiver broke")

        for each in (on_stream, plain, lambda stream: stream.deliver(broken)):
            async with serving(on_stream=each) as server, connect(server) as connection:
                stream = connection.open_stream()
                await stream.write(b"x")
                with pytest.raises(StreamReset):
                    await stream.read()
                assert connection.close_reason is None

    with caplog.at_level(logging.ERROR, "stoq"):
        run("asyncio", test)
    texts = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert texts == ["handler broke", "stream handler broke", "plain handler broke", "receiver broke"]


def test_other_threads_are_refused() -> None:
    async def test() -> None:
        async with serving(echo) as server, connect(server) as connection:
            stream = connection.open_stream()
            errors: list[Exception] = []

            def elsewhere() -> None:
                for call in (connection.open_stream, lambda: stream.write_nowait(b"x"), stream.finish, server.close):
                    try:
                        call()
                    except RuntimeError as error:
                        errors.append(error)

            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            assert len(errors) == 4
            assert all("thread" in str(error) for error in errors)
            stream.finish()
            assert await stream.read() == b""

    run("asyncio", test)


def test_configuration_objects_are_shared() -> None:
    async def test() -> None:
        async with serving(echo) as server:
            async with connect(server) as one, connect(server) as two:
                first, second = one.connection.configuration, two.connection.configuration
                assert first is not second  # assigning to one's does not change the other
                assert first.tls.prepared() is second.tls.prepared()
                again = {"configuration": one.connection.configuration, "idle_timeout": 5}
                async with stoq.connect("127.0.0.1", server.sockname[1], **again) as three:
                    assert three.connection.configuration.idle_timeout == 5
                    assert three.connection.configuration.tls is one.connection.configuration.tls
            async with connect(server, local_addr=("127.0.0.1", 0)) as connection:
                connection.ping()
                await eventually(lambda: connection.stats()["latest_rtt_ns"])
            assert leaf().chain_pem

    run("asyncio", test)
