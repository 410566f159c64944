# Variable-length integers (RFC 9000 §16) and the bounds-checked cursor that
# every parser of stoq walks with. Header-only: cimport costs nothing.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #include <stdint.h>
    #define STOQ_BSWAP16(v) __builtin_bswap16(v)
    #define STOQ_BSWAP32(v) __builtin_bswap32(v)
    #define STOQ_BSWAP64(v) __builtin_bswap64(v)
    #define STOQ_LIKELY(x) __builtin_expect(!!(x), 1)
    #define STOQ_UNLIKELY(x) __builtin_expect(!!(x), 0)
    #define STOQ_VARINT_MAX UINT64_C(0x3FFFFFFFFFFFFFFF)
    """
    # RFC 9000 §16: 62 usable bits. Not a Cython enum, whose values turn to Python through a C int.
    const uint64_t VARINT_MAX "STOQ_VARINT_MAX"
    uint16_t bswap16 "STOQ_BSWAP16"(uint16_t v) noexcept nogil
    uint32_t bswap32 "STOQ_BSWAP32"(uint32_t v) noexcept nogil
    uint64_t bswap64 "STOQ_BSWAP64"(uint64_t v) noexcept nogil
    bint likely "STOQ_LIKELY"(bint x) noexcept nogil
    bint unlikely "STOQ_UNLIKELY"(bint x) noexcept nogil

# A span still to be read: p <= end always.
cdef struct Cursor:
    const uint8_t *p
    const uint8_t *end


cdef inline int varint_get(Cursor *c, uint64_t *out) noexcept nogil:
    """Read one varint. 0 on success (cursor advanced), -1 when truncated (cursor unchanged)."""
    cdef const uint8_t *p = c.p
    cdef size_t room = <size_t>(c.end - p)
    cdef uint16_t v2
    cdef uint32_t v4
    cdef uint64_t v8
    if unlikely(room == 0):
        return -1
    cdef uint8_t kind = p[0] >> 6
    if kind == 0:
        out[0] = p[0]
        c.p = p + 1
        return 0
    if kind == 1:
        if unlikely(room < 2):
            return -1
        memcpy(&v2, p, 2)
        out[0] = bswap16(v2) & 0x3FFF
        c.p = p + 2
        return 0
    if kind == 2:
        if unlikely(room < 4):
            return -1
        memcpy(&v4, p, 4)
        out[0] = bswap32(v4) & 0x3FFFFFFF
        c.p = p + 4
        return 0
    if unlikely(room < 8):
        return -1
    memcpy(&v8, p, 8)
    out[0] = bswap64(v8) & <uint64_t>0x3FFFFFFFFFFFFFFF
    c.p = p + 8
    return 0


cdef inline size_t varint_size(uint64_t v) noexcept nogil:
    """Bytes that varint_put writes for v (1, 2, 4 or 8); v <= VARINT_MAX is the caller's duty."""
    if v < 0x40:
        return 1
    if v < 0x4000:
        return 2
    if v < 0x40000000:
        return 4
    return 8


cdef inline uint8_t *varint_put(uint8_t *p, uint64_t v) noexcept nogil:
    """Write v in its shortest form; returns the byte after it. The caller has checked the room."""
    cdef uint16_t v2
    cdef uint32_t v4
    cdef uint64_t v8
    if v < 0x40:
        p[0] = <uint8_t>v
        return p + 1
    if v < 0x4000:
        v2 = bswap16(<uint16_t>(v | 0x4000))
        memcpy(p, &v2, 2)
        return p + 2
    if v < 0x40000000:
        v4 = bswap32(<uint32_t>(v | 0x80000000U))
        memcpy(p, &v4, 4)
        return p + 4
    v8 = bswap64(v | <uint64_t>0xC000000000000000U)
    memcpy(p, &v8, 8)
    return p + 8


cdef inline uint8_t *varint_put2(uint8_t *p, uint64_t v) noexcept nogil:
    """Write v (< 0x4000) in exactly two bytes: for lengths that are filled in afterwards."""
    cdef uint16_t v2 = bswap16(<uint16_t>(v | 0x4000))
    memcpy(p, &v2, 2)
    return p + 2
