# Socket-style addresses to the batch's struct and back.
from stoq.wire.batch cimport Address

# (host, port, ...) with a literal IPv4 or IPv6 host, or None: family 0. ValueError for anything else.
cdef int fill_address(Address *out, object peer) except -1
cdef object show_address(const Address *a)
