"""Datagrams to packets to frames: header protection off, decrypt in place, dispatch."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from libc.string cimport memcmp, memcpy
from stoq.wire.header cimport (
    Header, PACKET_HANDSHAKE, PACKET_INITIAL, PACKET_RETRY, PACKET_VERSION_NEGOTIATION, header_parse,
)
from stoq.wire.packet_number cimport pn_decode
from stoq.crypto.aead cimport AEAD_BATCH_MAX, AEAD_TAG, AeadJob, HP_SAMPLE
from stoq.core.acks cimport ack_is_duplicate, ack_record
from stoq.core.cids cimport cid_is_reset, cid_local, cid_set_remote
from stoq.core.closing cimport close_heard, close_silently, close_start, idle_restart
from stoq.core.dispatch cimport dispatch_payload
from stoq.core.events cimport event_push
from stoq.core.handshake cimport handshake_discard, handshake_on_retry, handshake_on_versions
from stoq.core.keyupdate cimport update_open
from stoq.core.recovery cimport recovery_set_timer
from stoq.core.state cimport (
    CAUSE_STATELESS_RESET, CLOSE_DONE, CLOSE_DRAINING, CLOSE_NONE, Conn, EV_AUTH_THRESHOLD, SPACE_APP,
    SPACE_HANDSHAKE, SPACE_INITIAL, Space,
)

cdef enum:
    DONE = 0
    NEED_TLS = 1
    DEAD = -1
    PROTOCOL_VIOLATION = 0x0a
    MIN_INITIAL = 1200           # RFC 9000 §14.1
    AUTH_FAILURE = -2


cdef inline uint64_t read_pn(const uint8_t *p, uint32_t length) noexcept nogil:
    cdef uint64_t v = 0
    cdef uint32_t i
    for i in range(length):
        v = v << 8 | p[i]
    return v


cdef inline void touch_idle(Conn *c, int64_t now) noexcept nogil:
    # RFC 9000 §10.1: restarts with each packet that was processed.
    idle_restart(c, now)
    c.idle_sent = 0


cdef int accept_packet(Conn *c, int space, AeadJob *job, uint8_t ecn, int64_t now) noexcept nogil:
    """An authenticated packet: frames to their handlers. 0, or DEAD."""
    cdef bint eliciting
    cdef uint64_t error
    cdef uint8_t reserved = 0x18 if space == SPACE_APP else 0x0c
    c.stats.packets_received += 1
    if job.header[0] & reserved:
        # RFC 9000 §17.2, §17.3.1: checked after both protections are off.
        close_start(c, PROTOCOL_VIOLATION, 0, 0, b"reserved bits", 13, now)
        return 0
    touch_idle(c, now)
    error = dispatch_payload(c, space, job.payload, job.payload + job.length - AEAD_TAG, job.pn, ecn, now, &eliciting)
    if c.error:
        return DEAD
    if error:
        close_start(c, error, c.close_frame_type, 0, NULL, 0, now)
        return 0
    # The handshake may have been confirmed by this very packet, and the space be gone.
    if not c.spaces[space].discarded and ack_record(c, space, job.pn, eliciting, ecn, now):
        return DEAD
    return 0


cdef inline void count_auth_failure(Conn *c) noexcept nogil:
    c.stats.auth_failures += 1
    c.stats.packets_dropped += 1
    if c.auth_threshold and c.stats.auth_failures == c.auth_threshold:
        event_push(c, EV_AUTH_THRESHOLD, NULL, 0, c.stats.auth_failures)


cdef int receive_short(Conn *c, uint8_t *data, uint32_t length, uint32_t segment, bint whole,
        int64_t now) noexcept nogil:
    """Short-header packets, one a segment, as a batch: masks, numbers, decryption, frames. 0 or DEAD.

    whole: each packet is its datagram (a stateless reset can only be that).
    """
    cdef AeadJob jobs[AEAD_BATCH_MAX]
    cdef uint32_t totals[AEAD_BATCH_MAX]
    cdef uint8_t samples[AEAD_BATCH_MAX * HP_SAMPLE]
    cdef Space *sp = &c.spaces[SPACE_APP]
    cdef AeadJob *job
    cdef uint8_t *p
    cdef uint8_t *mask
    cdef uint32_t n = 0
    cdef uint32_t pos = 0
    cdef uint32_t size, i, j, pn_len, kept
    cdef uint32_t head = 1 + c.cid_length
    cdef uint64_t expected
    while pos < length:
        size = length - pos if length - pos < segment else segment
        p = data + pos
        pos += size
        # Room for the sample: RFC 9001 §5.4.2. A fixed bit of 0 is no packet of this version (RFC 9000 §17.3.1).
        if size < head + 4 + HP_SAMPLE or not sp.has_rx or not p[0] & 0x40:
            c.stats.packets_dropped += 1
            if whole and cid_is_reset(c, p, size):
                close_silently(c, CAUSE_STATELESS_RESET, now)
                return 0
            continue
        jobs[n].header = p
        totals[n] = size
        memcpy(samples + n * HP_SAMPLE, p + head + 4, HP_SAMPLE)
        n += 1
    if n == 0:
        return 0
    if sp.rx.backend.hp_mask(&sp.rx, samples, n):
        return DEAD
    expected = sp.largest_received + 1
    kept = 0
    for i in range(n):
        p = jobs[i].header
        mask = samples + i * HP_SAMPLE
        p[0] ^= mask[0] & 0x1f
        pn_len = (p[0] & 3) + 1
        for j in range(pn_len):
            p[head + j] ^= mask[1 + j]
        job = &jobs[kept]
        job.pn = pn_decode(read_pn(p + head, pn_len), pn_len, expected)
        job.header = p
        job.header_length = head + pn_len
        job.payload = p + job.header_length
        job.length = totals[i] - job.header_length
        job.tail = NULL
        job.tail_length = 0
        totals[kept] = totals[i]
        kept += 1
    if update_open(c, jobs, kept, now):
        return DEAD
    if c.hooks.digest != NULL:
        c.hooks.digest(c.hooks.digest_context, 0, jobs, kept)
    for i in range(kept):
        job = &jobs[i]
        if not job.ok:
            count_auth_failure(c)
            if whole and cid_is_reset(c, job.header, totals[i]):
                close_silently(c, CAUSE_STATELESS_RESET, now)
                return 0
            continue
        # Only after authentication, so that timing tells nothing about numbers (RFC 9001 §9.5).
        if ack_is_duplicate(sp, job.pn):
            c.stats.packets_duplicate += 1
            continue
        if accept_packet(c, SPACE_APP, job, c.rx_ecn, now):
            return DEAD
        if c.close.state != CLOSE_NONE:
            return 0
    return 0


cdef int open_long(Conn *c, int space, uint8_t *p, const Header *h, AeadJob *job) noexcept nogil:
    """Remove both protections of a long-header packet: 0, AUTH_FAILURE, or DEAD."""
    cdef Space *sp = &c.spaces[space]
    cdef uint8_t sample[HP_SAMPLE]
    cdef uint32_t pn_len, j
    cdef size_t at = h.pn_offset
    if h.packet_length < at + 4 + HP_SAMPLE:
        return AUTH_FAILURE
    memcpy(sample, p + at + 4, HP_SAMPLE)
    if sp.rx.backend.hp_mask(&sp.rx, sample, 1):
        return DEAD
    p[0] ^= sample[0] & 0x0f
    pn_len = (p[0] & 3) + 1
    for j in range(pn_len):
        p[at + j] ^= sample[1 + j]
    job.pn = pn_decode(read_pn(p + at, pn_len), pn_len, sp.largest_received + 1)
    job.header = p
    job.header_length = <uint32_t>at + pn_len
    job.payload = p + job.header_length
    job.length = <uint32_t>(h.packet_length - job.header_length)
    job.tail = NULL
    job.tail_length = 0
    sp.rx.backend.open(&sp.rx, job, 1)
    return 0 if job.ok else AUTH_FAILURE


cdef int receive_long(Conn *c, uint8_t *p, uint32_t length, uint32_t datagram, uint32_t *used,
        int64_t now) noexcept nogil:
    """One long-header packet at p; *used: bytes it took. DONE, NEED_TLS or DEAD."""
    cdef Header h
    cdef AeadJob job
    cdef Space *sp
    cdef int space, rc
    used[0] = length
    if header_parse(p, length, c.cid_length, &h):
        c.stats.packets_dropped += 1
        return DONE
    if h.type == PACKET_VERSION_NEGOTIATION:
        if h.dcid_length == c.cid_length and cid_local(c, h.dcid) != NULL:
            # RFC 9000 §17.2.1: it must repeat the ID that we made up, or it answers somebody else.
            if h.scid_length == c.initial_dcid_length and memcmp(h.scid, c.initial_dcid, h.scid_length) == 0:
                handshake_on_versions(c, h.versions, h.versions_length, now)
        return DONE
    if h.version != c.version:
        c.stats.packets_dropped += 1
        return DONE
    if h.type == PACKET_RETRY:
        if h.dcid_length == c.cid_length and cid_local(c, h.dcid) != NULL:
            handshake_on_retry(c, p, h.packet_length, h.scid, h.scid_length, h.token, h.token_length)
        return DEAD if c.error else DONE
    used[0] = <uint32_t>h.packet_length
    if h.type != PACKET_INITIAL and h.type != PACKET_HANDSHAKE:
        c.stats.packets_dropped += 1
        return DONE
    if not (h.dcid_length == c.cid_length and cid_local(c, h.dcid) != NULL):
        # A client's first flight carries the ID that it made up (RFC 9000 §7.2).
        if c.is_client or h.dcid_length != c.initial_dcid_length or memcmp(
                h.dcid, c.initial_dcid, h.dcid_length):
            c.stats.packets_dropped += 1
            return DONE
    space = SPACE_INITIAL if h.type == PACKET_INITIAL else SPACE_HANDSHAKE
    sp = &c.spaces[space]
    if sp.discarded or not sp.has_rx or (space == SPACE_INITIAL and not c.is_client and datagram < MIN_INITIAL):
        c.stats.packets_dropped += 1
        return DONE
    # RFC 9000 §7.2: a packet from another Source Connection ID than the first is not the peer's.
    if c.peer_scid_known and (h.scid_length != c.peer_scid_length or memcmp(
            h.scid, c.peer_scid, h.scid_length)):
        c.stats.packets_dropped += 1
        return DONE
    rc = open_long(c, space, p, &h, &job)
    if rc == DEAD:
        return DEAD
    if rc:
        count_auth_failure(c)
        return DONE
    if c.is_client and h.type == PACKET_INITIAL and h.token_length:
        # RFC 9000 §17.2.2: a server's Initial has no token.
        close_start(c, PROTOCOL_VIOLATION, 0, 0, NULL, 0, now)
        return DONE
    if ack_is_duplicate(sp, job.pn):
        c.stats.packets_duplicate += 1
        return DONE
    if not c.peer_scid_known:
        c.peer_scid_known = 1
        memcpy(c.peer_scid, h.scid, h.scid_length)
        c.peer_scid_length = <uint8_t>h.scid_length
        cid_set_remote(c, h.scid, h.scid_length)
    if not c.is_client and space == SPACE_HANDSHAKE:
        # RFC 9000 §8.1: whoever has the keys has seen our Initial. RFC 9001 §4.9.1: Initial keys are done.
        c.path.validated = 1
        handshake_discard(c, SPACE_INITIAL)
    if accept_packet(c, space, &job, c.rx_ecn, now):
        return DEAD
    if c.close.state == CLOSE_NONE and not sp.discarded and sp.crypto.recv.pending:
        return NEED_TLS
    return DONE


cdef int receive_walk(Conn *c, int64_t now) noexcept nogil:
    cdef uint32_t left, size, used, n, batch
    cdef uint8_t *p
    cdef int rc
    while c.rx_pos < c.rx_length:
        left = c.rx_length - c.rx_pos
        size = left if left < c.rx_segment else c.rx_segment
        p = c.rx_data + c.rx_pos
        if c.close.state != CLOSE_NONE:
            # Nothing is read any more; a closing end answers now and then.
            if c.close.state == CLOSE_DRAINING or c.close.state == CLOSE_DONE:
                break
            close_heard(c)
            c.rx_pos += size
            c.rx_in = 0
            continue
        if c.rx_in == 0 and not p[0] & 0x80:
            # A run of short-header datagrams: the usual case is the whole train.
            batch = size
            n = 1
            while n < AEAD_BATCH_MAX and batch < left and not (p + batch)[0] & 0x80 and size == c.rx_segment:
                used = left - batch if left - batch < c.rx_segment else c.rx_segment
                batch += used
                n += 1
            c.stats.datagrams_received += n
            c.stats.bytes_received += batch
            c.path.bytes_received += batch
            rc = receive_short(c, p, batch, size, 1, now)
            c.rx_pos += batch
            if rc:
                return rc
            continue
        if c.rx_in == 0:
            c.stats.datagrams_received += 1
            c.stats.bytes_received += size
            c.path.bytes_received += size
        if p[c.rx_in] & 0x80:
            rc = receive_long(c, p + c.rx_in, size - c.rx_in, size, &used, now)
        else:
            used = size - c.rx_in
            rc = receive_short(c, p + c.rx_in, used, used, 0, now)
        c.rx_in += used
        if c.rx_in >= size:
            c.rx_in = 0
            c.rx_pos += size
        if rc:
            return rc
    c.rx_active = 0
    if not c.is_client and not c.path.validated and c.loss_deadline == 0:
        recovery_set_timer(c, now)           # RFC 9002 appendix A.6: the anti-amplification limit has moved
    return DONE
