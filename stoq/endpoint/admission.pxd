# Who may open a connection (DESIGN §4 "Admission"): asked for every Initial of an unknown connection, before
# anything is allocated for it.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from stoq.wire.batch cimport Address

cdef enum Verdict:
    ADMIT_DROP = 0           # silence
    ADMIT_ACCEPT = 1
    ADMIT_RETRY = 2          # make the client prove its address first
    ADMIT_REFUSE = 3         # close at once with `error_code` (rate limited by the endpoint; else silence)

cdef struct InitialInfo:
    const uint8_t *token
    size_t token_length
    const uint8_t *dcid
    size_t dcid_length
    const uint8_t *scid
    size_t scid_length
    const Address *address
    uint32_t version
    uint8_t flags            # DATAGRAM_VALIDATED: the transport vouches for the address
    uint32_t half_open       # handshakes under way, and
    uint32_t connections     # all connections of the endpoint

cdef struct Admitted:
    Verdict verdict
    int traffic_class        # the provider's own; kept with the connection
    bint validated           # the client's address (RFC 9000 §8.1)
    bint retried             # original_dcid and retry_scid are set: the client followed a Retry
    uint64_t error_code
    uint8_t original_dcid[20]
    size_t original_dcid_length
    uint8_t retry_scid[20]
    size_t retry_scid_length


cdef class Admission:
    # Never raises for anything a peer sends.
    cdef int admit(self, const InitialInfo *info, int64_t now, Admitted *out) except -1
    cpdef bytes mint_retry(self, object address, bytes original_dcid, bytes retry_scid, uint32_t version, int64_t now)


cdef class DefaultAdmission(Admission):
    cdef bytes key
    cdef public uint32_t half_open_retry
    cdef public uint32_t half_open_max
    cdef public uint32_t max_connections
    cdef public bint always_retry
    cdef readonly int64_t retry_lifetime     # ns
    cdef readonly int64_t token_lifetime     # ns
    cdef public object clock                 # callable() -> ns for tokens, or None: the endpoint's
    cdef int check_token(self, const InitialInfo *info, int64_t now, Admitted *out) except -1

cdef bytes address_bytes(const Address *address, bint with_port)
