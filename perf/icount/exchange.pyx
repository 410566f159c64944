# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Moves the datagrams of two connections between each other, batch by batch, as an endpoint would: no sockets, no
asyncio, virtual time. And callgrind's requests, so that one run of a program gives a count for each of its phases."""
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from stoq.connection.connection cimport Connection
from stoq.wire.batch cimport Address, SendBatch

cdef extern from * nogil:
    """
    #include <valgrind/callgrind.h>
    static int counted(void) { return (int)RUNNING_ON_VALGRIND; }
    static void count_start(void) { CALLGRIND_ZERO_STATS; CALLGRIND_START_INSTRUMENTATION; }
    static void count_end(const char *name) { CALLGRIND_STOP_INSTRUMENTATION; CALLGRIND_DUMP_STATS_AT(name); }
    """
    int counted()
    void count_start()
    void count_end(const char *name)

cdef enum:
    SLOTS = 4               # GSO sends, and GRO trains, a batch: what the UDP transport uses
    CAPACITY = 65507
    SEGMENTS = 44


def begin():
    """Counting starts here."""
    count_start()


def end(bytes name):
    """What was counted since begin() goes to a file of its own, under this name."""
    count_end(name)


def valgrind():
    """Whether anything is counted at all."""
    return bool(counted())


cdef class Exchange:
    """Two connections and the memory between them."""

    cdef Connection client, server
    cdef SendBatch batch
    cdef Address client_address, server_address, nowhere
    cdef readonly int64_t now
    cdef int64_t delay

    def __cinit__(self):
        cdef int i
        memset(&self.batch, 0, sizeof(SendBatch))
        for i in range(SLOTS):
            self.batch.data[i] = <uint8_t *>malloc(CAPACITY)
            if self.batch.data[i] == NULL:
                raise MemoryError

    def __dealloc__(self):
        for i in range(SLOTS):
            free(self.batch.data[i])

    def __init__(self, Connection client, Connection server, int64_t now, int64_t delay):
        self.client, self.server, self.now, self.delay = client, server, now, delay
        self.fill(&self.client_address, 1)
        self.fill(&self.server_address, 2)
        memset(&self.nowhere, 0, sizeof(Address))

    cdef void fill(self, Address *address, uint8_t last) noexcept:
        memset(address, 0, sizeof(Address))
        address.family = 4
        address.addr[0] = 127
        address.addr[3] = last
        address.port = 4433

    cdef int move(self, Connection source, Connection target, Address *origin) except -1:
        cdef int i, moved
        self.batch.count = 0
        self.batch.slots = SLOTS
        self.batch.max_segments = SEGMENTS
        for i in range(SLOTS):
            self.batch.capacity[i] = CAPACITY
        moved = source.send(&self.batch, self.now)
        if moved == 0:
            return 0
        for i in range(<int>self.batch.count):
            target.receive(self.batch.data[i], self.batch.length[i], self.batch.segment[i], 0, origin, &self.nowhere,
                           self.now)
        target.finish_batch(self.now)
        return moved

    def step(self):
        """One batch each way; when neither has anything to send, time passes to the next timer. Datagrams moved."""
        cdef int moved
        cdef int64_t a, b
        self.now += self.delay
        moved = self.move(self.client, self.server, &self.client_address)
        moved += self.move(self.server, self.client, &self.server_address)
        if moved:
            return moved
        a, b = self.client.deadline(), self.server.deadline()
        if a == 0 and b == 0:
            raise RuntimeError("neither side has a timer or anything to send")
        self.now = max(self.now, min(a or b, b or a))
        for connection in (self.client, self.server):
            if 0 < (<Connection>connection).deadline() <= self.now:
                (<Connection>connection).timer(self.now)
                (<Connection>connection).finish_batch(self.now)
        return 0
