# Where protocol and I/O meet: one transport, a table of connection IDs, timers, connections.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from stoq.connection.connection cimport Connection
from stoq.endpoint.admission cimport Admission, Admitted
from stoq.endpoint.cid_scheme cimport CidScheme
from stoq.endpoint.cidmap cimport CidMap
from stoq.endpoint.outbox cimport Outbox
from stoq.endpoint.replies cimport ReplyLimit
from stoq.endpoint.session cimport Driver, Session
from stoq.endpoint.timerheap cimport TimerHeap
from stoq.io.transport cimport Transport
from stoq.wire.batch cimport RecvBatch
from stoq.wire.header cimport Header

cdef enum:
    # Receive batches that one readiness callback handles before other work of the loop gets its turn.
    RECEIVE_BATCHES = 8
    # Send batches (256 KiB each over UDP: 0.2 ms) that one flush writes.
    SEND_BATCHES = 4

cdef struct EndpointCounters:
    uint64_t accepted
    uint64_t retries
    uint64_t refused
    uint64_t not_admitted        # Initials dropped by admission, or while draining
    uint64_t versions            # Version Negotiation packets sent
    uint64_t resets              # Stateless Resets sent
    uint64_t handed_over
    uint64_t unknown             # datagrams of no connection, whatever became of them
    uint64_t late_timers         # deadlines that a connection set at or before `now`


cdef class Endpoint:
    cdef readonly Transport transport
    cdef readonly object configuration   # of server connections; None: no new ones are taken
    cdef readonly Admission admission
    cdef readonly CidScheme scheme
    cdef readonly TimerHeap timers
    cdef readonly set sessions
    cdef readonly uint32_t half_open
    cdef readonly bint draining
    cdef readonly bint closing
    cdef readonly Driver driver
    cdef public object session_factory   # callable() -> Session, for clients that come
    cdef public object stream_factory    # given to every connection; None: the connection's default
    cdef public object unknown           # "drop", "reset", or callable(data, peer, route)
    cdef public int receive_batches      # that on_readable() handles in one call
    cdef public bint end_early           # the transport closes with the last connection: do not wait for late packets
    cdef public object when_empty        # callable() | None: the last connection has ended
    cdef object random
    cdef object clock
    cdef object wake_callback
    cdef unsigned long owner
    cdef CidMap ids
    cdef CidMap initials
    cdef ReplyLimit replies
    cdef EndpointCounters count
    cdef Outbox outbox
    cdef RecvBatch incoming
    cdef bint busy                       # inside a batch: a flush follows anyway
    cdef bint scheduled
    cdef list touched
    cdef list ready                      # sessions that may have something to send
    cdef int64_t armed
    cdef uint8_t last_id[20]
    cdef size_t last_length
    cdef void *last_session              # borrowed; NULL: nothing remembered

    cdef int64_t now(self) except? -1
    cdef int check_owner(self) except -1
    cdef void *lookup(self, const uint8_t *cid, size_t length) noexcept nogil
    cdef int dispatch(self, uint32_t i, int64_t now) except -1
    cdef int deliver(self, Session session, uint32_t i, uint32_t at, uint32_t size, int64_t now) except -1
    cdef int process(self, int64_t now) except -1
    cdef int stray(self, uint32_t i, uint32_t at, uint32_t size, int64_t now) except -1
    cdef bint may_reply(self, uint32_t i, int64_t now) noexcept
    cdef int stray_short(self, uint32_t i, uint32_t at, uint32_t size, int64_t now) except -1
    cdef int stray_initial(self, uint32_t i, uint32_t at, uint32_t size, const Header *h, int64_t now) except -1
    cdef int accept(self, uint32_t i, uint32_t at, uint32_t size, const Header *h, const Admitted *how,
                    int64_t now) except -1
    cdef int adopt(self, Session session, Connection connection, bytes cid) except -1
    cdef bytes new_id(self)
    cdef int issue(self, Session session) except -1
    cdef int end(self, Session session) except -1
    cdef int finish(self, Session session, int64_t now) except -1
    cdef int failed(self, Session session) except -1
    cdef int enqueue(self, Session session) except -1
    cdef int send_some(self, Session session, int64_t now) except -1
    cdef int send_ready(self, int64_t now) except -1
    cdef bint needless(self, Connection connection)
    cdef int set_timer(self, Session session, int64_t now) except -1
    cdef int arm(self) except -1

    cpdef on_readable(self)
    cpdef on_writable(self)
    cpdef on_timer(self)
    cpdef flush(self)
