"""Fuzz target: packet headers. The first byte chooses the length of our connection IDs."""

from __future__ import annotations

from collections.abc import Iterator

from stoq.errors import HeaderError
from stoq.wire.header import (
    PacketType,
    encode_long_header,
    encode_retry_without_tag,
    encode_short_header,
    encode_version_negotiation,
    parse_datagram,
    parse_header,
)


def fuzz_one(data: bytes) -> None:
    """Must not raise. A header lies within its packet, and does not depend on what follows the datagram."""
    if not data:
        return
    short, datagram = data[0] % 21, data[1:]
    at = 0
    for start, header in parse_datagram(datagram, short):
        assert start == at
        assert 0 < header.packet_length <= len(datagram) - start
        assert header.pn_offset <= header.packet_length
        assert len(header.token) + len(header.dcid) + len(header.scid) < header.packet_length
        at += header.packet_length
    try:
        whole = parse_header(datagram, short)
    except HeaderError:
        whole = None
    try:
        within = parse_header(datagram + b"\xff" * 300, short, end=len(datagram))
    except HeaderError:
        within = None
    assert whole == within


def seeds() -> Iterator[bytes]:
    """Valid datagrams of every form."""
    for dcid, scid in ((b"", b""), (b"12345678", b"abcdefgh"), (bytes(20), b"\xff" * 20)):
        short = bytes([len(dcid)])
        initial = encode_long_header(PacketType.INITIAL, 1, dcid, scid, token=b"token", payload_length=30) + bytes(30)
        handshake = encode_long_header(PacketType.HANDSHAKE, 1, dcid, scid, payload_length=24) + bytes(24)
        zero_rtt = encode_long_header(PacketType.ZERO_RTT, 1, dcid, scid, pn_length=4, payload_length=24) + bytes(24)
        one_rtt = encode_short_header(dcid, spin=True, key_phase=True) + bytes(24)
        yield short + initial
        yield short + zero_rtt
        yield short + one_rtt
        yield short + initial + handshake + one_rtt
        yield short + initial + bytes(40)
        yield (
            short + encode_long_header(PacketType.INITIAL, 1, dcid, scid, token=bytes(200), payload_length=4) + bytes(4)
        )
        yield short + encode_retry_without_tag(dcid, scid, b"a retry token") + bytes(16)
        yield short + encode_version_negotiation(dcid, scid, [1, 0x6B3343CF], 0x12345678)
        yield short + encode_long_header(PacketType.INITIAL, 0x6B3343CF, dcid, scid) + bytes(20)
    yield b"\x08" + encode_version_negotiation(bytes(255), bytes(255), [1])
    yield b"\x08" + b"\xff" * 60
