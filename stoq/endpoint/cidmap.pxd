# Connection ID -> opaque pointer: open addressing over 32-byte entries.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    CIDMAP_ID_MAX = 20       # RFC 9000 §17.2
    CIDMAP_FIRST = 16        # entries of the first table; a power of two
    CIDMAP_COUNT_MAX = 1 << 27       # 4 GiB of entries: beyond that put() refuses

cdef struct CidEntry:
    void *value              # NULL: empty
    uint8_t cid[20]          # zero beyond `length`
    uint32_t length


# The values are borrowed: whoever puts one removes it before it goes away.
cdef class CidMap:
    cdef CidEntry *entries
    cdef size_t capacity     # power of two, or 0
    cdef size_t count
    cdef uint64_t keys[7]

    cdef size_t place(self, const CidEntry *wanted) noexcept nogil
    cdef CidEntry *find(self, const uint8_t *cid, size_t length) noexcept nogil
    cdef void *get(self, const uint8_t *cid, size_t length) noexcept nogil       # NULL: not there
    # MemoryError; ValueError for an ID that is longer than 20 bytes or present with another value.
    cdef int put(self, const uint8_t *cid, size_t length, void *value) except -1
    cdef void *pop(self, const uint8_t *cid, size_t length) noexcept nogil
    cdef int grow(self) except -1
