"""Events from the core to the shell: a ring of small structs."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from stoq.core.state cimport (
    Conn, EVENTS_MAX, EV_NEW_TOKEN, EV_STREAMS_AVAILABLE, Event, EventRing, Stream,
)

cdef enum:
    FIRST = 16


cdef inline uint32_t coalesced(uint64_t type, uint64_t a) noexcept nogil:
    """A bit for events of which one at a time is enough, however many frames of the peer cause them; else 0."""
    if type == EV_STREAMS_AVAILABLE:
        return <uint32_t>1 << (a & 3)
    return 16 if type == EV_NEW_TOKEN else 0


cdef int event_push(Conn *c, uint64_t type, Stream *s, uint64_t id, uint64_t a) noexcept nogil:
    cdef EventRing *ring = &c.events
    cdef Event *grown
    cdef Event *e
    cdef uint32_t i, capacity
    cdef uint32_t bit = coalesced(type, a)
    if bit & c.events_waiting:
        return 0
    if ring.count == ring.capacity:
        capacity = ring.capacity * 2 if ring.capacity else FIRST
        grown = <Event *>malloc(capacity * sizeof(Event)) if capacity <= EVENTS_MAX else NULL
        if grown == NULL:
            c.error = 1
            return -1
        for i in range(ring.count):
            grown[i] = ring.items[(ring.head + i) & (ring.capacity - 1)]
        free(ring.items)
        ring.items = grown
        ring.capacity = capacity
        ring.head = 0
    e = &ring.items[(ring.head + ring.count) & (ring.capacity - 1)]
    ring.count += 1
    e.type = type
    e.stream = s
    e.stream_id = id
    e.a = a
    c.events_waiting |= bit
    return 0


cdef bint event_pop(Conn *c, Event *out) noexcept nogil:
    cdef EventRing *ring = &c.events
    if ring.count == 0:
        return 0
    out[0] = ring.items[ring.head]
    ring.head = (ring.head + 1) & (ring.capacity - 1)
    ring.count -= 1
    c.events_waiting &= ~coalesced(out.type, out.a)
    return 1


cdef void events_clear(Conn *c) noexcept nogil:
    free(c.events.items)
    c.events.items = NULL
    c.events.capacity = 0
    c.events.count = 0
    c.events.head = 0
