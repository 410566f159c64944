"""A peer over the API that aioquic and qh3 share: connection events, no stream adapters (their lightest interface)."""

from __future__ import annotations

import asyncio
import contextlib
from importlib import import_module
from typing import Any

from perf.peers import harness

# Both are faster with these than with their defaults (1 MiB or 6 to 15 MiB windows; 1,200-byte datagrams), by 0 to
# 20 %; larger windows, cubic instead of reno, and smaller windows were tried and gain nothing beyond the noise.
WINDOW = 16 << 20
DATAGRAM = 1452


class Answer:
    """What came back on one stream of a client."""

    __slots__ = ("count", "data", "done", "keep")

    def __init__(self, keep: bool, done: asyncio.Future[None]) -> None:
        self.keep, self.done, self.count, self.data = keep, done, 0, b""


def peer(package: str, **changes: Any) -> harness.Peer:
    """The peer of `package`: aioquic or qh3. `changes` replaces fields of its QuicConfiguration."""
    api: Any = import_module(f"{package}.asyncio")
    quic: Any = import_module(f"{package}.quic.configuration")
    stream_data: Any = import_module(f"{package}.quic.events").StreamDataReceived
    terminated: Any = import_module(f"{package}.quic.events").ConnectionTerminated
    base: Any = api.QuicConnectionProtocol

    class Client(base):  # type: ignore[misc]
        def __init__(self, *a: Any, **k: Any) -> None:
            super().__init__(*a, **k)
            self.answers: dict[int, Answer] = {}

        def quic_event_received(self, event: Any) -> None:
            if isinstance(event, stream_data):
                answer = self.answers[event.stream_id]
                answer.count += len(event.data)
                if answer.keep:
                    answer.data += event.data
                if event.end_stream:
                    del self.answers[event.stream_id]
                    answer.done.set_result(None)
            elif isinstance(event, terminated):
                for answer in self.answers.values():
                    if not answer.done.done():
                        answer.done.set_exception(ConnectionError(event.reason_phrase))

        def ask(self, keep: bool) -> tuple[int, Answer]:
            stream_id = self._quic.get_next_available_stream_id()
            answer = self.answers[stream_id] = Answer(keep, self._loop.create_future())
            return stream_id, answer

        async def request(self, data: bytes) -> bytes:
            stream_id, answer = self.ask(True)
            self._quic.send_stream_data(stream_id, data, end_stream=True)
            self.transmit()
            await answer.done
            return answer.data

        async def download(self, count: int) -> int:
            stream_id, answer = self.ask(False)
            self._quic.send_stream_data(stream_id, harness.COMMAND.pack(b"D", count), end_stream=True)
            self.transmit()
            await answer.done
            return answer.count

        async def upload(self, count: int) -> int:
            stream_id, answer = self.ask(True)
            self._quic.send_stream_data(stream_id, harness.COMMAND.pack(b"U", count))
            send(self._quic, stream_id, count)
            self.transmit()
            await answer.done
            return int.from_bytes(answer.data, "big")

        def drop(self) -> None:
            self.leaving = asyncio.get_running_loop().create_task(leave(self.context))

    class Server(base):  # type: ignore[misc]
        def __init__(self, *a: Any, **k: Any) -> None:
            super().__init__(*a, **k)
            self.uploads: dict[int, int] = {}

        def quic_event_received(self, event: Any) -> None:
            if not isinstance(event, stream_data):
                return
            stream_id = event.stream_id
            if stream_id in self.uploads:
                self.uploads[stream_id] += len(event.data)
            else:
                if len(event.data) < harness.COMMAND.size:
                    return
                kind, count = harness.COMMAND.unpack_from(event.data)
                if kind == b"E":
                    self._quic.send_stream_data(stream_id, event.data, end_stream=True)
                elif kind == b"D":
                    send(self._quic, stream_id, count)
                else:
                    self.uploads[stream_id] = len(event.data) - harness.COMMAND.size
            if event.end_stream and stream_id in self.uploads:
                total = self.uploads.pop(stream_id)
                self._quic.send_stream_data(stream_id, total.to_bytes(8, "big"), end_stream=True)

    def configuration(is_client: bool) -> Any:
        fields: dict[str, Any] = {"max_data": WINDOW, "max_stream_data": WINDOW, "max_datagram_size": DATAGRAM}
        return quic.QuicConfiguration(is_client=is_client, alpn_protocols=[harness.ALPN], **(fields | changes))

    class Implementation:
        async def serve(self, certificate: str, key: str) -> int:
            c = configuration(False)
            c.load_cert_chain(certificate, key)
            server = await api.serve(harness.HOST, 0, configuration=c, create_protocol=Server)
            port: int = server._transport.get_extra_info("sockname")[1]
            return port

        async def dial(self, port: int, ca: str) -> Any:
            c = configuration(True)
            c.load_verify_locations(ca)
            c.server_name = harness.SERVER_NAME
            context = api.connect(harness.HOST, port, configuration=c, create_protocol=Client)
            client = await context.__aenter__()
            client.context = context
            return client

    return Implementation()


async def leave(context: Any) -> None:
    with contextlib.suppress(ConnectionError):
        await context.__aexit__(None, None, None)


def send(quic: Any, stream_id: int, count: int) -> None:
    """Hands `count` bytes to the connection, which keeps them until they are sent: it has no backpressure."""
    chunk = bytes(harness.CHUNK)
    while count > len(chunk):
        quic.send_stream_data(stream_id, chunk)
        count -= len(chunk)
    quic.send_stream_data(stream_id, chunk[:count], end_stream=True)
