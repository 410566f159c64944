"""Streams: table, life cycle and the peer's frames (RFC 9000 §2 to §4). Sending is in streamsource.pyx."""
from libc.stdint cimport uint32_t, uint64_t, int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from stoq.wire.frames cimport Frame
from stoq.core.events cimport event_push
from stoq.core.rangeset cimport rangeset_add, rangeset_clear, rangeset_contains
from stoq.core.recvbuf cimport recvbuf_clear, recvbuf_complete, recvbuf_init, recvbuf_push
from stoq.core.sendbuf cimport sendbuf_clear, sendbuf_init
from stoq.core.state cimport (
    Conn, EV_STREAMS_AVAILABLE, EV_STREAM_GONE, EV_STREAM_OPENED, EV_STREAM_RESET, EV_STREAM_STOPPED,
    STREAM_ANNOUNCED, STREAM_CAN_RECV, STREAM_CAN_SEND, STREAM_DONE, STREAM_FIN_READ, STREAM_FLOW_BLOCKED,
    STREAM_GONE_TOLD, STREAM_IN_CONTROL, STREAM_IN_READ, STREAM_IN_SEND, STREAM_LOCAL, STREAM_MAX_DUE,
    STREAM_RESET_ACKED, STREAM_RESET_DUE, STREAM_RESET_GOT, STREAM_RESET_SENT, STREAM_SEND_ACKED, STREAM_STOP_DUE,
    STREAM_STOP_GOT, STREAM_STOP_SENT, Stream, StreamKind, StreamTable,
)

cdef enum:
    FLOW_CONTROL_ERROR = 0x03
    STREAM_LIMIT_ERROR = 0x04
    STREAM_STATE_ERROR = 0x05
    FINAL_SIZE_ERROR = 0x06
    TABLE_FIRST = 16
    FREE_KEPT = 64           # Stream structs kept for reuse: request/response traffic then mallocs nothing
    UNKNOWN = -1             # as uint64_t: no final size yet
    TUNE_ROUND_TRIPS = 2     # a window half used within two round trips is too small


# ---------------------------------------------------------------- table
cdef inline uint32_t slot_of(const StreamTable *t, uint64_t id) noexcept nogil:
    # Stream IDs step by four and come from the peer: mix, so that no pattern makes long probes.
    cdef uint64_t h = (id ^ (id >> 29)) * <uint64_t>0x9E3779B97F4A7C15U
    return <uint32_t>(h >> 32) & (t.capacity - 1)


cdef Stream *stream_find(const Conn *c, uint64_t id) noexcept nogil:
    cdef const StreamTable *t = &c.table
    cdef uint32_t i
    if t.count == 0:
        return NULL
    i = slot_of(t, id)
    while t.slots[i] != NULL:
        if t.slots[i].id == id:
            return t.slots[i]
        i = (i + 1) & (t.capacity - 1)
    return NULL


cdef inline void table_place(StreamTable *t, Stream *s) noexcept nogil:
    cdef uint32_t i = slot_of(t, s.id)
    while t.slots[i] != NULL:
        i = (i + 1) & (t.capacity - 1)
    t.slots[i] = s


cdef int table_add(StreamTable *t, Stream *s) noexcept nogil:
    cdef StreamTable grown
    cdef uint32_t i
    if t.count * 2 >= t.capacity:
        grown.capacity = t.capacity * 2 if t.capacity else TABLE_FIRST
        grown.count = t.count
        grown.slots = <Stream **>calloc(grown.capacity, sizeof(Stream *))
        if grown.slots == NULL:
            return -1
        for i in range(t.capacity):
            if t.slots[i] != NULL:
                table_place(&grown, t.slots[i])
        free(t.slots)
        t[0] = grown
    table_place(t, s)
    t.count += 1
    return 0


cdef void table_remove(StreamTable *t, uint64_t id) noexcept nogil:
    cdef uint32_t mask = t.capacity - 1
    cdef uint32_t i = slot_of(t, id)
    cdef uint32_t j, home
    while t.slots[i] != NULL and t.slots[i].id != id:
        i = (i + 1) & mask
    if t.slots[i] == NULL:
        return
    t.count -= 1
    # Backward-shift deletion: no tombstones, so probes stay short for ever.
    j = i
    while True:
        j = (j + 1) & mask
        if t.slots[j] == NULL:
            break
        home = slot_of(t, t.slots[j].id)
        if ((j - home) & mask) >= ((j - i) & mask):
            t.slots[i] = t.slots[j]
            i = j
    t.slots[i] = NULL


# ---------------------------------------------------------------- queues
cdef void stream_push_control(Conn *c, Stream *s) noexcept nogil:
    if s.flags & STREAM_IN_CONTROL:
        return
    s.flags |= STREAM_IN_CONTROL
    s.control_next = NULL
    if c.control_tail == NULL:
        c.control_head = s
    else:
        c.control_tail.control_next = s
    c.control_tail = s


cdef inline void push_readable(Conn *c, Stream *s) noexcept nogil:
    if s.flags & STREAM_IN_READ:
        return
    s.flags |= STREAM_IN_READ
    s.read_next = NULL
    if c.read_tail == NULL:
        c.read_head = s
    else:
        c.read_tail.read_next = s
    c.read_tail = s


cdef Stream *stream_pop_readable(Conn *c) noexcept nogil:
    cdef Stream *s = c.read_head
    if s == NULL:
        return NULL
    c.read_head = s.read_next
    if c.read_head == NULL:
        c.read_tail = NULL
    s.flags &= ~<uint32_t>STREAM_IN_READ
    return s


cdef void stream_wants_send(Conn *c, Stream *s) noexcept nogil:
    if s.flags & (STREAM_IN_SEND | STREAM_RESET_SENT):
        return
    stream_unblocked(c, s)
    s.flags |= STREAM_IN_SEND
    if c.send_head == NULL:
        s.send_next = s
        s.send_prev = s
        c.send_head = s
        return
    # Before the head = at the end of the round.
    s.send_next = c.send_head
    s.send_prev = c.send_head.send_prev
    s.send_prev.send_next = s
    c.send_head.send_prev = s


cdef void stream_blocked(Conn *c, Stream *s) noexcept nogil:
    if not s.flags & STREAM_FLOW_BLOCKED:
        s.flags |= STREAM_FLOW_BLOCKED
        c.flow_blocked += 1


cdef inline void stream_unblocked(Conn *c, Stream *s) noexcept nogil:
    if s.flags & STREAM_FLOW_BLOCKED:
        s.flags &= ~<uint32_t>STREAM_FLOW_BLOCKED
        c.flow_blocked -= 1


cdef void stream_leave_send(Conn *c, Stream *s) noexcept nogil:
    if not s.flags & STREAM_IN_SEND:
        return
    s.flags &= ~<uint32_t>STREAM_IN_SEND
    if s.send_next == s:
        c.send_head = NULL
        return
    s.send_prev.send_next = s.send_next
    s.send_next.send_prev = s.send_prev
    if c.send_head == s:
        c.send_head = s.send_next


# ---------------------------------------------------------------- life cycle
cdef Stream *stream_make(Conn *c, uint64_t id, bint local) noexcept nogil:
    cdef Stream *s = c.free_streams
    cdef StreamKind *kind = &c.kinds[id & 3]
    if s != NULL:
        c.free_streams = s.all_next
        c.free_count -= 1
        memset(s, 0, sizeof(Stream))
    else:
        s = <Stream *>calloc(1, sizeof(Stream))
    if s == NULL or table_add_stream(c, s, id):
        free(s)
        c.error = 1
        return NULL
    sendbuf_init(&s.send)
    recvbuf_init(&s.recv)
    s.blocked_at = <uint64_t>UNKNOWN
    s.recv_window = c.knobs.stream_window
    # What the peer may send counts from what it was told, whatever the knob says by now.
    s.recv_limit = c.stream_promise
    s.recv_tuned = c.now
    if id & 2 == 0:
        s.flags = STREAM_CAN_SEND | STREAM_CAN_RECV
    else:
        s.flags = STREAM_CAN_SEND if local else STREAM_CAN_RECV
    if local:
        s.flags |= STREAM_LOCAL
    if s.flags & STREAM_CAN_SEND:
        s.send_limit = kind.initial_send_window
    s.all_next = c.all_head
    if c.all_head != NULL:
        c.all_head.all_prev = s
    c.all_head = s
    return s


cdef inline int table_add_stream(Conn *c, Stream *s, uint64_t id) noexcept nogil:
    s.id = id
    return table_add(&c.table, s)


cdef bint stream_can_open(const Conn *c, bint unidirectional) noexcept nogil:
    cdef const StreamKind *kind = &c.kinds[(2 if unidirectional else 0) | (0 if c.is_client else 1)]
    return kind.next < kind.limit


cdef Stream *stream_open(Conn *c, bint unidirectional) noexcept nogil:
    cdef int which = (2 if unidirectional else 0) | (0 if c.is_client else 1)
    cdef StreamKind *kind = &c.kinds[which]
    cdef Stream *s
    if kind.next >= kind.limit:
        if kind.blocked_at != kind.limit:
            kind.blocked_at = kind.limit
            kind.blocked_due = 1
        return NULL
    s = stream_make(c, kind.next * 4 + which, 1)
    if s != NULL:
        kind.next += 1
        c.stats.streams_opened += 1
    return s


cdef void stream_check_done(Conn *c, Stream *s) noexcept nogil:
    """Both sides over? Then the stream leaves the table, and the shell is told."""
    if s.flags & STREAM_DONE:
        return
    if s.flags & STREAM_CAN_SEND and not s.flags & (STREAM_SEND_ACKED | STREAM_RESET_ACKED):
        return
    if s.flags & STREAM_CAN_RECV and not s.flags & (STREAM_FIN_READ | STREAM_RESET_GOT):
        return
    s.flags |= STREAM_DONE
    stream_unblocked(c, s)
    stream_leave_send(c, s)
    table_remove(&c.table, s.id)
    if s.all_prev != NULL:
        s.all_prev.all_next = s.all_next
    else:
        c.all_head = s.all_next
    if s.all_next != NULL:
        s.all_next.all_prev = s.all_prev
    recvbuf_clear(&s.recv)
    sendbuf_clear(&s.send, &c.drops)
    event_push(c, EV_STREAM_GONE, s, s.id, 0)


cdef void streams_credit(Conn *c, uint64_t stream_id) noexcept nogil:
    cdef StreamKind *kind = &c.kinds[stream_id & 3]
    kind.closed += 1
    # A quarter of the window at a time.
    if (kind.closed + kind.window - kind.limit) * 4 >= kind.window:
        kind.max_due = 1


cdef void stream_maybe_free(Conn *c, Stream *s) noexcept nogil:
    if not s.flags & STREAM_DONE or not s.flags & STREAM_GONE_TOLD or s.refs:
        return
    if s.flags & (STREAM_IN_READ | STREAM_IN_CONTROL):
        return
    if c.free_count < FREE_KEPT:
        s.all_next = c.free_streams
        c.free_streams = s
        c.free_count += 1
    else:
        free(s)


cdef void stream_read_end(Conn *c, Stream *s) noexcept nogil:
    s.flags |= STREAM_FIN_READ
    stream_check_done(c, s)


cdef void streams_clear(Conn *c) noexcept nogil:
    """Free everything; owners of unsent data go to c.drops."""
    cdef Stream *s = c.all_head
    cdef Stream *following
    cdef int i
    while s != NULL:
        following = s.all_next
        recvbuf_clear(&s.recv)
        sendbuf_clear(&s.send, &c.drops)
        free(s)
        s = following
    s = c.free_streams
    while s != NULL:
        following = s.all_next
        free(s)
        s = following
    c.all_head = NULL
    c.free_streams = NULL
    c.free_count = 0
    c.send_head = NULL
    c.read_head = NULL
    c.read_tail = NULL
    c.control_head = NULL
    c.control_tail = NULL
    free(c.table.slots)
    memset(&c.table, 0, sizeof(StreamTable))
    for i in range(4):
        rangeset_clear(&c.kinds[i].opened)


# ---------------------------------------------------------------- the peer's frames
cdef uint64_t lookup(Conn *c, uint64_t id, bint for_receiving, Stream **out) noexcept nogil:
    """The stream that a frame names: *out, NULL when it is over already; else a transport error."""
    cdef bint ours = (id & 1) == (0 if c.is_client else 1)
    cdef StreamKind *kind = &c.kinds[id & 3]
    cdef uint64_t index = id >> 2
    cdef Stream *s
    out[0] = NULL
    if id & 2 and ours == for_receiving:
        return STREAM_STATE_ERROR        # RFC 9000 §19: a direction that this stream does not have
    s = stream_find(c, id)
    if s != NULL:
        out[0] = s
        return 0
    if ours:
        return 0 if index < kind.next else STREAM_STATE_ERROR
    if index >= kind.limit:
        return STREAM_LIMIT_ERROR        # RFC 9000 §4.6
    if rangeset_contains(&kind.opened, index):
        return 0
    if rangeset_add(&kind.opened, index, index + 1):
        c.error = 1
        return 0
    if index >= kind.next:
        kind.next = index + 1
    s = stream_make(c, id, 0)
    if s == NULL:
        return 0
    c.stats.streams_accepted += 1
    s.flags |= STREAM_ANNOUNCED
    event_push(c, EV_STREAM_OPENED, s, id, 0)
    out[0] = s
    return 0


cdef inline uint64_t account(Conn *c, Stream *s, uint64_t end) noexcept nogil:
    """Flow control for data up to `end` (RFC 9000 §4.1): 0 or FLOW_CONTROL_ERROR."""
    cdef uint64_t grown
    if end <= s.recv.highest:
        return 0
    grown = end - s.recv.highest
    if end > s.recv_limit or c.recv_total + grown > c.recv_limit:
        return FLOW_CONTROL_ERROR
    c.recv_total += grown
    return 0


cdef inline void connection_consumed(Conn *c, uint64_t length) noexcept nogil:
    c.recv_consumed += length
    # Half of the window is used up. (The limit is never below what was consumed.)
    if (c.recv_limit - c.recv_consumed) * 2 <= c.recv_window:
        c.max_data_due = 1


cdef void stream_consumed(Conn *c, Stream *s, uint64_t length) noexcept nogil:
    s.recv_consumed += length
    connection_consumed(c, length)
    if s.recv.final_size != <uint64_t>UNKNOWN or s.flags & (STREAM_STOP_SENT | STREAM_DONE):
        return
    if (s.recv_limit - s.recv_consumed) * 2 <= s.recv_window and not s.flags & STREAM_MAX_DUE:
        s.flags |= STREAM_MAX_DUE
        stream_push_control(c, s)


cdef inline uint64_t tuned(uint64_t window, uint64_t most, int64_t since, const Conn *c, int64_t now) noexcept nogil:
    """A window of which half was used up within two round trips was too small."""
    if c.path.srtt == 0 or now - since >= TUNE_ROUND_TRIPS * c.path.srtt:
        return window
    window *= 2
    return window if window < most else most


cdef void connection_grant(Conn *c, int64_t now) noexcept nogil:
    # Here and not when the application reads: it may read long after the last batch, and has no clock.
    if (c.recv_limit - c.recv_consumed) * 2 <= c.recv_window:
        c.recv_window = tuned(c.recv_window, c.knobs.receive_window_max, c.recv_tuned, c, now)
        c.recv_tuned = now
    # A limit is never taken back, also when the knobs have shrunk.
    if c.recv_consumed + c.recv_window > c.recv_limit:
        c.recv_limit = c.recv_consumed + c.recv_window


cdef void stream_grant(Conn *c, Stream *s, int64_t now) noexcept nogil:
    if (s.recv_limit - s.recv_consumed) * 2 <= s.recv_window:
        s.recv_window = tuned(s.recv_window, c.knobs.stream_window_max, s.recv_tuned, c, now)
        s.recv_tuned = now
    if s.recv_consumed + s.recv_window > s.recv_limit:
        s.recv_limit = s.recv_consumed + s.recv_window


cdef void streams_discarded(Conn *c, uint64_t length) noexcept nogil:
    connection_consumed(c, length)


cdef uint64_t discard_data(Conn *c, Stream *s, uint64_t end, bint fin) noexcept nogil:
    """Data of a stream that nobody wants: its size still counts (RFC 9000 §4.5)."""
    if s.recv.final_size != <uint64_t>UNKNOWN and (end > s.recv.final_size or (fin and end != s.recv.final_size)):
        return FINAL_SIZE_ERROR
    if fin and end < s.recv.highest:
        return FINAL_SIZE_ERROR
    if end > s.recv.highest:
        connection_consumed(c, end - s.recv.highest)
        s.recv_consumed += end - s.recv.highest
        s.recv.highest = end
    if fin:
        s.recv.final_size = end
        s.flags |= STREAM_FIN_READ
        stream_check_done(c, s)
    return 0


cdef uint64_t streams_on_data(Conn *c, const Frame *f) noexcept nogil:
    cdef Stream *s
    cdef uint64_t end = f.offset + f.length
    cdef uint64_t error = lookup(c, f.stream_id, 1, &s)
    cdef int rc
    if error or s == NULL:
        return error
    if s.flags & STREAM_RESET_GOT:
        return FINAL_SIZE_ERROR if end > s.recv.final_size else 0
    error = account(c, s, end)
    if error:
        return error
    if s.flags & STREAM_STOP_SENT:
        return discard_data(c, s, end, f.fin)
    rc = recvbuf_push(&s.recv, f.offset, f.data, <uint32_t>f.length, f.fin)
    if rc:
        if rc == -2:
            return FINAL_SIZE_ERROR
        c.error = 1
        return 0
    if s.recv.pending or (s.recv.final_size != <uint64_t>UNKNOWN and recvbuf_complete(&s.recv)):
        if not s.flags & STREAM_FIN_READ:
            push_readable(c, s)
    return 0


cdef uint64_t streams_on_reset(Conn *c, const Frame *f) noexcept nogil:
    cdef Stream *s
    cdef uint64_t error = lookup(c, f.stream_id, 1, &s)
    if error or s == NULL:
        return error
    if s.recv.final_size != <uint64_t>UNKNOWN and s.recv.final_size != f.value2:
        return FINAL_SIZE_ERROR
    if f.value2 < s.recv.highest:
        return FINAL_SIZE_ERROR
    if s.flags & (STREAM_RESET_GOT | STREAM_FIN_READ):
        return 0
    error = account(c, s, f.value2)
    if error:
        return error
    # RFC 9000 §3.2: everything arrived already: "Data Recvd" may ignore the reset.
    if s.recv.final_size != <uint64_t>UNKNOWN and recvbuf_complete(&s.recv) and not s.flags & STREAM_STOP_SENT:
        return 0
    s.flags |= STREAM_RESET_GOT
    s.peer_reset_code = f.value
    # What the application never took counts as consumed now. `highest` of unread chunks in the shell is settled there.
    if s.flags & STREAM_STOP_SENT:
        connection_consumed(c, f.value2 - s.recv.highest)
    else:
        connection_consumed(c, f.value2 - s.recv.next + s.recv.pending)
    recvbuf_clear(&s.recv)
    s.recv.highest = f.value2
    s.recv.final_size = f.value2
    event_push(c, EV_STREAM_RESET, s, s.id, f.value)
    stream_check_done(c, s)
    return 0


cdef uint64_t streams_on_stop(Conn *c, const Frame *f) noexcept nogil:
    cdef Stream *s
    cdef uint64_t error = lookup(c, f.stream_id, 0, &s)
    if error or s == NULL:
        return error
    if s.flags & (STREAM_STOP_GOT | STREAM_RESET_SENT | STREAM_SEND_ACKED):
        return 0
    s.flags |= STREAM_STOP_GOT
    event_push(c, EV_STREAM_STOPPED, s, s.id, f.value)
    # RFC 9000 §3.5: answer with a reset that carries the same code.
    stream_reset(c, s, f.value)
    return 0


cdef uint64_t streams_on_max_stream_data(Conn *c, const Frame *f) noexcept nogil:
    cdef Stream *s
    cdef uint64_t error = lookup(c, f.stream_id, 0, &s)
    if error or s == NULL:
        return error
    if f.value > s.send_limit:
        s.send_limit = f.value
        if s.send.next < s.send.end:
            stream_wants_send(c, s)
    return 0


cdef uint64_t streams_on_max_streams(Conn *c, bint unidirectional, uint64_t maximum) noexcept nogil:
    cdef int which = (2 if unidirectional else 0) | (0 if c.is_client else 1)
    cdef StreamKind *kind = &c.kinds[which]
    if maximum > kind.limit:
        kind.limit = maximum
        kind.blocked_due = 0
        event_push(c, EV_STREAMS_AVAILABLE, NULL, 0, which)
    return 0


cdef uint64_t streams_on_blocked(Conn *c, const Frame *f) noexcept nogil:
    cdef Stream *s
    return lookup(c, f.stream_id, 1, &s)


cdef void streams_apply_params(Conn *c) noexcept nogil:
    """Limits that the peer's transport parameters give (RFC 9000 §18.2)."""
    cdef int me = 0 if c.is_client else 1
    c.send_limit = c.peer.initial_max_data
    c.kinds[me].limit = c.peer.initial_max_streams_bidi
    c.kinds[2 | me].limit = c.peer.initial_max_streams_uni
    # "remote" and "local" are seen from the peer.
    c.kinds[me].initial_send_window = c.peer.initial_max_stream_data_bidi_remote
    c.kinds[me ^ 1].initial_send_window = c.peer.initial_max_stream_data_bidi_local
    c.kinds[2 | me].initial_send_window = c.peer.initial_max_stream_data_uni


# ---------------------------------------------------------------- the application's acts
cdef void stream_reset(Conn *c, Stream *s, uint64_t code) noexcept nogil:
    if not s.flags & STREAM_CAN_SEND or s.flags & (STREAM_RESET_SENT | STREAM_SEND_ACKED | STREAM_DONE):
        return
    s.reset_code = code
    s.reset_size = s.send.next
    stream_unblocked(c, s)
    stream_leave_send(c, s)
    sendbuf_clear(&s.send, &c.drops)
    s.flags |= STREAM_RESET_SENT | STREAM_RESET_DUE
    stream_push_control(c, s)


cdef void stream_stop(Conn *c, Stream *s, uint64_t code) noexcept nogil:
    if not s.flags & STREAM_CAN_RECV or s.flags & (STREAM_STOP_SENT | STREAM_FIN_READ | STREAM_RESET_GOT | STREAM_DONE):
        return
    s.flags |= STREAM_STOP_SENT
    s.flags &= ~<uint32_t>STREAM_MAX_DUE
    # Received but never taken: consumed, as far as flow control goes.
    connection_consumed(c, s.recv.highest - s.recv.next + s.recv.pending)
    if s.recv.final_size != <uint64_t>UNKNOWN:
        # RFC 9000 §3.5: no point in asking once the size is known.
        recvbuf_drop(s)
        s.flags |= STREAM_FIN_READ
        stream_check_done(c, s)
        return
    recvbuf_drop(s)
    s.stop_code = code
    s.flags |= STREAM_STOP_DUE
    stream_push_control(c, s)


cdef void recvbuf_drop(Stream *s) noexcept nogil:
    """Forget the bytes of a receive buffer, keep its bookkeeping of sizes."""
    cdef uint64_t highest = s.recv.highest
    cdef uint64_t final_size = s.recv.final_size
    cdef uint64_t at = s.recv.next
    recvbuf_clear(&s.recv)
    s.recv.next = at
    s.recv.highest = highest
    s.recv.final_size = final_size
