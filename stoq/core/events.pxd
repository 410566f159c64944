# The event ring between core and shell.
from libc.stdint cimport uint64_t
from stoq.core.state cimport Conn, Event, Stream

cdef int event_push(Conn *c, uint64_t type, Stream *s, uint64_t id, uint64_t a) noexcept nogil
cdef bint event_pop(Conn *c, Event *out) noexcept nogil
cdef void events_clear(Conn *c) noexcept nogil
