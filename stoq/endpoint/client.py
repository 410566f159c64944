"""connect(): a client connection on asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Coroutine, Generator, Sequence
from types import TracebackType
from typing import Any

from stoq.connection.configuration import Configuration
from stoq.crypto.credentials import Credentials
from stoq.endpoint.connection import Connection
from stoq.endpoint.endpoint import Endpoint
from stoq.endpoint.loopdriver import LoopDriver
from stoq.endpoint.options import Keylog, PathOrPem, client_configuration
from stoq.endpoint.stream import Stream
from stoq.errors import ConfigurationError, HandshakeFailed, StoqError
from stoq.io.transport import TransportError, normalize_address
from stoq.io.udp import open_udp

Address = tuple[str, int]


async def resolve(host: str, port: int) -> list[Address]:
    """Every address of a host, the system's preference first. TransportError when there is none."""
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"a port is 0 to 65535, not {port}")
    with contextlib.suppress(ConfigurationError):
        # A literal address. The resolver runs in a thread: a tenth of a millisecond that this does not need.
        return [normalize_address((host, port))]
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
        endpoint.flush()
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
    """Try the addresses of a host in turn: the next one when an attempt fails for the network's sake.

    While others are left, an address has its share of the time, so that a black hole does not eat all of it.
    """
    loop = asyncio.get_running_loop()
    deadline = None if timeout is None else loop.time() + timeout
    silent = HandshakeFailed(0, None, f"{host} port {port} did not answer within {timeout or 0:g} s")
    failure: StoqError = silent
    try:
        async with asyncio.timeout_at(deadline):
            addresses = reachable(await resolve(host, port), options.get("local_addr"))
            for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
                share = None if deadline is None else loop.time() + (deadline - loop.time()) / left
                try:
                    async with asyncio.timeout_at(share):
                        return await open_connection(address, configuration, **options)
                except TransportError as error:  # unreachable, or nobody listens
                    failure = error if failure is silent else failure
                except TimeoutError:
                    continue
    except TimeoutError:
        raise silent from None
    raise failure


def reachable(addresses: list[Address], local_addr: Address | None) -> list[Address]:
    """Those that a socket bound to local_addr can reach."""
    if local_addr is None:
        return addresses
    same = [address for address in addresses if (":" in address[0]) == (":" in local_addr[0])]
    return same or addresses  # none: opening the socket says what is wrong


class Connecting(Coroutine[Any, Any, Connection]):
    """What connect() returns: a coroutine that gives the Connection, and an asynchronous context manager."""

    def __init__(self, coroutine: Coroutine[Any, Any, Connection]) -> None:
        self._coroutine = coroutine
        self._connection: Connection | None = None

    def send(self, value: Any) -> Any:
        return self._coroutine.send(value)

    def throw(self, *arguments: Any) -> Any:
        return self._coroutine.throw(*arguments)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Connection]:
        return self._coroutine.__await__()

    async def __aenter__(self) -> Connection:
        self._connection = await self._coroutine
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
        if configuration is None and "handshake_timeout" not in options:
            options["handshake_timeout"] = 0 if timeout is None else timeout
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

    return Connecting(begin())
