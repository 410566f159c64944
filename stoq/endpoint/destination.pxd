# Where a datagram goes, by the first bytes of its first packet. Header-only.
from libc.stdint cimport uint8_t, uint32_t
from stoq.endpoint.cidmap cimport CIDMAP_ID_MAX


cdef inline bint destination(const uint8_t *p, uint32_t size, size_t short_length,
                             const uint8_t **cid, size_t *length) noexcept nogil:
    """Destination ID of a datagram's first packet; False when it has none that could be ours."""
    if size == 0:
        return False
    if p[0] & 0x80:
        if size < 7:
            return False
        length[0] = p[5]
        cid[0] = p + 6
        return length[0] <= CIDMAP_ID_MAX and 6 + length[0] <= size
    length[0] = short_length
    cid[0] = p + 1
    return 1 + short_length <= size
