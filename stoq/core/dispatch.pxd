# Frames of a decrypted packet to their handlers (RFC 9000 §12.4, §19).
from libc.stdint cimport uint8_t, uint64_t, int64_t
from stoq.core.state cimport Conn

# Walk a payload: 0, or the transport error to close with (c.close_frame_type tells the frame).
# *eliciting: whether the packet must be acknowledged.
cdef uint64_t dispatch_payload(Conn *c, int space, const uint8_t *p, const uint8_t *end, uint64_t pn, uint8_t ecn,
        int64_t now, bint *eliciting) noexcept nogil
