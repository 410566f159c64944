"""Interop over loopback: handshakes and bytes, with upstream aioquic and qh3 in both roles and stoq with itself."""

from __future__ import annotations

import asyncio
import hashlib
import random

import pytest
from interop_peers import ALPN, STOQ, Certificates, Channel, Link, Options, Pair, StoqLink, pairs

from stoq.crypto.groups import GROUPS, SECP256R1, X25519

AIOQUIC = pairs("aioquic")
EVERYBODY = pairs("aioquic", "qh3")
MEGABYTE = 1 << 20
BULK = 10_000_000
STREAMS = 100
DATA = random.Random(20).randbytes(BULK)

each = pytest.mark.parametrize("pair", AIOQUIC, ids=str)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def echo(link: Link) -> None:
    """Answer the next stream with its own bytes, while they come."""
    channel = await link.accept()
    while data := await channel.read_some():
        await channel.write(data)
    channel.finish()


async def exchanged(client: Link, server: Link, data: bytes) -> bytes:
    """What the server's echo of `data` is."""
    channel = await client.open()
    async with asyncio.TaskGroup() as group:
        group.create_task(echo(server))
        group.create_task(channel.send(data))
        got = group.create_task(channel.read())
    return got.result()


@pytest.mark.parametrize("pair", EVERYBODY, ids=str)
def test_handshake_and_a_megabyte(pair: Pair, certificates: Certificates) -> None:
    async def scenario() -> None:
        async with pair.joined(certificates) as (client, server):
            assert client.alpn == server.alpn == ALPN
            assert client.cipher == server.cipher
            assert client.cipher in ("AES_128_GCM_SHA256", "AES_256_GCM_SHA384")
            for link in (client, server):
                if isinstance(link, StoqLink):
                    assert link.connection.group == "X25519"
                    assert link.connection.version == 1
                    assert link.connection.is_client is (link is client)
            if isinstance(client, StoqLink):
                assert len(client.connection.peer_certificates) >= 1
            if isinstance(server, StoqLink):
                assert server.connection.server_name == "localhost"
            assert digest(await exchanged(client, server, DATA[:MEGABYTE])) == digest(DATA[:MEGABYTE])

    pair.run(scenario())


@each
@pytest.mark.parametrize("suite", [0x1301, 0x1302])
def test_the_only_cipher_of_the_client(pair: Pair, suite: int, certificates: Certificates) -> None:
    async def scenario() -> None:
        async with pair.joined(certificates, client=Options(cipher=suite)) as (client, server):
            assert client.cipher == server.cipher
            assert client.cipher == {0x1301: "AES_128_GCM_SHA256", 0x1302: "AES_256_GCM_SHA384"}[suite]
            assert await exchanged(client, server, DATA[:50_000]) == DATA[:50_000]

    pair.run(scenario())


@each
@pytest.mark.parametrize("code", [SECP256R1, X25519])
def test_the_only_group_of_stoq(pair: Pair, code: int, certificates: Certificates) -> None:
    # Upstream sends shares of more than one group, and takes any.
    client_options = Options(groups=(code,) if pair.client is STOQ else None)
    server_options = Options(groups=(code,) if pair.client is not STOQ else None)

    async def scenario() -> None:
        async with pair.joined(certificates, client_options, server_options) as (client, server):
            for link in (client, server):
                if isinstance(link, StoqLink):
                    assert link.connection.group == GROUPS[code].name
            assert await exchanged(client, server, b"hello") == b"hello"

    pair.run(scenario())


@each
def test_ten_megabytes_each_way_on_one_stream(pair: Pair, certificates: Certificates) -> None:
    async def scenario() -> None:
        async with pair.joined(certificates) as (client, server):
            assert digest(await exchanged(client, server, DATA)) == digest(DATA)

    pair.run(scenario())


@each
def test_a_hundred_streams_at_once(pair: Pair, certificates: Certificates) -> None:
    async def scenario() -> None:
        async with pair.joined(certificates) as (client, server), asyncio.TaskGroup() as group:
            channels = [await client.open() for _ in range(STREAMS)]
            assert len({channel.id for channel in channels}) == STREAMS
            for _ in channels:
                group.create_task(echo(server))
            sizes = [1 + (i * 7919) % 60_000 for i in range(STREAMS)]
            for channel, size in zip(channels, sizes, strict=True):
                group.create_task(channel.send(DATA[size : 2 * size]))
            reads = [group.create_task(channel.read()) for channel in channels]
            for read, size in zip(reads, sizes, strict=True):
                assert await read == DATA[size : 2 * size]

    pair.run(scenario())


@each
def test_unidirectional_streams_both_ways(pair: Pair, certificates: Certificates) -> None:
    count = 20

    async def one_way(sender: Link, receiver: Link) -> None:
        opened: list[Channel] = [await sender.open(unidirectional=True) for _ in range(count)]
        async with asyncio.TaskGroup() as group:
            for number, channel in enumerate(opened):
                group.create_task(channel.send(bytes([number]) + DATA[number : number + 5000]))
            got = {}
            for _ in range(count):
                channel = await receiver.accept()
                got[channel.id] = await channel.read()
        assert got == {c.id: bytes([n]) + DATA[n : n + 5000] for n, c in enumerate(opened)}
        assert all(channel.id & 2 for channel in opened)

    async def scenario() -> None:
        async with pair.joined(certificates) as (client, server):
            await one_way(client, server)
            await one_way(server, client)

    pair.run(scenario())


@each
def test_streams_that_the_server_opens(pair: Pair, certificates: Certificates) -> None:
    async def scenario() -> None:
        async with pair.joined(certificates) as (client, server):
            # The server speaks first; aioquic takes streams of a server only after its own Finished was acknowledged.
            assert await exchanged(client, server, b"first") == b"first"
            assert digest(await exchanged(server, client, DATA[:MEGABYTE])) == digest(DATA[:MEGABYTE])

    pair.run(scenario())


@each
def test_small_windows(pair: Pair, certificates: Certificates) -> None:
    """The sender is stopped by flow control again and again, on one stream and over several."""
    small = Options(windows=(1 << 15, 1 << 14))

    async def scenario() -> None:
        async with pair.joined(certificates, small, small) as (client, server):
            assert await exchanged(client, server, DATA[:500_000]) == DATA[:500_000]
            many = await asyncio.gather(*(exchanged(client, server, DATA[n : n + 50_000]) for n in range(8)))
            assert many == [DATA[n : n + 50_000] for n in range(8)]

    pair.run(scenario())


@each
def test_client_hello_over_several_packets(pair: Pair, certificates: Certificates) -> None:
    names = tuple(f"protocol-number-{n:04}-of-many" for n in range(200))  # 6 KB: five Initial packets
    long = Options(alpn=(*names, ALPN))

    async def scenario() -> None:
        async with pair.joined(certificates, client=long) as (client, server):
            assert client.alpn == server.alpn == ALPN
            assert await exchanged(client, server, DATA[:50_000]) == DATA[:50_000]

    pair.run(scenario())


@each
def test_empty_streams(pair: Pair, certificates: Certificates) -> None:
    async def scenario() -> None:
        async with pair.joined(certificates) as (client, server):
            assert await exchanged(client, server, b"") == b""

    pair.run(scenario())


@pytest.mark.parametrize("pair", [pair for pair in AIOQUIC if pair.client is not pair.server], ids=str)
def test_aioquic_changes_connection_ids_and_keys(pair: Pair, certificates: Certificates) -> None:
    async def scenario() -> None:
        async with pair.joined(certificates) as (client, server):
            assert await exchanged(client, server, DATA[:100_000]) == DATA[:100_000]
            upstream, ours = (client, server) if isinstance(server, StoqLink) else (server, client)
            assert isinstance(ours, StoqLink)
            for number in range(6):
                before = upstream._quic._peer_cid.cid
                upstream.change_connection_id()
                assert upstream._quic._peer_cid.cid != before
                upstream.request_key_update()
                await upstream.ping()
                data = DATA[number * 1000 : number * 1000 + 100_000]
                assert await exchanged(client, server, data) == data
            assert ours.connection.stats()["auth_failures"] == 0

    pair.run(scenario())
