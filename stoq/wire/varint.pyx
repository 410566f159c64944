"""Variable-length integers (RFC 9000 §16): the Python face of varint.pxd."""
from stoq.wire.varint cimport Cursor, VARINT_MAX, varint_get, varint_put


def encode_varint(value: int) -> bytes:
    """Shortest encoding of 0 <= value < 2**62; ValueError outside."""
    if not 0 <= value <= VARINT_MAX:
        raise ValueError("a varint holds 0 to 2**62 - 1")
    cdef uint8_t buf[8]
    cdef uint8_t *end = varint_put(buf, value)
    return (<char *>buf)[:end - buf]


def decode_varint(bytes data not None, size_t at=0) -> tuple[int, int]:
    """(value, offset after it) of the varint at data[at:]; ValueError when data is too short."""
    cdef Cursor c
    cdef uint64_t value
    cdef const uint8_t *base = <const uint8_t *><const char *>data
    c.end = base + len(data)
    c.p = base + at if at < <size_t>len(data) else c.end
    if varint_get(&c, &value):
        raise ValueError("truncated varint")
    return value, c.p - base
