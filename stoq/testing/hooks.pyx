"""The core's seams for extensions, each with a plain user: digest hook, send source, extension frames, side stream.

For tests; no program needs this module. The objects let go of their connection when they are deleted.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from stoq.wire.frames cimport EPOCH_1, Frame
from stoq.wire.varint cimport Cursor, varint_get, varint_put
from stoq.crypto.aead cimport AEAD_TAG, AeadJob
from stoq.core.record cimport record_frame
from stoq.core.recvbuf cimport recvbuf_take
from stoq.core.sendbuf cimport (
    DropList, droplist_clear, droplist_init, sendbuf_acked, sendbuf_copy, sendbuf_lost, sendbuf_peek, sendbuf_sent,
)
from stoq.core.sentlog cimport FrameRec, SENT_ACK_ELICITING, SENT_IN_FLIGHT, SENT_OUTSTANDING, sentlog_at
from stoq.core.sidestream cimport SideStream, side_clear, side_init, side_push, side_write
from stoq.core.sources cimport default_sources
from stoq.core.relay cimport relay_push
from stoq.core.state cimport (
    Conn, ExtFrame, ExtRow, ExtTable, PacketBuild, SOURCE_PING, SOURCES_MAX, SPACE_APP, Source, SourceTable, Space,
)
from stoq.connection.connection cimport Connection
from stoq.testing.seams cimport core_of, take_train

cdef enum:
    NOTICES_MAX = 4096
    HOOKED_MAX = 16
    CHANNEL_CAP = 8192           # bytes that a Channel holds behind a gap

cdef uint64_t NONE = 0xFFFFFFFFFFFFFFFFU


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

    def drain(self):
        """Move the connection's queues of this batch into `frames` and `notices`."""
        cdef Conn *c = core_of(self.connection)
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

    def receive(self, bytes datagram, peer, int64_t now, uint8_t ecn=0):
        """A datagram to the connection; queues are drained before the batch ends."""
        core_of(self.connection)
        take_train(self.connection, datagram, 0, peer, now, ecn, self.drain)

    def send(self, bytes frame, uint64_t cookie):
        """Hand one frame over to the connection (stoq.core.relay): 0 or a negative RelayResult."""
        return relay_push(core_of(self.connection), <void *><size_t>PyThread_get_thread_ident(),
                          <const uint8_t *>PyBytes_AS_STRING(frame), <uint32_t>len(frame), cookie)


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
