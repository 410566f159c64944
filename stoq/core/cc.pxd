# Congestion control by name (RFC 9002 §7), one Cc per path; the rate sampler feeds all controllers alike.
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t

# What happened since the last call, once per ACK batch.
cdef struct AckSample:
    int64_t now
    uint64_t acked_bytes             # newly acknowledged, in flight before
    int64_t largest_sent_time        # send time of the newest acknowledged packet
    uint64_t in_flight               # after the ACK
    int64_t rtt_ns                   # latest sample, 0: none
    int64_t srtt_ns
    int64_t min_rtt_ns
    uint64_t delivery_rate           # bytes/s, 0: no sample
    bint app_limited                 # the sample was taken while the application limited sending
    bint window_limited              # the window was in full use

cdef struct LossSample:
    int64_t now
    uint64_t lost_bytes
    int64_t largest_lost_sent_time
    uint64_t in_flight
    bint persistent                  # RFC 9002 §7.6
    bint ecn                         # a CE mark, not a loss

# State in common terms, to seed another controller on a running connection.
cdef struct CcState:
    uint64_t cwnd
    uint64_t ssthresh
    uint64_t pacing_rate
    int64_t min_rtt_ns

cdef struct Cc:
    const CcOps *ops
    uint64_t cwnd
    uint64_t ssthresh
    uint64_t mtu
    int64_t recovery_start           # send times at or before it belong to a loss already answered; -1: never
    uint64_t priv[12]                # the controller's own

cdef struct CcOps:
    const char *name
    void (*init)(Cc *cc, uint64_t mtu) noexcept nogil
    void (*acked)(Cc *cc, const AckSample *s) noexcept nogil
    void (*lost)(Cc *cc, const LossSample *s) noexcept nogil
    uint64_t (*pacing_rate)(const Cc *cc, int64_t srtt_ns) noexcept nogil   # bytes/s; 0: do not pace
    void (*export)(const Cc *cc, CcState *out) noexcept nogil
    void (*enter)(Cc *cc, const CcState *seed) noexcept nogil
    void (*set_mtu)(Cc *cc, uint64_t mtu) noexcept nogil

cdef const CcOps *cc_find(const char *name) noexcept nogil      # NULL: no such controller
cdef int cc_register(const CcOps *ops) except -1
