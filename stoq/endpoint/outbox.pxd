# The one send batch of an endpoint, and what of it the transport has not taken yet.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from stoq.endpoint.session cimport Driver
from stoq.io.transport cimport Transport
from stoq.wire.batch cimport RecvBatch, SendBatch


cdef class Outbox:
    cdef Transport transport
    cdef Driver driver
    cdef SendBatch batch
    cdef bint is_open                    # `batch` holds memory of the transport
    cdef bint blocked                    # entries wait for the transport to be writable

    cdef int open(self) except -1        # room for more, unless blocked
    # Send what there is. True: the transport is not writable; the rest waits for on_writable().
    cdef bint push(self) except -1
    cdef uint64_t bytes_waiting(self) noexcept nogil
    # Memory for one datagram of REPLY_ROOM bytes; NULL while the transport is busy: then strangers go without.
    cdef uint8_t *reply_room(self) except? NULL
    # What was written there goes to where entry i of `incoming` came from.
    cdef int reply(self, const RecvBatch *incoming, uint32_t i, size_t length) except -1
