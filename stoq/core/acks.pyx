"""What we received and owe an ACK for (RFC 9000 §13.2)."""
from libc.stdint cimport uint8_t, uint64_t, int64_t
from stoq.wire.frames cimport FRAME_PING, frame_emit_ack
from stoq.crypto.aead cimport AEAD_TAG
from stoq.core.rangeset cimport Range, rangeset_add, rangeset_at, rangeset_contains, rangeset_first, rangeset_trim_low
from stoq.core.record cimport record_frame
from stoq.core.sentlog cimport FrameRec, SENT_ACK_ELICITING, SENT_IN_FLIGHT
from stoq.core.state cimport ACK_RANGES_KEPT, ACK_RANGES_SENT, Conn, PacketBuild, SOURCE_ACK, SPACE_APP, Space

cdef enum:
    ACK_DELAY_EXPONENT = 3       # ours: the default of RFC 9000 §18.2, never announced otherwise
    PING_EVERY = 32              # ACK-only packets after which a PING asks for an ACK of our ACKs (RFC 9000 §13.2.4)
    RANGES_AFTER_ACK = 8         # ranges kept once the peer has seen our ACK


cdef bint ack_is_duplicate(const Space *sp, uint64_t pn) noexcept nogil:
    if sp.largest_received == <uint64_t>-1 or pn > sp.largest_received:
        return pn < sp.forgotten
    return pn < sp.forgotten or rangeset_contains(&sp.received, pn)


cdef int ack_record(Conn *c, int space, uint64_t pn, bint eliciting, uint8_t ecn, int64_t now) noexcept nogil:
    cdef Space *sp = &c.spaces[space]
    cdef uint64_t dropped
    cdef bint first = sp.largest_received == <uint64_t>-1
    cdef bint in_order = first or pn == sp.largest_received + 1
    if rangeset_add(&sp.received, pn, pn + 1):
        c.error = 1
        return -1
    if sp.received.count > ACK_RANGES_KEPT:
        dropped = rangeset_trim_low(&sp.received, ACK_RANGES_KEPT)
        if dropped > sp.forgotten:
            sp.forgotten = dropped
    if first or pn > sp.largest_received:
        sp.largest_received = pn
        sp.largest_received_time = now
    sp.ack_any = 1
    if ecn:
        if ecn == 1:
            sp.ect1 += 1
        elif ecn == 2:
            sp.ect0 += 1
        else:
            sp.ce += 1
    if not eliciting:
        return 0
    sp.eliciting_unacked += 1
    # §13.2.1: handshake packets at once; out of order or a gap at once; else every second one, or in time.
    if space != SPACE_APP or not in_order or sp.eliciting_unacked >= c.knobs.ack_frequency:
        sp.ack_now = 1
    elif sp.ack_deadline == 0:
        sp.ack_deadline = now + <int64_t>c.knobs.max_ack_delay_ns
    return 0


cdef bint ack_source_pending(Conn *c, int space, int64_t now) noexcept nogil:
    cdef const Space *sp = &c.spaces[space]
    return sp.ack_any and (sp.ack_now or (sp.ack_deadline != 0 and sp.ack_deadline <= now))


cdef int ack_source_fill(Conn *c, PacketBuild *b, int64_t now) noexcept nogil:
    cdef Space *sp = &c.spaces[b.space]
    cdef uint64_t pairs[2 * ACK_RANGES_SENT]
    cdef uint64_t i, count, delay
    cdef size_t written
    cdef Range range_
    cdef FrameRec *r
    if not sp.ack_any or sp.received.count == 0:
        return 0
    # Rides along with other frames only when somebody waits for it.
    if sp.eliciting_unacked == 0 and not sp.ack_now:
        return 0
    count = sp.received.count
    if count > ACK_RANGES_SENT:
        count = ACK_RANGES_SENT
    for i in range(count):
        range_ = rangeset_at(&sp.received, sp.received.count - 1 - i)
        pairs[2 * i] = range_.start
        pairs[2 * i + 1] = range_.end - 1
    delay = <uint64_t>(now - sp.largest_received_time) // 1000 if now > sp.largest_received_time else 0
    if b.space != SPACE_APP:
        delay = 0
    written = frame_emit_ack(
        b.p, <size_t>(b.end - b.p), delay >> ACK_DELAY_EXPONENT, pairs, count,
        (sp.ect0 | sp.ect1 | sp.ce) != 0, sp.ect0, sp.ect1, sp.ce)
    if written == 0:
        return 0
    r = record_frame(c, b, SOURCE_ACK, <uint8_t>b.space, sp.largest_received)
    if r == NULL:
        return -1
    b.p += written
    c.stats.acks_sent += 1
    sp.ack_now = 0
    sp.ack_any = 0
    sp.ack_deadline = 0
    sp.eliciting_unacked = 0
    # §13.2.4: now and then something that the peer acknowledges; not when the window is full (RFC 9002 §7).
    if (sp.acks_without_eliciting >= PING_EVERY and b.space == SPACE_APP and b.p < b.end
            and c.path.in_flight + <uint64_t>(b.p - b.start) + 1 + AEAD_TAG <= c.path.cc.cwnd):
        b.p[0] = FRAME_PING
        b.p += 1
        b.flags |= SENT_ACK_ELICITING | SENT_IN_FLIGHT
    return 0


cdef void ack_source_acked(Conn *c, const FrameRec *r, int64_t now) noexcept nogil:
    # §13.2.4: the peer knows these; older gaps need no more mention.
    cdef Space *sp = &c.spaces[r.kind]
    cdef uint64_t dropped
    while sp.received.count > RANGES_AFTER_ACK and rangeset_first(&sp.received).end <= r.cookie + 1:
        dropped = rangeset_trim_low(&sp.received, sp.received.count - 1)
        if dropped > sp.forgotten:
            sp.forgotten = dropped
