# Datagrams to packets to frames: header protection off, decrypt in place, dispatch (RFC 9000 §12, RFC 9001 §5).
from libc.stdint cimport int64_t
from stoq.core.state cimport Conn

# Walk the train in c.rx_* from where it stands: CoreResult.
cdef int receive_walk(Conn *c, int64_t now) noexcept nogil
