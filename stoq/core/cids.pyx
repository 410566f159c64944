"""Connection IDs, ours and the peer's."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from stoq.crypto.keys cimport bytes_equal
from stoq.wire.frames cimport Frame
from stoq.core.events cimport event_push
from stoq.core.state cimport CIDS_MAX, CID_RETIRE_PENDING_MAX, Conn, EV_CID_RETIRED, LocalCid, RemoteCid

cdef enum:
    PROTOCOL_VIOLATION = 0x0a
    CONNECTION_ID_LIMIT_ERROR = 0x09
    MIN_RESET = 21           # RFC 9000 §10.3: shorter cannot be a stateless reset


cdef LocalCid *cid_local(Conn *c, const uint8_t *cid) noexcept nogil:
    cdef int i
    for i in range(CIDS_MAX):
        if c.local_cids[i].active and memcmp(c.local_cids[i].cid, cid, c.cid_length) == 0:
            return &c.local_cids[i]
    return NULL


cdef LocalCid *cid_add_local(Conn *c, const uint8_t *cid, const uint8_t *token) noexcept nogil:
    cdef int i
    cdef LocalCid *slot
    for i in range(CIDS_MAX):
        slot = &c.local_cids[i]
        if slot.active or slot.retired:
            continue
        memset(slot, 0, sizeof(LocalCid))
        memcpy(slot.cid, cid, c.cid_length)
        slot.length = c.cid_length
        slot.active = 1
        slot.sequence = c.local_sequence
        if token != NULL:
            memcpy(slot.token, token, 16)
        c.local_sequence += 1
        # Sequence 0 travels in the handshake (RFC 9000 §5.1.1).
        slot.due = slot.sequence != 0
        c.cid_due |= slot.due
        return slot
    return NULL


cdef uint32_t cids_wanted(const Conn *c) noexcept nogil:
    cdef uint32_t active = 0
    cdef uint64_t limit = c.peer.active_connection_id_limit
    cdef int i
    # Before the handshake is complete the peer could not use them.
    if c.handshake == 0 or c.cid_length == 0 or c.close.state:
        return 0
    if limit > CIDS_MAX:
        limit = CIDS_MAX
    for i in range(CIDS_MAX):
        # A retired one keeps its slot until the shell has heard of it.
        active += c.local_cids[i].active or c.local_cids[i].retired
    return <uint32_t>limit - active if active < limit else 0


cdef void cid_set_remote(Conn *c, const uint8_t *cid, size_t length) noexcept nogil:
    cdef RemoteCid *slot = &c.remote_cids[0]
    memset(slot, 0, sizeof(RemoteCid))
    memcpy(slot.cid, cid, length)
    slot.length = <uint8_t>length
    slot.active = 1
    c.dcid = slot


cdef uint64_t retire(Conn *c, uint64_t sequence) noexcept nogil:
    """Owe the peer a RETIRE_CONNECTION_ID (RFC 9000 §5.1.2: bounded, else CONNECTION_ID_LIMIT_ERROR)."""
    if c.retire_due_count + c.retire_unacked >= CID_RETIRE_PENDING_MAX:
        return CONNECTION_ID_LIMIT_ERROR
    c.retire_due[c.retire_due_count] = sequence
    c.retire_due_count += 1
    return 0


cdef uint64_t cid_on_new(Conn *c, const Frame *f) noexcept nogil:
    cdef RemoteCid *slot
    cdef RemoteCid *unused = NULL
    cdef RemoteCid *best = NULL
    cdef uint64_t error
    cdef uint32_t active = 0
    cdef int i
    # RFC 9000 §19.15: an endpoint that was given a zero-length ID has nothing to choose from.
    if c.dcid.length == 0:
        return PROTOCOL_VIOLATION
    for i in range(CIDS_MAX):
        slot = &c.remote_cids[i]
        if not slot.active:
            continue
        if slot.sequence == f.value:
            if slot.length != f.length or memcmp(slot.cid, f.data, f.length) or (
                    slot.has_token and not bytes_equal(slot.token, f.extra, 16)):
                return PROTOCOL_VIOLATION
            return 0             # a repetition
        if slot.length == f.length and memcmp(slot.cid, f.data, f.length) == 0:
            return PROTOCOL_VIOLATION
    if f.value < c.retire_prior_to:
        return retire(c, f.value)
    if f.value2 > c.retire_prior_to:
        c.retire_prior_to = f.value2
        for i in range(CIDS_MAX):
            slot = &c.remote_cids[i]
            if slot.active and slot.sequence < c.retire_prior_to:
                slot.active = 0
                error = retire(c, slot.sequence)
                if error:
                    return error
    for i in range(CIDS_MAX):
        slot = &c.remote_cids[i]
        active += slot.active
        # The one in use keeps its bytes until another takes over below.
        if not slot.active and unused == NULL and slot != c.dcid:
            unused = slot
    if active >= c.cids_promised:
        return CONNECTION_ID_LIMIT_ERROR
    if unused == NULL:
        unused = c.dcid
    memset(unused, 0, sizeof(RemoteCid))
    memcpy(unused.cid, f.data, f.length)
    unused.length = <uint8_t>f.length
    unused.sequence = f.value
    unused.active = 1
    unused.has_token = 1
    memcpy(unused.token, f.extra, 16)
    if not c.dcid.active:
        for i in range(CIDS_MAX):
            slot = &c.remote_cids[i]
            if slot.active and (best == NULL or slot.sequence < best.sequence):
                best = slot
        c.dcid = best
    return 0


cdef uint64_t cid_on_retire(Conn *c, const Frame *f) noexcept nogil:
    cdef int i
    if f.value >= c.local_sequence:
        return PROTOCOL_VIOLATION        # RFC 9000 §19.16: never issued
    for i in range(CIDS_MAX):
        if c.local_cids[i].active and c.local_cids[i].sequence == f.value:
            c.local_cids[i].active = 0
            c.local_cids[i].retired = 1
            c.local_cids[i].due = 0
            event_push(c, EV_CID_RETIRED, NULL, i, f.value)
    return 0


cdef bint cid_is_reset(const Conn *c, const uint8_t *datagram, size_t length) noexcept nogil:
    cdef int i
    cdef bint found = 0
    if length < MIN_RESET:
        return 0
    for i in range(CIDS_MAX):
        if c.remote_cids[i].active and c.remote_cids[i].has_token:
            found |= bytes_equal(c.remote_cids[i].token, datagram + length - 16, 16)
    return found
