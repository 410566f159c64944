"""The sending side of an endpoint."""
from libc.string cimport memset
from stoq.endpoint.replies cimport REPLY_ROOM
from stoq.io.transport cimport send_batch_consume


cdef class Outbox:
    def __cinit__(self, Transport transport not None, Driver driver not None):
        self.transport = transport
        self.driver = driver
        memset(&self.batch, 0, sizeof(self.batch))

    cdef int open(self) except -1:
        if not self.is_open:
            self.transport.acquire(&self.batch)
            self.is_open = True
        return 0

    cdef bint push(self) except -1:
        cdef int taken
        if self.batch.count and not self.transport.closed:
            taken = self.transport.send(&self.batch)
            if <uint32_t>taken < self.batch.count:
                send_batch_consume(&self.batch, taken)
                if not self.blocked:
                    self.blocked = True
                    self.driver.watch_writable(True)
                return True
        self.batch.count = 0
        self.is_open = False
        return False

    cdef uint64_t bytes_waiting(self) noexcept nogil:
        cdef uint64_t total = 0
        cdef uint32_t i
        for i in range(self.batch.count):
            total += self.batch.length[i]
        return total

    cdef uint8_t *reply_room(self) except? NULL:
        if self.blocked or self.is_open and self.batch.count == self.batch.slots and self.push():
            return NULL
        self.open()
        return self.batch.data[self.batch.count] if self.batch.capacity[self.batch.count] >= REPLY_ROOM else NULL

    cdef int reply(self, const RecvBatch *incoming, uint32_t i, size_t length) except -1:
        cdef uint32_t n = self.batch.count
        if length == 0:
            return 0
        self.batch.length[n] = <uint32_t>length
        self.batch.segment[n] = 0
        self.batch.ecn[n] = 0
        self.batch.peer[n] = incoming.peer[i]
        self.batch.local[n] = incoming.local[i]
        self.batch.count += 1
        return 0
