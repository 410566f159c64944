"""Frame codecs: every frame there and back, cut at each byte, out of range, and bytes of no meaning."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stoq.errors import FrameError, TransportErrorCode
from stoq.wire.frame_codec import FrameEpoch, FrameType, encode_frame, parse_frames
from stoq.wire.varint import encode_varint

NUMBER_MAX = 2**62 - 1
NUMBERS = st.one_of(st.integers(0, 2**14), st.integers(0, NUMBER_MAX), st.just(NUMBER_MAX))
SMALL = st.integers(0, 2**61)
BYTES = st.binary(max_size=80)
STREAM_LIMITS = st.integers(0, 2**60)


@st.composite
def ack_ranges(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Inclusive, highest first, at least one number missing between two."""
    at = draw(st.integers(0, 2**20))
    ranges = []
    for gap, length in draw(st.lists(st.tuples(st.integers(2, 2**16), st.integers(0, 2**16)), min_size=1, max_size=6)):
        low = at + gap
        ranges.append((low, low + length))
        at = low + length
    return ranges[::-1]


def fields(**strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(strategies)


NEW_CONNECTION_ID = st.builds(
    lambda sequence, behind, cid, token: {
        "sequence_number": sequence,
        "retire_prior_to": max(sequence - behind, 0),
        "connection_id": cid,
        "stateless_reset_token": token,
    },
    NUMBERS,
    NUMBERS,
    st.binary(min_size=1, max_size=20),
    st.binary(min_size=16, max_size=16),
)
FIELDS = {
    FrameType.PADDING: fields(count=st.integers(1, 1400)),
    FrameType.PING: fields(),
    FrameType.ACK: fields(ranges=ack_ranges(), ack_delay=NUMBERS),
    FrameType.ACK_ECN: fields(ranges=ack_ranges(), ack_delay=NUMBERS, ect0=NUMBERS, ect1=NUMBERS, ce=NUMBERS),
    FrameType.RESET_STREAM: fields(stream_id=NUMBERS, error_code=NUMBERS, final_size=NUMBERS),
    FrameType.STOP_SENDING: fields(stream_id=NUMBERS, error_code=NUMBERS),
    FrameType.CRYPTO: fields(offset=SMALL, data=BYTES),
    FrameType.NEW_TOKEN: fields(token=st.binary(min_size=1, max_size=80)),
    FrameType.STREAM: fields(stream_id=NUMBERS, offset=SMALL, data=BYTES, fin=st.booleans()),
    FrameType.MAX_DATA: fields(maximum=NUMBERS),
    FrameType.MAX_STREAM_DATA: fields(stream_id=NUMBERS, maximum=NUMBERS),
    FrameType.MAX_STREAMS_BIDI: fields(maximum=STREAM_LIMITS),
    FrameType.MAX_STREAMS_UNI: fields(maximum=STREAM_LIMITS),
    FrameType.DATA_BLOCKED: fields(maximum=NUMBERS),
    FrameType.STREAM_DATA_BLOCKED: fields(stream_id=NUMBERS, maximum=NUMBERS),
    FrameType.STREAMS_BLOCKED_BIDI: fields(maximum=STREAM_LIMITS),
    FrameType.STREAMS_BLOCKED_UNI: fields(maximum=STREAM_LIMITS),
    FrameType.NEW_CONNECTION_ID: NEW_CONNECTION_ID,
    FrameType.RETIRE_CONNECTION_ID: fields(sequence_number=NUMBERS),
    FrameType.PATH_CHALLENGE: fields(data=st.binary(min_size=8, max_size=8)),
    FrameType.PATH_RESPONSE: fields(data=st.binary(min_size=8, max_size=8)),
    FrameType.CONNECTION_CLOSE: fields(error_code=NUMBERS, frame_type=NUMBERS, reason=BYTES),
    FrameType.APPLICATION_CLOSE: fields(error_code=NUMBERS, reason=BYTES),
    FrameType.HANDSHAKE_DONE: fields(),
}
FRAMES = st.sampled_from(sorted(FIELDS)).flatmap(lambda kind: st.tuples(st.just(kind), FIELDS[kind]))

# RFC 9000 §12.4, table 3, as printed: packets, and N (not ack-eliciting), P (probing) of its "Spec" column.
TABLE_3 = {
    FrameType.PADDING: ("IH01", "NP"),
    FrameType.PING: ("IH01", ""),
    FrameType.ACK: ("IH_1", "N"),
    FrameType.ACK_ECN: ("IH_1", "N"),
    FrameType.RESET_STREAM: ("__01", ""),
    FrameType.STOP_SENDING: ("__01", ""),
    FrameType.CRYPTO: ("IH_1", ""),
    FrameType.NEW_TOKEN: ("___1", ""),
    FrameType.STREAM: ("__01", ""),
    FrameType.MAX_DATA: ("__01", ""),
    FrameType.MAX_STREAM_DATA: ("__01", ""),
    FrameType.MAX_STREAMS_BIDI: ("__01", ""),
    FrameType.MAX_STREAMS_UNI: ("__01", ""),
    FrameType.DATA_BLOCKED: ("__01", ""),
    FrameType.STREAM_DATA_BLOCKED: ("__01", ""),
    FrameType.STREAMS_BLOCKED_BIDI: ("__01", ""),
    FrameType.STREAMS_BLOCKED_UNI: ("__01", ""),
    FrameType.NEW_CONNECTION_ID: ("__01", "P"),
    FrameType.RETIRE_CONNECTION_ID: ("__01", ""),
    FrameType.PATH_CHALLENGE: ("__01", "P"),
    FrameType.PATH_RESPONSE: ("___1", "P"),
    FrameType.CONNECTION_CLOSE: ("IH01", "N"),
    FrameType.APPLICATION_CLOSE: ("__01", "N"),
    FrameType.HANDSHAKE_DONE: ("___1", ""),
}
LETTERS = {
    "I": FrameEpoch.INITIAL,
    "H": FrameEpoch.HANDSHAKE,
    "0": FrameEpoch.ZERO_RTT,
    "1": FrameEpoch.ONE_RTT,
}
EXAMPLES = {
    FrameType.PADDING: {"count": 1},
    FrameType.PING: {},
    FrameType.ACK: {"ranges": [(1, 1)], "ack_delay": 0},
    FrameType.ACK_ECN: {"ranges": [(1, 1)], "ack_delay": 0, "ect0": 1, "ect1": 2, "ce": 3},
    FrameType.RESET_STREAM: {"stream_id": 4, "error_code": 5, "final_size": 6},
    FrameType.STOP_SENDING: {"stream_id": 4, "error_code": 5},
    FrameType.CRYPTO: {"offset": 3, "data": b"hello"},
    FrameType.NEW_TOKEN: {"token": b"token"},
    FrameType.STREAM: {"stream_id": 4, "offset": 100, "data": b"hello", "fin": True},
    FrameType.MAX_DATA: {"maximum": 1000},
    FrameType.MAX_STREAM_DATA: {"stream_id": 4, "maximum": 1000},
    FrameType.MAX_STREAMS_BIDI: {"maximum": 100},
    FrameType.MAX_STREAMS_UNI: {"maximum": 100},
    FrameType.DATA_BLOCKED: {"maximum": 1000},
    FrameType.STREAM_DATA_BLOCKED: {"stream_id": 4, "maximum": 1000},
    FrameType.STREAMS_BLOCKED_BIDI: {"maximum": 100},
    FrameType.STREAMS_BLOCKED_UNI: {"maximum": 100},
    FrameType.NEW_CONNECTION_ID: {
        "sequence_number": 3,
        "retire_prior_to": 2,
        "connection_id": b"12345678",
        "stateless_reset_token": b"0123456789abcdef",
    },
    FrameType.RETIRE_CONNECTION_ID: {"sequence_number": 3},
    FrameType.PATH_CHALLENGE: {"data": b"12345678"},
    FrameType.PATH_RESPONSE: {"data": b"12345678"},
    FrameType.CONNECTION_CLOSE: {"error_code": 7, "frame_type": 8, "reason": b"why"},
    FrameType.APPLICATION_CLOSE: {"error_code": 7, "reason": b"why"},
    FrameType.HANDSHAKE_DONE: {},
}
# Bytes written by hand from the figures of RFC 9000 §19.
ON_THE_WIRE = {
    FrameType.PADDING: "00",
    FrameType.PING: "01",
    FrameType.ACK: "0201000000",
    FrameType.ACK_ECN: "0301000000010203",
    FrameType.RESET_STREAM: "04040506",
    FrameType.STOP_SENDING: "050405",
    FrameType.CRYPTO: "06030568656c6c6f",
    FrameType.NEW_TOKEN: "0705746f6b656e",
    FrameType.STREAM: "0f0440640568656c6c6f",
    FrameType.MAX_DATA: "1043e8",
    FrameType.MAX_STREAM_DATA: "110443e8",
    FrameType.MAX_STREAMS_BIDI: "124064",
    FrameType.MAX_STREAMS_UNI: "134064",
    FrameType.DATA_BLOCKED: "1443e8",
    FrameType.STREAM_DATA_BLOCKED: "150443e8",
    FrameType.STREAMS_BLOCKED_BIDI: "164064",
    FrameType.STREAMS_BLOCKED_UNI: "174064",
    FrameType.NEW_CONNECTION_ID: "18030208313233343536373830313233343536373839616263646566",
    FrameType.RETIRE_CONNECTION_ID: "1903",
    FrameType.PATH_CHALLENGE: "1a3132333435363738",
    FrameType.PATH_RESPONSE: "1b3132333435363738",
    FrameType.CONNECTION_CLOSE: "1c070803776879",
    FrameType.APPLICATION_CLOSE: "1d0703776879",
    FrameType.HANDSHAKE_DONE: "1e",
}


def refusal(data: bytes, **span: int) -> FrameError | None:
    try:
        parse_frames(data, **span)
    except FrameError as error:
        return error
    return None


@pytest.mark.parametrize("kind", list(FrameType))
def test_bytes_on_the_wire(kind: FrameType) -> None:
    encoded = encode_frame(kind, **EXAMPLES[kind])
    assert encoded.hex() == ON_THE_WIRE[kind]
    (frame,) = parse_frames(encoded)
    assert (frame.type, frame.fields, frame.start, frame.end) == (kind, EXAMPLES[kind], 0, len(encoded))


@pytest.mark.parametrize("kind", list(FrameType))
def test_table_3(kind: FrameType) -> None:
    packets, notes = TABLE_3[kind]
    (frame,) = parse_frames(encode_frame(kind, **EXAMPLES[kind]))
    assert {letter for letter, epoch in LETTERS.items() if frame.epochs & epoch} == set(packets) - {"_"}
    assert frame.ack_eliciting == ("N" not in notes)
    assert frame.probing == ("P" in notes)


@pytest.mark.parametrize("kind", list(FrameType))
def test_names_are_those_of_qlog(kind: FrameType) -> None:
    (frame,) = parse_frames(encode_frame(kind, **EXAMPLES[kind]))
    family = {"ACK_ECN": "ACK", "APPLICATION_CLOSE": "CONNECTION_CLOSE"}.get(kind.name, kind.name)
    assert frame.name == family.lower().removesuffix("_bidi").removesuffix("_uni")


@pytest.mark.parametrize("kind", list(FrameType))
def test_cut_at_each_byte(kind: FrameType) -> None:
    encoded = encode_frame(kind, **EXAMPLES[kind])
    for cut in range(1, len(encoded)):
        error = refusal(encoded[:cut])
        assert error is not None
        assert error.error_code == TransportErrorCode.FRAME_ENCODING_ERROR
        assert error.frame_type == kind
        # Nothing beyond the end is looked at.
        assert refusal(encoded + bytes(20), end=cut) is not None
        # Nor is anything written there.
        if kind not in (FrameType.ACK, FrameType.ACK_ECN, FrameType.PADDING):
            with pytest.raises(ValueError, match="fit"):
                encode_frame(kind, room=cut, **EXAMPLES[kind])
    assert encode_frame(kind, room=len(encoded), **EXAMPLES[kind]) == encoded


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(FRAMES, st.binary(max_size=10))
def test_round_trip(frame: tuple[FrameType, dict[str, Any]], behind: bytes) -> None:
    kind, values = frame
    encoded = encode_frame(kind, **values)
    (parsed,) = parse_frames(encoded + behind, end=len(encoded))
    assert (parsed.type, parsed.fields, parsed.end) == (kind, values, len(encoded))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(FRAMES.filter(lambda f: f[0] is not FrameType.PADDING), max_size=6), st.binary(max_size=40))
def test_a_packet_of_frames(frames: list[tuple[FrameType, dict[str, Any]]], data: bytes) -> None:
    payload = b"".join(encode_frame(kind, **values) for kind, values in frames)
    payload += encode_frame(FrameType.STREAM, stream_id=1, offset=0, data=data, fin=False, with_length=False)
    *parsed, last = parse_frames(payload)
    assert [(f.type, f.fields) for f in parsed] == frames
    assert last.fields == {"stream_id": 1, "offset": 0, "data": data, "fin": False}
    assert [f.start for f in (*parsed, last)] == [0] + [f.end for f in parsed]


@pytest.mark.parametrize("bits", range(8))
def test_stream_bits(bits: int) -> None:
    # RFC 9000 §19.8: OFF 0x04, LEN 0x02, FIN 0x01
    payload = bytes([0x08 | bits, 4]) + (b"\x05" if bits & 4 else b"") + (b"\x02" if bits & 2 else b"") + b"ab"
    (frame,) = parse_frames(payload)
    assert frame.fields == {"stream_id": 4, "offset": 5 if bits & 4 else 0, "data": b"ab", "fin": bool(bits & 1)}
    assert encode_frame(frame.type, with_length=bool(bits & 2), **frame.fields) == payload


def test_stream_to_the_end_of_the_packet_needs_room_for_its_data() -> None:
    values = {"stream_id": 4, "offset": 0, "data": b"hello", "fin": False}
    assert encode_frame(FrameType.STREAM, with_length=False, room=7, **values) == b"\x08\x04hello"
    for room in range(7):
        with pytest.raises(ValueError, match="fit"):
            encode_frame(FrameType.STREAM, with_length=False, room=room, **values)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 15, 16, 17, 1163])
@pytest.mark.parametrize("behind", [b"", b"\x01", b"\x01\x00\x01"])
def test_padding_is_one_run(count: int, behind: bytes) -> None:
    first, *rest = parse_frames(bytes(count) + behind)
    assert (first.name, first.fields, first.end) == ("padding", {"count": count}, count)
    assert [f.name for f in rest] == ["ping", "padding", "ping"][: len(behind)]


def number(value: int) -> bytes:
    return encode_varint(value)


TOKEN = bytes(16)


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"\x40\x00", "PADDING in two bytes"),
        (b"\x40\x01", "PING in two bytes"),
        (b"\x80\x00\x00\x01", "PING in four bytes"),
        (b"\x40\x08\x00", "STREAM in two bytes"),
        (b"\x40\x02" + bytes(4), "ACK in two bytes"),
        (b"\x40\x3f", "an unknown type in two bytes"),
        (b"\x07\x00", "an empty token, §19.7"),
        (b"\x06" + number(NUMBER_MAX) + b"\x01x", "CRYPTO past 2^62 - 1"),
        (b"\x0e\x00" + number(NUMBER_MAX) + b"\x01x", "STREAM past 2^62 - 1"),
        (b"\x0c\x00" + number(NUMBER_MAX) + b"x", "STREAM past 2^62 - 1, without its length"),
        (b"\x12" + number(2**60 + 1), "more than 2^60 streams, §19.11"),
        (b"\x13" + number(2**60 + 1), "more than 2^60 streams"),
        (b"\x16" + number(2**60 + 1), "more than 2^60 streams, §19.14"),
        (b"\x17" + number(2**60 + 1), "more than 2^60 streams"),
        (b"\x18\x01\x00\x00" + TOKEN, "an empty connection ID, §19.15"),
        (b"\x18\x01\x00\x15" + bytes(21) + TOKEN, "a connection ID of 21 bytes"),
        (b"\x18\x01\x00\xff" + bytes(255) + TOKEN, "a connection ID of 255 bytes"),
        (b"\x18\x01\x02\x01x" + TOKEN, "Retire Prior To above the sequence number"),
        (b"\x0a\x00" + number(NUMBER_MAX), "a length of 2^62 - 1"),
        (b"\x1c\x00\x00" + number(2**32) + b"reason", "a reason longer than the packet"),
    ],
)
def test_malformed(payload: bytes, why: str) -> None:
    error = refusal(payload)
    assert error is not None, why
    assert error.error_code == TransportErrorCode.FRAME_ENCODING_ERROR
    assert "malformed at byte 0" in str(error)


@pytest.mark.parametrize(
    "payload",
    [
        b"\x06" + number(NUMBER_MAX - 1) + b"\x01x",
        b"\x0e\x00" + number(NUMBER_MAX - 1) + b"\x01x",
        b"\x12" + number(2**60),
        b"\x17" + number(2**60),
        b"\x18\x01\x01\x14" + bytes(20) + TOKEN,
    ],
)
def test_the_last_value_that_is_allowed(payload: bytes) -> None:
    assert len(parse_frames(payload)) == 1


@pytest.mark.parametrize("kind", [0x1F, 0x20, 0x2F, 0x30, 0x31, 0xAF, 0x4000, 2**30, NUMBER_MAX])
def test_unknown_types(kind: int) -> None:
    error = refusal(b"\x01" + encode_varint(kind) + bytes(10))
    assert error is not None
    assert error.frame_type == kind
    assert "unknown type at byte 1" in str(error)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 0x1F), st.binary(max_size=80), st.binary(max_size=8))
def test_bytes_of_no_meaning(kind: int, data: bytes, behind: bytes) -> None:
    payload = bytes([kind]) + data
    error = refusal(payload)
    assert str(refusal(payload + behind, end=len(payload))) == str(error)
    if error is not None:
        return
    parsed = parse_frames(payload)
    assert parse_frames(payload + behind, end=len(payload)) == parsed
    encoded = b"".join(encode_frame(f.type, **f.fields) for f in parsed)
    assert [(f.type, f.fields) for f in parse_frames(encoded)] == [(f.type, f.fields) for f in parsed]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: encode_frame(0x1F), ValueError),
        (lambda: encode_frame(FrameType.PING, maximum=1), TypeError),
        (lambda: encode_frame(FrameType.MAX_DATA), KeyError),
        (lambda: encode_frame(FrameType.MAX_DATA, maximum=2**62), ValueError),
        (lambda: encode_frame(FrameType.MAX_DATA, maximum=-1), ValueError),
        (lambda: encode_frame(FrameType.PATH_CHALLENGE, data=b"1234567"), ValueError),
        (lambda: encode_frame(FrameType.CRYPTO, offset=0, data="text"), TypeError),
        (
            lambda: encode_frame(
                FrameType.NEW_CONNECTION_ID,
                sequence_number=1,
                retire_prior_to=0,
                connection_id=bytes(21),
                stateless_reset_token=TOKEN,
            ),
            ValueError,
        ),
        (
            lambda: encode_frame(
                FrameType.NEW_CONNECTION_ID,
                sequence_number=1,
                retire_prior_to=0,
                connection_id=b"x",
                stateless_reset_token=TOKEN[1:],
            ),
            ValueError,
        ),
        (lambda: parse_frames(b"", end=1), ValueError),
        (lambda: parse_frames(b"abc", 2, 1), ValueError),
    ],
)
def test_arguments_that_cannot_be(call: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        call()
