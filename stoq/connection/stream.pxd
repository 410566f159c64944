# One stream as the shell's user sees it, sans-IO. stoq.endpoint derives its asyncio stream from it.
from libc.stdint cimport uint64_t
from stoq.core.state cimport Stream as CStream
from stoq.connection.connection cimport Connection


cdef class StreamHandle:
    cdef CStream *s                      # NULL once the stream is over on both sides, or the connection is
    cdef readonly Connection connection
    cdef readonly uint64_t id
    cdef object chunks                   # deque[bytes] of in-order data not read yet
    cdef uint64_t chunks_size            # unread bytes in it
    cdef uint64_t head_taken             # bytes of chunks[0] that were read already
    cdef bint fin_received               # all data is in chunks (or read) and nothing follows
    cdef object reset_code               # int | None: the peer reset its sending side
    cdef object stop_code                # int | None: the peer asked us to stop sending (a reset was sent for it)
    cdef bint fin_written
    cdef bint all_acked                  # everything written, FIN included, was acknowledged
    cdef bint over                       # the core has let go of it
    cdef bint unaccepted                 # the application has not had it yet: the peer may open no other for it
    cdef bint data_told                  # a stream_data event for it waits unread

    # Called by the connection after a batch (GIL held, never from inside the core). Overridable; call the base first.
    cdef int on_data(self, bytes data, bint fin) except -1       # data may be b"" with fin
    cdef int on_reset(self, uint64_t code) except -1
    cdef int on_stopped(self, uint64_t code) except -1
    # buffered fell to the low-water mark (after want_writable)
    cdef int on_writable(self) except -1
    cdef int on_acked(self) except -1                            # everything incl. FIN acknowledged
    cdef int on_connection_closed(self) except -1                # connection.close_reason is set
    cdef int discard(self) except -1
    cdef int credit(self, uint64_t size) except -1
    cdef int accepted(self) except -1    # ends `unaccepted`
    cdef int check_writable(self) except -1

    # For the user side. None of these performs I/O: the driver must call Connection.send afterwards
    # (Connection.wants_send() tells, and the connection calls its `wake` callback once per quiet period).
    # bytes-like; returns bytes now buffered (unsent + unacknowledged)
    cpdef uint64_t write(self, data) except? 0xFFFFFFFFFFFFFFFF
    cpdef finish(self)
    cpdef reset(self, uint64_t code)
    cpdef stop(self, uint64_t code)
    cpdef uint64_t buffered(self)
    cdef int want_writable(self, uint64_t low_water) except -1   # on_writable once when buffered <= low_water
    # up to `limit` bytes of what is there (one chunk, or part); b"" when none; extends flow control
    cpdef bytes take(self, uint64_t limit)
    cdef bint at_end(self)                                       # fin received and all chunks taken
