"""One face over stoq's native API and over aioquic's (which qh3 shares), so that a scenario is written once.

A peer serves or connects; both give `Link`s (connections) with `Channel`s (streams) in them. Errors come as the
exceptions of this file, whatever the implementation raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

import stoq
from stoq.crypto.certificates import make_leaf, make_test_ca
from stoq.errors import ApplicationClosed, ConnectionClosedError, IdleTimeout, StreamReset, StreamStopped

HOST = "127.0.0.1"
NAME = "localhost"
ALPN = "interop"
# For what must happen at once; a machine under load is allowed its pauses.
SOON = 30.0
# aioquic and qh3 close three times a PTO that they base on this; their default makes every ending a second long.
INITIAL_RTT = 0.02

CIPHERS = {0x1301: "AES_128_GCM_SHA256", 0x1302: "AES_256_GCM_SHA384", 0x1303: "CHACHA20_POLY1305_SHA256"}


class Closed(NamedTuple):
    """How a connection ended. kind: "application", "transport" or "idle"."""

    kind: str
    code: int
    reason: str


class Refused(Exception):
    """No connection came about; `closed` says why."""

    def __init__(self, closed: Closed) -> None:
        super().__init__(closed)
        self.closed = closed


class Reset(Exception):
    """The peer reset the stream that we read."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class Options:
    """What a scenario may ask of either side."""

    alpn: tuple[str, ...] = (ALPN,)
    cipher: int | None = None
    retry: bool = False
    trusted: bool = True
    idle_timeout: float = 30.0
    windows: tuple[int, int] | None = None  # of the connection and of a stream, bytes
    versions: tuple[int, ...] | None = None
    groups: tuple[int, ...] | None = None  # stoq only


class Channel:
    """A stream: bytes out with write() and finish(), in with read()."""

    id: int

    async def write(self, data: bytes) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        raise NotImplementedError

    def reset(self, code: int) -> None:
        raise NotImplementedError

    def stop(self, code: int) -> None:
        raise NotImplementedError

    async def read_some(self) -> bytes:
        """At least one byte; b"" at the end. Reset when the peer gave up."""
        raise NotImplementedError

    async def write_until_stopped(self) -> int:
        """Write on and on; the code with which the peer stops us."""
        raise NotImplementedError

    async def read(self) -> bytes:
        pieces = []
        while piece := await self.read_some():
            pieces.append(piece)
        return b"".join(pieces)

    async def send(self, data: bytes) -> None:
        await self.write(data)
        self.finish()


class Link:
    """A connection."""

    alpn: str | None
    cipher: str | None

    async def open(self, unidirectional: bool = False) -> Channel:
        raise NotImplementedError

    async def accept(self) -> Channel:
        raise NotImplementedError

    def close(self, code: int = 0, reason: str = "", transport: bool = False) -> None:
        raise NotImplementedError

    async def closed(self) -> Closed:
        raise NotImplementedError


class Listener:
    port: int

    async def accept(self) -> Link:
        raise NotImplementedError

    async def failed(self) -> Closed:
        """How the one handshake that did not complete ended."""
        raise NotImplementedError


# ---- certificates


class Certificates:
    """An authority that both sides trust, a leaf for the server, and another authority that nobody uses."""

    def __init__(self, folder: Path) -> None:
        # A day old: aioquic and qh3 look at the clock themselves.
        now = datetime.now(UTC) - timedelta(days=1)
        authority, stranger = make_test_ca(now), make_test_ca(now)
        leaf = make_leaf(authority, [NAME, HOST], now)
        self.ca, self.stranger = folder / "ca.pem", folder / "stranger.pem"
        self.certificate, self.key = folder / "cert.pem", folder / "key.pem"
        self.ca.write_bytes(authority.certificate_pem)
        self.stranger.write_bytes(stranger.certificate_pem)
        self.certificate.write_bytes(leaf.chain_pem)
        self.key.write_bytes(leaf.key_pem)

    def authority(self, trusted: bool) -> Path:
        return self.ca if trusted else self.stranger


# ---- stoq


def closed_by(error: ConnectionClosedError) -> Closed:
    if isinstance(error, IdleTimeout):
        return Closed("idle", 0, "")
    kind = "application" if isinstance(error, ApplicationClosed) else "transport"
    return Closed(kind, error.error_code, error.reason)


class StoqChannel(Channel):
    def __init__(self, stream: stoq.Stream) -> None:
        self.stream = stream
        self.id = stream.id

    async def write(self, data: bytes) -> None:
        await self.stream.write(data)

    def finish(self) -> None:
        self.stream.finish()

    def reset(self, code: int) -> None:
        self.stream.reset(code)

    def stop(self, code: int) -> None:
        self.stream.stop(code)

    async def read_some(self) -> bytes:
        try:
            data: bytes = await self.stream.read(1 << 20)
        except StreamReset as error:
            raise Reset(error.error_code) from None
        return data

    async def write_until_stopped(self) -> int:
        try:
            while True:
                await self.stream.write(bytes(1 << 16))
        except StreamStopped as error:
            return error.error_code


class StoqLink(Link):
    def __init__(self, connection: stoq.Connection) -> None:
        self.connection = connection
        self.alpn = connection.alpn
        self.cipher = connection.cipher_suite.removeprefix("TLS_")

    async def open(self, unidirectional: bool = False) -> Channel:
        return StoqChannel(await self.connection.wait_open_stream(unidirectional))

    async def accept(self) -> Channel:
        return StoqChannel(await self.connection.accept_stream())

    def close(self, code: int = 0, reason: str = "", transport: bool = False) -> None:
        if transport:
            self.connection.connection.close(code, reason, application=False)
        else:
            self.connection.abort(code, reason)

    async def closed(self) -> Closed:
        await self.connection.wait_closed()
        return closed_by(self.connection.close_reason)


class StoqListener(Listener):
    def __init__(self) -> None:
        self.waits = True
        self.arrived: asyncio.Queue[stoq.Connection] = asyncio.Queue()
        self.begun: asyncio.Queue[stoq.Connection] = asyncio.Queue()

    async def start(self, certificates: Certificates, options: Options) -> None:
        self.server = await stoq.serve(
            self.arrived.put,
            HOST,
            0,
            certificate=certificates.certificate,
            private_key=certificates.key,
            retry=options.retry,
            **stoq_options(options),
        )
        self.port = self.server.sockname[1]
        make = self.server.endpoint.session_factory

        def session() -> Any:
            connection = make()
            self.begun.put_nowait(connection)
            return connection

        self.server.endpoint.session_factory = session

    async def accept(self) -> Link:
        return StoqLink(await self.arrived.get())

    async def failed(self) -> Closed:
        connection = await self.begun.get()
        await connection.wait_closed()
        self.waits = False  # three PTO without a measured round trip are three seconds
        return closed_by(connection.close_reason)


def stoq_options(options: Options) -> dict[str, Any]:
    found: dict[str, Any] = {"alpn": options.alpn, "idle_timeout": options.idle_timeout}
    if options.cipher is not None:
        found["cipher_suites"] = (options.cipher,)
    if options.groups is not None:
        found["groups"] = options.groups
    if options.windows is not None:
        connection, stream = options.windows
        names = ("receive_window", "receive_window_max", "stream_window", "stream_window_max")
        found["knobs"] = dict(zip(names, (connection, connection, stream, stream), strict=True))
    return found


class Stoq:
    name = "stoq"

    @contextlib.asynccontextmanager
    async def serve(self, certificates: Certificates, options: Options) -> AsyncIterator[Listener]:
        listener = StoqListener()
        await listener.start(certificates, options)
        try:
            yield listener
        finally:
            listener.server.close()
            if listener.waits:
                await listener.server.wait_closed()

    @contextlib.asynccontextmanager
    async def connect(self, port: int, certificates: Certificates, options: Options) -> AsyncIterator[Link]:
        try:
            connection = await stoq.connect(
                HOST,
                port,
                ca_file=certificates.authority(options.trusted),
                server_name=NAME,
                **stoq_options(options),
            )
        except ConnectionClosedError as error:
            raise Refused(closed_by(error)) from error
        try:
            yield StoqLink(connection)
        finally:
            await connection.close()


# ---- aioquic and qh3


class UpstreamChannel(Channel):
    def __init__(self, link: Any, stream_id: int) -> None:
        self.link = link
        self.id = stream_id
        self.buffer = bytearray()
        self.ended = False
        self.reset_code: int | None = None
        self.changed = asyncio.Event()
        self.stopped: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def write(self, data: bytes) -> None:
        self.link._quic.send_stream_data(self.id, data)
        self.link.transmit()

    def finish(self) -> None:
        self.link._quic.send_stream_data(self.id, b"", end_stream=True)
        self.link.transmit()

    def reset(self, code: int) -> None:
        self.link._quic.reset_stream(self.id, code)
        self.link.transmit()

    def stop(self, code: int) -> None:
        self.link._quic.stop_stream(self.id, code)
        self.link.transmit()

    async def read_some(self) -> bytes:
        while not self.buffer:
            if self.reset_code is not None:
                raise Reset(self.reset_code)
            if self.ended:
                return b""
            self.changed.clear()
            await self.changed.wait()
        data = bytes(self.buffer)
        self.buffer.clear()
        return data

    async def write_until_stopped(self) -> int:
        await self.write(bytes(1 << 16))
        return await self.stopped


class Upstream:
    """aioquic, or qh3, which has the same names."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.api: Any = import_module(f"{name}.asyncio")
        self.events: Any = import_module(f"{name}.quic.events")
        self.configuration: Any = import_module(f"{name}.quic.configuration").QuicConfiguration
        self.suites: Any = import_module(f"{name}.tls").CipherSuite
        self.protocol = self._protocol()

    def _protocol(self) -> Any:
        events, base = self.events, self.api.QuicConnectionProtocol

        class Protocol(base, Link):  # type: ignore[misc]
            """A connection. Those of a server go into `listener` once their handshake is complete."""

            def __init__(self, *args: Any, listener: UpstreamListener | None = None, **options: Any) -> None:
                super().__init__(*args, **options)
                self.listener = listener
                self.channels: dict[int, UpstreamChannel] = {}
                self.arrived: asyncio.Queue[UpstreamChannel] = asyncio.Queue()
                self.alpn = self.cipher = None
                self.end: asyncio.Future[Closed] = asyncio.get_running_loop().create_future()

            def channel(self, stream_id: int) -> UpstreamChannel:
                if stream_id not in self.channels:
                    self.channels[stream_id] = UpstreamChannel(self, stream_id)
                    if bool(stream_id & 1) is self._quic._is_client:
                        self.arrived.put_nowait(self.channels[stream_id])
                return self.channels[stream_id]

            def quic_event_received(self, event: Any) -> None:
                if isinstance(event, events.HandshakeCompleted):
                    self.alpn = event.alpn_protocol
                    self.cipher = CIPHERS[int(self._quic.tls.key_schedule.cipher_suite)]
                    if self.listener is not None:
                        self.listener.arrived.put_nowait(self)
                elif isinstance(event, events.StreamDataReceived):
                    channel = self.channel(event.stream_id)
                    channel.buffer += event.data
                    channel.ended |= event.end_stream
                    channel.changed.set()
                elif isinstance(event, events.StreamReset):
                    channel = self.channel(event.stream_id)
                    channel.reset_code = event.error_code
                    channel.changed.set()
                elif isinstance(event, events.StopSendingReceived):
                    self.channel(event.stream_id).stopped.set_result(event.error_code)
                elif isinstance(event, events.ConnectionTerminated) and not self.end.done():
                    self.end.set_result(self.closed_by(event))

            def closed_by(self, event: Any) -> Closed:
                if event.error_code == 1 and event.reason_phrase == "Idle timeout":
                    return Closed("idle", 0, "")
                kind = "application" if event.frame_type is None else "transport"
                return Closed(kind, int(event.error_code), event.reason_phrase)

            async def open(self, unidirectional: bool = False) -> Channel:
                stream_id = self._quic.get_next_available_stream_id(is_unidirectional=unidirectional)
                self._quic.send_stream_data(stream_id, b"")
                return self.channel(stream_id)

            async def accept(self) -> Channel:
                return await self.arrived.get()

            def close(self, code: int = 0, reason: str = "", transport: bool = False) -> None:
                self._quic.close(error_code=code, frame_type=0 if transport else None, reason_phrase=reason)
                self.transmit()

            async def closed(self) -> Closed:
                return await asyncio.shield(self.end)

        return Protocol

    def _configuration(self, is_client: bool, options: Options) -> Any:
        fields: dict[str, Any] = {}
        if options.cipher is not None:
            fields["cipher_suites"] = [self.suites(options.cipher)]
        if options.windows is not None:
            fields["max_data"], fields["max_stream_data"] = options.windows
        if options.versions is not None:
            fields["supported_versions"] = list(options.versions)
        return self.configuration(
            is_client=is_client,
            alpn_protocols=list(options.alpn),
            idle_timeout=options.idle_timeout,
            initial_rtt=INITIAL_RTT,
            **fields,
        )

    @contextlib.asynccontextmanager
    async def serve(self, certificates: Certificates, options: Options) -> AsyncIterator[Listener]:
        configuration = self._configuration(False, options)
        configuration.load_cert_chain(str(certificates.certificate), str(certificates.key))
        listener = UpstreamListener()

        def create(*args: Any, **rest: Any) -> Any:
            protocol = self.protocol(*args, listener=listener, **rest)
            listener.begun.put_nowait(protocol)
            listener.protocols.append(protocol)
            return protocol

        server = await self.api.serve(HOST, 0, configuration=configuration, create_protocol=create, retry=options.retry)
        listener.port = server._transport.get_extra_info("sockname")[1]
        try:
            yield listener
        finally:
            for protocol in listener.protocols:
                protocol.close()
            for protocol in listener.protocols:
                await protocol.closed()
            server.close()

    @contextlib.asynccontextmanager
    async def connect(self, port: int, certificates: Certificates, options: Options) -> AsyncIterator[Link]:
        configuration = self._configuration(True, options)
        configuration.load_verify_locations(str(certificates.authority(options.trusted)))
        configuration.verify_mode = ssl.CERT_REQUIRED
        configuration.server_name = NAME
        made: list[Any] = []

        def create(*args: Any, **rest: Any) -> Any:
            made.append(self.protocol(*args, **rest))
            return made[-1]

        # What it raises while it connects becomes Refused; what a scenario raises stays itself.
        context = self.api.connect(HOST, port, configuration=configuration, create_protocol=create)
        try:
            link = await context.__aenter__()
        except ConnectionError as error:
            raise Refused(await made[0].closed()) from error
        try:
            yield link
        finally:
            with contextlib.suppress(ConnectionError):
                await context.__aexit__(None, None, None)


class UpstreamListener(Listener):
    def __init__(self) -> None:
        self.arrived: asyncio.Queue[Any] = asyncio.Queue()
        self.begun: asyncio.Queue[Any] = asyncio.Queue()
        self.protocols: list[Any] = []

    async def accept(self) -> Link:
        link: Link = await self.arrived.get()
        return link

    async def failed(self) -> Closed:
        protocol = await self.begun.get()
        closed: Closed = await protocol.closed()
        return closed


# ---- pairs

Peer = Stoq | Upstream
STOQ = Stoq()


class Kept(logging.Handler):
    """Keeps warnings and worse."""

    def __init__(self, records: list[Any]) -> None:
        super().__init__(logging.WARNING)
        self.records = records

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record.getMessage())


@dataclass(frozen=True)
class Pair:
    """Who is the client, who the server, and on which event loop both run."""

    client: Peer
    server: Peer
    loop: Callable[[], asyncio.AbstractEventLoop]

    def __str__(self) -> str:
        kind = "-uvloop" if self.loop is uvloop.new_event_loop else ""
        return f"{self.client.name}-{self.server.name}{kind}"

    @contextlib.asynccontextmanager
    async def joined(
        self, certificates: Certificates, client: Options | None = None, server: Options | None = None
    ) -> AsyncIterator[tuple[Link, Link]]:
        """The client's link and the server's, both with a complete handshake."""
        async with (
            self.server.serve(certificates, server or Options()) as listener,
            self.client.connect(listener.port, certificates, client or Options()) as link,
        ):
            yield link, await listener.accept()

    def run(self, scenario: Coroutine[Any, Any, None]) -> None:
        """Run a scenario on this pair's loop. What a callback raises, what is logged and a task left over fail it."""
        unhandled: list[Any] = []

        async def limited() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
            async with asyncio.timeout(SOON):
                await scenario
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, left

        log = Kept(unhandled)
        logging.getLogger("stoq").addHandler(log)
        try:
            with asyncio.Runner(loop_factory=self.loop) as runner:
                runner.run(limited())
        finally:
            logging.getLogger("stoq").removeHandler(log)
        assert not unhandled, unhandled


def pairs(*upstream: str) -> list[Pair]:
    """Each named implementation as server and as client of stoq, and stoq with itself on both loops."""
    found = []
    for name in upstream:
        other = Upstream(name)
        found += [Pair(STOQ, other, asyncio.new_event_loop), Pair(other, STOQ, asyncio.new_event_loop)]
    return [*found, Pair(STOQ, STOQ, asyncio.new_event_loop), Pair(STOQ, STOQ, uvloop.new_event_loop)]
