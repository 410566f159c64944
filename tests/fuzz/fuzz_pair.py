"""A client and a server connection in memory for fuzz targets, and what must hold of each after every step.

The null backend frames packets without protecting them, so that a mutated packet is still opened, and a packet can be
written by hand. Randomness is seeded: every pair of one configuration is the same, byte by byte.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from functools import cache
from typing import Any

from stoq.connection.configuration import Configuration
from stoq.connection.connection import Connection
from stoq.connection.factory import client_connection, server_connection
from stoq.errors import (
    ApplicationClosed,
    ConnectionClosedError,
    HandshakeFailed,
    IdleTimeout,
    StatelessReset,
    StoqError,
    TransportClosed,
    TransportErrorCode,
    VersionNegotiationFailed,
    alert_of,
)
from stoq.testing.pair import CLIENT_ADDRESS, SERVER_ADDRESS, tls_configuration
from stoq.testing.seams import core_memory, facts
from stoq.wire.header import PacketType, encode_long_header, parse_header

MS = 1_000_000
SECOND = 1000 * MS
START = SECOND
CID = 8
TAG = bytes(16)  # the null backend's

# What a connection may hold: its windows twice (out of order, and handed up), and room for structs and tables at their
# largest power of two (SECURITY row 6 allows twice the window and 64 KiB).
WINDOW = 1 << 16
STREAM_WINDOW = 1 << 14
MEMORY_MAX = 2 * WINDOW + (1 << 20)
# CPU seconds that one step may take: one input is a few kilobytes.
STEP_SECONDS = 1.0
DATAGRAMS_PER_STEP = 500
# Timers fire at most so often until a connection that hears nothing is over: PTOs double, so 30 s need few.
TIMERS_MAX = 100
ALLOWED = (TransportClosed, ApplicationClosed, HandshakeFailed, IdleTimeout, StatelessReset, VersionNegotiationFailed)
KNOBS = {
    "receive_window": WINDOW,
    "receive_window_max": WINDOW,
    "stream_window": STREAM_WINDOW,
    "stream_window_max": STREAM_WINDOW,
}


@cache
def configuration(is_client: bool, backend: str) -> Configuration:
    return Configuration(
        tls_configuration(is_client),
        backend=backend,
        allow_null=True,
        max_streams_bidi=8,
        max_streams_uni=8,
        knobs=KNOBS,
        max_datagram_size=1200,
        grease=False,
    )


class Side:
    """One connection, its clock and what is checked about it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.streams: list[Any] = []
        self.tokens: list[bytes] = []
        self.closed_at: int | None = None
        self.steps = 0

    def receive(self, datagram: bytes, now: int, ecn: int = 0) -> None:
        began = time.process_time()
        peer = SERVER_ADDRESS if self.connection.is_client else CLIENT_ADDRESS
        self.connection.receive_datagram(datagram, peer, now, ecn)
        self.check(now, began)

    def send(self, now: int) -> list[bytes]:
        """Everything that may leave now; then no timer is due any more."""
        began = time.process_time()
        out = [data for data, _ in self.connection.datagrams_to_send(now)]
        rounds = 0
        while (due := self.connection.next_timeout()) is not None and due <= now:
            self.connection.handle_timeout(now)
            out += [data for data, _ in self.connection.datagrams_to_send(now)]
            rounds += 1
            assert rounds < 8, "a timer is armed at or before now, again and again"
        assert len(out) <= DATAGRAMS_PER_STEP
        self.check(now, began)
        return out

    def check(self, now: int, began: float) -> None:
        connection = self.connection
        assert time.process_time() - began < STEP_SECONDS
        for name, value in connection.events():
            if name == "stream_opened":
                self.streams.append(value)
            elif name == "new_token":
                self.tokens.append(value)
        reason = connection.close_reason
        if reason is not None:
            self.check_reason(reason)
            self.closed_at = now if self.closed_at is None else self.closed_at
        if connection.terminated:
            assert reason is not None
            assert connection.next_timeout() is None
            return
        known = facts(connection)
        held = core_memory(connection)["total"]
        assert held <= MEMORY_MAX, held
        assert sum(stream.unread for stream in self.streams) <= WINDOW
        assert known["streams"] <= 4 * 8 + 8
        assert all(space["ranges"] <= 64 for space in known["spaces"])
        assert known["path"]["in_flight"] < 1 << 32, "underflow"
        assert 2 * 1200 <= known["path"]["cwnd"] < 1 << 40
        assert known["recv_consumed"] <= known["recv_total"] <= known["recv_limit"]
        assert len(known["remote_cids"]) <= 8
        if not connection.is_client and not known["path"]["validated"]:
            assert known["path"]["sent"] <= 3 * known["path"]["received"], "amplification"

    def check_reason(self, reason: ConnectionClosedError) -> None:
        assert type(reason) in ALLOWED
        assert "\n" not in str(reason)
        assert len(reason.reason) <= 1 << 16
        if isinstance(reason, TransportClosed) and not reason.by_peer:
            TransportErrorCode(reason.error_code)
            assert reason.error_code != TransportErrorCode.INTERNAL_ERROR, reason
        if isinstance(reason, HandshakeFailed) and not reason.by_peer and reason.error_code:
            assert alert_of(reason.error_code) is not None or TransportErrorCode(reason.error_code) > 1, reason

    def run_out(self, now: int) -> None:
        """Nobody answers any more: the connection must come to its end."""
        for _ in range(TIMERS_MAX):
            due = self.connection.next_timeout()
            if due is None:
                break
            now = max(now, due)
            self.connection.handle_timeout(now)
            self.send(now)
        assert self.connection.terminated, facts(self.connection)

    def act(self, choice: int) -> None:
        """Something an application does. Only stoq's errors may come of it."""
        try:
            kind = choice & 7
            if kind == 0:
                stream = self.connection.open_stream(bool(choice & 8))
                self.streams.append(stream)
                stream.write(b"hello" * (choice & 0xF0))
            elif kind == 7:
                self.connection.close(choice, "enough")
            elif kind == 6:
                self.connection.ping()
            elif self.streams:
                stream = self.streams[(choice >> 3) % len(self.streams)]
                if kind == 1:
                    stream.write(b"more" * 800)
                elif kind == 2:
                    stream.finish()
                elif kind == 3:
                    stream.reset(choice)
                elif kind == 4:
                    stream.stop(choice)
                else:
                    while stream.take(1 << 20):
                        pass
        except StoqError:
            pass


def make_client(backend: str = "null") -> Side:
    rng = random.Random("client")
    connection = client_connection(
        configuration(True, backend),
        SERVER_ADDRESS,
        now_ns=START,
        random=rng.randbytes,
        cid=b"client-0",
        original_dcid=b"original",
    )
    return Side(connection)


def make_server(datagram: bytes, now: int = START, backend: str = "null") -> Side | None:
    """The server's connection for a client's first datagram; None when an endpoint would make none."""
    try:
        header = parse_header(datagram, CID)
    except StoqError:
        return None
    if header.type != PacketType.INITIAL or len(datagram) < 1200 or len(header.dcid) < 8:
        return None
    rng = random.Random("server")
    connection = server_connection(
        configuration(False, backend),
        CLIENT_ADDRESS,
        SERVER_ADDRESS,
        now_ns=now,
        random=rng.randbytes,
        cid=b"server-0",
        original_dcid=header.dcid,
        reset_token=bytes(range(16)),
    )
    return Side(connection)


def give_ids(side: Side) -> None:
    """What an endpoint does: the connection gets the IDs that it wants."""
    for number in range(side.connection.connection_ids_wanted()):
        side.steps += 1
        side.connection.add_connection_id(b"more%04d" % (side.steps * 8 + number), bytes([side.steps % 256]) * 16)


def handshake(backend: str = "null", rounds: int = 6) -> tuple[Side, Side, int]:
    """(client, server, now) after so many flights each way; six complete and confirm."""
    client = make_client(backend)
    now = START
    flight = client.send(now)
    server = make_server(flight[0], now, backend)
    assert server is not None
    for _ in range(rounds):
        now += MS
        for datagram in flight:
            server.receive(datagram, now)
        give_ids(server)
        back = server.send(now)
        for datagram in back:
            client.receive(datagram, now)
        give_ids(client)
        flight = client.send(now)
    return client, server, now


def one_rtt(dcid: bytes, number: int, payload: bytes) -> bytes:
    """A 1-RTT packet as the null backend seals it."""
    return b"\x43" + dcid + (number & 0xFFFFFFFF).to_bytes(4, "big") + payload + TAG


def long_packet(kind: PacketType, dcid: bytes, scid: bytes, number: int, payload: bytes, token: bytes = b"") -> bytes:
    """An Initial or Handshake packet as the null backend seals it."""
    header = encode_long_header(
        kind,
        1,
        dcid,
        scid,
        token=token,
        packet_number=number & 0xFFFFFFFF,
        pn_length=4,
        payload_length=len(payload) + len(TAG),
    )
    return header + payload + TAG


def pieces(data: bytes) -> Iterable[bytes]:
    """Pieces of an input, each behind two bytes of length; the last is as long as what there is."""
    at = 0
    while at + 2 <= len(data):
        size = int.from_bytes(data[at : at + 2], "big") % 1100
        yield data[at + 2 : at + 2 + size]
        at += 2 + size


def piece(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data
