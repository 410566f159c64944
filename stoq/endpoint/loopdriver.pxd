from libc.stdint cimport int64_t
from stoq.endpoint.endpoint cimport Endpoint
from stoq.endpoint.session cimport Driver


cdef class LoopDriver(Driver):
    cdef readonly object loop
    cdef readonly Endpoint endpoint
    cdef public object when_refused
    cdef int fd                          # of the transport, -1: not watched
    cdef int timer_fd                    # -1: the loop's own timers are used
    cdef object timer_handle
    cdef object flush_callback
    cdef object writable_callback
