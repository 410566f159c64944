# Streams: table, life cycle, flow control, queues (RFC 9000 §2 to §4).
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from stoq.wire.frames cimport Frame
from stoq.core.sentlog cimport FrameRec
from stoq.core.state cimport Conn, PacketBuild, Stream

cdef Stream *stream_find(const Conn *c, uint64_t id) noexcept nogil
# Open one of ours: NULL when the peer's limit is reached (or out of memory: c.error is set).
cdef Stream *stream_open(Conn *c, bint unidirectional) noexcept nogil
cdef bint stream_can_open(const Conn *c, bint unidirectional) noexcept nogil
# Frames of the peer: 0, or the transport error to close with.
cdef uint64_t streams_on_data(Conn *c, const Frame *f) noexcept nogil
cdef uint64_t streams_on_reset(Conn *c, const Frame *f) noexcept nogil
cdef uint64_t streams_on_stop(Conn *c, const Frame *f) noexcept nogil
cdef uint64_t streams_on_max_stream_data(Conn *c, const Frame *f) noexcept nogil
cdef uint64_t streams_on_max_streams(Conn *c, bint unidirectional, uint64_t maximum) noexcept nogil
cdef uint64_t streams_on_blocked(Conn *c, const Frame *f) noexcept nogil
# The peer's transport parameters arrived: limits of streams that exist already.
cdef void streams_apply_params(Conn *c) noexcept nogil
# The application wrote, finished, reset, stopped, consumed.
cdef void stream_wants_send(Conn *c, Stream *s) noexcept nogil
cdef void stream_reset(Conn *c, Stream *s, uint64_t code) noexcept nogil
cdef void stream_stop(Conn *c, Stream *s, uint64_t code) noexcept nogil
cdef void stream_consumed(Conn *c, Stream *s, uint64_t length) noexcept nogil
# Raise the limit that the next MAX_DATA or MAX_STREAM_DATA announces, and tune its window.
cdef void connection_grant(Conn *c, int64_t now) noexcept nogil
cdef void stream_grant(Conn *c, Stream *s, int64_t now) noexcept nogil
# The stream has bytes to send and no credit.
cdef void stream_blocked(Conn *c, Stream *s) noexcept nogil
# The same for a stream that is gone already: connection-level credit only.
cdef void streams_discarded(Conn *c, uint64_t length) noexcept nogil
# The end of the receiving side was handed to the application (FIN or reset).
cdef void stream_read_end(Conn *c, Stream *s) noexcept nogil
# Free the struct once both sides are over and nothing refers to it.
cdef void stream_leave_send(Conn *c, Stream *s) noexcept nogil
cdef void stream_check_done(Conn *c, Stream *s) noexcept nogil
# A stream of the peer is over, and the application has had it: the peer may open another (SECURITY row 7).
cdef void streams_credit(Conn *c, uint64_t stream_id) noexcept nogil
cdef void stream_maybe_free(Conn *c, Stream *s) noexcept nogil
cdef void stream_push_control(Conn *c, Stream *s) noexcept nogil
cdef Stream *stream_pop_readable(Conn *c) noexcept nogil
cdef void streams_clear(Conn *c) noexcept nogil
