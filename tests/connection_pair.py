"""A client and a server connection in memory: virtual time, a seeded link, and forged packets.

Everything is sans-IO: no endpoint, no transport. A seed replays exactly, since certificates, shares and signatures
are the simulated ones unless `real` asks for others.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

from stoq.connection.configuration import Configuration
from stoq.connection.connection import Connection
from stoq.connection.factory import client_connection, server_connection
from stoq.connection.stream import StreamHandle
from stoq.crypto.aead import AeadError, PacketKey
from stoq.crypto.certificates import Issued, TrustStore, make_leaf, make_test_ca
from stoq.crypto.keys import initial_secrets, packet_key, retry_integrity_tag
from stoq.crypto.simulated import (
    SIMULATED_GROUP,
    SIMULATED_SCHEME,
    register_simulated,
    simulated_authority,
    simulated_leaf,
)
from stoq.testing.seams import facts, take_number
from stoq.tls import TlsConfiguration
from stoq.wire.frame_codec import ParsedFrame, encode_frame, parse_frames
from stoq.wire.header import (
    PacketType,
    encode_long_header,
    encode_retry_without_tag,
    encode_short_header,
    parse_datagram,
    parse_header,
)

MS = 1_000_000
SECOND = 1_000 * MS
START = SECOND
CLIENT = ("192.0.2.1", 50000)
SERVER = ("198.51.100.1", 4433)
NOW = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)
RETRY_TOKEN = b"retry token"
RESET_TOKEN = bytes(range(16))
INITIAL, HANDSHAKE, APP = 0, 1, 2

Filter = Callable[[bool, int, bytes], "Iterable[bytes] | None"]


@cache
def authority() -> Issued:
    return make_test_ca(NOW)


@cache
def leaf() -> Issued:
    return make_leaf(authority(), ["localhost", "127.0.0.1"], NOW)


def tls(is_client: bool, real: bool = False, **changes: Any) -> TlsConfiguration:
    fields: dict[str, Any] = {"alpn_protocols": ["hq"]}
    if not real:
        register_simulated()
        fields |= {"groups": [SIMULATED_GROUP], "signature_schemes": [SIMULATED_SCHEME]}
    if is_client:
        root = authority().certificate if real else simulated_authority().certificate
        fields |= {"server_name": "localhost", "trust": TrustStore([root])}
    else:
        fields["credentials"] = (leaf() if real else simulated_leaf()).credentials()
    return TlsConfiguration(is_client=is_client, **(fields | changes))


class Sink:
    """What arrived on a stream that the peer opened."""

    def __init__(self, stream: StreamHandle) -> None:
        self.stream = stream
        self.data = bytearray()

    def pull(self, limit: int = 1 << 40) -> int:
        taken = 0
        while taken < limit and (piece := self.stream.take(limit - taken)):
            self.data += piece
            taken += len(piece)
        return taken


class Pair:
    """client and server, what is on the wire, and the time.

    tls_client, tls_server: changes to the TLS configurations. client, server: changes to the Configurations (both:
    to either). filter(to_server, number, datagram): what arrives instead, None for the datagram itself. retry: the
    server's address validation is played before a server connection exists.
    """

    def __init__(
        self,
        seed: int = 1,
        *,
        delay: int = 5 * MS,
        loss: float = 0.0,
        duplicate: float = 0.0,
        reorder: float = 0.0,
        real: bool = False,
        retry: bool = False,
        tls_client: dict[str, Any] | None = None,
        tls_server: dict[str, Any] | None = None,
        client: dict[str, Any] | None = None,
        server: dict[str, Any] | None = None,
        both: dict[str, Any] | None = None,
        filter: Filter | None = None,
        token: bytes = b"",
        reset_token: bytes | None = RESET_TOKEN,
    ) -> None:
        self.rng = random.Random(seed)
        self.delay, self.loss, self.duplicate, self.reorder = delay, loss, duplicate, reorder
        self.filter = filter
        self.retry = retry
        self.reset_token = reset_token
        self.now = START
        self.keylog: list[str] = []
        self.client_configuration = Configuration(
            tls(True, real, **{"keylog": self.keylog.append, **(tls_client or {})}), **((both or {}) | (client or {}))
        )
        self.server_configuration = Configuration(
            tls(False, real, **(tls_server or {})), **((both or {}) | (server or {}))
        )
        self.dcid = self.rng.randbytes(8)
        self.key_dcid = self.dcid  # what keys the Initial packets: the Retry's Source Connection ID after one
        self.client = client_connection(
            self.client_configuration,
            SERVER,
            now_ns=self.now,
            random=self.rng.randbytes,
            cid=self.rng.randbytes(8),
            original_dcid=self.dcid,
            token=token,
            now=lambda: NOW,
        )
        self._server: Connection | None = None
        self.wire: list[tuple[int, int, bool, bytes]] = []
        self.sent = [0, 0]  # datagrams by the server, by the client
        self.number = 0
        self.events: dict[bool, list[tuple[str, Any]]] = {True: [], False: []}
        self.sinks: dict[int, Sink] = {}  # by stream ID: an ID is opened by one side only
        self.auto_read = True

    # ---- the two ends

    @property
    def server(self) -> Connection:
        assert self._server is not None, "no server connection yet"
        return self._server

    @property
    def has_server(self) -> bool:
        return self._server is not None

    def other(self, connection: Connection) -> Connection:
        return self.server if connection is self.client else self.client

    def accept(self, datagram: bytes) -> Connection | None:
        """What an endpoint does with a client's first Initial."""
        try:
            header = parse_header(datagram, 8)
        except ValueError:
            return None
        if header.type != PacketType.INITIAL or len(datagram) < 1200:
            return None
        retried = {}
        if self.retry:
            if header.token != RETRY_TOKEN:
                scid = self.rng.randbytes(8)
                self.key_dcid = scid
                self.post(False, retry_packet(header.scid, header.dcid, scid))
                return None
            retried = {"retry_scid": header.dcid, "initial_dcid": header.dcid, "validated": True}
        self._server = server_connection(
            self.server_configuration,
            CLIENT,
            None,
            now_ns=self.now,
            random=self.rng.randbytes,
            cid=self.rng.randbytes(8),
            original_dcid=self.dcid,
            reset_token=self.reset_token,
            now=lambda: NOW,
            **retried,
        )
        return self._server

    # ---- the link

    def post(self, to_server: bool, datagram: bytes) -> None:
        """Put a datagram on the wire, whole and without impairment."""
        self.number += 1
        self.wire.append((self.now + self.delay, self.number, to_server, datagram))

    def carry(self, to_server: bool, datagram: bytes) -> None:
        """Put a datagram on the wire as the link treats it."""
        number = self.sent[to_server]
        self.sent[to_server] += 1
        pieces: Iterable[bytes] = [datagram]
        if self.filter is not None:
            chosen = self.filter(to_server, number, datagram)
            pieces = [datagram] if chosen is None else chosen
        for piece in pieces:
            if self.loss and self.rng.random() < self.loss:
                continue
            copies = 2 if self.duplicate and self.rng.random() < self.duplicate else 1
            for _ in range(copies):
                extra = self.rng.randrange(2 * self.delay) if self.reorder and self.rng.random() < self.reorder else 0
                self.number += 1
                self.wire.append((self.now + self.delay + extra, self.number, to_server, piece))

    def send(self, connection: Connection) -> int:
        datagrams = connection.datagrams_to_send(self.now)
        for datagram, _ in datagrams:
            self.carry(connection is self.client, datagram)
        self.collect(connection)
        return len(datagrams)

    def give(self, connection: Connection, datagram: bytes, ecn: int = 0) -> None:
        """A datagram straight to an end, now."""
        peer = SERVER if connection is self.client else CLIENT
        connection.receive_datagram(datagram, peer, self.now, ecn)
        self.collect(connection)

    def deliver(self, to_server: bool, datagram: bytes) -> None:
        if to_server:
            server = self._server or self.accept(datagram)
            if server is not None:
                self.give(server, datagram)
        else:
            self.give(self.client, datagram)

    def collect(self, connection: Connection) -> None:
        for name, value in connection.events():
            self.events[connection is self.client].append((name, value))
            if name == "stream_opened":
                self.sinks[value.id] = Sink(value)
        if self.auto_read:
            for sink in self.sinks.values():
                sink.pull()

    def names(self, connection: Connection) -> list[str]:
        return [name for name, _ in self.events[connection is self.client]]

    # ---- time

    def ends(self) -> list[Connection]:
        return [self.client] if self._server is None else [self.client, self._server]

    def flush(self) -> int:
        return sum(self.send(end) for end in self.ends())

    def next_time(self) -> int | None:
        times = [entry[0] for entry in self.wire]
        times += [t for end in self.ends() if (t := end.next_timeout()) is not None]
        return min(times, default=None)

    def step(self, until: int | None = None) -> bool:
        """Send what may be sent, go to the next moment (at most `until`), do what is due there. False: nothing is."""
        self.flush()
        at = self.next_time()
        if at is None or (until is not None and at > until):
            if until is not None:
                self.now = max(self.now, until)
            return False
        self.now = max(self.now, at)
        due = sorted(entry for entry in self.wire if entry[0] <= self.now)
        self.wire = [entry for entry in self.wire if entry[0] > self.now]
        for _, _, to_server, datagram in due:
            self.deliver(to_server, datagram)
        for end in self.ends():
            deadline = end.next_timeout()
            if deadline is not None and deadline <= self.now:
                end.handle_timeout(self.now)
                self.collect(end)
                self.send(end)
                again = end.next_timeout()
                assert again is None or again > self.now, "a timer was re-armed at or before now"
        return True

    def run(self, until: Callable[[], bool] | None = None, *, limit: int = 60 * SECOND, steps: int = 100_000) -> bool:
        """Step until the condition holds (True), the time limit is reached or nothing happens any more."""
        end = self.now + limit
        for _ in range(steps):
            if until is not None and until():
                return True
            if not self.step(end):
                break
        return until is not None and until()

    def wait(self, duration: int) -> None:
        self.run(limit=duration)

    def settle(self) -> None:
        """Until nothing is on the wire and nothing is owed at once (a few round trips)."""
        self.wait(6 * self.delay + 60 * MS)

    def handshake(self) -> Pair:
        done = self.run(lambda: self.client.handshake_confirmed and self.has_server and self.server.handshake_confirmed)
        assert done, (self.client.close_reason, self._server and self._server.close_reason)
        return self

    def transfer(self, source: Connection, data: bytes, *, limit: int = 60 * SECOND) -> bytes:
        """Send data on a new unidirectional stream; what the other side got."""
        stream = source.open_stream(True)
        stream.write(data)
        stream.finish()
        self.run(lambda: stream.id in self.sinks and self.sinks[stream.id].stream.ended, limit=limit)
        return bytes(self.sinks[stream.id].data)

    def refused(self) -> tuple[Exception | None, Exception | None]:
        """Run a handshake that is to fail until both ends are closed and gone; both reasons, client first."""
        self.run(lambda: self.has_server and bool(self.client.close_reason) and bool(self.server.close_reason))
        client, server = self.client.close_reason, self.server.close_reason
        assert client is not None, "the client is not closed"
        assert server is not None, "the server is not closed"
        assert client.by_peer != server.by_peer
        assert client.error_code == server.error_code
        self.run(lambda: self.client.terminated and self.server.terminated)
        for end in self.ends():
            assert end.terminated
            assert self.names(end)[-2:] == ["closed", "terminated"]
        return client, server


def first_flight(pair: Pair) -> bytes:
    """The client's first datagram, taken from the wire's beginning."""
    return pair.client.datagrams_to_send(pair.now)[0][0]


def retry_packet(client_scid: bytes, odcid: bytes, scid: bytes, token: bytes = RETRY_TOKEN) -> bytes:
    packet = encode_retry_without_tag(client_scid, scid, token)
    return packet + retry_integrity_tag(1, odcid, packet)


class Opened(NamedTuple):
    """A packet in the clear."""

    space: int
    number: int
    header: bytes
    payload: bytes

    @property
    def frames(self) -> list[ParsedFrame]:
        return parse_frames(self.payload)

    def fields(self, frame_type: int) -> list[dict[str, Any]]:
        return [f.fields for f in self.frames if f.type == frame_type]


LABELS = {HANDSHAKE: "HANDSHAKE_TRAFFIC_SECRET", APP: "TRAFFIC_SECRET_0"}
PACKET_TYPES = {PacketType.INITIAL: INITIAL, PacketType.HANDSHAKE: HANDSHAKE, PacketType.ONE_RTT: APP}


class Forge:
    """Packets as one end of a pair would make them, with keys from the key log: seal any payload, open what it sent."""

    def __init__(self, pair: Pair, *, client: bool) -> None:
        self.pair = pair
        self.is_client = client
        self.keys: dict[int, PacketKey] = {}

    @property
    def connection(self) -> Connection:
        return self.pair.client if self.is_client else self.pair.server

    def key(self, space: int) -> PacketKey:
        if space not in self.keys:
            if space == INITIAL:
                secret = initial_secrets(1, self.pair.key_dcid)[0 if self.is_client else 1]
                self.keys[space] = packet_key(1, 0x1301, secret, "openssl")
            else:
                label = f"{'CLIENT' if self.is_client else 'SERVER'}_{LABELS[space]}"
                secret = next(bytes.fromhex(line.split()[2]) for line in self.pair.keylog if line.startswith(label))
                suite = self.pair.client.cipher_suite or 0x1301
                self.keys[space] = packet_key(1, suite, secret, self.pair.client.backend)
        return self.keys[space]

    def seal(
        self,
        payload: bytes,
        *,
        space: int = APP,
        number: int | None = None,
        first: int = 0,
        dcid: bytes | None = None,
        scid: bytes | None = None,
        token: bytes = b"",
        size: int = 0,
    ) -> bytes:
        """One protected packet. number: the connection's next one by default; first: bits set in the first byte.

        size: padded with PADDING frames until the packet has so many bytes.
        """
        if number is None:
            number = take_number(self.connection, space)
        known = facts(self.connection)
        dcid = known["dcid"] if dcid is None else dcid
        payload = payload.ljust(4, b"\0")
        if space == APP:
            payload = payload.ljust(size - 1 - len(dcid) - 4 - 16, b"\0")
            header = encode_short_header(dcid, packet_number=number, pn_length=4)
        else:
            scid = known["local_cids"][0][1] if scid is None else scid
            kind = PacketType.INITIAL if space == INITIAL else PacketType.HANDSHAKE
            overhead = len(encode_long_header(kind, 1, dcid, scid, token=token, pn_length=4)) + 16
            payload = payload.ljust(size - overhead, b"\0")
            header = encode_long_header(
                kind, 1, dcid, scid, token=token, packet_number=number, pn_length=4, payload_length=len(payload) + 16
            )
        if first:
            header = bytes([header[0] | first]) + header[1:]
        return self.key(space).encrypt_packet(header, payload, number)

    def frames(self, *frames: tuple[int, dict[str, Any]], **how: Any) -> bytes:
        return self.seal(b"".join(encode_frame(kind, **fields) for kind, fields in frames), **how)

    def open(self, datagram: bytes) -> list[Opened]:
        """The packets of a datagram that this end sent; those without a key are left out."""
        opened = []
        for start, header in parse_datagram(datagram, 8):
            space = PACKET_TYPES.get(header.type)
            if space is None:
                continue
            packet = datagram[start : start + header.packet_length]
            # The sender's next number: nearer to any recent packet than what a receiver could expect.
            expected = facts(self.connection)["spaces"][space]["next"]
            try:
                clear, payload, number = self.key(space).decrypt_packet(packet, header.pn_offset, expected)
            except (AeadError, StopIteration):
                continue
            opened.append(Opened(space, number, clear, payload))
        return opened

    def sent(self, now: int | None = None) -> list[Opened]:
        """Let the connection send now, and open what it sends (the datagrams are not carried)."""
        datagrams = self.connection.datagrams_to_send(self.pair.now if now is None else now)
        return [packet for datagram, _ in datagrams for packet in self.open(datagram)]
