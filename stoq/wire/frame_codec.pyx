"""Frames as Python objects, for tests, tools and qlog: the Python face of frames.pxd."""
from enum import IntEnum, IntFlag
from typing import NamedTuple

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset
from stoq.wire cimport frames
from stoq.wire.frames cimport AckWalk, Frame, FrameRow
from stoq.wire.varint cimport Cursor, VARINT_MAX

from stoq.errors import FrameError

cdef enum:
    RESET_TOKEN_SIZE = 16    # RFC 9000 §19.15


class FrameType(IntEnum):
    """Types of RFC 9000 §19; STREAM stands for 0x08 to 0x0f."""

    PADDING = frames.FRAME_PADDING
    PING = frames.FRAME_PING
    ACK = frames.FRAME_ACK
    ACK_ECN = frames.FRAME_ACK_ECN
    RESET_STREAM = frames.FRAME_RESET_STREAM
    STOP_SENDING = frames.FRAME_STOP_SENDING
    CRYPTO = frames.FRAME_CRYPTO
    NEW_TOKEN = frames.FRAME_NEW_TOKEN
    STREAM = frames.FRAME_STREAM
    MAX_DATA = frames.FRAME_MAX_DATA
    MAX_STREAM_DATA = frames.FRAME_MAX_STREAM_DATA
    MAX_STREAMS_BIDI = frames.FRAME_MAX_STREAMS_BIDI
    MAX_STREAMS_UNI = frames.FRAME_MAX_STREAMS_UNI
    DATA_BLOCKED = frames.FRAME_DATA_BLOCKED
    STREAM_DATA_BLOCKED = frames.FRAME_STREAM_DATA_BLOCKED
    STREAMS_BLOCKED_BIDI = frames.FRAME_STREAMS_BLOCKED_BIDI
    STREAMS_BLOCKED_UNI = frames.FRAME_STREAMS_BLOCKED_UNI
    NEW_CONNECTION_ID = frames.FRAME_NEW_CONNECTION_ID
    RETIRE_CONNECTION_ID = frames.FRAME_RETIRE_CONNECTION_ID
    PATH_CHALLENGE = frames.FRAME_PATH_CHALLENGE
    PATH_RESPONSE = frames.FRAME_PATH_RESPONSE
    CONNECTION_CLOSE = frames.FRAME_CONNECTION_CLOSE
    APPLICATION_CLOSE = frames.FRAME_APPLICATION_CLOSE
    HANDSHAKE_DONE = frames.FRAME_HANDSHAKE_DONE


class FrameEpoch(IntFlag):
    """Packets that may carry a frame (RFC 9000 §12.4, table 3)."""

    INITIAL = frames.EPOCH_I
    ZERO_RTT = frames.EPOCH_0
    HANDSHAKE = frames.EPOCH_H
    ONE_RTT = frames.EPOCH_1


# Which field of the struct a named field of a frame lives in.
cdef enum:
    SLOT_STREAM_ID = 0           # the numbers first
    SLOT_OFFSET = 1
    SLOT_VALUE = 2
    SLOT_VALUE2 = 3
    SLOT_ECT0 = 4
    SLOT_ECT1 = 5
    SLOT_CE = 6
    SLOT_FIN = 7
    SLOT_DATA = 8
    SLOT_EXTRA = 9
    SLOT_RANGES = 10

_STREAM_ID = ("stream_id", SLOT_STREAM_ID)
_OFFSET = ("offset", SLOT_OFFSET)
_MAXIMUM = ("maximum", SLOT_VALUE)
_ERROR_CODE = ("error_code", SLOT_VALUE)
_SEQUENCE = ("sequence_number", SLOT_VALUE)
_DATA = ("data", SLOT_DATA)
_RANGES = ("ranges", SLOT_RANGES)
_ACK_DELAY = ("ack_delay", SLOT_VALUE2)

_LAYOUT = {
    frames.FRAME_PADDING: (("count", SLOT_VALUE),),
    frames.FRAME_PING: (),
    frames.FRAME_ACK: (_RANGES, _ACK_DELAY),
    frames.FRAME_ACK_ECN: (_RANGES, _ACK_DELAY, ("ect0", SLOT_ECT0), ("ect1", SLOT_ECT1), ("ce", SLOT_CE)),
    frames.FRAME_RESET_STREAM: (_STREAM_ID, _ERROR_CODE, ("final_size", SLOT_VALUE2)),
    frames.FRAME_STOP_SENDING: (_STREAM_ID, _ERROR_CODE),
    frames.FRAME_CRYPTO: (_OFFSET, _DATA),
    frames.FRAME_NEW_TOKEN: (("token", SLOT_DATA),),
    frames.FRAME_STREAM: (_STREAM_ID, _OFFSET, _DATA, ("fin", SLOT_FIN)),
    frames.FRAME_MAX_DATA: (_MAXIMUM,),
    frames.FRAME_MAX_STREAM_DATA: (_STREAM_ID, _MAXIMUM),
    frames.FRAME_MAX_STREAMS_BIDI: (_MAXIMUM,),
    frames.FRAME_MAX_STREAMS_UNI: (_MAXIMUM,),
    frames.FRAME_DATA_BLOCKED: (_MAXIMUM,),
    frames.FRAME_STREAM_DATA_BLOCKED: (_STREAM_ID, _MAXIMUM),
    frames.FRAME_STREAMS_BLOCKED_BIDI: (_MAXIMUM,),
    frames.FRAME_STREAMS_BLOCKED_UNI: (_MAXIMUM,),
    frames.FRAME_NEW_CONNECTION_ID: (_SEQUENCE, ("retire_prior_to", SLOT_VALUE2), ("connection_id", SLOT_DATA),
                                     ("stateless_reset_token", SLOT_EXTRA)),
    frames.FRAME_RETIRE_CONNECTION_ID: (_SEQUENCE,),
    frames.FRAME_PATH_CHALLENGE: (_DATA,),
    frames.FRAME_PATH_RESPONSE: (_DATA,),
    frames.FRAME_CONNECTION_CLOSE: (_ERROR_CODE, ("frame_type", SLOT_VALUE2), ("reason", SLOT_DATA)),
    frames.FRAME_APPLICATION_CLOSE: (_ERROR_CODE, ("reason", SLOT_DATA)),
    frames.FRAME_HANDSHAKE_DONE: (),
}


class ParsedFrame(NamedTuple):
    """One frame. `fields` by the RFC's names, as encode_frame takes them; STREAM types all read 0x08.

    ACK: `ranges` is a list of inclusive (low, high), highest first, and `ack_delay` is the raw field.
    epochs: FrameEpoch bits. start, end: its span in the payload.
    """

    type: int
    name: str
    fields: dict
    epochs: object
    ack_eliciting: bool
    probing: bool
    start: int
    end: int


cdef uint64_t *number(Frame *f, int slot) noexcept:
    if slot == SLOT_STREAM_ID:
        return &f.stream_id
    if slot == SLOT_OFFSET:
        return &f.offset
    if slot == SLOT_VALUE:
        return &f.value
    if slot == SLOT_VALUE2:
        return &f.value2
    if slot == SLOT_ECT0:
        return &f.ect0
    if slot == SLOT_ECT1:
        return &f.ect1
    return &f.ce


cdef object get_field(Frame *f, int slot):
    cdef AckWalk walk
    cdef uint64_t low, high
    if slot <= SLOT_CE:
        return number(f, slot)[0]
    if slot == SLOT_FIN:
        return bool(f.fin)
    if slot == SLOT_DATA:
        return (<const char *>f.data)[:f.length]
    if slot == SLOT_EXTRA:
        return (<const char *>f.extra)[:RESET_TOKEN_SIZE]
    ranges = []
    frames.ack_walk_init(&walk, f)
    while frames.ack_walk_next(&walk, f, &low, &high):
        ranges.append((low, high))
    return ranges


def parse_frames(bytes payload not None, size_t start=0, end=None):
    """All frames of payload[start:end]; FrameError at the first that is malformed or unknown (RFC 9000 §12.4).

    A run of PADDING is one frame with its count. Never looks beyond `end`.
    """
    cdef size_t stop = len(payload) if end is None else end
    cdef const uint8_t *base = <const uint8_t *><const char *>payload
    cdef const FrameRow *facts
    cdef Cursor c
    cdef Frame f
    cdef size_t at
    cdef int rc
    if not start <= stop <= <size_t>len(payload):
        raise ValueError("start and end lie outside the payload")
    c.p = base + start
    c.end = base + stop
    parsed = []
    while c.p < c.end:
        at = <size_t>(c.p - base)
        rc = frames.frame_parse(&c, &f)
        if rc != frames.FRAME_OK:
            what = "unknown type" if rc == frames.FRAME_UNKNOWN else "malformed"
            raise FrameError(f"{what} at byte {at}", f.type)
        facts = frames.frame_row(f.type)
        parsed.append(ParsedFrame(
            f.type, facts.name.decode(), {name: get_field(&f, slot) for name, slot in _LAYOUT[f.type]},
            FrameEpoch(facts.epochs), bool(facts.ack_eliciting), bool(facts.probing), at, <size_t>(c.p - base),
        ))
    return parsed


cdef bytes encode_ack(bytearray out, size_t room, uint64_t delay, ranges, Frame *f):
    """ACK through frames.frame_emit_ack; the ranges as one array of pairs."""
    numbers = bytearray(16 * len(ranges))
    cdef uint64_t *pairs = <uint64_t *><char *>numbers
    cdef size_t i = 0
    below = VARINT_MAX + 2
    for low, high in ranges:
        if not 0 <= low <= high <= below - 2:
            raise ValueError("ranges must descend with a gap between them")
        pairs[2 * i] = low
        pairs[2 * i + 1] = high
        below = low
        i += 1
    cdef size_t n = frames.frame_emit_ack(<uint8_t *><char *>out, room, delay, pairs, i,
                                          f.type == frames.FRAME_ACK_ECN, f.ect0, f.ect1, f.ce)
    return bytes(out[:n])


def encode_frame(uint64_t type, *, bint with_length=True, room=None, **fields):
    """One frame from the fields that parse_frames gives; KeyError when one is missing, TypeError when one is too many.

    with_length=False: a STREAM frame that runs to the packet's end. room: bytes to write into; ValueError when the
    frame does not fit, except ACK, which drops its lowest ranges. ValueError also for numbers above 2**62 - 1.
    """
    cdef Frame f
    cdef size_t n
    cdef bytes data, token       # keep alive what f points into
    if type not in _LAYOUT:
        raise ValueError(f"no frame of type 0x{type:x}")
    memset(&f, 0, sizeof(f))
    f.type = type
    wanted = _LAYOUT[type]
    if len(fields) > len(wanted):
        raise TypeError(f"frame 0x{type:x} has only {', '.join(name for name, _ in wanted) or 'no fields'}")
    for name, slot in wanted:
        value = fields[name]
        if slot == SLOT_DATA:
            data = value
            f.data = data
            f.length = len(data)
        elif slot == SLOT_EXTRA:
            token = value
            if len(token) != RESET_TOKEN_SIZE:
                raise ValueError("a stateless reset token has 16 bytes")
            f.extra = token
        elif slot == SLOT_FIN:
            f.fin = value
        elif slot <= SLOT_CE:
            if not 0 <= value <= VARINT_MAX:
                raise ValueError(f"{name} is not in 0 to 2**62 - 1")
            number(&f, slot)[0] = value
    if type == frames.FRAME_PADDING:
        return bytes(f.value if room is None else min(f.value, room))
    ranges = fields.get("ranges", ())
    # Eight bytes for each of at most seven numbers and of two a range.
    cdef size_t capacity = 64 + f.length + RESET_TOKEN_SIZE + 16 * len(ranges) if room is None else room
    out = bytearray(capacity)
    cdef uint8_t *buf = <uint8_t *><char *>out
    if type == frames.FRAME_ACK or type == frames.FRAME_ACK_ECN:
        encoded = encode_ack(out, capacity, f.value2, ranges, &f)
        n = len(encoded)
    elif type == frames.FRAME_STREAM and not with_length:
        n = frames.frame_emit_stream_head(buf, capacity, f.stream_id, f.offset, f.length, False, f.fin)
        if n and capacity - n >= f.length:
            memcpy(buf + n, f.data, f.length)
            n += f.length
        else:
            n = 0
    else:
        n = frames.frame_emit(buf, capacity, &f)
    if n == 0:
        raise ValueError("the frame does not fit, or its fields have the wrong size")
    return bytes(out[:n])
