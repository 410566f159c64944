"""The end of a connection (RFC 9000 §10): closing, draining, silent ends."""
from libc.stdint cimport uint8_t, uint64_t, int64_t
from libc.string cimport memcpy
from stoq.wire.frames cimport FRAME_APPLICATION_CLOSE, Frame
from stoq.core.events cimport event_push
from stoq.core.recovery cimport recovery_pto
from stoq.core.state cimport (
    CAUSE_LOCAL, CAUSE_PEER, CLOSE_CLOSING, CLOSE_DONE, CLOSE_DRAINING, CLOSE_NONE, Conn, EV_CLOSED, REASON_MAX,
)

cdef void set_reason(Conn *c, const uint8_t *reason, size_t length) noexcept nogil:
    if length > REASON_MAX:
        length = REASON_MAX
    if length:
        memcpy(c.close.reason, reason, length)
    c.close.reason_length = <unsigned int>length


cdef void stop_timers(Conn *c) noexcept nogil:
    c.loss_deadline = 0
    c.idle_deadline = 0
    c.handshake_deadline = 0
    c.pace_until = 0
    c.keep_alive_deadline = 0


cdef void close_start(Conn *c, uint64_t code, uint64_t frame_type, bint application, const uint8_t *reason,
                      size_t reason_length, int64_t now) noexcept nogil:
    if c.close.state != CLOSE_NONE:
        return
    c.close.state = CLOSE_CLOSING
    c.close.cause = CAUSE_LOCAL
    c.close.application = application
    c.close.code = code
    c.close.frame_type = frame_type
    c.close.send_due = 1
    c.close.answer_at = 1
    # The three probe timeouts begin when CONNECTION_CLOSE can first leave: close_begins.
    c.close.deadline = 0
    set_reason(c, reason, reason_length)
    stop_timers(c)
    event_push(c, EV_CLOSED, NULL, 0, 0)


cdef void close_by_peer(Conn *c, const Frame *f, int64_t now) noexcept nogil:
    if c.close.state == CLOSE_CLOSING:
        # Both sides know: nothing is left to say (RFC 9000 §10.2.2).
        c.close.state = CLOSE_DRAINING
        c.close.send_due = 0
        if c.close.deadline == 0:
            c.close.deadline = now + CLOSE_PTOS * recovery_pto(c, 1)
        return
    if c.close.state != CLOSE_NONE:
        return
    c.close.state = CLOSE_DRAINING
    c.close.cause = CAUSE_PEER
    c.close.application = f.type == FRAME_APPLICATION_CLOSE
    c.close.code = f.value
    c.close.frame_type = 0 if c.close.application else f.value2
    c.close.deadline = now + CLOSE_PTOS * recovery_pto(c, 1)
    set_reason(c, f.data, f.length)
    stop_timers(c)
    event_push(c, EV_CLOSED, NULL, 0, 0)


cdef void close_silently(Conn *c, int cause, int64_t now) noexcept nogil:
    cdef int before = c.close.state
    c.close.state = CLOSE_DONE
    c.close.send_due = 0
    c.close.deadline = 0
    stop_timers(c)
    if before == CLOSE_NONE:
        c.close.cause = cause
        event_push(c, EV_CLOSED, NULL, 0, 0)


cdef void close_heard(Conn *c) noexcept nogil:
    c.close.heard += 1
    # RFC 9000 §10.2.1: limit the rate: after 1, 2, 4, 8 … packets.
    if c.close.state == CLOSE_CLOSING and c.close.heard >= c.close.answer_at:
        c.close.answer_at *= 2
        c.close.send_due = 1


cdef void close_begins(Conn *c, int64_t now) noexcept nogil:
    if c.close.state == CLOSE_CLOSING and c.close.deadline == 0:
        c.close.deadline = now + CLOSE_PTOS * recovery_pto(c, 1)
