"""One stoq and one upstream aioquic connection in memory, in virtual time, with the same words for both."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable
from functools import cache
from typing import Any

from aioquic.quic import events as upstream_events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicProtocolVersion, encode_quic_retry

from stoq.connection.configuration import Configuration
from stoq.connection.connection import Connection
from stoq.connection.factory import client_connection, server_connection
from stoq.crypto.certificates import Issued, TrustStore, make_leaf, make_test_ca
from stoq.crypto.keys import retry_integrity_tag
from stoq.errors import ApplicationClosed, StreamStopped
from stoq.tls import TlsConfiguration
from stoq.wire.header import encode_retry_without_tag, parse_header

MS = 1_000_000
SECOND = 1_000 * MS
CLIENT, SERVER = ("192.0.2.1", 50000), ("198.51.100.1", 4433)
TOKEN = b"retry token"


@cache
def authority() -> Issued:
    return make_test_ca(dt.datetime.now(dt.UTC))  # upstream looks at the clock of the machine


@cache
def leaf() -> Issued:
    return make_leaf(authority(), ["localhost"], dt.datetime.now(dt.UTC))


class End:
    """What both implementations can do, in the same words, and what each has heard."""

    def __init__(self) -> None:
        self.data: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.stops: dict[int, int] = {}
        self.pings: list[int] = []
        self.alpn: str | None = None
        self.completed = False
        self.closed: tuple[bool, int, str] | None = None  # (application, code, reason)
        self.gone = False


class Stoq(End):
    connection: Connection

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection
        self.handles: dict[int, Any] = {}

    def receive(self, datagram: bytes, now: int) -> None:
        self.connection.receive_datagram(datagram, SERVER if self.connection.is_client else CLIENT, now)
        self.collect()

    def send(self, now: int) -> list[bytes]:
        out = [d for d, _ in self.connection.datagrams_to_send(now)]
        self.collect()
        return out

    def deadline(self) -> int | None:
        return self.connection.next_timeout()

    def timeout(self, now: int) -> None:
        self.connection.handle_timeout(now)
        self.collect()

    def collect(self) -> None:
        for name, value in self.connection.events():
            if name == "stream_opened":
                self.handles[value.id] = value
                self.data[value.id] = bytearray()
            elif name == "stream_stopped":
                self.stops[value.id] = self.stop_code(value)
            elif name == "ping_acked":
                self.pings.append(value)
            elif name == "handshake_completed":
                self.completed, self.alpn = True, self.connection.alpn
        for stream_id, handle in self.handles.items():
            while piece := handle.take(1 << 30):
                self.data.setdefault(stream_id, bytearray()).extend(piece)
            if handle.ended:
                self.ended.add(stream_id)
            error = handle.receive_error()
            if error is not None:
                self.resets[stream_id] = error.error_code
        reason = self.connection.close_reason
        if reason is not None and self.closed is None:
            application = isinstance(reason, ApplicationClosed)
            self.closed = (application, reason.error_code, reason.reason)
        self.gone = self.connection.terminated

    @staticmethod
    def stop_code(handle: Any) -> int:
        try:
            handle.write(b"x")
        except StreamStopped as error:
            return error.error_code
        return -1

    def open(self, unidirectional: bool = False) -> int:
        handle = self.connection.open_stream(unidirectional)
        self.handles[handle.id] = handle
        return handle.id

    def write(self, stream_id: int, data: bytes, fin: bool = False) -> None:
        self.handles[stream_id].write(data)
        if fin:
            self.handles[stream_id].finish()

    def reset(self, stream_id: int, code: int) -> None:
        self.handles[stream_id].reset(code)

    def stop(self, stream_id: int, code: int) -> None:
        self.handles[stream_id].stop(code)

    def close(self, code: int, reason: str) -> None:
        self.connection.close(code, reason)

    def ping(self, cookie: int) -> None:
        self.connection.ping(cookie)


class Upstream(End):
    def __init__(self, connection: QuicConnection, is_client: bool) -> None:
        super().__init__()
        self.connection = connection
        self.peer = SERVER if is_client else CLIENT

    def receive(self, datagram: bytes, now: int) -> None:
        self.connection.receive_datagram(datagram, self.peer, now / SECOND)
        self.collect()

    def send(self, now: int) -> list[bytes]:
        out = [d for d, _ in self.connection.datagrams_to_send(now / SECOND)]
        self.collect()
        return out

    def deadline(self) -> int | None:
        timer = self.connection.get_timer()
        # Rounded up: at its own floating-point deadline upstream re-arms for the same instant.
        return None if timer is None else int(timer * SECOND) + 1000

    def timeout(self, now: int) -> None:
        self.connection.handle_timer(now / SECOND)
        self.collect()

    def collect(self) -> None:
        while (event := self.connection.next_event()) is not None:
            if isinstance(event, upstream_events.StreamDataReceived):
                self.data.setdefault(event.stream_id, bytearray()).extend(event.data)
                if event.end_stream:
                    self.ended.add(event.stream_id)
            elif isinstance(event, upstream_events.StreamReset):
                self.resets[event.stream_id] = event.error_code
            elif isinstance(event, upstream_events.StopSendingReceived):
                self.stops[event.stream_id] = event.error_code
            elif isinstance(event, upstream_events.HandshakeCompleted):
                self.completed, self.alpn = True, event.alpn_protocol
            elif isinstance(event, upstream_events.PingAcknowledged):
                self.pings.append(event.uid)
            elif isinstance(event, upstream_events.ConnectionTerminated):
                self.closed = (event.frame_type is None, int(event.error_code), event.reason_phrase)
                self.gone = True

    def open(self, unidirectional: bool = False) -> int:
        stream_id: int = self.connection.get_next_available_stream_id(is_unidirectional=unidirectional)
        self.connection.send_stream_data(stream_id, b"")
        return stream_id

    def write(self, stream_id: int, data: bytes, fin: bool = False) -> None:
        self.connection.send_stream_data(stream_id, data, fin)

    def reset(self, stream_id: int, code: int) -> None:
        self.connection.reset_stream(stream_id, code)

    def stop(self, stream_id: int, code: int) -> None:
        self.connection.stop_stream(stream_id, code)

    def close(self, code: int, reason: str) -> None:
        self.connection.close(error_code=code, reason_phrase=reason)

    def ping(self, cookie: int) -> None:
        self.connection.send_ping(cookie)


class Mixed:
    """One implementation as client, the other as server, on a seeded link."""

    def __init__(
        self,
        stoq_is_client: bool,
        seed: int = 1,
        *,
        delay: int = 5 * MS,
        loss: float = 0.0,
        duplicate: float = 0.0,
        reorder: float = 0.0,
        retry: bool = False,
        alpn: tuple[list[str], list[str]] = (["hq"], ["hq"]),
        trust: Issued | None = None,
        **configuration: Any,
    ) -> None:
        self.rng = random.Random(seed)
        self.stoq_is_client, self.retry, self.alpn = stoq_is_client, retry, alpn
        self.delay, self.loss, self.duplicate, self.reorder = delay, loss, duplicate, reorder
        self.now = 1000 * SECOND
        self.wire: list[tuple[int, int, bool, bytes]] = []
        self.number = 0
        self.configuration = configuration
        trust = trust or authority()
        if stoq_is_client:
            tls = TlsConfiguration(
                is_client=True,
                alpn_protocols=alpn[0],
                server_name="localhost",
                trust=TrustStore([trust.certificate]),
            )
            dcid = self.rng.randbytes(8)
            self.client: Any = Stoq(
                client_connection(
                    Configuration(tls, **configuration),
                    SERVER,
                    now_ns=self.now,
                    random=self.rng.randbytes,
                    cid=self.rng.randbytes(8),
                    original_dcid=dcid,
                )
            )
        else:
            upstream = QuicConfiguration(is_client=True, alpn_protocols=alpn[0], server_name="localhost")
            upstream.load_verify_locations(cadata=trust.certificate_pem)
            self.client = Upstream(QuicConnection(configuration=upstream), True)
            self.client.connection.connect(SERVER, self.now / SECOND)
        self.server: Any = None
        self.original_dcid = b""

    @property
    def ours(self) -> Stoq:
        end: Stoq = self.client if self.stoq_is_client else self.server
        return end

    @property
    def theirs(self) -> Upstream:
        end: Upstream = self.server if self.stoq_is_client else self.client
        return end

    def accept(self, datagram: bytes) -> bool:
        header = parse_header(datagram, 8)
        original, retry_scid = header.dcid, None
        if self.retry and header.token != TOKEN:
            self.original_dcid = header.dcid
            scid = self.rng.randbytes(8)
            if self.stoq_is_client:  # upstream makes the Retry that stoq has to accept
                packet = encode_quic_retry(
                    version=QuicProtocolVersion.VERSION_1,
                    source_cid=scid,
                    destination_cid=header.scid,
                    original_destination_cid=header.dcid,
                    retry_token=TOKEN,
                )
            else:
                packet = encode_retry_without_tag(header.scid, scid, TOKEN)
                packet += retry_integrity_tag(1, header.dcid, packet)
            self.wire.append((self.now + self.delay, self.number, False, packet))
            return False
        if self.retry:
            original, retry_scid = self.original_dcid, header.dcid
        if self.stoq_is_client:
            upstream = QuicConfiguration(is_client=False, alpn_protocols=self.alpn[1])
            upstream.certificate = leaf().certificate
            upstream.private_key = leaf().private_key
            connection = QuicConnection(
                configuration=upstream,
                original_destination_connection_id=original,
                retry_source_connection_id=retry_scid,
            )
            self.server = Upstream(connection, False)
        else:
            tls = TlsConfiguration(is_client=False, alpn_protocols=self.alpn[1], credentials=leaf().credentials())
            self.server = Stoq(
                server_connection(
                    Configuration(tls, **self.configuration),
                    CLIENT,
                    None,
                    now_ns=self.now,
                    random=self.rng.randbytes,
                    cid=self.rng.randbytes(8),
                    original_dcid=original,
                    retry_scid=retry_scid,
                    initial_dcid=header.dcid,
                    validated=retry_scid is not None,
                    reset_token=bytes(range(16)),
                )
            )
        return True

    def step(self, until: int | None = None) -> bool:
        for end in (self.client, self.server):
            if end is None:
                continue
            for datagram in end.send(self.now):
                for _ in range(2 if self.rng.random() < self.duplicate else 1):
                    if self.rng.random() >= self.loss:
                        late = self.rng.randrange(2 * self.delay) if self.rng.random() < self.reorder else 0
                        self.number += 1
                        self.wire.append((self.now + self.delay + late, self.number, end is self.client, datagram))
        times = [entry[0] for entry in self.wire]
        times += [t for end in (self.client, self.server) if end is not None and (t := end.deadline()) is not None]
        if not times or (until is not None and min(times) > until):
            self.now = max(self.now, until or 0)
            return False
        self.now = max(self.now, min(times))
        due = sorted(entry for entry in self.wire if entry[0] <= self.now)
        self.wire = [entry for entry in self.wire if entry[0] > self.now]
        for _, _, to_server, datagram in due:
            if to_server and self.server is None and not self.accept(datagram):
                continue
            (self.server if to_server else self.client).receive(datagram, self.now)
        for end in (self.client, self.server):
            deadline = end and end.deadline()
            if deadline is not None and deadline <= self.now:
                end.timeout(self.now)
        return True

    def run(self, until: Callable[[], bool], limit: int = 60 * SECOND) -> bool:
        end = self.now + limit
        while not until():
            if self.now > end or not self.step():
                return False
        return True

    def wait(self, duration: int) -> None:
        end = self.now + duration
        while self.step(end):
            pass

    def handshake(self) -> Mixed:
        assert self.run(lambda: self.server is not None and self.client.completed and self.server.completed)
        return self
