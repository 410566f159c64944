"""Variable-length integers (RFC 9000 §16): the Python face of varint.pxd."""
from stoq.wire.varint cimport Cursor, varint_get, varint_put


def encode_varint(value: int) -> bytes:
    """Shortest encoding of 0 <= value < 2**62; ValueError outside."""
    if not 0 <= value <= 0x3FFFFFFFFFFFFFFF:
        raise ValueError("a varint holds 0 to 2**62 - 1")
    cdef uint8_t buf[8]
    cdef uint8_t *end = varint_put(buf, value)
    return (<char *>buf)[:end - buf]


def decode_varint(data: bytes) -> tuple[int, int]:
    """(value, bytes read); ValueError when data is too short."""
    cdef Cursor c
    cdef uint64_t value
    c.p = data
    c.end = c.p + len(data)
    if varint_get(&c, &value):
        raise ValueError("truncated varint")
    return value, c.p - <const uint8_t *>data
