"""The same bytes through upstream aioquic: what both accept they read alike, and differences are listed here."""

from __future__ import annotations

import random
from dataclasses import fields
from typing import Any

import pytest
from aioquic.buffer import Buffer
from aioquic.quic import packet as upstream
from aioquic.quic.rangeset import RangeSet

from stoq.errors import FrameError, HeaderError, TransportParameterError
from stoq.wire.frame_codec import FrameType, encode_frame, parse_frames
from stoq.wire.header import (
    PacketHeader,
    PacketType,
    encode_long_header,
    encode_retry_without_tag,
    encode_short_header,
    encode_version_negotiation,
    parse_header,
)
from stoq.wire.packet_number import decode_packet_number
from stoq.wire.transport_parameters import ROWS, PreferredAddress, TransportParameters
from stoq.wire.varint import decode_varint, encode_varint

CASES = 1500


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Up to three changes: a byte replaced, removed or put in, or the end cut off."""
    changed = bytearray(data)
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(4):
            case 0 if at < len(changed):
                changed[at] = rng.choice((0, 1, 0x3F, 0x40, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 1 if at < len(changed):
                del changed[at]
            case 2:
                changed.insert(at, rng.randrange(256))
            case 3:
                del changed[max(at, 1) :]
    return bytes(changed)


# ---- headers


def some_packet(rng: random.Random) -> bytes:
    dcid, scid = rng.randbytes(rng.randrange(21)), rng.randbytes(rng.randrange(21))
    payload = rng.randbytes(rng.randrange(60))
    match rng.randrange(4):
        case 0:
            kind = rng.choice((PacketType.INITIAL, PacketType.ZERO_RTT, PacketType.HANDSHAKE))
            token = rng.randbytes(rng.randrange(80)) if kind is PacketType.INITIAL else b""
            head = encode_long_header(kind, 1, dcid, scid, token=token, payload_length=len(payload))
            return head + payload + rng.randbytes(rng.randrange(5))
        case 1:
            return encode_retry_without_tag(dcid, scid, payload, random=rng.randrange(16)) + rng.randbytes(16)
        case 2:
            versions = [rng.randrange(2**32) for _ in range(rng.randrange(4))]
            return encode_version_negotiation(dcid, scid, versions, rng.randrange(2**32))
        case _:
            return encode_short_header(dcid[:8].ljust(8)) + payload


def listed_difference(data: bytes, ours: PacketHeader | str) -> bool:
    version = int.from_bytes(data[1:5], "big")
    if data and data[0] & 0x80 and len(data) >= 5 and version not in {0, 1}:
        return True  # upstream reads versions that it does not know as version 1
    if isinstance(ours, PacketHeader):
        # upstream refuses long connection IDs in Version Negotiation, which RFC 8999 permits
        return ours.type is PacketType.VERSION_NEGOTIATION and max(len(ours.dcid), len(ours.scid)) > 20
    # upstream has no cap on tokens; a Version Negotiation without a version offers nothing
    return "token" in ours or version == 0


def test_headers() -> None:
    rng = random.Random(1)
    agreed = refused = 0
    for _ in range(CASES):
        data = mutated(rng, some_packet(rng))
        ours: PacketHeader | str
        try:
            ours = parse_header(data, 8)
        except HeaderError as error:
            ours = str(error)
        try:
            theirs = upstream.pull_quic_header(Buffer(data=data), host_cid_length=8)
        except ValueError:
            theirs = None
        if (theirs is None) != isinstance(ours, str):
            assert listed_difference(data, ours), (data.hex(), ours, theirs)
            continue
        if theirs is None or isinstance(ours, str):
            refused += 1
            continue
        if ours.type is PacketType.UNKNOWN_VERSION:
            assert listed_difference(data, ours)
            continue
        agreed += 1
        assert ours.type.name == theirs.packet_type.name
        assert ours.version == (theirs.version or 0)
        assert (ours.dcid, ours.scid) == (theirs.destination_cid, theirs.source_cid)
        assert (ours.token, ours.integrity_tag) == (theirs.token, theirs.integrity_tag)
        assert list(ours.versions) == theirs.supported_versions
        assert ours.packet_length == theirs.packet_length
    assert agreed > CASES / 3
    assert refused > CASES / 10


def test_headers_written_by_upstream() -> None:
    retry = upstream.encode_quic_retry(1, b"source", b"destination", b"original", b"token", unused=5)
    ours = parse_header(retry)
    assert (ours.type, ours.scid, ours.dcid, ours.token) == (PacketType.RETRY, b"source", b"destination", b"token")
    assert encode_retry_without_tag(b"destination", b"source", b"token", random=5) == retry[:-16]
    negotiation = upstream.encode_quic_version_negotiation(b"source", b"destination", [1, 2])
    ours = parse_header(negotiation)
    assert (ours.type, ours.scid, ours.dcid) == (PacketType.VERSION_NEGOTIATION, b"source", b"destination")
    assert ours.versions == (1, 2)


# ---- numbers


def test_varints() -> None:
    rng = random.Random(2)
    for _ in range(CASES):
        data = rng.randbytes(rng.randrange(9))
        buf = Buffer(data=data)
        try:
            expected = buf.pull_uint_var()
        except ValueError:
            with pytest.raises(ValueError, match="truncated"):
                decode_varint(data)
            continue
        assert decode_varint(data) == (expected, buf.tell())
        buf = Buffer(capacity=8)
        buf.push_uint_var(expected)
        assert encode_varint(expected) == buf.data


def test_packet_numbers() -> None:
    rng = random.Random(3)
    for _ in range(CASES):
        size = rng.randrange(1, 5)
        expected = rng.randrange(2 ** rng.randrange(1, 62))
        truncated = rng.randbytes(size)
        theirs = upstream.decode_packet_number(int.from_bytes(truncated, "big"), size * 8, expected)
        assert decode_packet_number(truncated, expected) == theirs


# ---- ACK


def some_ranges(rng: random.Random) -> list[tuple[int, int]]:
    at = rng.randrange(2 ** rng.randrange(1, 50))
    ranges = []
    for _ in range(rng.randrange(1, 40)):
        low = at + rng.randrange(2, 2 ** rng.randrange(2, 16))
        at = low + rng.randrange(2 ** rng.randrange(1, 16))
        ranges.append((low, at))
    return ranges[::-1]


def test_acks_read() -> None:
    rng = random.Random(4)
    agreed = refused = 0
    for _ in range(CASES):
        # Behind the type byte, so that the two read the same bytes.
        body = mutated(rng, encode_frame(FrameType.ACK, ranges=some_ranges(rng), ack_delay=rng.randrange(2**14))[1:])
        buf = Buffer(data=body)
        try:
            ranges, delay = upstream.pull_ack_frame(buf)
        except ValueError:
            ranges = None
        payload = b"\x02" + body
        try:
            (frame,) = parse_frames(payload, end=len(payload) if ranges is None else 1 + buf.tell())
        except FrameError as error:
            assert ranges is None, body.hex()
            assert error.args[0] == "malformed at byte 0"  # noqa: PT017
            refused += 1
            continue
        assert ranges is not None, body.hex()
        agreed += 1
        assert frame.fields["ack_delay"] == delay
        assert frame.fields["ranges"] == [(r.start, r.stop - 1) for r in reversed(list(ranges))]
    assert agreed > CASES / 3
    assert refused > CASES / 10


def test_acks_written() -> None:
    rng = random.Random(5)
    for _ in range(300):
        ranges = some_ranges(rng)
        buf = Buffer(capacity=4000)
        upstream.push_ack_frame(buf, RangeSet([range(low, high + 1) for low, high in ranges[::-1]]), 25, 4000)
        assert encode_frame(FrameType.ACK, ranges=ranges, ack_delay=25) == b"\x02" + buf.data


# ---- transport parameters

# Upstream has rows for three extensions.
EXTENSIONS_OF_UPSTREAM = {0x11, 0x20, 0x0C37}


def some_parameters(rng: random.Random) -> TransportParameters:
    params = TransportParameters()
    for row in ROWS.values():
        if rng.random() < 0.5:
            continue
        value: Any = rng.randrange(max(row.minimum, 1), min(row.maximum, 2 ** rng.randrange(12, 62)) + 1)
        if row.kind.name == "FLAG":
            value = True
        elif row.kind.name == "CID":
            value = rng.randbytes(rng.randrange(21))
        elif row.kind.name == "TOKEN":
            value = rng.randbytes(16)
        elif row.kind.name == "PREFERRED_ADDRESS":
            value = PreferredAddress(("192.0.2.1", 1), ("2001:db8::1", 2), rng.randbytes(8), rng.randbytes(16))
        setattr(params, row.name, value)
    return params


def assert_alike(ours: TransportParameters, theirs: upstream.QuicTransportParameters) -> None:
    for row in ROWS.values():
        mine, other = getattr(ours, row.name), getattr(theirs, row.name)
        if row.name == "preferred_address" and mine is not None:
            assert (mine.ipv4, mine.ipv6) == (other.ipv4_address, other.ipv6_address)
            assert mine.connection_id == other.connection_id
            assert mine.stateless_reset_token == other.stateless_reset_token
        else:
            assert mine == (row.default if other is None else other), row.name


def test_transport_parameters_read() -> None:
    rng = random.Random(6)
    agreed = refused = 0
    for _ in range(CASES):
        data = mutated(rng, some_parameters(rng).encode())
        try:
            theirs = upstream.pull_quic_transport_parameters(Buffer(data=data))
        except ValueError:
            theirs = None
        try:
            ours = TransportParameters.decode(data, from_client=False)
        except TransportParameterError:
            refused += 1  # upstream checks ranges later, and repeated ones not at all
            continue
        if ours.unknown.keys() & EXTENSIONS_OF_UPSTREAM:
            continue
        assert theirs is not None, data.hex()
        assert_alike(ours, theirs)
        agreed += 1
    assert agreed > CASES / 3
    assert refused > CASES / 10


def test_transport_parameters_written_by_upstream() -> None:
    rng = random.Random(7)
    for _ in range(200):
        ours = some_parameters(rng)
        values = {f.name: getattr(ours, f.name) for f in fields(ours) if f.name not in {"extensions", "unknown"}}
        if ours.preferred_address is not None:
            address = ours.preferred_address
            values["preferred_address"] = upstream.QuicPreferredAddress(
                address.ipv4, address.ipv6, address.connection_id, address.stateless_reset_token
            )
        buf = Buffer(capacity=1000)
        upstream.push_quic_transport_parameters(buf, upstream.QuicTransportParameters(**values))
        assert TransportParameters.decode(buf.data, from_client=False) == ours
