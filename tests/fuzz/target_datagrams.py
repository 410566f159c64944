"""Fuzz target: what a network and an attacker on the path do to the datagrams of a client and a server.

An input is a little program. Its first byte chooses the packet protection, the second how many flights of the
handshake pass unharmed. Each operation that follows takes the next datagram of one direction and delivers it whole,
changed, cut, twice, joined to another, to the wrong side, or not at all; invents one; lets time pass; or acts for an
application. Then the network is kind, and the connection must come to a good end or a typed one.

With real protection nothing that an attacker without keys does may end the connection or change a byte.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from fuzz_pair import MS, START, Side, give_ids, make_client, make_server

from stoq.connection.stream import StreamHandle
from stoq.errors import HandshakeFailed, IdleTimeout, TransportErrorCode, VersionNegotiationFailed
from stoq.wire.header import encode_version_negotiation

MUTATIONS = 400
OPERATIONS_MAX = 48
KEPT = 64  # datagrams that can be replayed
ROUNDS = 40
REQUEST, ANSWER = b"request" * 300, b"answer!" * 700


class Reader:
    """Numbers from an input; zeros behind its end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def take(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]

    @property
    def more(self) -> bool:
        return self.at < len(self.data)


class Wire:
    """Both sides and the datagrams between them."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.now = START
        self.client = make_client(backend)
        self.server: Side | None = None
        self.queues: tuple[list[bytes], list[bytes]] = ([], [])  # to the server, to the client
        self.history: list[bytes] = []
        self.closed_by_application = False
        self.collect()

    def sides(self) -> list[Side]:
        return [self.client] if self.server is None else [self.client, self.server]

    def collect(self) -> None:
        for side in self.sides():
            give_ids(side)
            queue = self.queues[0 if side.connection.is_client else 1]
            out = side.send(self.now)
            queue += out
            self.history = (self.history + out)[-KEPT:]

    def deliver(self, to_server: bool, datagram: bytes, ecn: int = 0) -> None:
        if not datagram:
            return
        self.now += MS // 8
        if not to_server:
            self.client.receive(datagram, self.now, ecn)
        elif self.server is not None:
            self.server.receive(datagram, self.now, ecn)
        else:
            self.server = make_server(datagram, self.now, self.backend)
            if self.server is not None:
                self.server.receive(datagram, self.now, ecn)
        self.collect()

    def next(self, to_server: bool) -> bytes:
        queue = self.queues[0 if to_server else 1]
        return queue.pop(0) if queue else b""

    def flight(self) -> None:
        """Everything that waits now arrives."""
        for to_server in (True, False):
            for _ in range(len(self.queues[0 if to_server else 1])):
                self.deliver(to_server, self.next(to_server))

    def pass_time(self, duration: int) -> None:
        """Timers fire when they are due."""
        until = self.now + duration
        for _ in range(50):
            due = [t for t in (side.connection.next_timeout() for side in self.sides()) if t is not None and t <= until]
            if not due:
                break
            self.now = max(self.now, min(due))
            for side in self.sides():
                timeout = side.connection.next_timeout()
                if timeout is not None and timeout <= self.now:
                    side.connection.handle_timeout(self.now)
            self.collect()
        self.now = max(self.now, until)
        self.collect()


def changed(reader: Reader, datagram: bytes) -> bytes:
    """One byte set, flipped, inserted or left out; or the length field of the first packet."""
    if not datagram:
        return b""
    out = bytearray(datagram)
    at = int.from_bytes(bytes((reader.byte(), reader.byte())), "big")
    # Small offsets are headers, and worth more than their share.
    at = at % len(out) if at & 1 else (at >> 1) % min(len(out), 64)
    value = reader.byte()
    match reader.byte() % 4:
        case 0:
            out[at] = value
        case 1:
            out[at] ^= value
        case 2:
            out.insert(at, value)
        case 3:
            del out[at : at + 1 + value % 40]
    return bytes(out)


def step(wire: Wire, reader: Reader) -> None:
    code = reader.byte()
    to_server = bool(code & 1)
    match code >> 1 & 15:
        case 0:
            wire.deliver(to_server, wire.next(to_server))
        case 1:
            wire.next(to_server)
        case 2:
            datagram = wire.next(to_server)
            wire.deliver(to_server, datagram)
            wire.deliver(to_server, datagram)
        case 3 | 4:
            wire.deliver(to_server, changed(reader, wire.next(to_server)))
        case 5:
            datagram = wire.next(to_server)
            twice = changed(reader, datagram)
            wire.deliver(to_server, twice)
            wire.deliver(to_server, datagram)
        case 6:
            datagram = wire.next(to_server)
            wire.deliver(to_server, datagram[: 1 + reader.byte() * 5 % max(len(datagram), 1)])
        case 7:
            wire.deliver(to_server, wire.next(to_server) + reader.take(1 + reader.byte() % 64))
        case 8:
            wire.deliver(to_server, wire.next(to_server) + wire.next(to_server))
        case 9:
            wire.deliver(not to_server, wire.next(to_server))
        case 10:
            if wire.history:
                wire.deliver(to_server, wire.history[reader.byte() % len(wire.history)])
        case 11:
            wire.deliver(to_server, reader.take(1 + reader.byte() % 64))
        case 12:
            # Anyone who has seen the client's first datagram can write this, and knows both IDs.
            versions = [int.from_bytes(reader.take(4), "big") for _ in range(reader.byte() % 4)]
            wire.deliver(False, encode_version_negotiation(b"client-0", b"original", versions))
        case 13:
            wire.pass_time((1 << reader.byte() % 34) * 1000)
        case 14:
            act(wire, to_server, reader.byte())
        case 15:
            wire.flight()


def act(wire: Wire, server: bool, choice: int) -> None:
    side = wire.server if server else wire.client
    if side is not None:
        wire.closed_by_application |= choice & 7 == 7
        side.act(choice)
        wire.collect()


def everything(stream: StreamHandle) -> bytes:
    data = b""
    while piece := stream.take(1 << 20):
        data += piece
    return data


def finish(wire: Wire) -> None:
    """The network is kind from now on: a handshake completes and a request is answered, or there is a reason."""
    request = None
    protected = wire.backend == "openssl"
    for _ in range(ROUNDS):
        wire.flight()
        if any(side.connection.close_reason is not None for side in wire.sides()):
            return
        if request is None and wire.client.connection.handshake_complete and wire.client.connection.can_open_stream():
            request = wire.client.connection.open_stream()
            request.write(REQUEST)
            request.finish()
            wire.collect()
        theirs = wire.server.connection.get_stream(request.id) if request is not None and wire.server else None
        if theirs is not None and theirs.unread >= len(REQUEST):
            assert everything(theirs) == REQUEST or not protected
            theirs.write(ANSWER)
            theirs.finish()
            wire.collect()
        if request is not None and request.unread >= len(ANSWER):
            assert everything(request) == ANSWER or not protected
            return
        wire.pass_time(2000 * MS)
    assert request is None or not protected, "a request without an answer"


def fuzz_one(data: bytes) -> None:
    """Nothing raises; invariants of fuzz_pair hold; with real protection only time and versions can end it."""
    reader = Reader(data)
    wire = Wire("null" if reader.byte() & 1 else "openssl")
    for _ in range(reader.byte() % 6):
        wire.flight()
    for _ in range(OPERATIONS_MAX):
        if not reader.more:
            break
        step(wire, reader)
    finish(wire)
    if wire.backend == "openssl" and not wire.closed_by_application:
        for side in wire.sides():
            check_unharmed(side)
    for side in wire.sides():
        side.run_out(wire.now)


def check_unharmed(side: Side) -> None:
    """Without keys an attacker can make the handshake take too long, and claim that versions differ; nothing else."""
    reason = side.connection.close_reason
    if reason is None or isinstance(reason, IdleTimeout):
        return
    if isinstance(reason, VersionNegotiationFailed):
        assert side.connection.is_client
        return
    if reason.error_code == TransportErrorCode.CONNECTION_REFUSED:
        assert reason.reason == "handshake timeout", reason
        return
    assert isinstance(reason, HandshakeFailed), reason
    assert not reason.error_code, reason


def seeds() -> Iterator[bytes]:
    """Each operation at each stage of the handshake, under both protections; and mixtures."""
    for protection in (0, 1):
        for stage in (0, 1, 2, 5):
            for operation in range(16):
                body = bytes((operation << 1 | 1, 7, 3, 9, 1, operation << 1, 200, 11, 0x55, 2)) * 2
                yield bytes((protection, stage)) + body
    rng = random.Random(9)
    for _ in range(40):
        yield generate(rng)


def generate(rng: random.Random) -> bytes:
    out = bytes((rng.randrange(2), rng.randrange(6)))
    for _ in range(rng.randrange(1, OPERATIONS_MAX)):
        operation = rng.choice((0, 1, 2, 3, 3, 4, 4, 5, 5, 6, 7, 8, 9, 10, 10, 11, 12, 13, 14, 14, 15))
        if operation == 12 and rng.random() < 0.8:
            operation = 3
        out += bytes((operation << 1 | rng.randrange(2),))
        if operation == 13:
            out += bytes((rng.choice((0, 5, 10, 12, 15, 17, 19, rng.randrange(34))),))
        elif operation == 14:
            out += bytes((rng.randrange(256) & (0xF6 if rng.random() < 0.95 else 0xFF),))
        else:
            out += rng.randbytes(rng.choice((0, 1, 4, 4, 4, 8)))
    return out
