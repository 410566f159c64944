"""Packet headers (RFC 9000 §17, RFC 8999): parsing and writing, and their Python face."""
from enum import IntEnum
from typing import NamedTuple

from libc.string cimport memcpy
from stoq.wire.varint cimport Cursor, bswap32, unlikely, varint_get, varint_put

# The C enum HeaderError of the .pxd owns that name here.
from stoq.errors import HeaderError as BadHeader

cdef enum:
    LONG_FORM = 0x80         # RFC 9000 §17.2
    FIXED_BIT = 0x40
    CID_LENGTH_MAX = 255     # what the one-byte length can say (RFC 8999 §5.1)
    RETRY_TAG = 16           # RFC 9001 §5.8


cdef bint version_known(uint32_t version) noexcept nogil:
    return version == QUIC_V1


cdef inline uint32_t get32(const uint8_t *p) noexcept nogil:
    cdef uint32_t v
    memcpy(&v, p, 4)
    return bswap32(v)


cdef inline uint8_t *put32(uint8_t *p, uint32_t v) noexcept nogil:
    v = bswap32(v)
    memcpy(p, &v, 4)
    return p + 4


cdef inline uint8_t *put_bytes(uint8_t *p, const uint8_t *data, size_t length) noexcept nogil:
    if length:               # memcpy from NULL is undefined even for no bytes
        memcpy(p, data, length)
    return p + length


cdef inline uint8_t *put_cid(uint8_t *p, const uint8_t *cid, size_t length) noexcept nogil:
    p[0] = <uint8_t>length
    return put_bytes(p + 1, cid, length)


cdef int parse_long(const uint8_t *p, size_t n, Header *h) noexcept nogil:
    cdef Cursor c
    cdef uint64_t value
    cdef bint known
    if unlikely(n < 7):      # first byte, version, two connection ID lengths
        return HEADER_TRUNCATED
    h.version = get32(p + 1)
    known = version_known(h.version)
    c.p = p + 5
    c.end = p + n

    h.dcid_length = c.p[0]
    if known and h.dcid_length > CID_MAX:
        return HEADER_BAD_CID
    c.p += 1
    # One byte more for the length of the other ID.
    if unlikely(<size_t>(c.end - c.p) < h.dcid_length + 1):
        return HEADER_TRUNCATED
    h.dcid = c.p
    c.p += h.dcid_length

    h.scid_length = c.p[0]
    if known and h.scid_length > CID_MAX:
        return HEADER_BAD_CID
    c.p += 1
    if unlikely(<size_t>(c.end - c.p) < h.scid_length):
        return HEADER_TRUNCATED
    h.scid = c.p
    c.p += h.scid_length

    if not known:
        # Neither can be followed by another packet: without a Length the datagram ends with it.
        h.packet_length = n
        if h.version != VERSION_NEGOTIATION:
            h.type = PACKET_UNKNOWN_VERSION
            return HEADER_OK
        h.type = PACKET_VERSION_NEGOTIATION
        h.versions = c.p
        h.versions_length = <size_t>(c.end - c.p)
        if h.versions_length == 0 or h.versions_length % 4:
            return HEADER_TRUNCATED
        return HEADER_OK

    if unlikely(not p[0] & FIXED_BIT):
        return HEADER_BAD_FIXED_BIT
    h.type = (p[0] >> 4) & 3
    if h.type == PACKET_RETRY:
        if <size_t>(c.end - c.p) < RETRY_TAG:
            return HEADER_TRUNCATED
        h.token = c.p
        h.token_length = <size_t>(c.end - c.p) - RETRY_TAG
        h.packet_length = n
        return HEADER_BAD_TOKEN if h.token_length > TOKEN_MAX else HEADER_OK
    if h.type == PACKET_INITIAL:
        if varint_get(&c, &value):
            return HEADER_TRUNCATED
        if value > TOKEN_MAX:
            return HEADER_BAD_TOKEN
        if unlikely(<uint64_t>(c.end - c.p) < value):
            return HEADER_TRUNCATED
        h.token = c.p
        h.token_length = <size_t>value
        c.p += value
    if varint_get(&c, &value):
        return HEADER_TRUNCATED
    if unlikely(<uint64_t>(c.end - c.p) < value):
        return HEADER_TRUNCATED
    h.pn_offset = <size_t>(c.p - p)
    h.packet_length = h.pn_offset + <size_t>value
    return HEADER_OK


cdef int header_parse(const uint8_t *p, size_t n, size_t short_cid, Header *h) noexcept nogil:
    h.version = 0
    h.dcid = h.scid = h.token = h.versions = NULL
    h.dcid_length = h.scid_length = h.token_length = h.versions_length = 0
    h.pn_offset = h.packet_length = 0
    h.type = PACKET_ONE_RTT
    if unlikely(n == 0):
        h.first = 0
        return HEADER_TRUNCATED
    h.first = p[0]
    if p[0] & LONG_FORM:
        return parse_long(p, n, h)
    if unlikely(not p[0] & FIXED_BIT):
        return HEADER_BAD_FIXED_BIT
    if unlikely(n - 1 < short_cid):
        return HEADER_TRUNCATED
    h.dcid = p + 1
    h.dcid_length = short_cid
    h.pn_offset = 1 + short_cid
    h.packet_length = n
    return HEADER_OK


cdef uint8_t *header_put_long(uint8_t *p, int type, uint32_t version, const uint8_t *dcid, size_t dcid_length,
                              const uint8_t *scid, size_t scid_length, const uint8_t *token, size_t token_length,
                              size_t pn_length, uint8_t **length_at) noexcept nogil:
    p[0] = <uint8_t>(LONG_FORM | FIXED_BIT | (type << 4) | <int>(pn_length - 1))
    p = put32(p + 1, version)
    p = put_cid(p, dcid, dcid_length)
    p = put_cid(p, scid, scid_length)
    if type == PACKET_INITIAL:
        p = varint_put(p, token_length)
        p = put_bytes(p, token, token_length)
    length_at[0] = p
    p[0] = 0x40              # a two-byte varint of zero
    p[1] = 0
    return p + 2


cdef uint8_t *header_put_short(uint8_t *p, const uint8_t *dcid, size_t dcid_length, bint spin, bint key_phase,
                               size_t pn_length) noexcept nogil:
    p[0] = <uint8_t>(FIXED_BIT | (0x20 if spin else 0) | (0x04 if key_phase else 0) | <int>(pn_length - 1))
    return put_bytes(p + 1, dcid, dcid_length)


cdef size_t header_put_version_negotiation(
        uint8_t *p, size_t room, const uint8_t *received_dcid, size_t received_dcid_length,
        const uint8_t *received_scid, size_t received_scid_length, const uint32_t *versions, size_t count,
        uint32_t random) noexcept nogil:
    cdef uint8_t *start = p
    cdef size_t i
    if received_dcid_length > CID_LENGTH_MAX or received_scid_length > CID_LENGTH_MAX or count > 0xFFFF:
        return 0
    if room < 7 + received_dcid_length + received_scid_length + 4 * (count + 1):
        return 0
    # The fixed bit is set although unused here: it keeps QUIC apart from other protocols (§17.2.1).
    p[0] = <uint8_t>(LONG_FORM | FIXED_BIT | (random & 0x3F))
    p = put32(p + 1, VERSION_NEGOTIATION)
    p = put_cid(p, received_scid, received_scid_length)
    p = put_cid(p, received_dcid, received_dcid_length)
    p = put32(p, (random & 0xF0F0F0F0U) | 0x0A0A0A0AU)      # reserved versions are 0x?a?a?a?a (§15)
    for i in range(count):
        p = put32(p, versions[i])
    return <size_t>(p - start)


cdef size_t header_put_retry(uint8_t *p, size_t room, uint32_t version, const uint8_t *dcid, size_t dcid_length,
                             const uint8_t *scid, size_t scid_length, const uint8_t *token, size_t token_length,
                             uint8_t random) noexcept nogil:
    cdef uint8_t *start = p
    if dcid_length > CID_MAX or scid_length > CID_MAX or token_length > TOKEN_MAX:
        return 0
    if room < 7 + dcid_length + scid_length + token_length:
        return 0
    p[0] = <uint8_t>(LONG_FORM | FIXED_BIT | (PACKET_RETRY << 4) | (random & 0x0F))
    p = put32(p + 1, version)
    p = put_cid(p, dcid, dcid_length)
    p = put_cid(p, scid, scid_length)
    p = put_bytes(p, token, token_length)
    return <size_t>(p - start)


# ---------------------------------------------------------------- Python face
# The values come from the C enum, so that the two cannot differ. The class is
# bound through globals() because its name is taken by that enum in this file.
_packet_type = globals()["PacketType"] = IntEnum("PacketType", {
    "INITIAL": PACKET_INITIAL,
    "ZERO_RTT": PACKET_ZERO_RTT,
    "HANDSHAKE": PACKET_HANDSHAKE,
    "RETRY": PACKET_RETRY,
    "ONE_RTT": PACKET_ONE_RTT,
    "VERSION_NEGOTIATION": PACKET_VERSION_NEGOTIATION,
    "UNKNOWN_VERSION": PACKET_UNKNOWN_VERSION,
}, module=__name__)
_TYPES = tuple(_packet_type)

CONNECTION_ID_MAX = CID_MAX
INITIAL_TOKEN_MAX = TOKEN_MAX
VERSION_1 = QUIC_V1

_MESSAGES = {
    HEADER_TRUNCATED: "truncated header or packet",
    HEADER_BAD_CID: "connection ID longer than 20 bytes",
    HEADER_BAD_FIXED_BIT: "fixed bit is zero",
    HEADER_BAD_TOKEN: "token longer than 1024 bytes",
}


class PacketHeader(NamedTuple):
    """One packet's header, before header protection is removed.

    version is 0 for short headers and Version Negotiation. token: Initial and Retry. versions: Version Negotiation.
    integrity_tag: Retry. pn_offset counts from the start of the packet, 0 where there is no packet number.
    packet_length: bytes of this packet; the next coalesced one starts there.
    """

    type: object
    first: int
    version: int
    dcid: bytes
    scid: bytes
    token: bytes
    versions: tuple
    integrity_tag: bytes
    pn_offset: int
    packet_length: int


cdef bytes span(const uint8_t *p, size_t n):
    return (<const char *>p)[:n] if n else b""


def parse_header(bytes data not None, size_t short_cid_length=8, size_t start=0, end=None):
    """Header of the packet at data[start:end]; HeaderError when it is to be dropped. Never looks beyond `end`."""
    cdef size_t stop = len(data) if end is None else end
    cdef Header h
    cdef int rc
    cdef const uint8_t *p
    cdef size_t i
    if not start <= stop <= <size_t>len(data):
        raise ValueError("start and end lie outside the data")
    p = <const uint8_t *><const char *>data + start
    rc = header_parse(p, stop - start, short_cid_length, &h)
    if rc != HEADER_OK:
        raise BadHeader(_MESSAGES[rc])
    versions = ()
    if h.versions_length:
        versions = tuple([get32(h.versions + 4 * i) for i in range(h.versions_length // 4)])
    return PacketHeader(
        _TYPES[h.type], h.first, h.version, span(h.dcid, h.dcid_length), span(h.scid, h.scid_length),
        span(h.token, h.token_length), versions,
        span(h.token + h.token_length, RETRY_TAG) if h.type == PACKET_RETRY else b"", h.pn_offset, h.packet_length,
    )


def parse_datagram(bytes data not None, size_t short_cid_length=8):
    """(start, header) of every packet coalesced in a datagram (RFC 9000 §12.2); ends silently at the first bad one."""
    cdef size_t start = 0
    packets = []
    while start < <size_t>len(data):
        try:
            header = parse_header(data, short_cid_length, start)
        except BadHeader:
            break
        packets.append((start, header))
        start += header.packet_length
    return packets


def encode_long_header(
    int type, uint32_t version, bytes dcid not None, bytes scid not None, *,
    bytes token not None=b"", uint64_t packet_number=0, size_t pn_length=2, size_t payload_length=0,
):
    """Unprotected long header up to and with the packet number.

    payload_length: bytes after the packet number, tag included; at most 16383 - pn_length (Length takes two bytes).
    Retry and Version Negotiation have functions of their own. ValueError for sizes outside RFC 9000 §17.2.
    """
    cdef uint8_t *length_at
    cdef uint8_t *p
    cdef size_t i
    if type not in (PACKET_INITIAL, PACKET_ZERO_RTT, PACKET_HANDSHAKE):
        raise ValueError("only Initial, 0-RTT and Handshake have this form")
    if len(dcid) > CID_MAX or len(scid) > CID_MAX:
        raise ValueError("a connection ID has at most 20 bytes")
    if len(token) > TOKEN_MAX or (len(token) and type != PACKET_INITIAL):
        raise ValueError("only Initial carries a token, of at most 1024 bytes")
    if not 1 <= pn_length <= 4 or payload_length > 0x3FFF - pn_length:
        raise ValueError("packet number of 1 to 4 bytes, payload of at most 16383 bytes with it")
    out = bytearray(1 + 4 + 1 + CID_MAX + 1 + CID_MAX + len(token) + 4 + 4)
    cdef uint8_t *buf = <uint8_t *><char *>out
    p = header_put_long(
        buf, type, version, dcid, len(dcid), scid, len(scid), token, len(token), pn_length, &length_at)
    length_at[0] = <uint8_t>(0x40 | ((pn_length + payload_length) >> 8))
    length_at[1] = <uint8_t>((pn_length + payload_length) & 0xFF)
    for i in range(pn_length):
        p[i] = <uint8_t>(packet_number >> (8 * (pn_length - 1 - i)))
    return bytes(out[:p + pn_length - buf])


def encode_short_header(
    bytes dcid not None, *, bint spin=False, bint key_phase=False, uint64_t packet_number=0, size_t pn_length=2,
):
    """Unprotected short header up to and with the packet number (RFC 9000 §17.3.1)."""
    cdef uint8_t buf[1 + 20 + 4]
    cdef uint8_t *p
    cdef size_t i
    if len(dcid) > CID_MAX or not 1 <= pn_length <= 4:
        raise ValueError("connection ID of at most 20 bytes, packet number of 1 to 4")
    p = header_put_short(buf, dcid, len(dcid), spin, key_phase, pn_length)
    for i in range(pn_length):
        p[i] = <uint8_t>(packet_number >> (8 * (pn_length - 1 - i)))
    return span(buf, <size_t>(p + pn_length - buf))


def encode_version_negotiation(bytes received_dcid not None, bytes received_scid not None, versions=(VERSION_1,),
                               uint32_t random=0):
    """Version Negotiation that answers a packet with these connection IDs (at most 255 bytes each).

    `random` (32 bits) fills the unused bits and picks the reserved version that stands before `versions` (at most 16).
    """
    cdef uint32_t wanted[16]
    cdef uint8_t buf[7 + 2 * 255 + 4 * 17]
    cdef size_t count = len(versions)
    cdef size_t i, n
    if count > 16:
        raise ValueError("at most 16 versions")
    for i in range(count):
        wanted[i] = versions[i]
    n = header_put_version_negotiation(buf, sizeof(buf), received_dcid, len(received_dcid),
                                       received_scid, len(received_scid), wanted, count, random)
    if n == 0:
        raise ValueError("a connection ID has at most 255 bytes")
    return span(buf, n)


def encode_retry_without_tag(bytes dcid not None, bytes scid not None, bytes token not None, *,
                             uint32_t version=QUIC_V1, uint8_t random=0):
    """Retry up to its integrity tag, which crypto computes and appends (RFC 9001 §5.8)."""
    cdef uint8_t buf[7 + 2 * 20 + 1024]
    cdef size_t n = header_put_retry(
        buf, sizeof(buf), version, dcid, len(dcid), scid, len(scid), token, len(token), random)
    if n == 0:
        raise ValueError("connection IDs of at most 20 bytes, token of at most 1024")
    return span(buf, n)
