# Why a connection is over.
from stoq.core.state cimport Conn

# The exception that describes c.close.
cdef object close_reason(const Conn *c, bint handshake_complete)
