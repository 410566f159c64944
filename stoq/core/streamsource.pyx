"""STREAM frames: what the packer asks for, and what acknowledgement and loss mean for it."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from stoq.wire.varint cimport varint_size
from stoq.wire.frames cimport frame_emit_stream_head
from stoq.core.events cimport event_push
from stoq.core.record cimport record_frame
from stoq.core.sendbuf cimport (
    sendbuf_acked, sendbuf_complete, sendbuf_copy, sendbuf_lost, sendbuf_peek, sendbuf_run, sendbuf_sent,
)
from stoq.core.sentlog cimport FrameRec, SENT_ACK_ELICITING, SENT_IN_FLIGHT
from stoq.core.state cimport (
    Conn, EV_STREAM_FINISHED, EV_STREAM_WRITABLE, PacketBuild, SOURCE_STREAM, SPACE_APP, STREAM_BLOCKED_DUE,
    STREAM_DONE, STREAM_RESET_SENT, STREAM_SEND_ACKED, STREAM_WANT_WRITABLE, Stream,
)
from stoq.core.streams cimport (
    stream_blocked, stream_check_done, stream_leave_send, stream_maybe_free, stream_push_control, stream_wants_send,
)

cdef enum:
    TAIL_FROM = 256          # shorter data is copied: the sealer's second update costs more than that
    SMALLEST = 24            # room below which a STREAM frame (head of up to 1 + 8 + 8 + 2) is not worth starting


cdef bint stream_source_pending(Conn *c, int space, int64_t now) noexcept nogil:
    return space == SPACE_APP and c.send_head != NULL


cdef void note_blocked(Conn *c, Stream *s) noexcept nogil:
    """A stream has bytes that flow control holds back: say so once per limit (RFC 9000 §4.1)."""
    if s.send.next >= s.send.end:
        return
    stream_blocked(c, s)
    if s.send.next >= s.send_limit:
        if s.blocked_at != s.send_limit:
            s.blocked_at = s.send_limit
            s.flags |= STREAM_BLOCKED_DUE
            stream_push_control(c, s)
    elif c.send_total >= c.send_limit and c.blocked_at != c.send_limit:
        c.blocked_at = c.send_limit
        c.data_blocked_due = 1


cdef int stream_source_fill(Conn *c, PacketBuild *b, int64_t now) noexcept nogil:
    cdef Stream *s
    cdef FrameRec *r
    cdef uint64_t room, head, limit, offset, length, got
    cdef const uint8_t *run = NULL
    cdef bint fin, fresh, whole
    cdef size_t written
    while c.send_head != NULL:
        s = c.send_head
        room = <uint64_t>(b.end - b.p)
        if room < SMALLEST:
            break
        limit = s.send.next + (c.send_limit - c.send_total if c.send_limit > c.send_total else 0)
        if limit > s.send_limit:
            limit = s.send_limit
        if not sendbuf_peek(&s.send, room, limit, &offset, &length, &fin, &fresh):
            note_blocked(c, s)
            stream_leave_send(c, s)
            continue
        head = 1 + varint_size(s.id) + (varint_size(offset) if offset else 0)
        # Without a length the frame runs to the packet's end: two bytes saved, and the packet is full.
        whole = head + length >= room
        if whole:
            if head + length > room:
                length = room - head
                fin = 0
        elif head + 2 + length > room:
            length = room - head - 2
            fin = 0
        written = frame_emit_stream_head(b.p, room, s.id, offset, length, not whole, fin)
        if written == 0:
            break
        r = record_frame(c, b, SOURCE_STREAM, 0, <uint64_t>s)
        if r == NULL:
            return -1
        r.offset = offset
        r.length = length
        r.fin = fin
        s.refs += 1
        if length:
            got = 0
            if whole and length >= TAIL_FROM and c.hooks.digest == NULL:
                run = sendbuf_run(&s.send, offset, length, &got)
            if got == length:
                # The frame ends the packet and its bytes lie in one piece: the sealer reads them where they are.
                b.tail = run
                b.tail_length = <uint32_t>length
            else:
                sendbuf_copy(&s.send, offset, length, b.p + written)
        b.p += written + length
        if sendbuf_sent(&s.send, offset, length, fin):
            c.error = 1
            return -1
        b.flags |= SENT_ACK_ELICITING | SENT_IN_FLIGHT
        if fresh:
            c.send_total += length
            c.stats.stream_bytes_sent += length
        else:
            c.stats.stream_bytes_resent += length
    # Round-robin: the next packet begins with the next stream.
    if c.send_head != NULL:
        c.send_head = c.send_head.send_next
    return 0


cdef void stream_source_acked(Conn *c, const FrameRec *r, int64_t now) noexcept nogil:
    cdef Stream *s = <Stream *>r.cookie
    if s.flags & (STREAM_RESET_SENT | STREAM_DONE | STREAM_SEND_ACKED):
        return
    if sendbuf_acked(&s.send, r.offset, r.length, r.fin, &c.drops):
        c.error = 1
        return
    if s.flags & STREAM_WANT_WRITABLE and s.send.end - s.send.base <= s.low_water:
        s.flags &= ~<uint32_t>STREAM_WANT_WRITABLE
        event_push(c, EV_STREAM_WRITABLE, s, s.id, 0)
    if s.send.fin and sendbuf_complete(&s.send):
        s.flags |= STREAM_SEND_ACKED
        event_push(c, EV_STREAM_FINISHED, s, s.id, 0)
        stream_check_done(c, s)


cdef void stream_source_lost(Conn *c, const FrameRec *r) noexcept nogil:
    cdef Stream *s = <Stream *>r.cookie
    if s.flags & (STREAM_RESET_SENT | STREAM_DONE):
        return
    if sendbuf_lost(&s.send, r.offset, r.length, r.fin):
        c.error = 1
        return
    stream_wants_send(c, s)


cdef void stream_source_forget(Conn *c, const FrameRec *r) noexcept nogil:
    cdef Stream *s = <Stream *>r.cookie
    s.refs -= 1
    if s.refs == 0:
        stream_maybe_free(c, s)
