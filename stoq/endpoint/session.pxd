# What an endpoint keeps of one connection, and what drives an endpoint.
from libc.stdint cimport int32_t, int64_t
from stoq.connection.connection cimport Connection


# What runs an endpoint: an event loop, or a simulation.
cdef class Driver:
    cpdef schedule(self)                         # call endpoint.flush() soon, once
    cpdef watch_writable(self, bint on)
    cpdef arm(self, int64_t deadline)            # call endpoint.on_timer() then; replaces the earlier deadline


# One connection as its endpoint keeps it; the connection's listener. Users derive from it.
cdef class Session:
    cdef readonly object endpoint        # Endpoint; None before it has one
    cdef readonly Connection connection
    cdef readonly int traffic_class      # as admission said
    cdef int32_t timer                   # slot in the endpoint's heap, -1: not (or no longer) its
    cdef bint touched                    # had datagrams in the batch under way
    cdef bint queued                     # in endpoint.ready
    cdef bint half_open
    cdef list ids                        # bytes: our IDs that lead here
    cdef bytes initial_id                # the client's first DCID, while it leads here
    cdef unsigned long thread            # the only one that may use it
    cdef int check_thread(self) except -1
    cdef int handshake_over(self) except -1
