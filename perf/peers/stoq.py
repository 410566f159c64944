"""stoq's native API as a peer."""

from __future__ import annotations

import asyncio
from typing import Any

import stoq
from perf.peers import harness


class Client:
    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def request(self, data: bytes) -> bytes:
        stream = self.connection.open_stream()
        stream.write_nowait(data)
        stream.finish()
        answer: bytes = await stream.read()
        return answer

    async def download(self, count: int) -> int:
        stream = self.connection.open_stream()
        stream.write_nowait(harness.COMMAND.pack(b"D", count))
        stream.finish()
        got = 0
        async for data in stream:
            got += len(data)
        return got

    async def upload(self, count: int) -> int:
        stream = self.connection.open_stream()
        stream.write_nowait(harness.COMMAND.pack(b"U", count))
        await send(stream, count)
        return int.from_bytes(await stream.read(), "big")

    def drop(self) -> None:
        self.leaving = asyncio.get_running_loop().create_task(self.connection.close())


async def send(stream: Any, count: int) -> None:
    chunk = bytes(harness.CHUNK)
    while count > len(chunk):
        await stream.write(chunk)
        count -= len(chunk)
    await stream.write(chunk[:count])
    stream.finish()


class Serving:
    """One stream of the server, fed as data arrives."""

    __slots__ = ("count", "kind", "task")

    def __init__(self) -> None:
        self.kind, self.count = b"", 0

    def receive(self, stream: Any, data: bytes | None, end: bool) -> None:
        if data is None:
            return
        if not self.kind:
            self.kind = data[:1]
            if self.kind == b"D":
                _, count = harness.COMMAND.unpack_from(data)
                self.task = asyncio.get_running_loop().create_task(send(stream, count))
                return
            if self.kind == b"U":
                self.count = -harness.COMMAND.size
        if self.kind == b"U":
            self.count += len(data)
            if end:
                stream.write_nowait(self.count.to_bytes(8, "big"))
        elif self.kind == b"E":
            stream.write_nowait(data)
        if end and self.kind != b"D":
            stream.finish()


def on_stream(stream: Any) -> None:
    stream.deliver(Serving().receive)


class Peer:
    async def serve(self, certificate: str, key: str) -> int:
        self.server = await stoq.serve(
            None, harness.HOST, 0, alpn=[harness.ALPN], certificate=certificate, private_key=key, on_stream=on_stream
        )
        port: int = self.server.sockname[1]
        return port

    async def dial(self, port: int, ca: str) -> Client:
        return Client(
            await stoq.connect(harness.HOST, port, alpn=[harness.ALPN], ca_file=ca, server_name=harness.SERVER_NAME)
        )


if __name__ == "__main__":
    harness.main(Peer())
