"""Upstream aioquic fetching a file over hq-interop: python aioquic_client.py PORT /PATH OUT CA_FILE.

Prints one line of JSON with the same fields as `stoq get --json`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import aioquic.tls
from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamDataReceived, StreamReset

groups: list[int] = []


def note_group() -> None:
    """aioquic does not tell which group was agreed: note it where the server's key share is read."""
    original = aioquic.tls.decode_public_key

    def decode(key_share: Any) -> Any:
        groups.append(key_share[0])
        return original(key_share)

    aioquic.tls.decode_public_key = decode


class Fetch(QuicConnectionProtocol):
    """Writes and hashes what comes on the one stream."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.digest = hashlib.sha256()
        self.size = 0
        self.out: Any = None

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived):
            self.out.write(event.data)
            self.digest.update(event.data)
            self.size += len(event.data)
            if event.end_stream and not self.done.done():
                self.done.set_result(None)
        elif isinstance(event, (StreamReset, ConnectionTerminated)) and not self.done.done():
            self.done.set_exception(RuntimeError(f"the transfer broke off: {event}"))


async def main(port: str, path: str, out: str, ca_file: str) -> None:
    note_group()
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["hq-interop"])
    configuration.load_verify_locations(ca_file)
    begun = time.monotonic()
    with Path(out).open("wb", buffering=0) as file:
        async with connect("127.0.0.1", int(port), configuration=configuration, create_protocol=Fetch) as client:
            connected = time.monotonic() - begun
            assert isinstance(client, Fetch)
            client.out = file
            begun = time.monotonic()
            stream = client._quic.get_next_available_stream_id()
            client._quic.send_stream_data(stream, f"GET {path}\r\n".encode(), end_stream=True)
            client.transmit()
            await client.done
            seconds = time.monotonic() - begun
            schedule = client._quic.tls.key_schedule
    assert schedule is not None
    row = {
        "bytes": client.size,
        "seconds": round(seconds, 6),
        "sha256": client.digest.hexdigest(),
        "connect_ms": round(connected * 1000, 2),
        "cipher": aioquic.tls.CipherSuite(schedule.cipher_suite).name,
        "group": aioquic.tls.Group(groups[-1]).name if groups else "",
    }
    print(json.dumps(row))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5]))
