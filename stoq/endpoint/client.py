"""connect(): a client connection on asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Generator, Sequence
from types import TracebackType
from typing import Any

from stoq.connection.configuration import Configuration
from stoq.crypto.credentials import Credentials
from stoq.endpoint.connection import Connection
from stoq.endpoint.endpoint import Endpoint
from stoq.endpoint.loopdriver import LoopDriver
from stoq.endpoint.options import Keylog, PathOrPem, client_configuration
from stoq.endpoint.stream import Stream
from stoq.errors import ConfigurationError, HandshakeFailed
from stoq.io.transport import TransportError, normalize_address
from stoq.io.udp import open_udp

Address = tuple[str, int]


def is_literal(host: str) -> bool:
    """Is it an IP address already (an IPv6 scope included)?"""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return True
    return False


async def resolve(host: str, port: int) -> list[Address]:
    """Every address of a host, the system's preference first. TransportError when there is none."""
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"a port is 0 to 65535, not {port}")
    if is_literal(host):
        # The resolver runs in a thread: a tenth of a millisecond that an address does not need.
        return [(host, port)]
    with contextlib.suppress(ConfigurationError):
        return [normalize_address((host, port))]  # a literal address: asyncio would ask a thread
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise TransportError(f"cannot resolve {host}: {reason}") from None
    addresses: list[Address] = []
    for family, _, _, _, address in found:
        scope = address[3] if family == socket.AF_INET6 and len(address) == 4 else 0
        literal = str(address[0]).partition("%")[0]
        pair = (f"{literal}%{scope}" if scope else literal, int(address[1]))
        if family in (socket.AF_INET, socket.AF_INET6) and pair not in addresses:
            addresses.append(pair)
    if not addresses:
        raise TransportError(f"cannot resolve {host}: no IP address")
    return addresses


async def open_connection(
    address: Address,
    configuration: Configuration,
    *,
    local_addr: Address | None = None,
    token: bytes = b"",
    transport_options: dict[str, Any] | None = None,
    on_stream: Callable[[Stream], Any] | None = None,
) -> Connection:
    """Connect to one address and wait for the handshake."""
    loop = asyncio.get_running_loop()
    host, port = local_addr if local_addr is not None else (None, 0)
    transport = open_udp(host, port, remote=address, **(transport_options or {}))
    driver = LoopDriver(loop)
    endpoint = Endpoint(transport, driver=driver, stream_factory=Stream)
    endpoint.when_empty = driver.stop
    endpoint.end_early = True
    connection = Connection(loop, stream_handler=on_stream)
    try:
        driver.when_refused = connection.refused
        driver.start(endpoint)
        endpoint.connect(configuration, address, connection, token=token)
        await connection.wait_connected()
    except BaseException as error:
        if isinstance(error, TransportError) or not endpoint.sessions:
            driver.stop()
        else:
            endpoint.close()  # says so to the server, and lingers for late packets
        raise
    finally:
        driver.when_refused = None
    return connection


async def establish(
    host: str, port: int, timeout: float | None, configuration: Configuration, options: dict[str, Any]
) -> Connection:
    """Try the addresses of a host in turn: the next one when nobody listens at one."""
    failure: TransportError | None = None
    try:
        async with asyncio.timeout(timeout):
            for address in await resolve(host, port):
                try:
                    return await open_connection(address, configuration, **options)
                except TransportError as error:  # unreachable, or nobody listens
                    failure = failure or error
    except TimeoutError:
        raise HandshakeFailed(0, None, f"{host} port {port} did not answer within {timeout:g} s") from None
    assert failure is not None
    raise failure


class Connecting:
    """What connect() returns: await it for the Connection, or use it with `async with`."""

    def __init__(self, begin: Callable[[], Any]) -> None:
        self._begin = begin
        self._connection: Connection | None = None

    def __await__(self) -> Generator[Any, None, Connection]:
        connection: Connection = yield from self._begin().__await__()
        return connection

    async def __aenter__(self) -> Connection:
        self._connection = await self
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._connection is not None:
            await self._connection.close()


def connect(
    host: str,
    port: int,
    *,
    alpn: str | Sequence[str] | None = None,
    ca_file: str | os.PathLike[str] | None = None,
    ca_data: bytes | str | None = None,
    verify: bool | None = None,
    server_name: str | None = None,
    certificate: PathOrPem | Credentials | None = None,
    private_key: PathOrPem | None = None,
    keylog: Keylog = None,
    configuration: Configuration | None = None,
    timeout: float | None = 10.0,
    local_addr: Address | None = None,
    token: bytes = b"",
    on_stream: Callable[[Stream], Any] | None = None,
    transport_options: dict[str, Any] | None = None,
    **options: Any,
) -> Connecting:
    """Connect to a QUIC server: `connection = await connect(...)`, or `async with connect(...) as connection`.

    host, port: a name or an IP address. alpn: application protocols, best first; the server must speak one of them.
    ca_file, ca_data: PEM certificates to trust instead of the system's. verify=False checks no certificate.
    server_name: to verify and to send as SNI instead of host. certificate, private_key: PEM files (or PEM bytes), for
    servers that ask. keylog: file for TLS secrets, True for the one that SSLKEYLOGFILE names. timeout: seconds for the
    handshake, name resolution included. local_addr: (host, port) to bind to. token: from a server's NEW_TOKEN.
    on_stream: function or coroutine function for streams that the server opens (instead of accept_stream()).
    configuration: a full Configuration; the arguments above, and any of its fields given by keyword (congestion,
    idle_timeout, max_streams_bidi, knobs, ...), override it.

    Raises ConfigurationError for arguments that cannot work, TransportError when the network refuses, HandshakeFailed
    when TLS or time does, VersionNegotiationFailed.
    """

    async def begin() -> Connection:
        made = client_configuration(
            host,
            alpn=alpn,
            ca_file=ca_file,
            ca_data=ca_data,
            verify=verify,
            server_name=server_name,
            certificate=certificate,
            private_key=private_key,
            keylog=keylog,
            configuration=configuration,
            **options,
        )
        chosen = {
            "local_addr": local_addr,
            "token": token,
            "on_stream": on_stream,
            "transport_options": transport_options,
        }
        return await establish(host, port, timeout, made, chosen)

    return Connecting(begin)
