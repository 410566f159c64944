"""Upstream aioquic serving a folder over hq-interop: python aioquic_server.py FOLDER CERTIFICATE KEY.

Prints its port, then serves until it is ended.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent, StreamDataReceived


class FileServer(QuicConnectionProtocol):
    """Answers `GET /name` with the bytes of a file of the folder."""

    folder: Path

    def quic_event_received(self, event: QuicEvent) -> None:
        if not isinstance(event, StreamDataReceived) or not event.end_stream:
            return
        name = event.data.split()[1].decode("ascii").rsplit("/", 1)[-1]
        path = self.folder / name
        if path.is_file():
            self._quic.send_stream_data(event.stream_id, path.read_bytes(), end_stream=True)
        else:
            self._quic.reset_stream(event.stream_id, 0x404)
        self.transmit()


async def main(folder: str, certificate: str, key: str) -> None:
    FileServer.folder = Path(folder)
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["hq-interop"])
    configuration.load_cert_chain(certificate, key)
    server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=FileServer)
    transport = server._transport
    assert transport is not None
    print(transport.get_extra_info("sockname")[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
