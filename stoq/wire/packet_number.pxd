# Packet-number coding (RFC 9000 §17.1, appendices A.2 and A.3). Header-only.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
cdef inline size_t pn_length(uint64_t pn, uint64_t largest_acked) noexcept nogil:
    """Bytes (1 to 4) that carry pn so that a peer who has acknowledged largest_acked
    (all ones: nothing yet) decodes it (A.2)."""
    cdef uint64_t unacked = pn + 1 if largest_acked == <uint64_t>0xFFFFFFFFFFFFFFFFU else pn - largest_acked
    # One more bit than the count of unacknowledged packets.
    if unacked < 0x80:
        return 1
    if unacked < 0x8000:
        return 2
    if unacked < 0x800000:
        return 3
    return 4


cdef inline void pn_put(uint8_t *p, uint64_t pn, size_t length) noexcept nogil:
    """Write the `length` low bytes of pn, most significant first."""
    cdef size_t i
    for i in range(length):
        p[i] = <uint8_t>(pn >> (8 * (length - 1 - i)))


cdef inline uint64_t pn_decode(uint64_t truncated, size_t length, uint64_t expected) noexcept nogil:
    """Full packet number nearest to `expected` (largest received + 1) (A.3)."""
    cdef uint64_t win = <uint64_t>1 << (8 * length)
    cdef uint64_t half = win >> 1
    cdef uint64_t candidate = (expected & ~(win - 1)) | truncated
    if candidate + half <= expected and candidate < (<uint64_t>1 << 62) - win:
        return candidate + win
    if candidate > expected + half and candidate >= win:
        return candidate - win
    return candidate
