"""Sent packets of one packet-number space, and the frame records they own."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset

cdef enum:
    RING_FIRST = 32          # packets; a handshake space never needs more
    SLAB_FIRST = 32


cdef void slab_init(FrameSlab *s) noexcept nogil:
    memset(s, 0, sizeof(FrameSlab))
    s.used = 1


cdef void slab_clear(FrameSlab *s) noexcept nogil:
    free(s.items)
    slab_init(s)


cdef uint32_t slab_take(FrameSlab *s) noexcept nogil:
    cdef uint32_t index = s.free
    cdef uint32_t grown
    cdef FrameRec *items
    if index:
        s.free = s.items[index].next
        s.live += 1
        return index
    if s.used >= s.capacity:
        grown = s.capacity * 2 if s.capacity else SLAB_FIRST
        items = <FrameRec *>realloc(s.items, <size_t>grown * sizeof(FrameRec))
        if items == NULL:
            return 0
        s.items = items
        s.capacity = grown
    index = s.used
    s.used += 1
    s.live += 1
    return index


cdef void slab_give(FrameSlab *s, uint32_t index) noexcept nogil:
    s.items[index].next = s.free
    s.free = index
    s.live -= 1
    if s.live == 0:
        # Nothing outstanding: start again from the front, so that the hot part stays small.
        s.free = 0
        s.used = 1
        if s.capacity > 1024:
            free(s.items)
            s.items = NULL
            s.capacity = 0


cdef void sentlog_init(SentLog *l) noexcept nogil:
    memset(l, 0, sizeof(SentLog))


cdef void sentlog_clear(SentLog *l) noexcept nogil:
    free(l.ring)
    l.ring = NULL
    l.capacity = 0
    l.base = l.next


cdef int sentlog_reserve(SentLog *l) noexcept nogil:
    cdef uint64_t capacity, pn
    cdef SentPacket *ring
    if l.next - l.base < l.capacity:
        return 0
    if l.next - l.base >= SENTLOG_MAX:
        return -1
    capacity = l.capacity * 2 if l.capacity else RING_FIRST
    ring = <SentPacket *>malloc(capacity * sizeof(SentPacket))
    if ring == NULL:
        return -1
    for pn in range(l.base, l.next):
        ring[pn & (capacity - 1)] = l.ring[pn & (l.capacity - 1)]
    free(l.ring)
    l.ring = ring
    l.capacity = capacity
    return 0


cdef void sentlog_advance(SentLog *l) noexcept nogil:
    # A skipped number leaves with its neighbours: Space.skipped remembers it for the check.
    while l.base < l.next and sentlog_at(l, l.base).state != SENT_OUTSTANDING:
        l.base += 1


cdef void sentlog_shrink(SentLog *l) noexcept nogil:
    """Give the ring back when the connection is idle."""
    if l.base == l.next and l.capacity > RING_FIRST:
        free(l.ring)
        l.ring = NULL
        l.capacity = 0
