"""Seams and insides of the core, reachable from tests. No program needs this module.

Objects that hook into a connection (`DigestMeter`, `CookieSource`, `Channel`, `FrameTap`) let go of it when they are
deleted.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset
from stoq.wire.batch cimport Address, SEND_BATCH_MAX, SEND_SEGMENTS_MAX, SendBatch
from stoq.wire.frames cimport EPOCH_1, Frame
from stoq.wire.varint cimport Cursor, varint_get, varint_put
from stoq.crypto.aead cimport AEAD_TAG, AeadJob
from stoq.core.cc cimport AckSample, Cc, CcOps, CcState, LossSample, cc_find
from stoq.core.ledger cimport core_ledger
from stoq.core.pacer cimport Pacer, pacer_refill, pacer_set, pacer_spend, pacer_when
from stoq.core.record cimport record_frame
from stoq.core.recvbuf cimport recvbuf_take
from stoq.core.sendbuf cimport (
    DropList, droplist_clear, droplist_init, sendbuf_acked, sendbuf_copy, sendbuf_lost, sendbuf_peek, sendbuf_sent,
)
from stoq.core.sentlog cimport (
    FrameRec, SENT_ACK_ELICITING, SENT_IN_FLIGHT, SENT_NONE, SENT_OUTSTANDING, sentlog_at, sentlog_reserve,
)
from stoq.core.sidestream cimport SideStream, side_clear, side_init, side_push, side_write
from stoq.core.sources cimport default_sources
from stoq.core.state cimport (
    Conn, ExtFrame, ExtOut, ExtRow, ExtTable, PacketBuild, SOURCE_PING, SOURCES_MAX, SPACE_APP, Source, SourceTable, Space,
)
from stoq.connection.address cimport fill_address
from stoq.connection.connection cimport Connection
from stoq.testing._malloc cimport mallinfo2

cdef enum:
    NOTICES_MAX = 4096
    HOOKED_MAX = 16
    ENTRY = 65507                # one UDP payload
    CHANNEL_CAP = 8192           # bytes that a Channel holds behind a gap

cdef uint64_t NONE = 0xFFFFFFFFFFFFFFFFU


cdef Conn *core_of(Connection connection) except NULL:
    if connection is None or connection.c == NULL:
        raise ValueError("the connection has no core")
    return connection.c


cdef object known(uint64_t value):
    return None if value == NONE else value


# ---------------------------------------------------------------- facts
cdef dict space_facts(const Space *sp):
    return {
        "next": sp.sent.next, "base": sp.sent.base, "eliciting": sp.eliciting_in_flight,
        "largest_acked": known(sp.largest_acked), "largest_received": known(sp.largest_received),
        "ranges": sp.received.count, "forgotten": sp.forgotten, "ack_deadline": sp.ack_deadline,
        "ack_now": bool(sp.ack_now), "loss_time": sp.loss_time, "last_eliciting_time": sp.last_eliciting_time,
        "probes": sp.probes, "discarded": bool(sp.discarded), "has_rx": bool(sp.has_rx), "has_tx": bool(sp.has_tx),
        "skipped": [sp.skipped[i] for i in range(4) if sp.skipped[i] != NONE],
        "ect0": sp.ect0, "ect1": sp.ect1, "ce": sp.ce,
    }


def facts(Connection connection):
    """What the core knows, as nested dicts: times in ns, sizes in bytes."""
    cdef Conn *c = core_of(connection)
    cdef int i
    return {
        "handshake": c.handshake, "now": c.now,
        "spaces": [space_facts(&c.spaces[i]) for i in range(3)],
        "path": {
            "mtu": c.path.mtu, "validated": bool(c.path.validated), "received": c.path.bytes_received,
            "sent": c.path.bytes_sent, "in_flight": c.path.in_flight, "srtt": c.path.srtt, "rttvar": c.path.rttvar,
            "min_rtt": c.path.min_rtt, "latest_rtt": c.path.latest_rtt, "response_due": bool(c.path.response_due),
            "cwnd": c.path.cc.cwnd, "ssthresh": known(c.path.cc.ssthresh),
            "recovery_start": c.path.cc.recovery_start, "pacing_rate": c.path.pacer.rate,
            "pacing_burst": c.path.pacer.burst, "app_limited_until": c.path.app_limited_until,
        },
        "pto_count": c.pto_count, "loss_deadline": c.loss_deadline, "idle_deadline": c.idle_deadline,
        "idle_timeout": c.idle_timeout, "pace_until": c.pace_until,
        "close": {"state": c.close.state, "cause": c.close.cause, "code": c.close.code,
                  "frame_type": c.close.frame_type, "deadline": c.close.deadline, "heard": c.close.heard},
        "dcid": None if c.dcid == NULL else (<const char *>c.dcid.cid)[:c.dcid.length],
        "remote_cids": [(c.remote_cids[i].sequence, (<const char *>c.remote_cids[i].cid)[:c.remote_cids[i].length])
                        for i in range(8) if c.remote_cids[i].active],
        "local_cids": [(c.local_cids[i].sequence, (<const char *>c.local_cids[i].cid)[:c.local_cids[i].length])
                       for i in range(8) if c.local_cids[i].active],
        "retire_due": c.retire_due_count, "retire_unacked": c.retire_unacked, "retire_prior_to": c.retire_prior_to,
        "kinds": [{"next": c.kinds[i].next, "limit": c.kinds[i].limit, "closed": c.kinds[i].closed}
                  for i in range(4)],
        "send_limit": c.send_limit, "send_total": c.send_total, "recv_limit": c.recv_limit,
        "recv_total": c.recv_total, "recv_consumed": c.recv_consumed, "recv_window": c.recv_window,
        "streams": c.table.count, "records": c.slab.live, "events": c.events.capacity, "ext_in": c.ext_in_count,
        "token": (<const char *>c.token)[:c.token_length] if c.token != NULL else b"",
    }


def outstanding(Connection connection, int space=SPACE_APP):
    """Packets on the books of a space, as (number, size, flags, send time)."""
    cdef Space *sp = &core_of(connection).spaces[space]
    cdef uint64_t pn
    return [
        (pn, sentlog_at(&sp.sent, pn).size, sentlog_at(&sp.sent, pn).flags, sentlog_at(&sp.sent, pn).time)
        for pn in range(sp.sent.base, sp.sent.next) if sentlog_at(&sp.sent, pn).state == SENT_OUTSTANDING
    ]


def take_number(Connection connection, int space=SPACE_APP):
    """A packet number for a packet made outside: sent, as far as the connection knows, and never on its books."""
    cdef Space *sp = &core_of(connection).spaces[space]
    cdef uint64_t pn = sp.sent.next
    if sentlog_reserve(&sp.sent):
        raise MemoryError
    sentlog_at(&sp.sent, pn).state = SENT_NONE
    sentlog_at(&sp.sent, pn).frames = 0
    sp.sent.next += 1
    if sp.sent.base == pn:
        sp.sent.base = pn + 1
    return pn


def core_memory(Connection connection):
    """Bytes of heap by struct, the sum under "total" (stoq.core.ledger)."""
    return core_ledger(core_of(connection))


def heap_in_use():
    """Bytes that malloc has given out in this process. Small Python objects are not among them."""
    cdef size_t used = mallinfo2().uordblks + mallinfo2().hblkhd
    return used


# ---------------------------------------------------------------- trains
cdef int take_train(Connection connection, bytes data, uint32_t segment, object peer, int64_t now, uint8_t ecn,
                    FrameTap tap) except -1:
    # A private copy: packets are opened in place.
    cdef uint8_t *memory = <uint8_t *>malloc(len(data) if data else 1)
    cdef Address a
    cdef Address none
    if memory == NULL:
        raise MemoryError
    try:
        fill_address(&a, peer)
        memset(&none, 0, sizeof(Address))
        memcpy(memory, PyBytes_AS_STRING(data), <size_t>len(data))
        connection.receive(memory, <uint32_t>len(data), segment, ecn, &a, &none, now)
        if tap is not None:
            tap.drain()
        connection.finish_batch(now)
    finally:
        free(memory)
    return 0


def receive_train(Connection connection, bytes data, uint32_t segment, peer, int64_t now, uint8_t ecn=0):
    """Datagrams of `segment` bytes in one buffer (the last may be shorter), as GRO hands them over; one batch."""
    core_of(connection)
    take_train(connection, data, segment, peer, now, ecn, None)


def send_trains(Connection connection, int64_t now, uint32_t segments=SEND_SEGMENTS_MAX, uint32_t slots=SEND_BATCH_MAX,
                uint32_t capacity=ENTRY):
    """One send call: [(bytes, segment size or 0)] of the entries that were filled."""
    cdef SendBatch *batch
    cdef uint8_t *memory
    cdef uint32_t i
    core_of(connection)
    if not 1 <= slots <= SEND_BATCH_MAX:
        raise ValueError("1 to 16 slots")
    batch = <SendBatch *>calloc(1, sizeof(SendBatch))
    memory = <uint8_t *>malloc(<size_t>slots * capacity)
    try:
        if batch == NULL or memory == NULL:
            raise MemoryError
        batch.slots = slots
        batch.max_segments = segments
        for i in range(slots):
            batch.data[i] = memory + <size_t>i * capacity
            batch.capacity[i] = capacity
        connection.send(batch, now)
        return [((<char *>batch.data[i])[:batch.length[i]], batch.segment[i]) for i in range(batch.count)]
    finally:
        free(batch)
        free(memory)


# ---------------------------------------------------------------- the digest hook
cdef struct Digest:
    uint64_t calls[2]            # 0: opened, 1: sealed
    uint64_t packets[2]
    uint64_t bytes[2]
    uint64_t largest[2]          # most packets in one call
    uint64_t digest[2]           # sum over packets, so that their order does not matter


cdef void digest_hook(void *context, bint sending, AeadJob *jobs, uint32_t n) noexcept nogil:
    cdef Digest *d = <Digest *>context
    cdef uint32_t i, k, length
    cdef uint64_t h
    d.calls[sending] += 1
    for i in range(n):
        if not sending and not jobs[i].ok:
            continue
        length = jobs[i].length if sending else jobs[i].length - AEAD_TAG
        # FNV-1a over the packet number and the plaintext.
        h = (<uint64_t>0xCBF29CE484222325U ^ jobs[i].pn) * <uint64_t>0x100000001B3U
        for k in range(length):
            h = (h ^ jobs[i].payload[k]) * <uint64_t>0x100000001B3U
        d.digest[sending] += h
        d.packets[sending] += 1
        d.bytes[sending] += length
    if n > d.largest[sending]:
        d.largest[sending] = n


@cython.final
@cython.no_gc_clear
cdef class DigestMeter:
    """Hangs on a connection's digest hook (`Hooks.digest`) and sums up what goes by."""
    cdef Connection connection
    cdef Digest d

    def __init__(self, Connection connection not None):
        cdef Conn *c = core_of(connection)
        self.connection = connection
        memset(&self.d, 0, sizeof(Digest))
        c.hooks.digest = digest_hook
        c.hooks.digest_context = &self.d

    def __dealloc__(self):
        if self.connection is not None and self.connection.c != NULL:
            self.connection.c.hooks.digest = NULL

    cdef dict side(self, int sending):
        return {"calls": self.d.calls[sending], "packets": self.d.packets[sending], "bytes": self.d.bytes[sending],
                "largest": self.d.largest[sending], "digest": self.d.digest[sending]}

    @property
    def sealed(self):
        return self.side(1)

    @property
    def opened(self):
        return self.side(0)


# ---------------------------------------------------------------- send sources
# A source finds its state by the connection: the vtable passes nothing else.
cdef struct Hooked:
    Conn *c
    void *state

cdef Hooked hooked[16]


cdef void *state_of(const Conn *c) noexcept nogil:
    cdef int i
    for i in range(HOOKED_MAX):
        if hooked[i].c == c:
            return hooked[i].state
    return NULL


cdef int hook(Conn *c, void *state) except -1:
    cdef int i
    if state_of(c) != NULL:
        raise ValueError("this connection has an extra source already")
    for i in range(HOOKED_MAX):
        if hooked[i].c == NULL:
            hooked[i].c = c
            hooked[i].state = state
            return 0
    raise ValueError("too many extra sources at once")


cdef void unhook(void *state) noexcept nogil:
    cdef int i
    for i in range(HOOKED_MAX):
        if hooked[i].state == state:
            hooked[i].c = NULL
            hooked[i].state = NULL


# A copy of the default table with one more row, and where its notices go.
cdef struct Extra:
    SourceTable table
    Source row
    uint8_t index
    uint8_t frame[256]
    uint32_t length
    uint64_t waiting[4096]       # cookies of frames that are to be sent
    uint32_t waiting_count
    uint64_t acked[4096]
    uint32_t acked_count
    uint64_t lost[4096]
    uint32_t lost_count
    uint64_t forgotten
    # Channel
    SideStream side
    uint64_t type
    DropList drops


cdef bint cookie_pending(Conn *c, int space, int64_t now) noexcept nogil:
    cdef Extra *x = <Extra *>state_of(c)
    return space == SPACE_APP and x.waiting_count != 0


cdef int cookie_fill(Conn *c, PacketBuild *b, int64_t now) noexcept nogil:
    cdef Extra *x = <Extra *>state_of(c)
    cdef uint32_t done = 0
    cdef uint32_t i
    while done < x.waiting_count and b.end - b.p >= <Py_ssize_t>x.length:
        if record_frame(c, b, x.index, 7, x.waiting[done]) == NULL:
            return -1
        memcpy(b.p, x.frame, x.length)
        b.p += x.length
        b.flags |= SENT_ACK_ELICITING | SENT_IN_FLIGHT
        done += 1
    x.waiting_count -= done
    for i in range(x.waiting_count):
        x.waiting[i] = x.waiting[i + done]
    return 0


cdef void cookie_acked(Conn *c, const FrameRec *r, int64_t now) noexcept nogil:
    cdef Extra *x = <Extra *>state_of(c)
    if x.acked_count < NOTICES_MAX:
        x.acked[x.acked_count] = r.cookie
        x.acked_count += 1


cdef void cookie_lost(Conn *c, const FrameRec *r) noexcept nogil:
    cdef Extra *x = <Extra *>state_of(c)
    if x.lost_count < NOTICES_MAX:
        x.lost[x.lost_count] = r.cookie
        x.lost_count += 1


cdef void extra_forget(Conn *c, const FrameRec *r) noexcept nogil:
    (<Extra *>state_of(c)).forgotten += 1


cdef void extra_free(Connection connection, Extra *x):
    """Off the connection: what is still on its books becomes a PING's record, which asks for nothing."""
    cdef Conn *c
    cdef Space *sp
    cdef uint64_t pn
    cdef uint32_t i
    if connection is not None and connection.c != NULL:
        c = connection.c
        sp = &c.spaces[SPACE_APP]
        for pn in range(sp.sent.base, sp.sent.next):
            if sentlog_at(&sp.sent, pn).state != SENT_OUTSTANDING:
                continue
            i = sentlog_at(&sp.sent, pn).frames
            while i:
                if c.slab.items[i].source == x.index:
                    c.slab.items[i].source = SOURCE_PING
                    c.slab.items[i].cookie = 0
                i = c.slab.items[i].next
        c.sources = default_sources()
    unhook(x)
    side_clear(&x.side, &x.drops)
    droplist_clear(&x.drops)
    free(x)


cdef Extra *extra_new(Conn *c, const char *name) except NULL:
    cdef Extra *x = <Extra *>calloc(1, sizeof(Extra))
    cdef const SourceTable *base = default_sources()
    cdef uint32_t i
    if x == NULL:
        raise MemoryError
    if base.count >= SOURCES_MAX:
        free(x)
        raise ValueError("the source table is full")
    for i in range(base.count):
        x.table.rows[i] = base.rows[i]
    x.index = <uint8_t>base.count
    x.table.rows[x.index] = &x.row
    x.table.count = base.count + 1
    x.row.name = name
    x.row.epochs = EPOCH_1
    x.row.forget = extra_forget
    droplist_init(&x.drops)
    side_init(&x.side, 3, CHANNEL_CAP)
    try:
        hook(c, x)
    except ValueError:
        free(x)
        raise
    return x


@cython.final
@cython.no_gc_clear      # the connection must still be there when this goes
cdef class CookieSource:
    """A send source of its own: sends one frame for each queued 64-bit cookie and keeps the notices."""
    cdef Connection connection
    cdef Extra *x

    def __init__(self, Connection connection not None, bytes frame not None):
        cdef Conn *c = core_of(connection)
        if not 0 < len(frame) <= 256:
            raise ValueError("a frame of 1 to 256 bytes")
        self.x = extra_new(c, b"cookie")
        self.connection = connection
        memcpy(self.x.frame, PyBytes_AS_STRING(frame), <size_t>len(frame))
        self.x.length = <uint32_t>len(frame)
        self.x.row.pending = cookie_pending
        self.x.row.fill = cookie_fill
        self.x.row.acked = cookie_acked
        self.x.row.lost = cookie_lost
        c.sources = &self.x.table

    def __dealloc__(self):
        if self.x != NULL:
            extra_free(self.connection, self.x)

    def queue(self, uint64_t cookie):
        if self.x.waiting_count == NOTICES_MAX:
            raise ValueError("too many frames wait")
        self.x.waiting[self.x.waiting_count] = cookie
        self.x.waiting_count += 1

    @property
    def row(self):
        return self.x.index

    @property
    def acked(self):
        return [self.x.acked[i] for i in range(self.x.acked_count)]

    @property
    def lost(self):
        return [self.x.lost[i] for i in range(self.x.lost_count)]

    @property
    def forgotten(self):
        return self.x.forgotten


# ---------------------------------------------------------------- extension frames
cdef int parse_value(Cursor *at, Frame *f) noexcept nogil:
    """type, one varint."""
    return varint_get(at, &f.value)


cdef int parse_data(Cursor *at, Frame *f) noexcept nogil:
    """type, offset, length, bytes: a CRYPTO frame of one's own."""
    cdef uint64_t length
    if varint_get(at, &f.offset) or varint_get(at, &length):
        return -1
    if length > <uint64_t>(at.end - at.p) or f.offset > (<uint64_t>1 << 62) - 1 - length:
        return -1
    f.data = at.p
    f.length = length
    at.p += length
    return 0


@cython.final
@cython.no_gc_clear
cdef class FrameTap:
    """Extension frames at a connection: two rows, of which bit 0 and 1 of `negotiated` say whether they are agreed.

    Row 0 is `value_type` with one varint, row 1 is `data_type` with offset, length and bytes. Frames that arrive
    through `receive` are kept in `frames` as (type, value, data, packet number, time, ecn).
    """
    cdef Connection connection
    cdef ExtRow rows[2]
    cdef ExtTable table
    cdef readonly list frames
    cdef readonly list notices
    cdef Channel channel

    def __init__(self, Connection connection not None, uint64_t value_type, uint64_t data_type, uint64_t negotiated,
                 bint eliciting=True):
        cdef Conn *c = core_of(connection)
        cdef int i
        self.connection = connection
        self.frames = []
        self.notices = []
        self.rows[0].type = value_type
        self.rows[0].parse = parse_value
        self.rows[1].type = data_type
        self.rows[1].parse = parse_data
        for i in range(2):
            self.rows[i].epochs = EPOCH_1
            self.rows[i].ack_eliciting = eliciting
        self.table.rows = self.rows
        self.table.count = 2
        c.ext_table = &self.table
        c.ext_negotiated = negotiated

    def __dealloc__(self):
        if self.connection is not None and self.connection.c != NULL:
            self.connection.c.ext_table = NULL

    cdef int drain(self) except -1:
        cdef Conn *c = self.connection.c
        cdef ExtFrame *f
        cdef uint32_t i
        for i in range(c.ext_in_count):
            f = &c.ext_in[i]
            if f.frame.type == self.rows[1].type:
                if self.channel is not None:
                    self.channel.push(f.frame.offset, f.frame.data, <uint32_t>f.frame.length)
                data = (<const char *>f.frame.data)[:f.frame.length]
                self.frames.append((f.frame.type, f.frame.offset, data, f.pn, f.time, f.ecn))
            else:
                self.frames.append((f.frame.type, f.frame.value, b"", f.pn, f.time, f.ecn))
        for i in range(c.ext_notice_count):
            self.notices.append((c.ext_notices[i].cookie, bool(c.ext_notices[i].acked)))
        return 0

    def receive(self, bytes datagram, peer, int64_t now, uint8_t ecn=0):
        """A datagram to the connection; queues are drained before the batch ends."""
        core_of(self.connection)
        take_train(self.connection, datagram, 0, peer, now, ecn, self)

    def send(self, bytes frame, uint64_t cookie):
        """Queue one frame with the core's own extension source (`Conn.ext_out`)."""
        cdef Conn *c = core_of(self.connection)
        cdef ExtOut *grown
        cdef uint8_t *copy
        if c.ext_out_count == c.ext_out_capacity:
            grown = <ExtOut *>realloc(c.ext_out, (c.ext_out_capacity + 16) * sizeof(ExtOut))
            if grown == NULL:
                raise MemoryError
            c.ext_out = grown
            c.ext_out_capacity += 16
        copy = <uint8_t *>malloc(<size_t>len(frame))
        if copy == NULL:
            raise MemoryError
        memcpy(copy, PyBytes_AS_STRING(frame), <size_t>len(frame))
        c.ext_out[c.ext_out_count].data = copy
        c.ext_out[c.ext_out_count].length = <uint32_t>len(frame)
        c.ext_out[c.ext_out_count].cookie = cookie
        c.ext_out_count += 1


# ---------------------------------------------------------------- a side stream of one's own
cdef bint channel_pending(Conn *c, int space, int64_t now) noexcept nogil:
    cdef Extra *x = <Extra *>state_of(c)
    return space == SPACE_APP and (x.side.send.next < x.side.send.end or x.side.send.lost.count != 0)


cdef int channel_fill(Conn *c, PacketBuild *b, int64_t now) noexcept nogil:
    cdef Extra *x = <Extra *>state_of(c)
    cdef uint64_t offset, length, room
    cdef bint fin, fresh
    cdef FrameRec *r
    cdef uint8_t *p
    while b.end - b.p >= 32:
        room = <uint64_t>(b.end - b.p) - 24      # three varints at most
        if not sendbuf_peek(&x.side.send, room, NONE, &offset, &length, &fin, &fresh) or length == 0:
            return 0
        r = record_frame(c, b, x.index, 0, 0)
        if r == NULL:
            return -1
        r.offset = offset
        r.length = length
        p = varint_put(b.p, x.type)
        p = varint_put(p, offset)
        p = varint_put(p, length)
        sendbuf_copy(&x.side.send, offset, length, p)
        b.p = p + length
        if sendbuf_sent(&x.side.send, offset, length, 0):
            return -1
        b.flags |= SENT_ACK_ELICITING | SENT_IN_FLIGHT
    return 0


cdef void channel_acked(Conn *c, const FrameRec *r, int64_t now) noexcept nogil:
    cdef Extra *x = <Extra *>state_of(c)
    if sendbuf_acked(&x.side.send, r.offset, r.length, 0, &x.drops):
        c.error = 1


cdef void channel_lost(Conn *c, const FrameRec *r) noexcept nogil:
    cdef Extra *x = <Extra *>state_of(c)
    if sendbuf_lost(&x.side.send, r.offset, r.length, 0):
        c.error = 1


@cython.final
@cython.no_gc_clear
cdef class Channel:
    """A reliable ordered channel of an extension: a SideStream, a send source and an extension frame."""
    cdef Connection connection
    cdef Extra *x
    cdef readonly bytes received
    cdef readonly bint overflow

    def __init__(self, FrameTap tap not None):
        cdef Conn *c = core_of(tap.connection)
        self.x = extra_new(c, b"channel")
        self.connection = tap.connection
        self.received = b""
        self.x.type = tap.rows[1].type
        self.x.row.pending = channel_pending
        self.x.row.fill = channel_fill
        self.x.row.acked = channel_acked
        self.x.row.lost = channel_lost
        c.sources = &self.x.table
        tap.channel = self

    def __dealloc__(self):
        if self.x != NULL:
            extra_free(self.connection, self.x)

    cdef int push(self, uint64_t offset, const uint8_t *p, uint32_t length) except -1:
        cdef int rc = side_push(&self.x.side, offset, p, length)
        cdef bytes out
        if rc == -1:
            raise MemoryError
        if rc == -2:
            self.overflow = True
            return 0
        if self.x.side.recv.pending:
            out = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>self.x.side.recv.pending)
            recvbuf_take(&self.x.side.recv, <uint8_t *>PyBytes_AS_STRING(out))
            self.received += out
        return 0

    def write(self, bytes data):
        if side_write(&self.x.side, <const uint8_t *>PyBytes_AS_STRING(data), <uint64_t>len(data)):
            raise MemoryError

    @property
    def unacknowledged(self):
        return self.x.side.send.end - self.x.side.send.base


# ---------------------------------------------------------------- congestion control and pacing by themselves
@cython.final
cdef class Controller:
    """A congestion controller without a connection."""
    cdef Cc cc

    def __init__(self, str name="reno", uint64_t mtu=1200):
        cdef bytes raw = name.encode()
        cdef const CcOps *ops = cc_find(raw)
        if ops == NULL:
            raise ValueError(f"no such congestion controller: {name}")
        memset(&self.cc, 0, sizeof(Cc))
        self.cc.ops = ops
        ops.init(&self.cc, mtu)

    def acked(self, *, int64_t now, uint64_t size, int64_t sent, uint64_t in_flight=0, bint limited=True,
              int64_t rtt=0):
        cdef AckSample s
        memset(&s, 0, sizeof(AckSample))
        s.now = now
        s.acked_bytes = size
        s.largest_sent_time = sent
        s.in_flight = in_flight
        s.rtt_ns = rtt
        s.window_limited = limited
        self.cc.ops.acked(&self.cc, &s)

    def lost(self, *, int64_t now, uint64_t size, int64_t sent, uint64_t in_flight=0, bint persistent=False):
        cdef LossSample s
        memset(&s, 0, sizeof(LossSample))
        s.now = now
        s.lost_bytes = size
        s.largest_lost_sent_time = sent
        s.in_flight = in_flight
        s.persistent = persistent
        self.cc.ops.lost(&self.cc, &s)

    def pacing_rate(self, int64_t srtt):
        return self.cc.ops.pacing_rate(&self.cc, srtt)

    def set_mtu(self, uint64_t mtu):
        self.cc.ops.set_mtu(&self.cc, mtu)

    def export(self):
        cdef CcState state
        memset(&state, 0, sizeof(CcState))
        self.cc.ops.export(&self.cc, &state)
        return {"cwnd": state.cwnd, "ssthresh": state.ssthresh, "pacing_rate": state.pacing_rate,
                "min_rtt": state.min_rtt_ns}

    def enter(self, uint64_t cwnd, uint64_t ssthresh):
        cdef CcState state
        memset(&state, 0, sizeof(CcState))
        state.cwnd = cwnd
        state.ssthresh = ssthresh
        self.cc.ops.enter(&self.cc, &state)

    @property
    def cwnd(self):
        return self.cc.cwnd

    @property
    def ssthresh(self):
        return known(self.cc.ssthresh)

    @property
    def mtu(self):
        return self.cc.mtu

    @property
    def recovery_start(self):
        return self.cc.recovery_start


def exchange_controller(Connection connection, str name="reno"):
    """Put a fresh controller on a running connection, seeded from the state of the one in use."""
    cdef Conn *c = core_of(connection)
    cdef bytes raw = name.encode()
    cdef const CcOps *ops = cc_find(raw)
    cdef CcState state
    if ops == NULL:
        raise ValueError(f"no such congestion controller: {name}")
    memset(&state, 0, sizeof(CcState))
    c.path.cc.ops.export(&c.path.cc, &state)
    c.path.cc.ops = ops
    ops.init(&c.path.cc, c.path.mtu)
    ops.enter(&c.path.cc, &state)


@cython.final
cdef class PacerBox:
    """A pacer without a connection."""
    cdef Pacer p

    def __init__(self):
        memset(&self.p, 0, sizeof(Pacer))

    def set(self, uint64_t rate, uint64_t burst_ns, uint64_t mtu, int64_t now):
        pacer_set(&self.p, rate, burst_ns, mtu, now)

    def refill(self, int64_t now):
        pacer_refill(&self.p, now)
        return self.p.credit

    def spend(self, uint64_t size):
        pacer_spend(&self.p, size)

    def when(self, int64_t now):
        return pacer_when(&self.p, now)

    @property
    def rate(self):
        return self.p.rate

    @property
    def credit(self):
        return self.p.credit

    @property
    def burst(self):
        return self.p.burst
