"""Forged traffic at a confirmed server, and what it costs. Shared by the tests of bounds.

Bytes are those of the memory ledger (stoq.core.ledger). CPU limits are the stated ones times GENEROUS, so that a
loaded machine does not fail them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from connection_pair import CLIENT, MS, Forge, Pair

from stoq.connection.connection import Connection
from stoq.testing.seams import core_memory, facts
from stoq.wire.frame_codec import encode_frame

GENEROUS = 4
KB = 1000
ROOM = 1100  # bytes of frames in one packet


def confirmed(**changes: Any) -> Pair:
    pair = Pair(both={"max_datagram_size": 1200}, **changes).handshake()
    pair.settle()
    return pair


def total(end: Connection) -> int:
    return core_memory(end)["total"]


def packed(frames: Iterable[bytes]) -> Iterable[bytes]:
    """Frames in payloads of a packet each."""
    payload = b""
    for frame in frames:
        if len(payload) + len(frame) > ROOM:
            yield payload
            payload = b""
        payload += frame
    if payload:
        yield payload


class Attack:
    """Feeds payloads to the server and watches the highest memory. `answers`: let the server send as it likes."""

    def __init__(self, pair: Pair, answers: bool = True) -> None:
        self.pair, self.answers = pair, answers
        self.forge = Forge(pair, client=True)
        self.base = self.peak = total(pair.server)
        self.packets = 0
        self.cpu = 0.0

    def feed(self, payload: bytes, **how: Any) -> bool:
        """False once the server has closed."""
        datagram = self.forge.seal(payload, **how)
        self.packets += 1
        start = time.process_time()
        self.pair.server.receive_datagram(datagram, CLIENT, self.pair.now)
        if self.answers and self.packets % 16 == 0:
            self.pair.now += 1 * MS
            self.pair.server.datagrams_to_send(self.pair.now)
        self.cpu += time.process_time() - start
        self.peak = max(self.peak, total(self.pair.server))
        return self.pair.server.close_reason is None

    @property
    def grown(self) -> int:
        return self.peak - self.base

    @property
    def code(self) -> int:
        return int(facts(self.pair.server)["close"]["code"])


class Ignore:
    """A listener that keeps nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


def crypto(offset: int, data: bytes) -> bytes:
    return encode_frame(0x06, offset=offset, data=data)


def stream(offset: int, data: bytes, stream_id: int = 2, fin: bool = False) -> bytes:
    return encode_frame(0x08, stream_id=stream_id, offset=offset, data=data, fin=fin)
