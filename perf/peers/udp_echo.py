"""Bare UDP echo on asyncio as a peer: what an event loop costs without any protocol. Cases `ping` and `flight` only."""

from __future__ import annotations

import asyncio
from collections import deque

from perf.peers import harness


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data, addr)


class Client(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.waiting: deque[asyncio.Future[bytes]] = deque()

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.waiting.popleft().set_result(data)

    async def request(self, data: bytes) -> bytes:
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.waiting.append(answer)
        self.transport.sendto(data)
        return await answer

    async def download(self, count: int) -> int:
        raise NotImplementedError

    upload = download

    def drop(self) -> None:
        self.transport.close()


class Peer:
    async def serve(self, certificate: str, key: str) -> int:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=(harness.HOST, 0))
        port: int = transport.get_extra_info("sockname")[1]
        return port

    async def dial(self, port: int, ca: str) -> Client:
        loop = asyncio.get_running_loop()
        _, client = await loop.create_datagram_endpoint(Client, remote_addr=(harness.HOST, port))
        return client


if __name__ == "__main__":
    harness.main(Peer())
