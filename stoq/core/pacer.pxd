# Token-bucket pacing (RFC 9002 §7.7). Header-only.
from libc.stdint cimport uint64_t, int64_t

cdef struct Pacer:
    uint64_t rate            # bytes/s; 0: not pacing
    int64_t credit           # bytes that may leave now; goes below zero by at most one train
    int64_t burst            # cap of credit
    int64_t last             # when credit was last refilled


cdef inline void pacer_refill(Pacer *p, int64_t now) noexcept nogil:
    cdef uint64_t gained
    cdef int64_t gap = now - p.last
    if p.rate == 0 or gap <= 0:
        return
    if gap > 1000000000:
        # Longer pauses in milliseconds, 2^20 of them at most: enough to fill any bucket that such a rate has.
        gained = p.rate * <uint64_t>(gap // 1000000 if gap < <int64_t>1048576000000 else 1048576) // 1000
    elif p.rate < <uint64_t>1 << 33:
        gained = p.rate * <uint64_t>gap // 1000000000
    else:
        # rate < 2^37 B/s (1 Tbit/s) and gap < 2^30 ns: the product stays below 2^64 once scaled.
        gained = ((p.rate >> 10) * <uint64_t>gap) // 976562   # 1e9 / 1024
    if gained == 0:
        return
    p.last = now
    p.credit += <int64_t>gained
    if p.credit > p.burst:
        p.credit = p.burst


cdef inline void pacer_set(Pacer *p, uint64_t rate, uint64_t burst_ns, uint64_t mtu, int64_t now) noexcept nogil:
    """Take a new rate; the bucket holds burst_ns worth of it, at least ten packets (RFC 9002 §7.7)."""
    cdef int64_t burst
    if rate > (<uint64_t>1 << 37):
        rate = <uint64_t>1 << 37
    if p.rate:
        pacer_refill(p, now)
    else:
        p.last = now
        p.credit = <int64_t>(10 * mtu)
    burst = <int64_t>((rate >> 10) * burst_ns // 976562)
    if burst < <int64_t>(10 * mtu):
        burst = <int64_t>(10 * mtu)
    p.rate = rate
    p.burst = burst
    if p.credit > burst:
        p.credit = burst


cdef inline int64_t pacer_when(const Pacer *p, int64_t now) noexcept nogil:
    """When credit is positive again; `now` when it is."""
    if p.rate == 0 or p.credit > 0:
        return now
    # Wait for a quarter of the bucket: one wake-up, one train.
    cdef uint64_t want = <uint64_t>(-p.credit) + <uint64_t>(p.burst // 4) + 1
    return p.last + <int64_t>(want * 1000000000 // p.rate) + 1


cdef inline void pacer_spend(Pacer *p, uint64_t size) noexcept nogil:
    if p.rate:
        p.credit -= <int64_t>size
