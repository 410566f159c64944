# The receiving half of an endpoint: datagrams to connections.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from stoq.endpoint.admission cimport Admission, Admitted
from stoq.endpoint.cid_scheme cimport CidScheme
from stoq.endpoint.cidmap cimport CidMap
from stoq.endpoint.outbox cimport Outbox
from stoq.endpoint.replies cimport ReplyLimit
from stoq.endpoint.session cimport Session
from stoq.io.transport cimport Transport
from stoq.wire.batch cimport RecvBatch
from stoq.wire.header cimport Header

cdef enum:
    # RFC 9000 §7.2: a client's first DCID has at least 8 bytes.
    CLIENT_DCID_MIN = 8

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


cdef class Demux:
    cdef readonly Transport transport
    cdef readonly object configuration   # of server connections; None: no new ones are taken
    cdef readonly Admission admission    # None for an endpoint of clients
    cdef readonly CidScheme scheme
    cdef readonly set sessions
    cdef readonly uint32_t half_open
    cdef readonly bint draining
    cdef readonly bint closing
    cdef public object unknown           # "drop", "reset", or callable(data, peer, route)
    cdef object random
    cdef CidMap ids
    cdef CidMap initials
    cdef ReplyLimit replies
    cdef EndpointCounters count
    cdef Outbox outbox
    cdef RecvBatch incoming
    cdef list touched                    # sessions that had datagrams in the batch under way
    cdef uint8_t last_id[20]
    cdef size_t last_length
    cdef void *last_session              # borrowed; NULL: nothing remembered

    cdef void *lookup(self, const uint8_t *cid, size_t length) noexcept nogil
    cdef int dispatch(self, uint32_t i, int64_t now) except -1
    cdef int deliver(self, Session session, uint32_t i, uint32_t at, uint32_t size, int64_t now) except -1
    cdef int stray(self, uint32_t i, uint32_t at, uint32_t size, int64_t now) except -1
    cdef bint may_reply(self, uint32_t i, int64_t now) noexcept
    cdef int stray_short(self, uint32_t i, uint32_t at, uint32_t size, int64_t now) except -1
    cdef int stray_initial(self, uint32_t i, uint32_t at, uint32_t size, const Header *h, int64_t now) except -1
    # A client was admitted: make its connection and give it the datagram.
    cdef int accept(self, uint32_t i, uint32_t at, uint32_t size, const Header *h, const Admitted *how,
                    int64_t now) except -1
    cdef int failed(self, Session session) except -1


cdef inline const uint8_t *raw(bytes data) noexcept:
    return <const uint8_t *><const char *>data
