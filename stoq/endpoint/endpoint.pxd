# Where protocol and I/O meet: one transport, a table of connection IDs, timers, connections.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from stoq.connection.connection cimport Connection
from stoq.endpoint.demux cimport Demux
from stoq.endpoint.session cimport Driver, Session
from stoq.endpoint.timerheap cimport TimerHeap

cdef enum:
    # Receive batches that one readiness callback handles before other work of the loop gets its turn.
    RECEIVE_BATCHES = 8
    # What one flush writes: 1 MiB takes 0.8 ms. Small sends of many connections fill batches with few bytes.
    SEND_BYTES = 1 << 20
    SEND_BATCHES = 64


cdef class Endpoint(Demux):
    cdef readonly TimerHeap timers
    cdef readonly Driver driver
    cdef public object session_factory   # callable() -> Session, for clients that come
    cdef public object stream_factory    # given to every connection; None: the connection's default
    cdef public int receive_batches      # that on_readable() handles in one call
    cdef public bint end_early           # the transport closes with the last connection: do not wait for late packets
    cdef public object when_empty        # callable() | None: the last connection has ended
    cdef object clock
    cdef object wake_callback
    cdef unsigned long owner
    cdef bint busy                       # inside a batch: a flush follows anyway
    cdef bint scheduled
    cdef bint ended_one                  # a connection ended: was it the last?
    cdef list ready                      # sessions that may have something to send
    cdef int64_t armed

    cdef int64_t now(self) except? -1
    cdef int check_owner(self) except -1
    cdef int process(self, int64_t now) except -1
    cdef int finish(self, Session session, int64_t now) except -1
    cdef int adopt(self, Session session, Connection connection, bytes cid) except -1
    cdef bytes new_id(self)
    cdef int issue(self, Session session) except -1
    cdef int end(self, Session session) except -1
    cdef int tell_empty(self) except -1
    cdef int enqueue(self, Session session) except -1
    cdef int send_some(self, Session session, int64_t now) except -1
    cdef int send_safely(self, Session session, int64_t now) except -1
    cdef bint needless(self, Connection connection)
    cdef int send_ready(self, int64_t now) except -1
    cdef int set_timer(self, Session session, int64_t now) except -1
    cdef int arm(self) except -1

    cpdef on_readable(self)
    cpdef on_writable(self)
    cpdef on_timer(self)
    cpdef flush(self)
