"""Fuzz target: decrypted packets of any frames to a live connection, in between actions of its application.

The first byte chooses the side, what its application does, and the packet type; the second how far the handshake is
and how much time passes between packets. Pieces follow: one byte long, an action; otherwise a packet's payload.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from fuzz_pair import MS, Side, handshake, long_packet, one_rtt, piece, pieces

from stoq.errors import FrameError
from stoq.testing.seams import facts
from stoq.wire.frame_codec import FrameType, encode_frame, parse_frames
from stoq.wire.header import PacketType

MUTATIONS = 1200
FIRST_NUMBER = 100
PACKETS_MAX = 64


def packet(kind: int, side: Side, number: int, payload: bytes) -> bytes:
    dcid = b"client-0" if side.connection.is_client else b"server-0"
    scid = b"server-0" if side.connection.is_client else b"client-0"
    if kind < 2:
        return one_rtt(dcid, number, payload)
    if kind == 3:
        return long_packet(PacketType.HANDSHAKE, dcid, scid, number, payload)
    # RFC 9000 §14.1: a server hears an Initial only in a full datagram. What follows is no packet.
    return long_packet(PacketType.INITIAL, dcid, scid, number, payload).ljust(1200, b"\0")


def is_broken(payload: bytes) -> bool:
    try:
        return not parse_frames(payload)
    except FrameError:
        return True


def fuzz_one(data: bytes) -> None:
    """Nothing raises; what cannot be parsed closes the connection; memory and time stay bounded; the end comes."""
    if len(data) < 2:
        return
    choice, clock = data[0], data[1]
    client, server, now = handshake(rounds=min(clock & 7, 6))
    side = client if choice & 1 else server
    kind = choice >> 3 & 3
    step = (clock >> 3) * MS
    if choice & 2:
        for action in (0xF0, 0xF8, 0xF0):  # two bidirectional streams and a unidirectional one, with data
            side.act(action)
    side.send(now)
    number = FIRST_NUMBER
    for payload in pieces(data[2:]):
        now += step
        if len(payload) == 1:
            side.act(payload[0])
        elif number < FIRST_NUMBER + PACKETS_MAX:
            space = {2: 0, 3: 1}.get(kind, 2)
            spaces = facts(side.connection)["spaces"][space] if not side.connection.terminated else None
            before = side.connection.close_reason
            side.receive(packet(kind, side, number, payload), now)
            number += 1
            heard = spaces is not None and spaces["has_rx"] and not spaces["discarded"]
            if heard and before is None and is_broken(payload):
                assert side.connection.close_reason is not None, "an unreadable packet went by"
        if choice & 4:
            for stream in range(len(side.streams)):
                side.act(5 | stream << 3)
        side.send(now)
    side.run_out(now)


NUMBERS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 32, 60, 100, 1000, 2**14 - 1, 2**14, 2**14 + 1, 2**16, 2**30, 2**62 - 1)


class Generator:
    """Packets of well-formed frames. Those of a `careful` one are mostly legal, so that the connection lives on."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.careful = rng.random() < 0.8
        self.to_client = rng.random() < 0.5
        self.kinds = [kind for kind in FrameType if not self.careful or self.is_legal(kind)]

    def is_legal(self, kind: FrameType) -> bool:
        return self.to_client or kind not in (FrameType.NEW_TOKEN, FrameType.HANDSHAKE_DONE)

    def number(self, top: int = 2**62 - 1) -> int:
        return min(self.rng.choice(NUMBERS), top)

    def stream_id(self, sends: bool, receives: bool) -> int:
        """A stream on which the peer may send, or which it may receive."""
        rng, mine, theirs = self.rng, int(not self.to_client), int(self.to_client)
        if not self.careful or rng.random() < 0.02:
            return rng.randrange(40)
        kinds = [theirs] * 4 + [mine] + [2 | theirs] * 2 * sends + [2 | mine] * receives
        kind = rng.choice(kinds)
        return kind + 4 * (0 if kind & 1 == mine else rng.randrange(8))

    def frame(self) -> bytes:
        rng, kind = self.rng, self.rng.choice(self.kinds)
        values: dict[str, object] = {}
        match kind:
            case FrameType.PADDING:
                values = {"count": rng.randrange(1, 30)}
            case FrameType.ACK | FrameType.ACK_ECN:
                high = rng.choice((0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 8))
                low = rng.randrange(high + 1)
                values = {"ranges": [(low, high)], "ack_delay": self.number()}
                if kind is FrameType.ACK_ECN:
                    values |= {"ect0": self.number(), "ect1": self.number(), "ce": self.number()}
            case FrameType.STREAM:
                data = rng.randbytes(rng.choice((0, 1, 5, 20, 40, 150)))
                top = 16384 - len(data) if self.careful else 2**62 - 1 - len(data)
                offset = rng.choice((0, rng.randrange(60), self.number(top)))
                values = {"stream_id": self.stream_id(True, False), "offset": offset, "data": data}
                values["fin"] = rng.random() < 0.1
            case FrameType.CRYPTO:
                top = 8000 if self.careful else 2**62 - 100
                values = {"offset": 1 + self.number(top), "data": rng.randbytes(rng.randrange(40))}
            case FrameType.NEW_CONNECTION_ID:
                # Those of the handshake have 0 to 3.
                sequence = rng.randrange(4, 14) if self.careful else rng.randrange(12)
                values = {
                    "sequence_number": sequence,
                    "retire_prior_to": min(sequence, rng.randrange(12)),
                    "connection_id": b"newid-%02d" % sequence,
                    "stateless_reset_token": bytes([sequence]) * 16,
                }
                if rng.random() < 0.05:
                    values["connection_id"] = rng.randbytes(rng.randrange(1, 21))
            case FrameType.RETIRE_CONNECTION_ID:
                values = {"sequence_number": rng.randrange(1, 4) if self.careful else rng.randrange(9)}
            case FrameType.NEW_TOKEN:
                values = {"token": rng.randbytes(rng.randrange(1, 40))}
            case FrameType.PATH_CHALLENGE | FrameType.PATH_RESPONSE:
                values = {"data": rng.randbytes(8)}
            case FrameType.RESET_STREAM:
                values = {"stream_id": self.stream_id(True, False), "error_code": self.number()}
                values["final_size"] = self.number(2**14 if self.careful else 2**62 - 1)
            case FrameType.STOP_SENDING:
                values = {"stream_id": self.stream_id(False, True), "error_code": self.number()}
            case FrameType.MAX_STREAM_DATA:
                values = {"stream_id": self.stream_id(False, True), "maximum": self.number()}
            case FrameType.STREAM_DATA_BLOCKED:
                values = {"stream_id": self.stream_id(True, False), "maximum": self.number()}
            case FrameType.CONNECTION_CLOSE | FrameType.APPLICATION_CLOSE:
                if rng.random() < 0.9:
                    return b"\x01"
                values = {"error_code": self.number(), "reason": rng.randbytes(rng.randrange(9))}
                if kind is FrameType.CONNECTION_CLOSE:
                    values["frame_type"] = self.number()
            case FrameType.PING | FrameType.HANDSHAKE_DONE:
                pass
            case _:
                values = {"maximum": self.number(2**60)}
        return encode_frame(kind, **values)

    def program(self) -> bytes:
        rng = self.rng
        packet_type = 0 if self.careful else rng.choice((0, 16, 24))
        out = bytes(
            (self.to_client | 2 | rng.choice((0, 4)) | packet_type, rng.choice((0x0E, 0x7E, rng.randrange(256))))
        )
        for _ in range(rng.randrange(1, 25)):
            if rng.random() < 0.3:
                out += piece(bytes([rng.randrange(256) & (0xF6 if rng.random() < 0.9 else 0xFF)]))
            else:
                out += piece(b"".join(self.frame() for _ in range(rng.randrange(1, 6)))[:1000])
        return out


def generate(rng: random.Random) -> bytes:
    return Generator(rng).program()


def seeds() -> Iterator[bytes]:
    """Every frame for both sides, alone and many to a packet, and the orders that connections die of."""
    f = encode_frame
    everything = [
        f(FrameType.PADDING, count=20),
        f(FrameType.PING),
        f(FrameType.ACK, ranges=[(0, 0)], ack_delay=25),
        f(FrameType.ACK, ranges=[(1, 3), (0, 0)][:1], ack_delay=0),
        f(FrameType.ACK_ECN, ranges=[(0, 0)], ack_delay=1, ect0=1, ect1=0, ce=0),
        f(FrameType.RESET_STREAM, stream_id=0, error_code=7, final_size=100),
        f(FrameType.RESET_STREAM, stream_id=1, error_code=7, final_size=3),
        f(FrameType.STOP_SENDING, stream_id=0, error_code=1),
        f(FrameType.STOP_SENDING, stream_id=1, error_code=1),
        f(FrameType.CRYPTO, offset=0, data=b"\x04\0\0\x02no"),
        f(FrameType.CRYPTO, offset=9000, data=b"later"),
        f(FrameType.NEW_TOKEN, token=b"token"),
        f(FrameType.MAX_DATA, maximum=2**24),
        f(FrameType.MAX_STREAM_DATA, stream_id=0, maximum=2**20),
        f(FrameType.MAX_STREAM_DATA, stream_id=1, maximum=2**20),
        f(FrameType.MAX_STREAMS_BIDI, maximum=2**60),
        f(FrameType.MAX_STREAMS_UNI, maximum=30),
        f(FrameType.DATA_BLOCKED, maximum=2**24),
        f(FrameType.STREAM_DATA_BLOCKED, stream_id=0, maximum=2**20),
        f(FrameType.STREAMS_BLOCKED_BIDI, maximum=100),
        f(FrameType.STREAMS_BLOCKED_UNI, maximum=100),
        f(FrameType.RETIRE_CONNECTION_ID, sequence_number=1),
        f(FrameType.RETIRE_CONNECTION_ID, sequence_number=0),
        f(FrameType.PATH_CHALLENGE, data=b"abcdefgh"),
        f(FrameType.PATH_RESPONSE, data=b"abcdefgh"),
        f(FrameType.HANDSHAKE_DONE),
        f(FrameType.CONNECTION_CLOSE, error_code=0x10A, frame_type=6, reason=b"why"),
        f(FrameType.APPLICATION_CLOSE, error_code=256, reason=b"enough\n"),
    ]
    for stream_id in range(4):
        everything += [
            f(FrameType.STREAM, stream_id=stream_id, offset=0, data=b"first", fin=False),
            f(FrameType.STREAM, stream_id=stream_id, offset=9, data=b"last", fin=True),
            f(FrameType.STREAM, stream_id=stream_id, offset=16000, data=b"far", fin=False),
        ]
    for sequence, prior in ((1, 0), (2, 2), (5, 3), (9, 9)):
        everything.append(
            f(
                FrameType.NEW_CONNECTION_ID,
                sequence_number=sequence,
                retire_prior_to=prior,
                connection_id=b"newid%03d" % sequence,
                stateless_reset_token=bytes([sequence]) * 16,
            )
        )
    padding = f(FrameType.PADDING, count=8)
    for choice in (0, 1, 2, 3, 6, 7):
        yield bytes((choice, 0x0E)) + b"".join(piece(frame + padding) for frame in everything[:-6])
        for first in range(0, len(everything), 8):
            yield bytes((choice, 0x0E)) + piece(b"".join(everything[first : first + 8]))
    for frame in everything:
        yield bytes((2, 0x1E)) + piece(frame + padding)
        yield bytes((3, 0x1E)) + piece(frame + padding)
    for kind in (2, 3):  # Initial and Handshake packets, at each stage of the handshake
        for rounds in range(4):
            for side in (0, 1):
                yield bytes((kind << 3 | side, rounds | 8)) + b"".join(map(piece, everything[:12]))
    actions = b"".join(piece(bytes([a])) for a in (0xF0, 0xF8, 1, 9, 2, 10, 3, 4, 12, 5, 6))
    stream = [f(FrameType.STREAM, stream_id=s, offset=0, data=b"x" * 100, fin=bool(s & 4)) for s in (0, 4, 8, 12)]
    yield bytes((0, 0x0E)) + b"".join(map(piece, stream)) + actions + piece(padding) + piece(b"\x07")
    yield bytes((7, 0xFE)) + actions + piece(f(FrameType.ACK, ranges=[(1, 9)], ack_delay=0) + padding) + actions
    rng = random.Random(4)
    for _ in range(40):
        yield generate(rng)
    holes = [f(FrameType.STREAM, stream_id=0, offset=2 * n, data=b"x", fin=False) for n in range(200)]
    yield bytes((0, 0x0E)) + b"".join(piece(b"".join(holes[n : n + 50])) for n in range(0, 200, 50))
