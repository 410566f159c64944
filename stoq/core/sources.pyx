"""Send sources: ACK, CRYPTO, control frames, extension frames, streams, PING."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset
from stoq.wire.varint cimport varint_put, varint_put2, varint_size
from stoq.wire.frames cimport (
    EPOCH_0, EPOCH_1, EPOCH_H, EPOCH_I, FRAME_CRYPTO, FRAME_DATA_BLOCKED, FRAME_HANDSHAKE_DONE, FRAME_MAX_DATA,
    FRAME_MAX_STREAMS_BIDI, FRAME_MAX_STREAMS_UNI, FRAME_MAX_STREAM_DATA, FRAME_NEW_CONNECTION_ID, FRAME_PATH_CHALLENGE,
    FRAME_PATH_RESPONSE, FRAME_PING, FRAME_RESET_STREAM, FRAME_RETIRE_CONNECTION_ID, FRAME_STOP_SENDING,
    FRAME_STREAMS_BLOCKED_BIDI, FRAME_STREAMS_BLOCKED_UNI, FRAME_STREAM_DATA_BLOCKED, Frame, frame_emit,
)
from stoq.core.acks cimport ack_source_acked, ack_source_fill, ack_source_pending
from stoq.core.events cimport event_push
from stoq.core.record cimport record_frame
from stoq.core.sendbuf cimport sendbuf_acked, sendbuf_copy, sendbuf_lost, sendbuf_peek, sendbuf_sent
from stoq.core.sentlog cimport FrameRec, SENT_ACK_ELICITING, SENT_IN_FLIGHT
from stoq.core.sidestream cimport SideStream
from stoq.core.state cimport (
    CIDS_MAX, CID_RETIRE_PENDING_MAX, Conn, EV_PING_ACKED, ExtNotice, ExtOut, LocalCid, PacketBuild, SOURCE_CONTROL,
    SOURCE_CRYPTO, SOURCE_EXT, SOURCE_PING, SPACE_APP, STREAM_BLOCKED_DUE, STREAM_DONE, STREAM_FIN_READ,
    STREAM_IN_CONTROL, STREAM_MAX_DUE, STREAM_RESET_ACKED, STREAM_RESET_DUE, STREAM_RESET_GOT, STREAM_STOP_DUE,
    STREAM_STOP_SENT, Source, SourceTable, Stream, StreamKind,
)
from stoq.core.streams cimport (
    connection_grant, stream_check_done, stream_grant, stream_maybe_free, stream_push_control,
)
from stoq.core.streamsource cimport (
    stream_source_acked, stream_source_fill, stream_source_forget, stream_source_lost, stream_source_pending,
)

cdef enum:
    CRYPTO_SMALLEST = 16         # room below which a CRYPTO frame is not worth starting
    ALL_EPOCHS = 15

# Kinds of control-frame records.
cdef enum:
    KIND_HANDSHAKE_DONE = 1
    KIND_MAX_DATA = 2
    KIND_DATA_BLOCKED = 3
    KIND_MAX_STREAMS = 4         # cookie: index of the kind
    KIND_STREAMS_BLOCKED = 5
    KIND_NEW_CID = 6             # cookie: sequence
    KIND_RETIRE_CID = 7          # cookie: sequence
    KIND_PATH = 8                # challenge or response: never repeated as is
    KIND_RESET = 9               # from here on: cookie is a Stream*
    KIND_STOP = 10
    KIND_MAX_STREAM_DATA = 11
    KIND_STREAM_BLOCKED = 12


# ---------------------------------------------------------------- nothing to do
cdef void no_lost(Conn *c, const FrameRec *r) noexcept nogil:
    pass


# ---------------------------------------------------------------- CRYPTO
cdef bint crypto_pending(Conn *c, int space, int64_t now) noexcept nogil:
    cdef const SideStream *side = &c.spaces[space].crypto
    return side.send.next < side.send.end or side.send.lost.count != 0


cdef int crypto_fill(Conn *c, PacketBuild *b, int64_t now) noexcept nogil:
    cdef SideStream *side = &c.spaces[b.space].crypto
    cdef uint64_t offset, length, room, head
    cdef bint fin, fresh
    cdef FrameRec *r
    cdef uint8_t *p
    while b.end - b.p >= CRYPTO_SMALLEST:
        room = <uint64_t>(b.end - b.p)
        if not sendbuf_peek(&side.send, room, <uint64_t>-1, &offset, &length, &fin, &fresh) or length == 0:
            return 0
        head = 3 + varint_size(offset)
        if head + length > room:
            length = room - head
        r = record_frame(c, b, SOURCE_CRYPTO, <uint8_t>b.space, 0)
        if r == NULL:
            return -1
        r.offset = offset
        r.length = length
        p = b.p
        p[0] = FRAME_CRYPTO
        p = varint_put(p + 1, offset)
        p = varint_put2(p, length)
        sendbuf_copy(&side.send, offset, length, p)
        b.p = p + length
        if sendbuf_sent(&side.send, offset, length, 0):
            c.error = 1
            return -1
        b.flags |= SENT_ACK_ELICITING | SENT_IN_FLIGHT
    return 0


cdef void crypto_acked(Conn *c, const FrameRec *r, int64_t now) noexcept nogil:
    if sendbuf_acked(&c.spaces[r.kind].crypto.send, r.offset, r.length, 0, &c.drops):
        c.error = 1


cdef void crypto_lost(Conn *c, const FrameRec *r) noexcept nogil:
    if sendbuf_lost(&c.spaces[r.kind].crypto.send, r.offset, r.length, 0):
        c.error = 1


# ---------------------------------------------------------------- control frames
cdef bint control_pending(Conn *c, int space, int64_t now) noexcept nogil:
    if space != SPACE_APP:
        return 0
    return (
        c.control_head != NULL or c.max_data_due or c.data_blocked_due or c.handshake_done_due or c.cid_due
        or c.retire_due_count != 0 or c.path.response_due or c.path.challenge_due
        or c.kinds[0].max_due or c.kinds[1].max_due or c.kinds[2].max_due or c.kinds[3].max_due
        or c.kinds[0].blocked_due or c.kinds[1].blocked_due or c.kinds[2].blocked_due or c.kinds[3].blocked_due
    )


cdef bint emit(Conn *c, PacketBuild *b, Frame *f, uint8_t kind, uint64_t cookie) noexcept nogil:
    """Write one control frame and its record: 0 when it does not fit (or memory ran out: c.error)."""
    cdef size_t written = frame_emit(b.p, <size_t>(b.end - b.p), f)
    if written == 0 or record_frame(c, b, SOURCE_CONTROL, kind, cookie) == NULL:
        return 0
    b.p += written
    b.flags |= SENT_ACK_ELICITING | SENT_IN_FLIGHT
    return 1


cdef bint fill_stream_control(Conn *c, PacketBuild *b, Stream *s, int64_t now) noexcept nogil:
    """All control frames that one stream owes; 0 when the packet is full."""
    cdef Frame f
    memset(&f, 0, sizeof(Frame))
    f.stream_id = s.id
    if s.flags & STREAM_RESET_DUE:
        f.type = FRAME_RESET_STREAM
        f.value = s.reset_code
        f.value2 = s.reset_size
        if not emit(c, b, &f, KIND_RESET, <uint64_t>s):
            return 0
        s.refs += 1
        s.flags &= ~<uint32_t>STREAM_RESET_DUE
    if s.flags & STREAM_STOP_DUE:
        if s.flags & (STREAM_RESET_GOT | STREAM_FIN_READ) == 0:
            f.type = FRAME_STOP_SENDING
            f.value = s.stop_code
            if not emit(c, b, &f, KIND_STOP, <uint64_t>s):
                return 0
            s.refs += 1
        s.flags &= ~<uint32_t>STREAM_STOP_DUE
    if s.flags & STREAM_MAX_DUE:
        if s.flags & (STREAM_RESET_GOT | STREAM_FIN_READ | STREAM_STOP_SENT | STREAM_DONE) == 0:
            stream_grant(c, s, now)
            f.type = FRAME_MAX_STREAM_DATA
            f.value = s.recv_limit
            if not emit(c, b, &f, KIND_MAX_STREAM_DATA, <uint64_t>s):
                return 0
            s.refs += 1
        s.flags &= ~<uint32_t>STREAM_MAX_DUE
    if s.flags & STREAM_BLOCKED_DUE:
        if s.send.next >= s.send_limit and s.send.next < s.send.end:
            f.type = FRAME_STREAM_DATA_BLOCKED
            f.value = s.send_limit
            if not emit(c, b, &f, KIND_STREAM_BLOCKED, <uint64_t>s):
                return 0
            s.refs += 1
        s.flags &= ~<uint32_t>STREAM_BLOCKED_DUE
    return 1


cdef int fill_cids(Conn *c, PacketBuild *b) noexcept nogil:
    cdef Frame f
    cdef LocalCid *slot
    cdef int i
    memset(&f, 0, sizeof(Frame))
    if c.cid_due:
        f.type = FRAME_NEW_CONNECTION_ID
        for i in range(CIDS_MAX):
            slot = &c.local_cids[i]
            if not slot.active or not slot.due:
                continue
            f.value = slot.sequence
            f.value2 = 0
            f.data = slot.cid
            f.length = slot.length
            f.extra = slot.token
            if not emit(c, b, &f, KIND_NEW_CID, slot.sequence):
                return 0
            slot.due = 0
        c.cid_due = 0
    f.type = FRAME_RETIRE_CONNECTION_ID
    while c.retire_due_count:
        f.value = c.retire_due[c.retire_due_count - 1]
        if not emit(c, b, &f, KIND_RETIRE_CID, f.value):
            return 0
        c.retire_due_count -= 1
        c.retire_unacked += 1
    return 0


cdef int fill_kinds(Conn *c, PacketBuild *b) noexcept nogil:
    cdef Frame f
    cdef StreamKind *kind
    cdef int i
    memset(&f, 0, sizeof(Frame))
    for i in range(4):
        kind = &c.kinds[i]
        if kind.max_due:
            f.type = FRAME_MAX_STREAMS_UNI if i & 2 else FRAME_MAX_STREAMS_BIDI
            kind.limit = kind.closed + kind.window
            f.value = kind.limit
            if not emit(c, b, &f, KIND_MAX_STREAMS, i):
                return 0
            kind.max_due = 0
        if kind.blocked_due:
            f.type = FRAME_STREAMS_BLOCKED_UNI if i & 2 else FRAME_STREAMS_BLOCKED_BIDI
            f.value = kind.limit
            if not emit(c, b, &f, KIND_STREAMS_BLOCKED, i):
                return 0
            kind.blocked_due = 0
    return 0


cdef int control_fill(Conn *c, PacketBuild *b, int64_t now) noexcept nogil:
    cdef Frame f
    cdef Stream *s
    if not control_pending(c, b.space, now):
        return 0
    memset(&f, 0, sizeof(Frame))
    if c.handshake_done_due:
        f.type = FRAME_HANDSHAKE_DONE
        if emit(c, b, &f, KIND_HANDSHAKE_DONE, 0):
            c.handshake_done_due = 0
    if c.path.response_due:
        f.type = FRAME_PATH_RESPONSE
        f.data = c.path.response
        f.length = 8
        if emit(c, b, &f, KIND_PATH, 0):
            b.path_frame = 1
            c.path.response_due = 0
    if c.path.challenge_due:
        f.type = FRAME_PATH_CHALLENGE
        f.data = c.path.challenge
        f.length = 8
        if emit(c, b, &f, KIND_PATH, 0):
            b.path_frame = 1
            c.path.challenge_due = 0
    if c.max_data_due:
        f.type = FRAME_MAX_DATA
        connection_grant(c, now)
        f.value = c.recv_limit
        if emit(c, b, &f, KIND_MAX_DATA, 0):
            c.max_data_due = 0
    if c.data_blocked_due:
        f.type = FRAME_DATA_BLOCKED
        f.value = c.send_limit
        if c.send_total < c.send_limit or emit(c, b, &f, KIND_DATA_BLOCKED, 0):
            c.data_blocked_due = 0
    fill_cids(c, b)
    fill_kinds(c, b)
    while c.control_head != NULL:
        s = c.control_head
        if not fill_stream_control(c, b, s, now):
            break
        c.control_head = s.control_next
        if c.control_head == NULL:
            c.control_tail = NULL
        s.flags &= ~<uint32_t>STREAM_IN_CONTROL
        stream_maybe_free(c, s)
    return -1 if c.error else 0


cdef void control_acked(Conn *c, const FrameRec *r, int64_t now) noexcept nogil:
    cdef Stream *s
    if r.kind == KIND_RESET:
        s = <Stream *>r.cookie
        s.flags |= STREAM_RESET_ACKED
        stream_check_done(c, s)


cdef void control_lost(Conn *c, const FrameRec *r) noexcept nogil:
    cdef Stream *s
    cdef uint32_t i
    if r.kind >= KIND_RESET:
        s = <Stream *>r.cookie
        if s.flags & STREAM_DONE:
            return
        if r.kind == KIND_RESET:
            if s.flags & STREAM_RESET_ACKED:
                return
            s.flags |= STREAM_RESET_DUE
        elif r.kind == KIND_STOP:
            s.flags |= STREAM_STOP_DUE
        elif r.kind == KIND_MAX_STREAM_DATA:
            s.flags |= STREAM_MAX_DUE        # RFC 9000 §13.3: with the value of then
        else:
            s.flags |= STREAM_BLOCKED_DUE
        stream_push_control(c, s)
    elif r.kind == KIND_HANDSHAKE_DONE:
        c.handshake_done_due = 1
    elif r.kind == KIND_MAX_DATA:
        c.max_data_due = 1
    elif r.kind == KIND_DATA_BLOCKED:
        c.data_blocked_due = 1
    elif r.kind == KIND_MAX_STREAMS:
        c.kinds[r.cookie].max_due = 1
    elif r.kind == KIND_STREAMS_BLOCKED:
        if c.kinds[r.cookie].next >= c.kinds[r.cookie].limit:
            c.kinds[r.cookie].blocked_due = 1
    elif r.kind == KIND_NEW_CID:
        for i in range(CIDS_MAX):
            if c.local_cids[i].active and c.local_cids[i].sequence == r.cookie:
                c.local_cids[i].due = 1
                c.cid_due = 1
    elif r.kind == KIND_RETIRE_CID:
        for i in range(c.retire_due_count):
            if c.retire_due[i] == r.cookie:
                return
        if c.retire_due_count < CID_RETIRE_PENDING_MAX:
            c.retire_due[c.retire_due_count] = r.cookie
            c.retire_due_count += 1


cdef void control_forget(Conn *c, const FrameRec *r) noexcept nogil:
    cdef Stream *s
    if r.kind == KIND_RETIRE_CID:
        c.retire_unacked -= 1
    elif r.kind >= KIND_RESET:
        s = <Stream *>r.cookie
        s.refs -= 1
        if s.refs == 0:
            stream_maybe_free(c, s)


# ---------------------------------------------------------------- extension frames
cdef bint ext_pending(Conn *c, int space, int64_t now) noexcept nogil:
    return space == SPACE_APP and c.ext_out_count != 0


cdef int ext_fill(Conn *c, PacketBuild *b, int64_t now) noexcept nogil:
    cdef uint32_t done = 0
    cdef uint32_t i
    cdef ExtOut *out
    while done < c.ext_out_count:
        out = &c.ext_out[done]
        if <Py_ssize_t>out.length > b.end - b.p:
            break
        if record_frame(c, b, SOURCE_EXT, 0, out.cookie) == NULL:
            return -1
        memcpy(b.p, out.data, out.length)
        b.p += out.length
        b.flags |= SENT_ACK_ELICITING | SENT_IN_FLIGHT
        free(out.data)
        done += 1
    if done:
        c.ext_out_count -= done
        for i in range(c.ext_out_count):
            c.ext_out[i] = c.ext_out[i + done]
    return 0


cdef void ext_notice(Conn *c, uint64_t cookie, bint acked) noexcept nogil:
    cdef ExtNotice *grown
    cdef uint32_t capacity
    if c.ext_notice_count == c.ext_notice_capacity:
        capacity = c.ext_notice_capacity * 2 if c.ext_notice_capacity else 16
        grown = <ExtNotice *>realloc(c.ext_notices, capacity * sizeof(ExtNotice))
        if grown == NULL:
            c.error = 1
            return
        c.ext_notices = grown
        c.ext_notice_capacity = capacity
    c.ext_notices[c.ext_notice_count].cookie = cookie
    c.ext_notices[c.ext_notice_count].acked = acked
    c.ext_notice_count += 1


cdef void ext_acked(Conn *c, const FrameRec *r, int64_t now) noexcept nogil:
    ext_notice(c, r.cookie, 1)


cdef void ext_lost(Conn *c, const FrameRec *r) noexcept nogil:
    ext_notice(c, r.cookie, 0)


# ---------------------------------------------------------------- PING
cdef bint ping_pending(Conn *c, int space, int64_t now) noexcept nogil:
    return space == SPACE_APP and c.ping_due


cdef int ping_fill(Conn *c, PacketBuild *b, int64_t now) noexcept nogil:
    # Also what a probe is made of when nothing else is there (RFC 9002 §6.2.4).
    cdef bint asked = c.ping_due and b.space == SPACE_APP
    if b.p >= b.end or not (asked or (b.probe and not b.flags & SENT_ACK_ELICITING)):
        return 0
    if record_frame(c, b, SOURCE_PING, 0, c.ping_cookie if asked else 0) == NULL:
        return -1
    b.p[0] = FRAME_PING
    b.p += 1
    b.flags |= SENT_ACK_ELICITING | SENT_IN_FLIGHT
    if asked:
        c.ping_due = 0
    return 0


cdef void ping_acked(Conn *c, const FrameRec *r, int64_t now) noexcept nogil:
    if r.cookie:
        event_push(c, EV_PING_ACKED, NULL, 0, r.cookie)


cdef void ping_lost(Conn *c, const FrameRec *r) noexcept nogil:
    if r.cookie:
        c.ping_cookie = r.cookie
        c.ping_due = 1


# ---------------------------------------------------------------- path MTU probes: built by the packer, booked here
cdef bint mtu_pending(Conn *c, int space, int64_t now) noexcept nogil:
    return 0


cdef int mtu_fill(Conn *c, PacketBuild *b, int64_t now) noexcept nogil:
    return 0


cdef void mtu_acked(Conn *c, const FrameRec *r, int64_t now) noexcept nogil:
    if r.cookie > c.path.mtu and r.cookie <= c.path.mtu_target:
        c.path.mtu = r.cookie
        c.path.cc.ops.set_mtu(&c.path.cc, r.cookie)


cdef void mtu_lost(Conn *c, const FrameRec *r) noexcept nogil:
    if r.cookie == c.path.mtu_target:
        c.path.mtu_tries += 1


cdef void mtu_forget(Conn *c, const FrameRec *r) noexcept nogil:
    c.path.mtu_probing = 0


# ---------------------------------------------------------------- the table
cdef Source ROWS[7]
cdef SourceTable TABLE


cdef void row(int i, const char *name, uint8_t epochs, bint (*pending)(Conn *, int, int64_t) noexcept nogil,
              int (*fill)(Conn *, PacketBuild *, int64_t) noexcept nogil,
              void (*acked)(Conn *, const FrameRec *, int64_t) noexcept nogil,
              void (*lost)(Conn *, const FrameRec *) noexcept nogil,
              void (*forget)(Conn *, const FrameRec *) noexcept nogil) noexcept nogil:
    ROWS[i].name = name
    ROWS[i].epochs = epochs
    ROWS[i].pending = pending
    ROWS[i].fill = fill
    ROWS[i].acked = acked
    ROWS[i].lost = lost
    ROWS[i].forget = forget
    TABLE.rows[i] = &ROWS[i]
    TABLE.count = i + 1


row(0, b"ack", EPOCH_I | EPOCH_H | EPOCH_1, ack_source_pending, ack_source_fill, ack_source_acked, no_lost, no_lost)
row(1, b"crypto", EPOCH_I | EPOCH_H | EPOCH_1, crypto_pending, crypto_fill, crypto_acked, crypto_lost, no_lost)
row(2, b"control", EPOCH_0 | EPOCH_1, control_pending, control_fill, control_acked, control_lost, control_forget)
row(3, b"ext", EPOCH_1, ext_pending, ext_fill, ext_acked, ext_lost, no_lost)
row(4, b"stream", EPOCH_0 | EPOCH_1, stream_source_pending, stream_source_fill, stream_source_acked,
    stream_source_lost, stream_source_forget)
row(5, b"ping", ALL_EPOCHS, ping_pending, ping_fill, ping_acked, ping_lost, no_lost)
row(6, b"mtu", EPOCH_1, mtu_pending, mtu_fill, mtu_acked, mtu_lost, mtu_forget)


cdef const SourceTable *default_sources() noexcept nogil:
    return &TABLE
