"""Interop over loopback: Retry, versions, refusals, close codes, resets and timeouts, with upstream aioquic in both
roles and stoq with itself.
"""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from interop_peers import (
    ALPN,
    HOST,
    STOQ,
    Certificates,
    Closed,
    Link,
    Options,
    Pair,
    Refused,
    Reset,
    StoqLink,
    StoqListener,
    pairs,
)

from stoq.errors import (
    ApplicationClosed,
    HandshakeFailed,
    IdleTimeout,
    TransportClosed,
    TransportErrorCode,
    VersionNegotiationFailed,
)

PAIRS = pairs("aioquic")
each = pytest.mark.parametrize("pair", PAIRS, ids=str)
UNKNOWN_VERSION = 0x1A2A3A4A  # reserved to force negotiation (RFC 9000 §15)
VERSION_2 = 0x6B3343CF
NO_APPLICATION_PROTOCOL = 0x100 + 120
CERTIFICATE_ALERTS = {0x100 + 42, 0x100 + 48}  # bad_certificate (aioquic's), unknown_ca
ERROR_TYPES = {"application": ApplicationClosed, "transport": TransportClosed, "idle": IdleTimeout}


async def alive(client: Link, server: Link) -> None:
    """A request still gets its answer."""
    channel = await client.open()
    await channel.send(b"still there?")
    answer = await server.accept()
    assert await answer.read() == b"still there?"
    await answer.send(b"yes")
    assert await channel.read() == b"yes"


# ---- Retry


@each
def test_retry(pair: Pair, certificates: Certificates) -> None:
    async def scenario() -> None:
        retrying = Options(retry=True)
        async with (
            pair.server.serve(certificates, retrying) as listener,
            pair.client.connect(listener.port, certificates, Options()) as client,
        ):
            server = await listener.accept()
            await alive(client, server)
            if isinstance(listener, StoqListener):
                assert listener.server.counters()["retries"] == 1
            else:
                assert server._quic._retry_source_connection_id is not None
            if pair.client is not STOQ:
                assert client._quic._retry_count == 1

    pair.run(scenario())


@each
def test_retry_before_a_client_hello_over_several_packets(pair: Pair, certificates: Certificates) -> None:
    async def scenario() -> None:
        long = Options(alpn=(*(f"protocol-number-{n:04}-of-many" for n in range(120)), ALPN))
        async with pair.joined(certificates, long, Options(retry=True)) as (client, server):
            await alive(client, server)

    pair.run(scenario())


# ---- versions


def long_header(version: int, dcid: bytes, scid: bytes) -> bytes:
    return b"\xc3" + version.to_bytes(4, "big") + bytes([len(dcid)]) + dcid + bytes([len(scid)]) + scid


def test_version_negotiation_on_the_wire(certificates: Certificates) -> None:
    """Answered is what could open a connection, once each; silence meets what is small and what negotiates itself."""
    pair = PAIRS[-2]

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
            raw.setblocking(False)
            raw.bind((HOST, 0))
            async with pair.server.serve(certificates, Options()) as listener:
                raw.connect((HOST, listener.port))
                silent = [
                    long_header(UNKNOWN_VERSION, b"tooshort", b"client-1").ljust(1199, b"\0"),
                    long_header(0, b"negotiat", b"client-2").ljust(1200, b"\0"),
                    b"\x80",
                ]
                for data in silent:
                    await loop.sock_sendall(raw, data)
                await loop.sock_sendall(raw, long_header(UNKNOWN_VERSION, b"firstid!", b"mine").ljust(1200, b"\0"))
                answer = await loop.sock_recv(raw, 2000)
                assert answer[0] & 0x80
                assert answer[1:5] == bytes(4)
                assert answer[5:].startswith(b"\x04mine\x08firstid!")
                offered = answer[5 + 5 + 9 :]
                versions = [int.from_bytes(offered[at : at + 4], "big") for at in range(0, len(offered), 4)]
                assert 1 in versions
                # RFC 9000 §6.3: reserved versions exercise the client; none that we do not speak otherwise.
                assert all(version == 1 or version & 0x0F0F0F0F == 0x0A0A0A0A for version in versions)
                async with pair.client.connect(listener.port, certificates, Options()) as client:
                    await alive(client, await listener.accept())
                with pytest.raises(BlockingIOError):
                    raw.recv(2000)

    pair.run(scenario())


def test_aioquic_offers_an_unknown_version_first(certificates: Certificates) -> None:
    (pair,) = [p for p in PAIRS if p.client is not STOQ]

    async def scenario() -> None:
        async with pair.joined(certificates, client=Options(versions=(UNKNOWN_VERSION, 1))) as (client, server):
            assert client._quic._version == 1
            assert isinstance(server, StoqLink)
            assert server.connection.version == 1
            await alive(client, server)

    pair.run(scenario())


def test_a_server_without_our_version(certificates: Certificates) -> None:
    (pair,) = [p for p in PAIRS if p.server is not STOQ]

    async def scenario() -> None:
        async with pair.server.serve(certificates, Options(versions=(VERSION_2,))) as listener:
            began = time.monotonic()
            with pytest.raises(Refused) as caught:
                await pair.client.connect(listener.port, certificates, Options()).__aenter__()
            assert isinstance(caught.value.__cause__, VersionNegotiationFailed)
            assert time.monotonic() - began < 5  # told, not timed out

    pair.run(scenario())


# ---- refusals


@each
def test_no_common_protocol(pair: Pair, certificates: Certificates) -> None:
    async def scenario() -> None:
        async with pair.server.serve(certificates, Options()) as listener:
            with pytest.raises(Refused) as caught:
                await pair.client.connect(listener.port, certificates, Options(alpn=("other",))).__aenter__()
            assert caught.value.closed.kind == "transport"
            assert caught.value.closed.code == NO_APPLICATION_PROTOCOL
            told = await listener.failed()
            assert (told.kind, told.code) == ("transport", NO_APPLICATION_PROTOCOL)
            if pair.client is STOQ:
                error = caught.value.__cause__
                assert isinstance(error, HandshakeFailed)
                assert error.alert == 120
                assert error.by_peer

    pair.run(scenario())


@each
def test_untrusted_certificate(pair: Pair, certificates: Certificates) -> None:
    async def scenario() -> None:
        async with pair.server.serve(certificates, Options()) as listener:
            with pytest.raises(Refused) as caught:
                await pair.client.connect(listener.port, certificates, Options(trusted=False)).__aenter__()
            assert caught.value.closed.code in CERTIFICATE_ALERTS
            told = await listener.failed()
            assert (told.kind, told.code) == ("transport", caught.value.closed.code)
            if pair.client is STOQ:
                assert isinstance(caught.value.__cause__, HandshakeFailed)
                assert not caught.value.__cause__.by_peer

    pair.run(scenario())


# ---- close


def check_type(link: Link, closed: Closed, by_peer: bool) -> None:
    if isinstance(link, StoqLink):
        error = link.connection.close_reason
        assert type(error) is ERROR_TYPES[closed.kind]
        assert error.by_peer is by_peer


@each
@pytest.mark.parametrize("closer", ["client", "server"])
@pytest.mark.parametrize(("kind", "code"), [("application", 0), ("application", 2**62 - 1), ("transport", 0x0A)])
def test_close_codes(pair: Pair, closer: str, kind: str, code: int, certificates: Certificates) -> None:
    async def scenario() -> None:
        async with pair.joined(certificates) as (client, server):
            await alive(client, server)
            one, other = (client, server) if closer == "client" else (server, client)
            one.close(code, "enough for today", transport=kind == "transport")
            expected = Closed(kind, code, "enough for today")
            assert await other.closed() == expected
            assert await one.closed() == expected
            check_type(other, expected, by_peer=True)
            check_type(one, expected, by_peer=False)

    pair.run(scenario())


@each
def test_idle_timeout_of_either_side(pair: Pair, certificates: Certificates) -> None:
    """The smaller of both is in force on both sides (RFC 9000 §10.1)."""

    async def scenario(client_timeout: float, server_timeout: float) -> None:
        options = Options(idle_timeout=client_timeout), Options(idle_timeout=server_timeout)
        async with pair.joined(certificates, *options) as (client, server):
            await alive(client, server)
            began = time.monotonic()
            assert await client.closed() == Closed("idle", 0, "")
            assert await server.closed() == Closed("idle", 0, "")
            assert 0.3 < time.monotonic() - began < 5
            check_type(client, Closed("idle", 0, ""), by_peer=False)
            check_type(server, Closed("idle", 0, ""), by_peer=False)

    async def both() -> None:
        await scenario(30.0, 0.4)
        await scenario(0.4, 30.0)

    pair.run(both())


# ---- streams that end early


@each
@pytest.mark.parametrize("sender", ["client", "server"])
@pytest.mark.parametrize("unidirectional", [False, True])
def test_reset(pair: Pair, sender: str, unidirectional: bool, certificates: Certificates) -> None:
    async def scenario() -> None:
        async with pair.joined(certificates) as (client, server):
            await alive(client, server)
            one, other = (client, server) if sender == "client" else (server, client)
            channel = await one.open(unidirectional)
            await channel.write(b"some of it")
            arrived = await other.accept()
            assert await arrived.read_some() == b"some of it"
            channel.reset(0x1234)
            with pytest.raises(Reset) as caught:
                await arrived.read()
            assert caught.value.code == 0x1234
            if not unidirectional:  # the other direction is whole
                await arrived.send(b"answer")
                assert await channel.read() == b"answer"
            await alive(client, server)

    pair.run(scenario())


@each
@pytest.mark.parametrize("stopper", ["client", "server"])
@pytest.mark.parametrize("unidirectional", [False, True])
def test_stop(pair: Pair, stopper: str, unidirectional: bool, certificates: Certificates) -> None:
    async def scenario() -> None:
        async with pair.joined(certificates) as (client, server):
            await alive(client, server)
            reader, writer = (client, server) if stopper == "client" else (server, client)
            channel = await writer.open(unidirectional)
            async with asyncio.TaskGroup() as group:
                writing = group.create_task(channel.write_until_stopped())
                arrived = await reader.accept()
                assert (await arrived.read_some()).startswith(b"\0")
                arrived.stop(0x4321)
            assert writing.result() == 0x4321
            if not isinstance(reader, StoqLink):  # RFC 9000 §3.5: a reset with the same code answers
                with pytest.raises(Reset) as caught:
                    await arrived.read()
                assert caught.value.code == 0x4321
            if not unidirectional:
                await arrived.send(b"answer")
                assert await channel.read() == b"answer"
            await alive(client, server)

    pair.run(scenario())


@each
def test_reset_of_many_streams_frees_their_places(pair: Pair, certificates: Certificates) -> None:
    """More streams than the limit permits at once, each reset by one side and stopped by the other."""

    async def scenario() -> None:
        async with pair.joined(certificates) as (client, server):
            for number in range(300):
                channel = await client.open()
                await channel.write(b"x")
                arrived = await server.accept()
                channel.reset(number)
                with pytest.raises(Reset):
                    await arrived.read()
                arrived.reset(number)
                with pytest.raises(Reset):
                    await channel.read()
            await alive(client, server)

    pair.run(scenario())


@each
def test_protocol_violation_of_a_transport_close_is_named(pair: Pair, certificates: Certificates) -> None:
    async def scenario() -> None:
        async with pair.joined(certificates) as (client, server):
            await alive(client, server)
            server.close(int(TransportErrorCode.PROTOCOL_VIOLATION), "no\nline", transport=True)
            closed = await client.closed()
            assert closed == Closed("transport", 0x0A, "no\nline")
            if isinstance(client, StoqLink):
                assert "PROTOCOL_VIOLATION" in str(client.connection.close_reason)
                assert "\n" not in str(client.connection.close_reason)

    pair.run(scenario())
