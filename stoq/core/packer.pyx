"""Packets into the memory that the transport gave: trains of equal datagrams, sealed a train at a time."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from libc.string cimport memcpy, memset
from stoq.wire.batch cimport SendBatch
from stoq.wire.frames cimport (
    EPOCH_1, EPOCH_H, EPOCH_I, FRAME_APPLICATION_CLOSE, FRAME_CONNECTION_CLOSE, FRAME_PING, Frame, frame_emit,
)
from stoq.wire.header cimport PACKET_HANDSHAKE, PACKET_INITIAL, header_put_long, header_put_short
from stoq.wire.packet_number cimport pn_length, pn_put
from stoq.wire.varint cimport varint_put2
from stoq.crypto.aead cimport AEAD_BATCH_MAX, AEAD_TAG, AeadJob, HP_SAMPLE
from stoq.core.acks cimport ack_source_pending
from stoq.core.closing cimport idle_restart
from stoq.core.closing cimport close_start
from stoq.core.handshake cimport handshake_discard
from stoq.core.keyupdate cimport update_before_send
from stoq.core.pacer cimport pacer_refill, pacer_spend, pacer_when
from stoq.core.record cimport record_frame
from stoq.core.recovery cimport recovery_probe_data, recovery_sent, recovery_set_timer
from stoq.core.sentlog cimport (
    FrameRec, SENT_ACK_ELICITING, SENT_IN_FLIGHT, SENT_MTU_PROBE, SENT_NONE, SENT_PROBE, sentlog_at, sentlog_reserve,
)
from stoq.core.state cimport (
    CLOSE_CLOSING, CLOSE_NONE, Conn, MIN_DATAGRAM, PacketBuild, SKIPPED_REMEMBERED, SOURCE_MTU, SPACE_APP,
    SPACE_HANDSHAKE, SPACE_INITIAL, Source, Space,
)

cdef enum:
    LIMIT_NONE = 0
    LIMIT_WINDOW = 1
    LIMIT_FLOW = 2
    LIMIT_PACING = 3
    LIMIT_APP = 4
    SMALLEST_LONG = 64           # room below which no further packet is coalesced
    SKIP_LEAST = 32              # packets between skipped numbers, at least (RFC 9000 §21.4)
    SKIP_MOST = 4096
    MTU_TRIES = 3                # RFC 8899 §5.1.2: MAX_PROBES
    APPLICATION_ERROR = 0x0c     # RFC 9000 §10.2.3

# Packets of one train, built and waiting to be sealed together.
cdef struct Train:
    AeadJob jobs[AEAD_BATCH_MAX]
    uint32_t pn_lengths[AEAD_BATCH_MAX]
    uint32_t count


cdef inline uint64_t next_random(Conn *c) noexcept nogil:
    # xorshift64*: spreads the skipped numbers; the seed comes from the operating system.
    cdef uint64_t x = c.random_state
    x ^= x >> 12
    x ^= x << 25
    x ^= x >> 27
    c.random_state = x
    return x * <uint64_t>0x2545F4914F6CDD1DU


cdef inline bint space_can_send(const Conn *c, int space) noexcept nogil:
    return c.spaces[space].has_tx and not c.spaces[space].discarded


cdef bint space_has_data(Conn *c, int space, int64_t now) noexcept nogil:
    """Anything beyond ACKs to send?"""
    cdef uint32_t i
    for i in range(1, c.sources.count):
        if c.sources.rows[i].pending(c, space, now):
            return 1
    return 0


cdef void skip_number(Conn *c, Space *sp) noexcept nogil:
    """Leave a packet number out, so that ACKs of what never arrived give themselves away (RFC 9000 §21.4)."""
    cdef uint64_t spread = c.path.cc.cwnd // c.path.mtu
    if sp.skip_in == 0 and sp.sent.next:
        if sentlog_reserve(&sp.sent) == 0:
            sentlog_at(&sp.sent, sp.sent.next).state = SENT_NONE
            sp.skipped[sp.skipped_at] = sp.sent.next
            sp.skipped_at = (sp.skipped_at + 1) % SKIPPED_REMEMBERED
            sp.sent.next += 1
    if spread < SKIP_LEAST:
        spread = SKIP_LEAST
    if spread > SKIP_MOST:
        spread = SKIP_MOST
    sp.skip_in = spread // 2 + next_random(c) % (spread // 2)


cdef bint begin(Conn *c, PacketBuild *b, int space, uint8_t *p, size_t room, bint probe) noexcept nogil:
    """Write a header at p; 0 when the packet cannot be."""
    cdef Space *sp = &c.spaces[space]
    if space == SPACE_APP:
        if sp.skip_in == 0:
            skip_number(c, sp)
        sp.skip_in -= 1
    if sentlog_reserve(&sp.sent):
        return 0
    b.space = space
    b.start = p
    b.pn = sp.sent.next
    b.pn_length = <uint32_t>pn_length(b.pn, sp.largest_acked)
    b.flags = 0
    b.frames = 0
    b.frames_tail = 0
    b.probe = probe
    b.length_at = NULL
    b.tail = NULL
    b.tail_length = 0
    b.path_frame = 0
    if space == SPACE_APP:
        b.epoch_bit = EPOCH_1
        if room < 1 + <size_t>c.dcid.length + 4 + AEAD_TAG + 4:
            return 0
        p = header_put_short(p, c.dcid.cid, c.dcid.length, 0, c.keys.tx_phase, b.pn_length)
    else:
        b.epoch_bit = EPOCH_I if space == SPACE_INITIAL else EPOCH_H
        # 19: type, version, three lengths (1, 1, 2), Length, packet number, four bytes of frames. And IDs, token, tag.
        if room < 19 + <size_t>c.dcid.length + c.local_cids[0].length + c.token_length + AEAD_TAG:
            return 0
        p = header_put_long(
            p, PACKET_INITIAL if space == SPACE_INITIAL else PACKET_HANDSHAKE, c.version,
            c.dcid.cid, c.dcid.length, c.local_cids[0].cid, c.local_cids[0].length,
            c.token if space == SPACE_INITIAL else NULL, c.token_length if space == SPACE_INITIAL else 0,
            b.pn_length, &b.length_at)
    pn_put(p, b.pn, b.pn_length)
    b.payload = p + b.pn_length
    b.p = b.payload
    b.end = b.start + room - AEAD_TAG
    return 1


cdef int fill(Conn *c, PacketBuild *b, bint data, int64_t now) noexcept nogil:
    """Ask the sources in order of urgency. data = 0: only the ACK. -1: memory."""
    cdef uint32_t i
    cdef const Source *source
    for i in range(c.sources.count if data else 1):
        source = c.sources.rows[i]
        if source.epochs & b.epoch_bit and source.fill(c, b, now):
            return -1
    return 0


cdef void pad_to(PacketBuild *b, uint8_t *end) noexcept nogil:
    if b.p < end:
        memset(b.p, 0, <size_t>(end - b.p))
        b.p = end
        b.flags |= SENT_IN_FLIGHT


cdef void finish(Conn *c, PacketBuild *b, Train *train, int64_t now) noexcept nogil:
    """Close a packet: length, books, and a job for the sealer."""
    cdef AeadJob *job = &train.jobs[train.count]
    cdef uint32_t size
    # RFC 9001 §5.4.2: packet number and payload give at least four bytes before the sample.
    if b.p - b.payload + b.pn_length < 4:
        memset(b.p, 0, 4)
        b.p = b.payload + 4 - b.pn_length
    size = <uint32_t>(b.p - b.start) + AEAD_TAG
    if b.length_at != NULL:
        varint_put2(b.length_at, <uint64_t>(b.p - b.payload) + b.pn_length + AEAD_TAG)
    job.pn = b.pn
    job.header = b.start
    job.header_length = <uint32_t>(b.payload - b.start)
    job.payload = b.payload
    job.length = <uint32_t>(b.p - b.payload)
    job.tail = b.tail
    job.tail_length = b.tail_length
    train.pn_lengths[train.count] = b.pn_length
    train.count += 1
    if b.probe:
        b.flags |= SENT_PROBE
        if b.flags & SENT_ACK_ELICITING and c.spaces[b.space].probes:
            c.spaces[b.space].probes -= 1
    recovery_sent(c, b, size, now)
    if b.flags & SENT_IN_FLIGHT:
        pacer_spend(&c.path.pacer, size)
    if b.flags & SENT_ACK_ELICITING and not c.idle_sent:
        # RFC 9000 §10.1: the first ack-eliciting packet since the last receipt restarts it too.
        c.idle_sent = 1
        idle_restart(c, now)
    c.stats.packets_sent += 1


cdef int seal(Conn *c, int space, AeadJob *jobs, uint32_t *pn_lengths, uint32_t count) noexcept nogil:
    cdef Space *sp = &c.spaces[space]
    cdef uint8_t samples[AEAD_BATCH_MAX * HP_SAMPLE]
    cdef uint8_t *mask
    cdef uint8_t *p
    cdef uint32_t i, j, at
    if c.hooks.digest != NULL and space == SPACE_APP:
        c.hooks.digest(c.hooks.digest_context, 1, jobs, count)
    if sp.tx.backend.seal(&sp.tx, jobs, count):
        return -1
    if space == SPACE_APP:
        c.keys.tx_count += count
    for i in range(count):
        memcpy(samples + i * HP_SAMPLE, jobs[i].header + jobs[i].header_length - pn_lengths[i] + 4, HP_SAMPLE)
    if sp.tx.backend.hp_mask(&sp.tx, samples, count):
        return -1
    for i in range(count):
        mask = samples + i * HP_SAMPLE
        p = jobs[i].header
        at = jobs[i].header_length - pn_lengths[i]
        p[0] ^= mask[0] & (0x1f if space == SPACE_APP else 0x0f)
        for j in range(pn_lengths[i]):
            p[at + j] ^= mask[1 + j]
    return 0


cdef inline bint window_open(const Conn *c, uint64_t size) noexcept nogil:
    return c.path.in_flight + size <= c.path.cc.cwnd


cdef void note_limit(Conn *c, int what, int64_t now) noexcept nogil:
    """Remember what holds sending back, and book the time since the last call to what did so until now."""
    cdef uint64_t gone
    gone = <uint64_t>(now - c.limited_since) if now > c.limited_since else 0
    if c.limited_by == LIMIT_WINDOW:
        c.stats.limited_window_ns += gone
    elif c.limited_by == LIMIT_FLOW:
        c.stats.limited_flow_ns += gone
    elif c.limited_by == LIMIT_PACING:
        c.stats.limited_pacing_ns += gone
    elif c.limited_by == LIMIT_APP:
        c.stats.limited_app_ns += gone
    if what == LIMIT_APP and c.limited_by != LIMIT_NONE and c.limited_by != LIMIT_APP:
        c.stats.low_queue += 1
    c.limited_by = what
    c.limited_since = now


cdef int may_send_data(Conn *c, uint64_t size, int64_t now) noexcept nogil:
    """Window and pacer: LIMIT_NONE or what forbids a full packet now."""
    if not window_open(c, size):
        return LIMIT_WINDOW
    if c.path.pacer.rate:
        pacer_refill(&c.path.pacer, now)
        if c.path.pacer.credit <= 0:
            return LIMIT_PACING
    return LIMIT_NONE


cdef int build_handshake(Conn *c, uint8_t *p, size_t room, uint32_t *size, int64_t now) noexcept nogil:
    """One datagram of coalesced packets while handshake keys live. *size = 0: nothing to send. -1: failure."""
    cdef PacketBuild builds[3]
    cdef Train train
    cdef bint used[3]
    cdef bint data, probe
    cdef uint8_t *at = p
    cdef size_t left = room
    cdef int space, i
    cdef int last = -1
    cdef uint32_t k
    cdef bint has_initial = 0
    cdef int limit = may_send_data(c, room, now)
    cdef bint open_ = limit == LIMIT_NONE
    size[0] = 0
    for space in range(3):
        used[space] = 0
        if not space_can_send(c, space) or left < SMALLEST_LONG:
            continue
        probe = c.spaces[space].probes != 0
        if probe and not space_has_data(c, space, now):
            recovery_probe_data(c, space)
        data = space_has_data(c, space, now)
        if data and not open_ and not probe:
            data = 0
            if limit == LIMIT_PACING:
                c.pace_until = pacer_when(&c.path.pacer, now)
        data = data or probe
        if not data and not ack_source_pending(c, space, now):
            continue
        # 1-RTT data of a server waits until the client's address is known to be real (RFC 9001 §4.1.1 allows it).
        if not begin(c, &builds[space], space, at, left, probe):
            continue
        if fill(c, &builds[space], data, now):
            return -1
        if builds[space].p == builds[space].payload:
            continue
        used[space] = 1
        last = space
        if space == SPACE_INITIAL:
            has_initial = has_initial or c.is_client or builds[space].flags & SENT_ACK_ELICITING != 0
        k = <uint32_t>(builds[space].p - builds[space].start) + AEAD_TAG
        # A sealed sample needs four bytes of number and payload; finish() pads, so keep room for it.
        if builds[space].p - builds[space].payload < 4:
            memset(builds[space].p, 0, 4)
            builds[space].p = builds[space].payload + 4
            k = <uint32_t>(builds[space].p - builds[space].start) + AEAD_TAG
        at += k
        left -= k
        # finish() takes the number: two packets of a space never share a datagram, so later is fine.
    if last < 0:
        return 0
    if has_initial and at - p < MIN_DATAGRAM:
        # RFC 9000 §14.1: padded in the last packet, inside its protection.
        pad_to(&builds[last], builds[last].p + (MIN_DATAGRAM - (at - p)))
    train.count = 0
    for i in range(3):
        if not used[i]:
            continue
        k = train.count
        finish(c, &builds[i], &train, now)
        if seal(c, i, &train.jobs[k], &train.pn_lengths[k], 1):
            return -1
        size[0] += train.jobs[k].header_length + train.jobs[k].length + AEAD_TAG
    if c.is_client and used[SPACE_HANDSHAKE]:
        # RFC 9001 §4.9.1: a client drops Initial keys when it first sends a Handshake packet.
        handshake_discard(c, SPACE_INITIAL)
    return 0


cdef int build_short(Conn *c, uint8_t *p, size_t room, Train *train, uint32_t *size, int *limit,
        int64_t now) noexcept nogil:
    """One 1-RTT packet, to be sealed with its train. *size = 0: nothing (more) may leave. -1: failure."""
    cdef PacketBuild b
    cdef Space *sp = &c.spaces[SPACE_APP]
    cdef bint probe = sp.probes != 0
    cdef bint data = space_has_data(c, SPACE_APP, now)
    size[0] = 0
    if probe and not data:
        recovery_probe_data(c, SPACE_APP)
    if not probe:
        if data:
            limit[0] = may_send_data(c, room, now)
            data = limit[0] == LIMIT_NONE
        else:
            limit[0] = LIMIT_FLOW if c.flow_blocked else LIMIT_APP
        if not data and not ack_source_pending(c, SPACE_APP, now):
            return 0
    if not begin(c, &b, SPACE_APP, p, room, probe):
        return 0
    if fill(c, &b, data or probe, now):
        return -1
    if b.p == b.payload and space_has_data(c, SPACE_APP, now) and fill(c, &b, 1, now):
        # The streams found out only now that flow control holds them: the BLOCKED frames are due.
        return -1
    if b.p == b.payload:
        limit[0] = LIMIT_FLOW
        return 0
    if b.path_frame:
        # RFC 9000 §8.2.1, §8.2.2: a datagram that proves a path is at least 1200 bytes long.
        pad_to(&b, b.start + MIN_DATAGRAM - AEAD_TAG if room >= MIN_DATAGRAM else b.end)
    finish(c, &b, train, now)
    size[0] = <uint32_t>(train.jobs[train.count - 1].payload - p) + train.jobs[train.count - 1].length + AEAD_TAG
    return 0


cdef int build_mtu_probe(Conn *c, uint8_t *p, Train *train, int64_t now) noexcept nogil:
    """A packet of the target size with nothing but PING and PADDING (RFC 8899 §4.1): its size, 0 or -1."""
    cdef PacketBuild b
    cdef FrameRec *r
    if not begin(c, &b, SPACE_APP, p, c.path.mtu_target, 0):
        return 0
    r = record_frame(c, &b, SOURCE_MTU, 0, c.path.mtu_target)
    if r == NULL:
        return -1
    b.p[0] = FRAME_PING
    b.p += 1
    pad_to(&b, b.end)
    b.flags |= SENT_ACK_ELICITING | SENT_IN_FLIGHT | SENT_MTU_PROBE
    c.path.mtu_probing = 1
    finish(c, &b, train, now)
    return <int>c.path.mtu_target


cdef inline bint mtu_probe_due(const Conn *c, size_t capacity) noexcept nogil:
    return (
        c.path.mtu < c.path.mtu_target and not c.path.mtu_probing and c.path.mtu_tries < MTU_TRIES
        and c.handshake == 2 and c.close.state == CLOSE_NONE and capacity >= c.path.mtu_target
        and window_open(c, c.path.mtu_target)
    )


cdef int build_close(Conn *c, uint8_t *p, size_t room, uint32_t *size, int64_t now) noexcept nogil:
    """CONNECTION_CLOSE in every epoch that the peer may be able to read (RFC 9000 §10.2.3)."""
    cdef PacketBuild b
    cdef Train train
    cdef Frame f
    cdef size_t written
    cdef uint8_t *at = p
    cdef int space
    cdef uint32_t k
    size[0] = 0
    memset(&f, 0, sizeof(Frame))
    train.count = 0
    for space in range(3):
        if not space_can_send(c, space):
            continue
        # Once confirmed only 1-RTT remains; before, a server cannot know which keys the client has.
        if space == SPACE_APP and c.handshake == 0 and c.is_client:
            continue
        if not begin(c, &b, space, at, room - (at - p), 0):
            continue
        if c.close.application and space == SPACE_APP:
            f.type = FRAME_APPLICATION_CLOSE
            f.value = c.close.code
        elif c.close.application:
            # RFC 9000 §10.2.3: an application's reason does not show before 1-RTT.
            f.type = FRAME_CONNECTION_CLOSE
            f.value = APPLICATION_ERROR
            f.value2 = 0
        else:
            f.type = FRAME_CONNECTION_CLOSE
            f.value = c.close.code
            f.value2 = c.close.frame_type
        f.data = c.close.reason
        f.length = c.close.reason_length if not c.close.application or space == SPACE_APP else 0
        written = frame_emit(b.p, <size_t>(b.end - b.p), &f)
        if written == 0:
            f.length = 0
            written = frame_emit(b.p, <size_t>(b.end - b.p), &f)
            if written == 0:
                continue
        b.p += written
        if space == SPACE_INITIAL and c.is_client and b.p < p + MIN_DATAGRAM - AEAD_TAG:
            pad_to(&b, p + MIN_DATAGRAM - AEAD_TAG)
        k = train.count
        finish(c, &b, &train, now)
        if seal(c, space, &train.jobs[k], &train.pn_lengths[k], 1):
            return -1
        at = train.jobs[k].payload + train.jobs[k].length + AEAD_TAG
    size[0] = <uint32_t>(at - p)
    return 0


cdef size_t datagram_room(const Conn *c, size_t capacity) noexcept nogil:
    """Bytes that the next datagram may have: path, memory, anti-amplification; 0: none may leave."""
    cdef size_t room = c.path.mtu
    cdef uint64_t budget
    if room > capacity:
        room = capacity
    if not c.path.validated and not c.is_client:
        # RFC 9000 §8.1: three times what came in. A datagram that must be padded needs 1200.
        budget = 3 * c.path.bytes_received
        if c.path.bytes_sent + MIN_DATAGRAM > budget:
            return 0
        if room > budget - c.path.bytes_sent:
            room = budget - c.path.bytes_sent
    return room if room >= MIN_DATAGRAM else 0


cdef inline bint in_handshake(const Conn *c) noexcept nogil:
    return not (c.spaces[SPACE_INITIAL].discarded and c.spaces[SPACE_HANDSHAKE].discarded)


cdef int fill_entry(Conn *c, SendBatch *batch, uint32_t entry, int64_t now) noexcept nogil:
    """One train: datagrams put into it (0: nothing to send), or -1."""
    cdef Train train
    cdef uint8_t *p = batch.data[entry]
    cdef uint32_t pos = 0
    cdef uint32_t size = 0
    cdef uint32_t segment = 0
    cdef uint32_t most = batch.max_segments if batch.max_segments < AEAD_BATCH_MAX else AEAD_BATCH_MAX
    cdef int limit = LIMIT_NONE
    cdef size_t room
    cdef int n = 0
    cdef int64_t over
    train.count = 0
    if c.keys_ready and c.close.state == CLOSE_NONE:
        over = update_before_send(c)
        if over < 0:
            return -1
        if over:
            close_start(c, <uint64_t>over, 0, 0, b"AEAD limit", 10, now)
            # CONNECTION_CLOSE still goes out with this key: one packet beyond a limit that has margin.
    if mtu_probe_due(c, batch.capacity[entry]) and not in_handshake(c):
        n = build_mtu_probe(c, p, &train, now)
        if n < 0:
            return -1
        if n:
            pos = <uint32_t>n
            n = 1
            c.path.bytes_sent += pos
            # An entry of its own: its datagram is longer than the others.
            most = 0
    while <uint32_t>n < most:
        room = datagram_room(c, batch.capacity[entry] - pos)
        if room == 0 or (n and room < segment):
            break
        if c.close.state == CLOSE_CLOSING:
            if n or not c.close.send_due:
                break
            c.close.send_due = 0
            if build_close(c, p, room, &size, now):
                return -1
        elif in_handshake(c):
            # Coalesced and padded datagrams differ in size: one an entry.
            if n:
                break
            if build_handshake(c, p, room, &size, now):
                return -1
        else:
            if n and room > segment:
                room = segment
            if build_short(c, p + pos, room, &train, &size, &limit, now):
                return -1
            if size == 0:
                note_limit(c, limit, now)
                # As the rate sampler sees it, a sender without credit has nothing to send either.
                if (limit == LIMIT_APP or limit == LIMIT_FLOW) and c.path.in_flight < c.path.cc.cwnd:
                    c.path.app_limited_until = c.path.delivered + c.path.in_flight + 1
                if limit == LIMIT_PACING:
                    c.pace_until = pacer_when(&c.path.pacer, now)
        if size == 0:
            break
        pos += size
        n += 1
        c.path.bytes_sent += size
        if n == 1:
            segment = size
        if size != segment or segment < c.path.mtu:
            break
    if train.count and seal(c, SPACE_APP, train.jobs, train.pn_lengths, train.count):
        return -1
    if n == 0:
        return 0
    batch.length[entry] = pos
    batch.segment[entry] = <unsigned short>segment if n > 1 else 0
    batch.ecn[entry] = 0
    batch.peer[entry] = c.path.peer
    batch.local[entry] = c.path.local
    c.stats.datagrams_sent += n
    c.stats.bytes_sent += pos
    return n


cdef int packer_send(Conn *c, SendBatch *batch, int64_t now) noexcept nogil:
    cdef int total = 0
    cdef int n
    while batch.count < batch.slots:
        n = fill_entry(c, batch, batch.count, now)
        if n < 0 or c.error:
            return -1
        if n == 0:
            break
        batch.count += 1
        total += n
    if total:
        if c.limited_by == LIMIT_APP and c.path.in_flight:
            note_limit(c, LIMIT_NONE, now)
        recovery_set_timer(c, now)
    return total
