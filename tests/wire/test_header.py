"""Packet headers: the samples of RFC 9001 appendix A, every truncation, caps, and bytes of no meaning."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stoq.errors import HeaderError
from stoq.wire.header import (
    CONNECTION_ID_MAX,
    INITIAL_TOKEN_MAX,
    PacketType,
    encode_long_header,
    encode_retry_without_tag,
    encode_short_header,
    encode_version_negotiation,
    parse_datagram,
    parse_header,
)

# RFC 9001 appendix A: client Initial (A.2), server Initial (A.3), Retry (A.4), ChaCha20 short header (A.5).
DCID = bytes.fromhex("8394c8f03e515708")
SERVER_SCID = bytes.fromhex("f067a5502a4262b5")
CLIENT_INITIAL = bytes.fromhex("c000000001088394c8f03e5157080000449e7b9aec34") + bytes(1178)
SERVER_INITIAL = bytes.fromhex(
    "cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a"
    "5816b6394100f37a1c69797554780bb38cc5a99f5ede4cf73c3ec2493a1839b3"
    "dbcba3f6ea46c5b7684df3548e7ddeb9c3bf9c73cc3f3bded74b562bfb19fb84"
    "022f8ef4cdd93795d77d06edbb7aaf2f58891850abbdca3d20398c276456cbc4"
    "2158407dd074ee"
)
RETRY = bytes.fromhex("ff000000010008f067a5502a4262b5746f6b656e04a265ba2eff4d829058fb3f0f2496ba")
SHORT = bytes.fromhex("4cfe4189655e5cd55c41f69080575d7999c25a5bfb")

CIDS = st.binary(max_size=20)
LONG_TYPES = st.sampled_from([PacketType.INITIAL, PacketType.ZERO_RTT, PacketType.HANDSHAKE])


def refusal(data: bytes, short_cid_length: int = 8, **span: int) -> str:
    """Message of the HeaderError; empty when the packet is accepted. (pytest.raises is slow in loops.)"""
    try:
        parse_header(data, short_cid_length, **span)
    except HeaderError as error:
        return str(error)
    return ""


def test_client_initial_of_appendix_a_2() -> None:
    header = parse_header(CLIENT_INITIAL)
    assert header.type is PacketType.INITIAL
    assert (header.first, header.version, header.dcid, header.scid, header.token) == (0xC0, 1, DCID, b"", b"")
    assert (header.pn_offset, header.packet_length) == (18, 1200)
    unprotected = encode_long_header(
        PacketType.INITIAL, 1, DCID, b"", packet_number=2, pn_length=4, payload_length=1162 + 16
    )
    assert unprotected == bytes.fromhex("c300000001088394c8f03e5157080000449e00000002")


def test_server_initial_of_appendix_a_3() -> None:
    header = parse_header(SERVER_INITIAL)
    assert header.type is PacketType.INITIAL
    assert (header.dcid, header.scid, header.token) == (b"", SERVER_SCID, b"")
    assert (header.pn_offset, header.packet_length) == (18, len(SERVER_INITIAL)) == (18, 135)
    unprotected = encode_long_header(PacketType.INITIAL, 1, b"", SERVER_SCID, packet_number=1, payload_length=0x75 - 2)
    assert unprotected == bytes.fromhex("c1000000010008f067a5502a4262b50040750001")


def test_retry_of_appendix_a_4() -> None:
    header = parse_header(RETRY)
    assert header.type is PacketType.RETRY
    assert (header.dcid, header.scid, header.token) == (b"", SERVER_SCID, b"token")
    assert header.integrity_tag == RETRY[-16:]
    assert (header.pn_offset, header.packet_length) == (0, len(RETRY))
    assert encode_retry_without_tag(b"", SERVER_SCID, b"token", random=0x0F) == RETRY[:-16]


def test_short_header_of_appendix_a_5() -> None:
    header = parse_header(SHORT, short_cid_length=0)
    assert header.type is PacketType.ONE_RTT
    assert (header.version, header.dcid, header.scid, header.token) == (0, b"", b"", b"")
    assert (header.pn_offset, header.packet_length) == (1, 21)
    assert encode_short_header(b"", packet_number=654360564, pn_length=3) == bytes.fromhex("4200bff4")


def test_flags_of_the_short_header() -> None:
    # RFC 9000 figure 19: fixed bit 0x40, spin 0x20, key phase 0x04, length of the packet number in the low two
    assert encode_short_header(b"abc", spin=True, packet_number=1, pn_length=1) == b"\x60abc\x01"
    assert encode_short_header(b"abc", key_phase=True, packet_number=1, pn_length=4) == b"\x47abc\x00\x00\x00\x01"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(LONG_TYPES, CIDS, CIDS, st.binary(max_size=300), st.integers(1, 4), st.binary(max_size=100), st.binary())
def test_long_header_round_trip_and_truncation(
    kind: PacketType, dcid: bytes, scid: bytes, token: bytes, pn_length: int, payload: bytes, behind: bytes
) -> None:
    token = token if kind is PacketType.INITIAL else b""
    packet = encode_long_header(
        kind, 1, dcid, scid, token=token, packet_number=7, pn_length=pn_length, payload_length=len(payload)
    )
    assert packet[-1] == 7
    pn_offset = len(packet) - pn_length
    packet += payload
    header = parse_header(packet + behind)
    assert header.type is kind
    assert (header.version, header.dcid, header.scid, header.token) == (1, dcid, scid, token)
    assert (header.pn_offset, header.packet_length) == (pn_offset, len(packet))
    assert header.first & 3 == pn_length - 1
    for cut in range(len(packet)):
        assert refusal(packet[:cut]).startswith("truncated")
        # What follows the end belongs to somebody else.
        assert refusal(packet + behind, end=cut).startswith("truncated")


@settings(max_examples=50, deadline=None)
@given(CIDS, st.integers(0, 20))
def test_short_header_needs_its_whole_connection_id(cid: bytes, length: int) -> None:
    packet = encode_short_header(cid, packet_number=1)
    if len(packet) - 1 < length:
        with pytest.raises(HeaderError, match="truncated"):
            parse_header(packet, length)
    else:
        assert parse_header(packet, length).dcid == packet[1 : 1 + length]


def test_coalesced_packets_and_junk_behind_them() -> None:
    initial = encode_long_header(PacketType.INITIAL, 1, DCID, b"s", token=b"t", payload_length=40) + bytes(40)
    handshake = encode_long_header(PacketType.HANDSHAKE, 1, DCID, b"s", payload_length=30) + bytes(30)
    short = encode_short_header(DCID) + bytes(20)
    datagram = initial + handshake + short
    packets = parse_datagram(datagram)
    assert [(at, header.type) for at, header in packets] == [
        (0, PacketType.INITIAL),
        (len(initial), PacketType.HANDSHAKE),
        (len(initial) + len(handshake), PacketType.ONE_RTT),
    ]
    assert packets[-1][0] + packets[-1][1].packet_length == len(datagram)
    assert packets[1][1] == parse_header(datagram, start=len(initial))
    # Zeros behind a packet (a padded datagram) end the walk.
    assert len(parse_datagram(initial + bytes(50))) == 1
    assert parse_datagram(b"") == []


def test_a_length_of_zero_still_advances() -> None:
    empty = encode_long_header(PacketType.HANDSHAKE, 1, b"", b"", pn_length=1)[:-1]
    empty = empty[:-2] + b"\x40\x00"
    assert parse_header(empty).packet_length == len(empty) > 0
    assert len(parse_datagram(empty * 5)) == 5


@pytest.mark.parametrize("at", [5, 14])
def test_connection_ids_of_more_than_20_bytes_in_version_1(at: int) -> None:
    packet = bytearray(encode_long_header(PacketType.HANDSHAKE, 1, DCID, b"s") + bytes(300))
    packet[at] = CONNECTION_ID_MAX + 1
    with pytest.raises(HeaderError, match="20 bytes"):
        parse_header(bytes(packet))


def test_fixed_bit_of_version_1() -> None:
    for packet in (CLIENT_INITIAL, RETRY, SHORT):
        with pytest.raises(HeaderError, match="fixed bit"):
            parse_header(bytes([packet[0] & ~0x40]) + packet[1:])


def test_token_cap() -> None:
    token = bytes(INITIAL_TOKEN_MAX)
    packet = encode_long_header(PacketType.INITIAL, 1, DCID, b"", token=token, payload_length=20) + bytes(20)
    assert parse_header(packet).token == token
    at = packet.index(b"\x44\x00" + token)  # 1024 as a varint
    with pytest.raises(HeaderError, match="token"):
        parse_header(packet[:at] + b"\x44\x01" + bytes(1) + packet[at + 2 :])
    # A claim of 2**62 - 1 bytes costs nothing.
    with pytest.raises(HeaderError, match="token"):
        parse_header(packet[:at] + b"\xff" * 8)
    retry = encode_retry_without_tag(DCID, b"", token) + bytes(16)
    assert parse_header(retry).token == token
    with pytest.raises(HeaderError, match="token"):
        parse_header(retry + b"x")


def test_length_past_the_datagram() -> None:
    at = CLIENT_INITIAL.index(b"\x44\x9e")
    for length in (b"\x44\x9f", b"\xbf\xff\xff\xff", b"\xff" * 8):
        packet = CLIENT_INITIAL[:at] + length + CLIENT_INITIAL[at + 2 :]
        with pytest.raises(HeaderError, match="truncated"):
            parse_header(packet[: len(CLIENT_INITIAL)])


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 2**32 - 1), st.binary(max_size=255), st.binary(max_size=255), st.integers(0, 127), st.binary())
def test_only_the_invariants_of_an_unknown_version_count(
    version: int, dcid: bytes, scid: bytes, low_bits: int, rest: bytes
) -> None:
    packet = bytes([0x80 | low_bits]) + version.to_bytes(4, "big")
    packet += bytes([len(dcid)]) + dcid + bytes([len(scid)]) + scid
    header = parse_header(packet + rest)
    assert header.type is PacketType.UNKNOWN_VERSION
    assert (header.version, header.dcid, header.scid) == (version, dcid, scid)
    assert (header.token, header.versions, header.pn_offset) == (b"", (), 0)
    assert header.packet_length == len(packet) + len(rest)
    for cut in range(len(packet)):
        assert refusal(packet[:cut]).startswith("truncated")


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=255),
    st.binary(max_size=255),
    st.lists(st.integers(0, 2**32 - 1), max_size=16),
    st.integers(0, 2**32 - 1),
)
def test_version_negotiation(dcid: bytes, scid: bytes, versions: list[int], random: int) -> None:
    packet = encode_version_negotiation(dcid, scid, versions, random)
    header = parse_header(packet)
    assert header.type is PacketType.VERSION_NEGOTIATION
    assert header.first & 0xC0 == 0xC0
    # What was their source is our destination (RFC 9000 §17.2.1).
    assert (header.version, header.dcid, header.scid) == (0, scid, dcid)
    assert header.versions[1:] == tuple(versions)
    assert header.versions[0] & 0x0F0F0F0F == 0x0A0A0A0A  # §15
    assert header.packet_length == len(packet)
    for extra in (1, 2, 3):
        with pytest.raises(HeaderError, match="truncated"):
            parse_header(packet + bytes(extra))


def test_version_negotiation_without_a_version() -> None:
    with pytest.raises(HeaderError, match="truncated"):
        parse_header(b"\xc0" + bytes(4) + b"\x01a\x01b")


def test_retry_shorter_than_its_tag() -> None:
    without_token = encode_retry_without_tag(DCID, SERVER_SCID, b"") + bytes(16)
    assert parse_header(without_token).token == b""
    for cut in range(len(without_token)):
        with pytest.raises(HeaderError, match="truncated"):
            parse_header(without_token[:cut])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120), st.sampled_from([0, 1, 2**32 - 1, None]), st.integers(0, 20), st.binary(max_size=20))
def test_bytes_of_no_meaning(data: bytes, version: int | None, short: int, behind: bytes) -> None:
    if version is not None and len(data) > 5:
        data = bytes([data[0] | 0x80]) + version.to_bytes(4, "big") + data[5:]
    try:
        header = parse_header(data, short)
    except HeaderError:
        with pytest.raises(HeaderError):
            parse_header(data + behind, short, end=len(data))
        return
    assert 0 < header.packet_length <= len(data)
    assert header.pn_offset <= header.packet_length
    assert parse_header(data + behind, short, end=len(data)) == header
    assert parse_header(behind + data, short, start=len(behind)) == header


@pytest.mark.parametrize(
    "call",
    [
        lambda: encode_long_header(PacketType.RETRY, 1, b"", b""),
        lambda: encode_long_header(PacketType.INITIAL, 1, bytes(21), b""),
        lambda: encode_long_header(PacketType.INITIAL, 1, b"", bytes(21)),
        lambda: encode_long_header(PacketType.INITIAL, 1, b"", b"", token=bytes(1025)),
        lambda: encode_long_header(PacketType.HANDSHAKE, 1, b"", b"", token=b"t"),
        lambda: encode_long_header(PacketType.HANDSHAKE, 1, b"", b"", pn_length=5),
        lambda: encode_long_header(PacketType.HANDSHAKE, 1, b"", b"", pn_length=4, payload_length=16380),
        lambda: encode_short_header(bytes(21)),
        lambda: encode_short_header(b"", pn_length=0),
        lambda: encode_version_negotiation(bytes(256), b""),
        lambda: encode_version_negotiation(b"", b"", range(17)),
        lambda: encode_retry_without_tag(bytes(21), b"", b""),
        lambda: encode_retry_without_tag(b"", b"", bytes(1025)),
        lambda: parse_header(b"abc", start=4),
        lambda: parse_header(b"abc", end=4),
        lambda: parse_header(b"abc", start=2, end=1),
    ],
)
def test_arguments_that_cannot_be(call: object) -> None:
    with pytest.raises(ValueError) as caught:
        call()  # type: ignore[operator]
    assert not isinstance(caught.value, HeaderError)
