# What we received and owe an ACK for (RFC 9000 §13.2).
from libc.stdint cimport uint8_t, uint64_t, int64_t
from stoq.core.sentlog cimport FrameRec
from stoq.core.state cimport Conn, PacketBuild, Space

cdef bint ack_is_duplicate(const Space *sp, uint64_t pn) noexcept nogil
cdef int ack_record(Conn *c, int space, uint64_t pn, bint eliciting, uint8_t ecn, int64_t now) noexcept nogil
cdef bint ack_source_pending(Conn *c, int space, int64_t now) noexcept nogil
cdef int ack_source_fill(Conn *c, PacketBuild *b, int64_t now) noexcept nogil
cdef void ack_source_acked(Conn *c, const FrameRec *r, int64_t now) noexcept nogil
