# One direction of a simulated link: what happens to each datagram, decided
# from a seeded generator, in virtual time.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum Verdict:
    LINK_PASS = 0
    LINK_LOST
    LINK_RULE
    LINK_BLACKHOLE
    LINK_MTU
    LINK_QUEUE

# A datagram that waits for the wire or is on it.
cdef struct Departure:
    int64_t at
    uint32_t size

cdef struct LinkState:
    uint64_t prng
    # configuration; probabilities as thresholds of 53 bits
    uint64_t loss
    uint64_t burst_enter
    uint64_t burst_leave
    uint64_t burst_loss
    uint64_t reorder
    uint64_t duplicate
    uint64_t corrupt
    uint64_t mark
    uint32_t max_burst
    uint32_t corrupt_bits
    int64_t delay
    int64_t jitter
    int64_t reorder_delay
    bint jitter_reorders
    bint bleach
    uint64_t rate                # bit/s, 0 for none
    uint64_t queue_bytes
    uint64_t queue_packets
    uint64_t mark_above
    uint32_t mtu
    uint64_t *drops              # sorted numbers
    uint32_t drop_count
    uint32_t drop_next
    int64_t *holes               # pairs of times
    uint32_t hole_count
    # state
    bint bad
    uint32_t burst
    int64_t busy_until
    uint64_t busy_fraction       # of a nanosecond, in 1/rate
    int64_t last_due
    Departure *queue             # ring, power-of-two capacity
    uint32_t queue_capacity
    uint32_t queue_head
    uint32_t queue_count
    uint64_t queued              # wire bytes in the ring
    # counters (LinkCounters)
    uint64_t offered
    uint64_t delivered
    uint64_t bytes_delivered
    uint64_t lost
    uint64_t dropped_rule
    uint64_t dropped_blackhole
    uint64_t dropped_mtu
    uint64_t dropped_queue
    uint64_t dropped_receiver
    uint64_t duplicated
    uint64_t reordered
    uint64_t corrupted
    uint64_t marked
    uint64_t queued_max

# What link_offer decided for a datagram that passes.
cdef struct Passage:
    int64_t due
    bint duplicate
    bint corrupt
    uint8_t ecn

cdef uint64_t prng_next(uint64_t *state) noexcept nogil
# Decide the fate of one datagram of `size` wire bytes that is sent at `now`. LINK_PASS fills `out`; -1: out of memory.
cdef int link_offer(LinkState *link, int64_t now, uint32_t size, uint8_t ecn, bint drop, Passage *out) noexcept nogil
# Flip the configured number of random bits.
cdef void link_corrupt(LinkState *link, uint8_t *data, uint32_t length) noexcept nogil
# Wire bytes that have not left at `now`.
cdef uint64_t link_queued(LinkState *link, int64_t now) noexcept nogil
# When fewer than `limit` bytes will wait (now, if so already).
cdef int64_t link_room_at(LinkState *link, int64_t now, uint64_t limit) noexcept nogil


cdef class SimLink:
    cdef LinkState state
    cdef object config_
    cdef object drop_if
