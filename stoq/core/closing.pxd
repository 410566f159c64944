# The end of a connection (RFC 9000 §10).
from libc.stdint cimport uint8_t, uint64_t, int64_t
from stoq.wire.frames cimport Frame
from stoq.core.state cimport Conn

cdef enum:
    CLOSE_PTOS = 3           # RFC 9000 §10.2: at least three times the PTO


cdef inline void idle_restart(Conn *c, int64_t now) noexcept nogil:
    """The idle timeout counts from now; it is never shorter than three probe timeouts (RFC 9000 §10.1)."""
    if c.idle_timeout:
        c.idle_deadline = now + (c.idle_timeout if c.idle_timeout > c.idle_least else c.idle_least)


# We close: CONNECTION_CLOSE goes out, answers follow for three probe timeouts.
cdef void close_start(Conn *c, uint64_t code, uint64_t frame_type, bint application, const uint8_t *reason,
        size_t reason_length, int64_t now) noexcept nogil
# The peer closed.
cdef void close_by_peer(Conn *c, const Frame *f, int64_t now) noexcept nogil
# Over at once and silently: idle, stateless reset, version negotiation, internal failure.
cdef void close_silently(Conn *c, int cause, int64_t now) noexcept nogil
# A packet came in while closing: answer, ever more rarely.
cdef void close_heard(Conn *c) noexcept nogil
# The driver is about to send: the closing period starts, whether or not a datagram may leave.
cdef void close_begins(Conn *c, int64_t now) noexcept nogil
