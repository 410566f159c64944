"""NewReno as RFC 9002 §7 and appendix B describe it."""
from libc.stdint cimport uint64_t, int64_t
from libc.string cimport memset
from stoq.core.cc cimport AckSample, Cc, CcOps, CcState, LossSample, cc_register

cdef enum:
    UNLIMITED = -1
    LOSS_REDUCTION_SHIFT = 1         # kLossReductionFactor = 0.5 (RFC 9002 appendix B.1)
    MINIMUM_WINDOW_PACKETS = 2       # kMinimumWindow (RFC 9002 §7.2)

# priv[0]: bytes acknowledged since cwnd last grew by one packet in congestion avoidance


cdef uint64_t initial_window(uint64_t mtu) noexcept nogil:
    # RFC 9002 §7.2: min(10 * mtu, max(14720, 2 * mtu)).
    cdef uint64_t low = 14720 if 14720 > 2 * mtu else 2 * mtu
    return 10 * mtu if 10 * mtu < low else low


cdef void reno_init(Cc *cc, uint64_t mtu) noexcept nogil:
    memset(cc.priv, 0, sizeof(cc.priv))
    cc.mtu = mtu
    cc.cwnd = initial_window(mtu)
    cc.ssthresh = <uint64_t>UNLIMITED
    cc.recovery_start = -1


cdef void reno_acked(Cc *cc, const AckSample *s) noexcept nogil:
    # RFC 9002 §7.8: a window that is not in use does not grow. §7.3.2: nor during recovery.
    if s.largest_sent_time <= cc.recovery_start or not s.window_limited:
        return
    if cc.cwnd < cc.ssthresh:
        cc.cwnd += s.acked_bytes
        return
    cc.priv[0] += s.acked_bytes
    if cc.priv[0] >= cc.cwnd:
        cc.priv[0] -= cc.cwnd
        cc.cwnd += cc.mtu


cdef void reno_lost(Cc *cc, const LossSample *s) noexcept nogil:
    cdef uint64_t floor = MINIMUM_WINDOW_PACKETS * cc.mtu
    if s.largest_lost_sent_time > cc.recovery_start:
        cc.recovery_start = s.now
        cc.cwnd >>= LOSS_REDUCTION_SHIFT
        if cc.cwnd < floor:
            cc.cwnd = floor
        cc.ssthresh = cc.cwnd
        cc.priv[0] = 0
    if s.persistent:
        # RFC 9002 §7.6.2.
        cc.cwnd = floor
        cc.recovery_start = -1
        cc.priv[0] = 0


cdef uint64_t reno_pacing_rate(const Cc *cc, int64_t srtt_ns) noexcept nogil:
    # RFC 9002 §7.7: N * cwnd / srtt; N = 2 while the window doubles each round trip, else 1.25.
    cdef uint64_t per_second
    if srtt_ns <= 0:
        return 0
    if srtt_ns < 1000:
        srtt_ns = 1000
    # cwnd < 2^34, so the product stays below 2^64.
    per_second = cc.cwnd * 1000000000 // <uint64_t>srtt_ns
    if cc.cwnd < cc.ssthresh:
        return per_second * 2
    return per_second + (per_second >> 2)


cdef void reno_export(const Cc *cc, CcState *out) noexcept nogil:
    out.cwnd = cc.cwnd
    out.ssthresh = cc.ssthresh
    out.pacing_rate = 0
    out.min_rtt_ns = 0


cdef void reno_enter(Cc *cc, const CcState *seed) noexcept nogil:
    memset(cc.priv, 0, sizeof(cc.priv))
    cc.cwnd = seed.cwnd if seed.cwnd > 2 * cc.mtu else 2 * cc.mtu
    cc.ssthresh = seed.ssthresh


cdef void reno_set_mtu(Cc *cc, uint64_t mtu) noexcept nogil:
    cc.mtu = mtu
    if cc.cwnd < MINIMUM_WINDOW_PACKETS * mtu:
        cc.cwnd = MINIMUM_WINDOW_PACKETS * mtu


cdef CcOps RENO
RENO.name = b"reno"
RENO.init = reno_init
RENO.acked = reno_acked
RENO.lost = reno_lost
RENO.pacing_rate = reno_pacing_rate
RENO.export = reno_export
RENO.enter = reno_enter
RENO.set_mtu = reno_set_mtu
cc_register(&RENO)
