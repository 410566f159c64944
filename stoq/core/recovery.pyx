"""Acknowledgements, loss detection and probe timeouts (RFC 9002), in integer nanoseconds."""
from libc.stdint cimport uint32_t, uint64_t, int64_t
from libc.string cimport memset
from stoq.wire.frames cimport AckWalk, Frame, ack_walk_init, ack_walk_next
from stoq.core.cc cimport AckSample, LossSample
from stoq.core.pacer cimport pacer_set
from stoq.core.sentlog cimport (
    FrameRec, SENT_ACKED, SENT_ACK_ELICITING, SENT_APP_LIMITED, SENT_IN_FLIGHT, SENT_MTU_PROBE, SENT_NONE,
    SENT_OUTSTANDING, SentPacket, sentlog_advance, sentlog_at, sentlog_clear, slab_give,
)
from stoq.core.state cimport (
    CLOSE_NONE, Conn, MIN_DATAGRAM, PacketBuild, Path, SKIPPED_REMEMBERED, SPACE_APP, SPACE_HANDSHAKE, SPACE_INITIAL,
    Source, Space,
)

cdef enum:
    PROTOCOL_VIOLATION = 0x0a
    LIMITED_BY_PACING = 3
    # packets between the oldest on the books and the newest ACK-only one: 48 KiB of records
    SPAN_MAX = 1024
    BLACK_HOLE_PTOS = 4          # probe timeouts in a row after which the datagram size is doubted


cdef int64_t recovery_pto(const Conn *c, bint with_ack_delay) noexcept nogil:
    """Probe timeout without back-off (RFC 9002 §6.2.1)."""
    cdef const Path *path = c.path
    cdef int64_t pto, var
    if path.srtt == 0:
        pto = 2 * <int64_t>INITIAL_RTT_NS + <int64_t>INITIAL_RTT_NS // 1   # srtt + 4 * rttvar, rttvar = srtt / 2
    else:
        var = 4 * path.rttvar
        pto = path.srtt + (var if var > GRANULARITY_NS else GRANULARITY_NS)
    if with_ack_delay:
        pto += <int64_t>c.peer.max_ack_delay_ns
    return pto


cdef void forget_frames(Conn *c, SentPacket *rec) noexcept nogil:
    cdef uint32_t i = rec.frames
    cdef uint32_t following
    rec.frames = 0
    while i:
        following = c.slab.items[i].next
        c.sources.rows[c.slab.items[i].source].forget(c, &c.slab.items[i])
        slab_give(&c.slab, i)
        i = following


cdef void give_up_oldest(Conn *c, Space *sp, int64_t now) noexcept nogil:
    """Move base past a packet that nobody will acknowledge any more.

    A peer that acknowledges nothing while it sends would otherwise keep a record of every ACK of ours on the books.
    """
    cdef SentPacket *rec = sentlog_at(&sp.sent, sp.sent.base)
    if rec.state == SENT_OUTSTANDING:
        if now - rec.time <= PERSISTENT_THRESHOLD * recovery_pto(c, 1):
            return
        rec.state = SENT_NONE
        c.stats.packets_lost += 1
        c.stats.bytes_lost += rec.size
        c.path.in_flight -= rec.size
        if rec.flags & SENT_ACK_ELICITING:
            sp.eliciting_in_flight -= 1
        release_frames(c, rec, 0, now)
    sentlog_advance(&sp.sent)


cdef int recovery_sent(Conn *c, PacketBuild *b, uint32_t size, int64_t now) noexcept nogil:
    cdef Space *sp = &c.spaces[b.space]
    cdef SentPacket *rec = sentlog_at(&sp.sent, b.pn)
    cdef Path *path = c.path
    rec.frames = b.frames
    rec.size = size
    rec.flags = <unsigned char>b.flags
    rec.time = now
    rec.path = 0
    sp.sent.next = b.pn + 1
    if not b.flags & (SENT_ACK_ELICITING | SENT_IN_FLIGHT):
        rec.state = SENT_NONE
        forget_frames(c, rec)
        if sp.sent.base == b.pn:
            sp.sent.base = b.pn + 1
        sp.acks_without_eliciting += 1
        if sp.sent.next - sp.sent.base >= SPAN_MAX:
            give_up_oldest(c, sp, now)
        return 0
    rec.state = SENT_OUTSTANDING
    if path.in_flight == 0:
        path.first_sent_time = now
        path.delivered_time = now
    rec.delivered = path.delivered
    rec.delivered_time = path.delivered_time
    rec.first_sent_time = path.first_sent_time
    if path.app_limited_until > path.delivered:
        rec.flags |= SENT_APP_LIMITED
    if b.flags & SENT_ACK_ELICITING:
        sp.eliciting_in_flight += 1
        sp.last_eliciting_time = now
        sp.acks_without_eliciting = 0
    path.in_flight += size
    return 0


cdef inline void update_rtt(Conn *c, int space, int64_t sample, int64_t ack_delay) noexcept nogil:
    # RFC 9002 §5.3.
    cdef Path *path = c.path
    cdef int64_t adjusted, deviation
    if sample < 1:
        sample = 1
    path.latest_rtt = sample
    if path.srtt == 0:
        path.min_rtt = sample
        path.srtt = sample
        path.rttvar = sample // 2
        path.first_sample_time = c.now
        return
    if sample < path.min_rtt:
        path.min_rtt = sample
    if space != SPACE_APP:
        ack_delay = 0
    elif c.handshake == 2 and ack_delay > <int64_t>c.peer.max_ack_delay_ns:
        ack_delay = <int64_t>c.peer.max_ack_delay_ns
    adjusted = sample
    if sample >= path.min_rtt + ack_delay:
        adjusted = sample - ack_delay
    deviation = path.srtt - adjusted
    if deviation < 0:
        deviation = -deviation
    path.rttvar = (3 * path.rttvar + deviation) // 4
    path.srtt = (7 * path.srtt + adjusted) // 8


cdef inline void release_frames(Conn *c, SentPacket *rec, bint acked, int64_t now) noexcept nogil:
    """Tell the sources about each frame of a packet, and free the records."""
    cdef uint32_t i = rec.frames
    cdef uint32_t following
    cdef FrameRec *r
    cdef const Source *source
    rec.frames = 0
    while i:
        r = &c.slab.items[i]
        following = r.next
        source = c.sources.rows[r.source]
        if acked:
            source.acked(c, r, now)
        else:
            source.lost(c, r)
        source.forget(c, r)
        slab_give(&c.slab, i)
        i = following


cdef inline int64_t loss_delay(const Path *path) noexcept nogil:
    # RFC 9002 §6.1.2: 9/8 of the larger round-trip time.
    cdef int64_t rtt = path.srtt if path.srtt > path.latest_rtt else path.latest_rtt
    if rtt == 0:
        rtt = INITIAL_RTT_NS
    rtt += rtt >> 3
    return rtt if rtt > GRANULARITY_NS else GRANULARITY_NS


cdef void detect_lost(Conn *c, int space, int64_t now) noexcept nogil:
    """Declare what is beyond a threshold lost (RFC 9002 §6.1), tell the controller once."""
    cdef Space *sp = &c.spaces[space]
    cdef Path *path = c.path
    cdef SentPacket *rec
    cdef LossSample sample
    cdef int64_t delay = loss_delay(path)
    cdef int64_t lost_before = now - delay
    cdef int64_t run_first = -1
    cdef int64_t run_longest = 0
    cdef int64_t due
    cdef uint64_t pn
    sp.loss_time = 0
    if sp.largest_acked == <uint64_t>-1:
        return
    memset(&sample, 0, sizeof(LossSample))
    sample.largest_lost_sent_time = -1
    for pn in range(sp.sent.base, sp.largest_acked):
        rec = sentlog_at(&sp.sent, pn)
        if rec.state != SENT_OUTSTANDING:
            if rec.state == SENT_ACKED:
                run_first = -1           # §7.6.2: an acknowledged packet ends the run; our own ACKs do not
            continue
        if rec.time > lost_before and sp.largest_acked < pn + PACKET_THRESHOLD:
            due = rec.time + delay
            # The comparison above is strict, so at `due` the packet is lost: no timer for the same instant twice.
            if sp.loss_time == 0 or due < sp.loss_time:
                sp.loss_time = due
            run_first = -1
            continue
        rec.state = SENT_NONE
        c.stats.packets_lost += 1
        c.stats.bytes_lost += rec.size
        path.in_flight -= rec.size
        if rec.flags & SENT_MTU_PROBE:
            # RFC 9002 §7.5, RFC 9000 §14.4: says something about the size, nothing about congestion.
            sp.eliciting_in_flight -= 1
            release_frames(c, rec, 0, now)
            continue
        sample.lost_bytes += rec.size
        if rec.time > sample.largest_lost_sent_time:
            sample.largest_lost_sent_time = rec.time
        if rec.flags & SENT_ACK_ELICITING:
            sp.eliciting_in_flight -= 1
            # RFC 9002 §7.6.2: only what was sent after the first RTT sample counts.
            if rec.time <= path.first_sample_time:
                run_first = -1
            elif run_first < 0:
                run_first = rec.time
            elif rec.time - run_first > run_longest:
                run_longest = rec.time - run_first
        release_frames(c, rec, 0, now)
    if sample.lost_bytes == 0:
        return
    # RFC 9002 §7.6.1: a run of lost packets that spans three probe timeouts.
    if path.srtt and run_longest > PERSISTENT_THRESHOLD * recovery_pto(c, 1):
        sample.persistent = 1
        c.stats.persistent_congestions += 1
        path.min_rtt = path.latest_rtt
    sample.now = now
    sample.in_flight = path.in_flight
    if sample.largest_lost_sent_time > path.cc.recovery_start:
        c.stats.congestion_events += 1
    path.cc.ops.lost(&path.cc, &sample)


cdef uint64_t recovery_acked(Conn *c, int space, const Frame *f, int64_t now) noexcept nogil:
    cdef Space *sp = &c.spaces[space]
    cdef Path *path = c.path
    cdef AckWalk walk
    cdef AckSample sample
    cdef SentPacket *rec
    cdef uint64_t low, high, pn, interval, before
    cdef uint64_t newest = 0
    cdef int64_t newest_time = 0
    cdef int64_t newest_delivered_time = 0
    cdef int64_t newest_first_sent = 0
    cdef uint64_t newest_delivered = 0
    cdef bint newest_limited = 0
    cdef bint any_acked = 0
    cdef bint eliciting = 0
    cdef int i
    cdef int64_t ack_delay, span
    c.stats.acks_received += 1
    # RFC 9000 §13.1: an acknowledgement of a packet that was never sent.
    if f.value >= sp.sent.next:
        return PROTOCOL_VIOLATION
    memset(&sample, 0, sizeof(AckSample))
    before = path.in_flight
    ack_walk_init(&walk, f)
    while ack_walk_next(&walk, f, &low, &high):
        for i in range(SKIPPED_REMEMBERED):
            if low <= sp.skipped[i] <= high:
                return PROTOCOL_VIOLATION        # RFC 9000 §21.4
        if low < sp.sent.base:
            low = sp.sent.base
        for pn in range(low, high + 1):
            rec = sentlog_at(&sp.sent, pn)
            if rec.state != SENT_OUTSTANDING:
                continue
            rec.state = SENT_ACKED
            if not any_acked or pn > newest:
                newest = pn
                newest_time = rec.time
                newest_delivered = rec.delivered
                newest_delivered_time = rec.delivered_time
                newest_first_sent = rec.first_sent_time
                newest_limited = (rec.flags & SENT_APP_LIMITED) != 0
            any_acked = 1
            path.in_flight -= rec.size
            path.delivered += rec.size
            sample.acked_bytes += rec.size
            if rec.flags & SENT_ACK_ELICITING:
                eliciting = 1
                sp.eliciting_in_flight -= 1
            release_frames(c, rec, 1, now)
    if sp.largest_acked == <uint64_t>-1 or f.value > sp.largest_acked:
        sp.largest_acked = f.value
        if not any_acked:
            # Only ACK-only packets are new: still news about those before them (RFC 9002 appendix A.7).
            detect_lost(c, space, now)
            sentlog_advance(&sp.sent)
            recovery_set_timer(c, now)
            return 0
    if not any_acked:
        return 0
    path.delivered_time = now
    path.first_sent_time = newest_time
    if newest == f.value and eliciting:
        ack_delay = 0
        if space == SPACE_APP:
            # Saturate: the field is peer-controlled, up to 2^62.
            ack_delay = <int64_t>(f.value2 if f.value2 < <uint64_t>1 << 31 else <uint64_t>1 << 31)
            ack_delay = (ack_delay << c.peer.ack_delay_exponent) * 1000
        update_rtt(c, space, now - newest_time, ack_delay)
        c.idle_least = 3 * recovery_pto(c, 1)
        sample.rtt_ns = path.latest_rtt
    # Delivery rate over the longer of the send and the acknowledgement interval.
    span = newest_time - newest_first_sent
    if now - newest_delivered_time > span:
        span = now - newest_delivered_time
    if span > 0 and span >= path.min_rtt:
        interval = <uint64_t>span
        path.rate = (path.delivered - newest_delivered) * 1000000 // (interval // 1000 + 1)
        sample.delivery_rate = path.rate
    detect_lost(c, space, now)
    sentlog_advance(&sp.sent)
    sample.now = now
    sample.largest_sent_time = newest_time
    sample.in_flight = path.in_flight
    sample.srtt_ns = path.srtt
    sample.min_rtt_ns = path.min_rtt
    sample.app_limited = newest_limited
    # RFC 9002 §7.8: in use = full to three packets, or more than half while it still doubles; pacing is no excuse.
    sample.window_limited = (
        before + 3 * path.mtu >= path.cc.cwnd
        or (path.cc.cwnd < path.cc.ssthresh and 2 * before >= path.cc.cwnd)
        or c.limited_by == LIMITED_BY_PACING
    )
    path.cc.ops.acked(&path.cc, &sample)
    # RFC 9002 §6.2.1: a client that does not know whether the server validated its address keeps backing off.
    if not c.is_client or c.handshake or space == SPACE_HANDSHAKE:
        c.pto_count = 0
    if c.knobs.pacing:
        pacer_set(&path.pacer, path.cc.ops.pacing_rate(&path.cc, path.srtt), c.knobs.pacing_burst_ns, path.mtu, now)
    else:
        path.pacer.rate = 0
    c.pace_until = 0
    recovery_set_timer(c, now)
    return 0


cdef inline bint crypto_waits(const Space *sp) noexcept nogil:
    """CRYPTO bytes were sent before, are lost, and could not leave again: the window is shut by packets that the peer
    cannot read yet. They need the probe timeout too, or the handshake stands still."""
    return sp.has_tx and sp.last_eliciting_time != 0 and (
        sp.crypto.send.lost.count != 0 or sp.crypto.send.next < sp.crypto.send.end)


cdef inline int64_t pto_deadline(const Conn *c, int *space) noexcept nogil:
    """Earliest probe timeout over the spaces (RFC 9002 §6.2.1), 0: none."""
    cdef uint32_t shift = c.pto_count if c.pto_count < PTO_EXPONENT_MAX else PTO_EXPONENT_MAX
    cdef int64_t best = 0
    cdef int64_t due
    cdef int i
    cdef const Space *sp
    for i in range(3):
        sp = &c.spaces[i]
        if sp.discarded or (sp.eliciting_in_flight == 0 and not crypto_waits(sp)):
            continue
        if i == SPACE_APP and c.handshake != 2:
            continue             # §6.2.1: not before the handshake is confirmed
        due = sp.last_eliciting_time + (recovery_pto(c, i == SPACE_APP) << shift)
        if best == 0 or due < best:
            best = due
            space[0] = i
    return best


cdef void recovery_set_timer(Conn *c, int64_t now) noexcept nogil:
    cdef int64_t best = 0
    cdef int i
    cdef int space = 0
    cdef uint32_t shift
    if c.close.state != CLOSE_NONE:
        c.loss_deadline = 0
        return
    for i in range(3):
        if not c.spaces[i].discarded and c.spaces[i].loss_time and (best == 0 or c.spaces[i].loss_time < best):
            best = c.spaces[i].loss_time
    if best:
        c.loss_deadline = best
        return
    # RFC 9002 §6.2.2.1: a server at its anti-amplification limit cannot send, so it does not arm.
    if not c.path.validated and not c.is_client and c.path.bytes_sent + c.path.mtu > 3 * c.path.bytes_received:
        c.loss_deadline = 0
        return
    best = pto_deadline(c, &space)
    if best == 0 and c.is_client and c.handshake == 0 and not c.spaces[SPACE_HANDSHAKE].discarded:
        # Anti-deadlock: the server may be waiting for bytes from us.
        if c.spaces[SPACE_HANDSHAKE].largest_acked == <uint64_t>-1:
            shift = c.pto_count if c.pto_count < PTO_EXPONENT_MAX else PTO_EXPONENT_MAX
            best = (c.spaces[SPACE_INITIAL].last_eliciting_time if not c.spaces[SPACE_HANDSHAKE].has_tx
                    else (c.spaces[SPACE_HANDSHAKE].last_eliciting_time
                          if c.spaces[SPACE_HANDSHAKE].last_eliciting_time
                          else c.spaces[SPACE_INITIAL].last_eliciting_time))
            if best:
                best += recovery_pto(c, 0) << shift
    c.loss_deadline = best


cdef void recovery_probe_data(Conn *c, int space) noexcept nogil:
    """Queue the frames of the oldest outstanding packet again: a probe carries data (RFC 9002 §6.2.4)."""
    cdef Space *sp = &c.spaces[space]
    cdef uint64_t pn
    cdef SentPacket *rec
    cdef uint32_t i
    for pn in range(sp.sent.base, sp.sent.next):
        rec = sentlog_at(&sp.sent, pn)
        if rec.state != SENT_OUTSTANDING or not rec.flags & SENT_ACK_ELICITING or rec.flags & SENT_MTU_PROBE:
            continue
        i = rec.frames
        while i:
            c.sources.rows[c.slab.items[i].source].lost(c, &c.slab.items[i])
            i = c.slab.items[i].next
        return


cdef void recovery_timeout(Conn *c, int64_t now) noexcept nogil:
    cdef int i
    cdef int space = -1
    cdef bint lost = 0
    cdef Space *sp
    for i in range(3):
        if c.spaces[i].loss_time and c.spaces[i].loss_time <= now and not c.spaces[i].discarded:
            detect_lost(c, i, now)
            sentlog_advance(&c.spaces[i].sent)
            lost = 1
    if not lost:
        if pto_deadline(c, &space) == 0:
            space = SPACE_HANDSHAKE if c.spaces[SPACE_HANDSHAKE].has_tx else SPACE_INITIAL
            c.spaces[space].probes = 1
            # So that the next deadline counts from this probe even if it cannot leave.
            c.spaces[space].last_eliciting_time = now
        else:
            c.spaces[space].probes = 2
            recovery_probe_data(c, space)
            # §6.2.4: the other handshake space may be what the peer waits for, and rides along.
            for i in range(SPACE_APP):
                sp = &c.spaces[i]
                if i != space and not sp.discarded and sp.has_tx and (
                        sp.eliciting_in_flight or sp.crypto.send.lost.count):
                    sp.probes = 1
                    recovery_probe_data(c, i)
            # So that the next deadline counts from here even if no probe can leave.
            if c.spaces[space].eliciting_in_flight == 0:
                c.spaces[space].last_eliciting_time = now
        c.pto_count += 1
        c.stats.ptos += 1
        if c.pto_count == BLACK_HOLE_PTOS and c.path.mtu > MIN_DATAGRAM:
            # RFC 8899 §4.3: full packets vanish; go back to what every path carries.
            c.path.mtu = MIN_DATAGRAM
            c.path.mtu_target = MIN_DATAGRAM
            c.path.cc.ops.set_mtu(&c.path.cc, MIN_DATAGRAM)
    recovery_set_timer(c, now)
    if c.loss_deadline and c.loss_deadline <= now:
        c.loss_deadline = now + GRANULARITY_NS


cdef void recovery_discard(Conn *c, int space) noexcept nogil:
    cdef Space *sp = &c.spaces[space]
    cdef SentPacket *rec
    cdef uint64_t pn
    for pn in range(sp.sent.base, sp.sent.next):
        rec = sentlog_at(&sp.sent, pn)
        if rec.state == SENT_OUTSTANDING:
            rec.state = SENT_NONE
            c.path.in_flight -= rec.size
            forget_frames(c, rec)
    sentlog_clear(&sp.sent)
    sp.eliciting_in_flight = 0
    sp.loss_time = 0
    sp.ack_deadline = 0
    sp.ack_now = 0
    sp.ack_any = 0
    sp.probes = 0
    sp.discarded = 1
    # RFC 9002 §6.2.2: the back-off restarts when Initial or Handshake keys are dropped.
    c.pto_count = 0


cdef void recovery_requeue(Conn *c, int space) noexcept nogil:
    cdef Space *sp = &c.spaces[space]
    cdef SentPacket *rec
    cdef uint64_t pn
    for pn in range(sp.sent.base, sp.sent.next):
        rec = sentlog_at(&sp.sent, pn)
        if rec.state == SENT_OUTSTANDING:
            rec.state = SENT_NONE
            c.path.in_flight -= rec.size
            if rec.flags & SENT_ACK_ELICITING:
                sp.eliciting_in_flight -= 1
            release_frames(c, rec, 0, c.now)
    sentlog_advance(&sp.sent)
    sp.loss_time = 0
