"""One direction of a simulated link. Made by SimNetwork.link()."""
cimport cython
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from stoq.io.links import LinkConfig, LinkCounters


cdef uint64_t prng_next(uint64_t *state) noexcept nogil:
    """64 random bits: a Weyl sequence through a 64-bit mixer. Repeatable everywhere; no cryptography."""
    cdef uint64_t z
    state[0] += <uint64_t>0x9E3779B97F4A7C15U
    z = state[0]
    z = (z ^ (z >> 32)) * <uint64_t>0xD6E8FEB86659FD93U
    z = (z ^ (z >> 32)) * <uint64_t>0xD6E8FEB86659FD93U
    return z ^ (z >> 32)


cdef inline bint chance(LinkState *link, uint64_t threshold) noexcept nogil:
    """Draws only when the answer is open, so that a feature that is off leaves the sequence of the others alone."""
    if threshold == 0:
        return False
    return (prng_next(&link.prng) >> 11) < threshold


cdef void purge(LinkState *link, int64_t now) noexcept nogil:
    """Forget what has left by `now`."""
    cdef Departure *d
    while link.queue_count:
        d = &link.queue[link.queue_head]
        if d.at > now:
            return
        link.queued -= d.size
        link.queue_head = (link.queue_head + 1) & (link.queue_capacity - 1)
        link.queue_count -= 1


cdef int enqueue(LinkState *link, int64_t at, uint32_t size) noexcept nogil:
    cdef Departure *bigger
    cdef uint32_t i, capacity
    if link.queue_count == link.queue_capacity:
        capacity = link.queue_capacity * 2 if link.queue_capacity else 64
        bigger = <Departure *>calloc(capacity, sizeof(Departure))
        if bigger == NULL:
            return -1
        for i in range(link.queue_count):
            bigger[i] = link.queue[(link.queue_head + i) & (link.queue_capacity - 1)]
        free(link.queue)
        link.queue = bigger
        link.queue_capacity = capacity
        link.queue_head = 0
    i = (link.queue_head + link.queue_count) & (link.queue_capacity - 1)
    link.queue[i].at = at
    link.queue[i].size = size
    link.queue_count += 1
    link.queued += size
    if link.queued > link.queued_max:
        link.queued_max = link.queued
    return 0


cdef uint64_t link_queued(LinkState *link, int64_t now) noexcept nogil:
    purge(link, now)
    return link.queued


cdef int64_t link_room_at(LinkState *link, int64_t now, uint64_t limit) noexcept nogil:
    cdef uint64_t left = link_queued(link, now)
    cdef int64_t at = now
    cdef uint32_t i = 0
    cdef Departure *d
    while left >= limit and i < link.queue_count:
        d = &link.queue[(link.queue_head + i) & (link.queue_capacity - 1)]
        left -= d.size
        at = d.at
        i += 1
    return at


cdef bint is_lost(LinkState *link) noexcept nogil:
    cdef bint lost
    if link.burst_enter:
        if link.bad:
            link.bad = not chance(link, link.burst_leave)
        else:
            link.bad = chance(link, link.burst_enter)
    lost = chance(link, link.burst_loss if link.bad else link.loss)
    if lost and link.max_burst and link.burst >= link.max_burst:
        lost = False
    link.burst = link.burst + 1 if lost else 0
    return lost


cdef int link_offer(LinkState *link, int64_t now, uint32_t size, uint8_t ecn, bint drop, Passage *out) noexcept nogil:
    cdef uint64_t number = link.offered, total
    cdef int64_t departs = now
    cdef uint32_t i
    link.offered += 1
    while link.drop_next < link.drop_count and link.drops[link.drop_next] < number:
        link.drop_next += 1
    if drop or (link.drop_next < link.drop_count and link.drops[link.drop_next] == number):
        link.dropped_rule += 1
        return LINK_RULE
    for i in range(link.hole_count):
        if link.holes[2 * i] <= now < link.holes[2 * i + 1]:
            link.dropped_blackhole += 1
            return LINK_BLACKHOLE
    if size > link.mtu:
        link.dropped_mtu += 1
        return LINK_MTU
    out.ecn = 0 if link.bleach else ecn
    if link.rate:
        purge(link, now)
        if ((link.queue_bytes and link.queued + size > link.queue_bytes)
                or (link.queue_packets and link.queue_count >= link.queue_packets)):
            link.dropped_queue += 1
            return LINK_QUEUE
        if link.busy_until <= now:
            link.busy_until = now
            link.busy_fraction = 0
        total = <uint64_t>size * 8 * 1000000000 + link.busy_fraction
        link.busy_until += <int64_t>(total // link.rate)
        link.busy_fraction = total % link.rate
        departs = link.busy_until
        if link.mark_above and out.ecn and link.queued > link.mark_above:
            out.ecn = 3
        if enqueue(link, departs, size):
            return -1
    # Lost on the wire: it has taken its time there.
    if is_lost(link):
        link.lost += 1
        return LINK_LOST
    if out.ecn and chance(link, link.mark):
        out.ecn = 3
    if out.ecn == 3 and ecn != 3:
        link.marked += 1
    out.due = departs + link.delay
    if link.jitter:
        out.due += <int64_t>(prng_next(&link.prng) % <uint64_t>(link.jitter + 1))
    if chance(link, link.reorder):
        out.due += link.reorder_delay
        link.reordered += 1
    elif not link.jitter_reorders:
        if out.due < link.last_due:
            out.due = link.last_due
        link.last_due = out.due
    out.duplicate = chance(link, link.duplicate)
    if out.duplicate:
        link.duplicated += 1
    out.corrupt = chance(link, link.corrupt)
    if out.corrupt:
        link.corrupted += 1
    return LINK_PASS


cdef void link_corrupt(LinkState *link, uint8_t *data, uint32_t length) noexcept nogil:
    cdef uint64_t bit
    if length == 0:
        return
    for _ in range(link.corrupt_bits):
        bit = prng_next(&link.prng) % (<uint64_t>length * 8)
        data[bit >> 3] ^= <uint8_t>(1 << (bit & 7))


cdef uint64_t threshold(double p):
    return <uint64_t>(p * 9007199254740992.0)  # 2**53: every probability's exact share of the draws


@cython.final
cdef class SimLink:
    """One direction between two transports of a SimNetwork.

    `config` may be exchanged at any time; what is under way, the queue and the random sequence stay.
    """

    def __cinit__(self):
        memset(&self.state, 0, sizeof(LinkState))

    def __dealloc__(self):
        free(self.state.drops)
        free(self.state.holes)
        free(self.state.queue)

    @property
    def config(self):
        return self.config_

    @config.setter
    def config(self, config):
        cdef LinkState *s = &self.state
        cdef uint64_t *drops
        cdef int64_t *holes
        cdef Py_ssize_t i
        if not isinstance(config, LinkConfig):
            raise TypeError("a link is configured by a LinkConfig")
        numbers = sorted(set(config.drop))
        drops = <uint64_t *>calloc(len(numbers) + 1, sizeof(uint64_t))
        holes = <int64_t *>calloc(2 * len(config.blackholes) + 1, sizeof(int64_t))
        if drops == NULL or holes == NULL:
            free(drops)
            free(holes)
            raise MemoryError
        free(s.drops)
        free(s.holes)
        s.drops = drops
        s.holes = holes
        for i, number in enumerate(numbers):
            drops[i] = number
        for i, (begin, end) in enumerate(config.blackholes):
            holes[2 * i] = begin
            holes[2 * i + 1] = end
        s.drop_count = <uint32_t>len(numbers)
        s.drop_next = 0
        s.hole_count = <uint32_t>len(config.blackholes)
        s.loss = threshold(config.loss)
        s.burst_enter = threshold(config.burst_enter)
        s.burst_leave = threshold(config.burst_leave)
        s.burst_loss = threshold(config.burst_loss)
        if s.burst_enter == 0:
            s.bad = False
        s.reorder = threshold(config.reorder)
        s.duplicate = threshold(config.duplicate)
        s.corrupt = threshold(config.corrupt)
        s.mark = threshold(config.mark)
        s.max_burst = config.max_burst
        s.corrupt_bits = config.corrupt_bits
        s.delay = config.delay_ns
        s.jitter = config.jitter_ns
        s.jitter_reorders = config.jitter_reorders
        s.reorder_delay = config.reorder_delay_ns
        s.bleach = config.bleach_ecn
        if s.rate != config.bit_rate:
            s.busy_fraction = 0
        s.rate = config.bit_rate
        s.queue_bytes = config.queue_bytes
        s.queue_packets = config.queue_packets
        s.mark_above = config.mark_above_bytes
        s.mtu = config.mtu
        self.drop_if = config.drop_if
        self.config_ = config

    @property
    def counters(self):
        """A snapshot of the LinkCounters."""
        cdef LinkState *s = &self.state
        return LinkCounters(
            s.offered, s.delivered, s.bytes_delivered, s.lost, s.dropped_rule, s.dropped_blackhole, s.dropped_mtu,
            s.dropped_queue, s.dropped_receiver, s.duplicated, s.reordered, s.corrupted, s.marked, s.queued_max,
        )
