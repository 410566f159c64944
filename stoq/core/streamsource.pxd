# Send source of STREAM frames.
from libc.stdint cimport int64_t
from stoq.core.sentlog cimport FrameRec
from stoq.core.state cimport Conn, PacketBuild

cdef bint stream_source_pending(Conn *c, int space, int64_t now) noexcept nogil
cdef int stream_source_fill(Conn *c, PacketBuild *b, int64_t now) noexcept nogil
cdef void stream_source_acked(Conn *c, const FrameRec *r, int64_t now) noexcept nogil
cdef void stream_source_lost(Conn *c, const FrameRec *r) noexcept nogil
cdef void stream_source_forget(Conn *c, const FrameRec *r) noexcept nogil
