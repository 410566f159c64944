"""Streams for programs that run over simulated networks: plain calls, no futures."""
from libc.stdint cimport uint64_t


cdef class SimulatedStream(StreamHandle):
    """Tells its handler what happens: stream_data(stream), stream_reset(stream, code), stream_stopped(stream, code),
    stream_writable(stream), stream_acked(stream), stream_connection_closed(stream); those that the handler has.

    In stream_data, take() gives the bytes; `ended` says whether more can come.
    """

    cdef object target(self):
        return self.handler if self.handler is not None else self.connection.listener

    cdef int on_data(self, bytes data, bint fin) except -1:
        StreamHandle.on_data(self, data, fin)
        call = getattr(self.target(), "stream_data", None)
        if call is not None:
            call(self)
        return 0

    cdef int on_reset(self, uint64_t code) except -1:
        StreamHandle.on_reset(self, code)
        call = getattr(self.target(), "stream_reset", None)
        if call is not None:
            call(self, code)
        return 0

    cdef int on_stopped(self, uint64_t code) except -1:
        StreamHandle.on_stopped(self, code)
        call = getattr(self.target(), "stream_stopped", None)
        if call is not None:
            call(self, code)
        return 0

    cdef int on_writable(self) except -1:
        StreamHandle.on_writable(self)
        call = getattr(self.target(), "stream_writable", None)
        if call is not None:
            call(self)
        return 0

    cdef int on_acked(self) except -1:
        StreamHandle.on_acked(self)
        call = getattr(self.target(), "stream_acked", None)
        if call is not None:
            call(self)
        return 0

    cdef int on_connection_closed(self) except -1:
        StreamHandle.on_connection_closed(self)
        call = getattr(self.target(), "stream_connection_closed", None)
        if call is not None:
            call(self)
        return 0

    def notify_writable(self, uint64_t low_water):
        """Call stream_writable() once when at most so many bytes are unacknowledged."""
        self.want_writable(low_water)
