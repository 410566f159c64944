# A stream as programs on asyncio see it.
from libc.stdint cimport uint64_t
from stoq.connection.stream cimport StreamHandle
from stoq.endpoint.session cimport Session

cdef enum:
    # Application error code that resets a stream whose handler failed.
    HANDLER_FAILED = 1

cdef int wake_all(list futures) except -1
cdef int forget(list futures, object future) except -1
cdef int check_code(object code) except -1


cdef class Stream(StreamHandle):
    cdef object reader                   # future | None: somebody waits for data
    cdef int reading                     # ReadMode
    cdef uint64_t wanted                 # bytes, with READ_EXACTLY
    cdef list parts                      # taken, not yet given out
    cdef uint64_t parts_size
    cdef list writers                    # futures that wait for the low-water mark
    cdef list senders                    # futures that wait for the acknowledgement of everything
    cdef object receiver                 # callable(stream, data, end) | None
    cdef bint receiver_told_end
    cdef bint held                       # the receiver gets nothing until what it wrote has drained
    cdef bint stopped                    # we asked the peer to stop
    cdef bint gave_up                    # we reset our side

    cdef int check_thread(self) except -1
    cdef int pull(self, uint64_t limit) except -1
    cdef bytes joined(self)
    cdef bint satisfied(self) except -1
    cdef int wake_reader(self) except -1
    cdef int pump(self) except -1
    cdef int call_receiver(self, bytes data, bint end) except -1
