"""serve(): a server on asyncio."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any

from stoq.connection.configuration import Configuration
from stoq.connection.factory import server_connection
from stoq.crypto.credentials import Credentials
from stoq.endpoint.admission import Admission, DefaultAdmission
from stoq.endpoint.cid_scheme import CidScheme, RandomCids
from stoq.endpoint.client import Address, resolve
from stoq.endpoint.connection import Connection
from stoq.endpoint.endpoint import Endpoint
from stoq.endpoint.loopdriver import LoopDriver
from stoq.endpoint.options import Keylog, PathOrPem, server_configuration
from stoq.endpoint.stream import Stream
from stoq.errors import ConfigurationError
from stoq.io.udp import open_udp

Handler = Callable[[Connection], Coroutine[Any, Any, Any]]
StreamHandler = Callable[[Stream], Any]


class Server:
    """What serve() returns. Its connections run on the event loop that it was started on."""

    def __init__(self, endpoint: Endpoint, driver: LoopDriver, sockname: Address) -> None:
        self.endpoint = endpoint
        self._sockname = sockname
        self._driver = driver
        self._ended = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        endpoint.when_empty = self._empty

    def __repr__(self) -> str:
        return f"<stoq.Server {self.sockname} {len(self.endpoint.sessions)} connections>"

    def _empty(self) -> None:
        """The last connection has ended."""
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()
        if self.endpoint.closing:
            self._driver.stop()
            self._ended.set()

    @property
    def sockname(self) -> Address:
        """(host, port) that the server is bound to."""
        return self._sockname

    @property
    def connections(self) -> list[Connection]:
        """The connections there are, half-open and closing ones included."""
        return [session for session in self.endpoint.sessions if isinstance(session, Connection)]

    def counters(self) -> dict[str, int]:
        """What became of datagrams and clients without a connection."""
        return self.endpoint.counters()

    def close(self, error_code: int = 0, reason: str = "") -> None:
        """Close every connection with an application error code, take no new ones. wait_closed() waits for the end."""
        self.endpoint.end_early = True
        self.endpoint.close(error_code, reason)

    async def wait_closed(self) -> None:
        """Wait until close() was called, every connection has lingered its three PTO, and the port is free."""
        await self._ended.wait()

    async def drain(self, timeout: float | None = None) -> None:
        """Take no new connections and let those there are finish; after `timeout` seconds close what is left."""
        self.endpoint.drain()
        try:
            async with asyncio.timeout(timeout):
                while self.endpoint.sessions:
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiting.append(waiter)
                    await waiter
        except TimeoutError:
            pass
        self.close()
        await self.wait_closed()

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        await self.wait_closed()


def try_configuration(configuration: Configuration) -> None:
    """ConfigurationError now rather than for each client."""
    if not configuration.handshake_timeout:
        raise ConfigurationError("a server limits the time of a handshake: handshake_timeout is above 0")
    try:
        server_connection(
            configuration, ("127.0.0.1", 1), None, now_ns=1, random=os.urandom, cid=bytes(8), original_dcid=bytes(8),
            reset_token=bytes(16),
        )  # fmt: skip
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigurationError(str(error)) from None


async def serve(
    handler: Handler | None,
    host: str | None,
    port: int,
    *,
    alpn: str | Sequence[str] | None = None,
    certificate: PathOrPem | Credentials | None = None,
    private_key: PathOrPem | None = None,
    keylog: Keylog = None,
    configuration: Configuration | None = None,
    on_stream: StreamHandler | None = None,
    retry: bool = False,
    max_connections: int | None = None,
    half_open_retry: int | None = None,
    half_open_max: int | None = None,
    token_key: bytes | None = None,
    reset_key: bytes | None = None,
    admission: Admission | None = None,
    scheme: CidScheme | None = None,
    unknown: Any = None,
    reuse_port: bool = False,
    transport_options: dict[str, Any] | None = None,
    **options: Any,
) -> Server:
    """Start a QUIC server.

    handler(connection): coroutine function, one task for each connection, started after its handshake. When it returns,
    the connection goes on; when it raises, the error is logged and the connection closed. on_stream(stream): called for
    each stream that a client opens, instead of accept_stream(): a coroutine function (one task for each), or a plain
    function, which is called directly and may use stream.deliver(). When it raises, the stream is reset.

    host: a name or an IP address; None is every address. port 0: any free one (see Server.sockname). alpn: protocols,
    the server's preference decides. certificate, private_key: PEM files (chain leaf first), or PEM bytes.
    retry: every client must prove its address first; otherwise only above half_open_retry handshakes under way. Beyond
    half_open_max they are dropped, beyond max_connections refused. token_key, reset_key: secrets of at least 16 bytes
    for address tokens and stateless resets; without them they are random, and tokens and resets do not outlive the
    process. admission, scheme: own providers instead. unknown: what to do with packets of no connection ("reset",
    "drop", or a callable). reuse_port: SO_REUSEPORT, for several processes on one port.
    configuration: a full Configuration; the arguments above, and any of its fields given by keyword, override it.

    Raises ConfigurationError (CertificateError) for arguments that cannot work, TransportError when the port is in use.
    """
    if handler is None and on_stream is None:
        raise ConfigurationError("serve() needs a handler or on_stream")
    if not callable(handler or on_stream):
        raise ConfigurationError("the handler is a coroutine function of one argument, the connection")
    made = server_configuration(
        alpn=alpn,
        certificate=certificate,
        private_key=private_key,
        keylog=keylog,
        configuration=configuration,
        **options,
    )
    try_configuration(made)
    limits = {"half_open_retry": half_open_retry, "half_open_max": half_open_max, "max_connections": max_connections}
    given = {name: value for name, value in limits.items() if value is not None}
    if admission is None:
        # Tokens carry wall-clock time: another process, or the next one, can check them.
        admission = DefaultAdmission(token_key, always_retry=retry, clock=time.time_ns, **given)
    elif given or retry or token_key is not None:
        raise ConfigurationError("limits, retry and token_key belong to the admission provider that was given")
    if scheme is None:
        scheme = RandomCids(8, reset_key)
    elif reset_key is not None:
        raise ConfigurationError("reset_key belongs to the connection-ID scheme that was given")
    loop = asyncio.get_running_loop()
    literal = (await resolve(host, port))[0][0] if host else None
    transport = open_udp(literal, port, reuse_port=reuse_port, **(transport_options or {}))
    driver = LoopDriver(loop)
    endpoint = Endpoint(
        transport,
        configuration=made,
        admission=admission,
        scheme=scheme,
        driver=driver,
        stream_factory=Stream,
        session_factory=lambda: Connection(loop, connection_handler=handler, stream_handler=on_stream),
        unknown=unknown,
    )
    server = Server(endpoint, driver, transport.local_address)
    driver.start(endpoint)
    return server
