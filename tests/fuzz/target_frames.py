"""Fuzz target: the frames of one decrypted packet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stoq.errors import FrameError
from stoq.wire.frame_codec import FrameType, encode_frame, parse_frames

EXAMPLES: list[tuple[FrameType, dict[str, Any]]] = [
    (FrameType.PADDING, {"count": 20}),
    (FrameType.PING, {}),
    (FrameType.ACK, {"ranges": [(1000, 1200), (500, 900), (0, 3)], "ack_delay": 25}),
    (FrameType.ACK_ECN, {"ranges": [(70, 70)], "ack_delay": 16000, "ect0": 1, "ect1": 0, "ce": 2**40}),
    (FrameType.RESET_STREAM, {"stream_id": 4, "error_code": 2**30, "final_size": 2**62 - 1}),
    (FrameType.STOP_SENDING, {"stream_id": 5, "error_code": 1}),
    (FrameType.CRYPTO, {"offset": 70000, "data": b"client hello"}),
    (FrameType.NEW_TOKEN, {"token": b"token"}),
    (FrameType.STREAM, {"stream_id": 8, "offset": 0, "data": b"first", "fin": False}),
    (FrameType.STREAM, {"stream_id": 8, "offset": 2**40, "data": b"last", "fin": True}),
    (FrameType.MAX_DATA, {"maximum": 2**24}),
    (FrameType.MAX_STREAM_DATA, {"stream_id": 8, "maximum": 2**20}),
    (FrameType.MAX_STREAMS_BIDI, {"maximum": 2**60}),
    (FrameType.MAX_STREAMS_UNI, {"maximum": 3}),
    (FrameType.DATA_BLOCKED, {"maximum": 2**24}),
    (FrameType.STREAM_DATA_BLOCKED, {"stream_id": 8, "maximum": 2**20}),
    (FrameType.STREAMS_BLOCKED_BIDI, {"maximum": 100}),
    (FrameType.STREAMS_BLOCKED_UNI, {"maximum": 100}),
    (
        FrameType.NEW_CONNECTION_ID,
        {
            "sequence_number": 9,
            "retire_prior_to": 9,
            "connection_id": b"12345678",
            "stateless_reset_token": bytes(range(16)),
        },
    ),
    (FrameType.RETIRE_CONNECTION_ID, {"sequence_number": 1}),
    (FrameType.PATH_CHALLENGE, {"data": b"abcdefgh"}),
    (FrameType.PATH_RESPONSE, {"data": b"abcdefgh"}),
    (FrameType.CONNECTION_CLOSE, {"error_code": 0x10A, "frame_type": 6, "reason": b"why"}),
    (FrameType.APPLICATION_CLOSE, {"error_code": 256, "reason": b""}),
    (FrameType.HANDSHAKE_DONE, {}),
]


def fuzz_one(data: bytes) -> None:
    """Must not raise. What is read can be written, reads back alike, and does not depend on the bytes behind."""
    try:
        frames = parse_frames(data)
    except FrameError:
        frames = None
    try:
        within = parse_frames(data + b"\x01" * 300, end=len(data))
    except FrameError:
        within = None
    assert within == frames
    if frames is None:
        return
    assert [f.start for f in frames] == [0, *(f.end for f in frames)][: len(frames)]
    assert not frames or frames[-1].end == len(data)
    encoded = b"".join(encode_frame(f.type, **f.fields) for f in frames)
    assert [(f.type, f.fields) for f in parse_frames(encoded)] == [(f.type, f.fields) for f in frames]


def seeds() -> Iterator[bytes]:
    """Every frame alone, all of them in one packet, and a stream that runs to the end."""
    yield from (encode_frame(kind, **values) for kind, values in EXAMPLES)
    yield b"".join(encode_frame(kind, **values) for kind, values in EXAMPLES)
    yield encode_frame(FrameType.STREAM, with_length=False, stream_id=4, offset=7, data=b"to the end", fin=True)
    yield encode_frame(FrameType.ACK, ranges=[(1000 - 4 * i, 1001 - 4 * i) for i in range(100)], ack_delay=0)
