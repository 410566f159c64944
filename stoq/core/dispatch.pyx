"""Frames of a decrypted packet to their handlers: a switch for the frequent ones, a table for the rest."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy
from stoq.wire.header cimport TOKEN_MAX
from stoq.wire.varint cimport Cursor, varint_get
from stoq.wire.frames cimport (
    EPOCH_1, EPOCH_H, EPOCH_I, FRAME_ACK, FRAME_ACK_ECN, FRAME_APPLICATION_CLOSE, FRAME_CONNECTION_CLOSE,
    FRAME_CRYPTO, FRAME_HANDSHAKE_DONE, FRAME_MAX_DATA, FRAME_MAX_STREAMS_BIDI, FRAME_MAX_STREAMS_UNI,
    FRAME_MAX_STREAM_DATA, FRAME_NEW_CONNECTION_ID, FRAME_NEW_TOKEN, FRAME_PATH_CHALLENGE, FRAME_PATH_RESPONSE,
    FRAME_RESET_STREAM, FRAME_RETIRE_CONNECTION_ID, FRAME_STOP_SENDING, FRAME_STREAM, FRAME_STREAM_DATA_BLOCKED,
    FRAME_UNKNOWN, Frame, FrameRow, frame_parse, frame_row,
)
from stoq.core.cids cimport cid_on_new, cid_on_retire
from stoq.core.closing cimport close_by_peer
from stoq.core.events cimport event_push
from stoq.core.handshake cimport handshake_confirmed
from stoq.core.recovery cimport recovery_acked
from stoq.core.sidestream cimport side_push
from stoq.core.state cimport (
    CLOSE_NONE, Conn, EV_NEW_TOKEN, EV_PATH_VALIDATED, EXT_QUEUE_MAX, ExtFrame, ExtRow, SPACE_APP, Stream,
)
from stoq.core.streams cimport (
    streams_on_blocked, streams_on_data, streams_on_max_stream_data, streams_on_max_streams, streams_on_reset,
    streams_on_stop, stream_wants_send,
)

cdef enum:
    FRAME_ENCODING_ERROR = 0x07
    PROTOCOL_VIOLATION = 0x0a
    CRYPTO_BUFFER_EXCEEDED = 0x0d
    HANDLERS = 0x1f

ctypedef uint64_t (*Handler)(Conn *c, int space, Frame *f, int64_t now) noexcept nogil

cdef Handler handlers[0x1f]


cdef uint64_t on_nothing(Conn *c, int space, Frame *f, int64_t now) noexcept nogil:
    return 0


cdef uint64_t on_ack(Conn *c, int space, Frame *f, int64_t now) noexcept nogil:
    return recovery_acked(c, space, f, now)


cdef uint64_t on_reset(Conn *c, int space, Frame *f, int64_t now) noexcept nogil:
    return streams_on_reset(c, f)


cdef uint64_t on_stop(Conn *c, int space, Frame *f, int64_t now) noexcept nogil:
    return streams_on_stop(c, f)


cdef uint64_t on_crypto(Conn *c, int space, Frame *f, int64_t now) noexcept nogil:
    cdef int rc = side_push(&c.spaces[space].crypto, f.offset, f.data, <uint32_t>f.length)
    if rc == -2:
        return CRYPTO_BUFFER_EXCEEDED
    if rc:
        c.error = 1
    return 0


cdef uint64_t on_new_token(Conn *c, int space, Frame *f, int64_t now) noexcept nogil:
    cdef uint8_t *copy
    if not c.is_client:
        return PROTOCOL_VIOLATION        # RFC 9000 §19.7
    if f.length == 0:
        return FRAME_ENCODING_ERROR
    if f.length > TOKEN_MAX:
        return 0                         # longer than we would ever send back
    copy = <uint8_t *>malloc(f.length)
    if copy == NULL:
        return 0
    memcpy(copy, f.data, f.length)
    free(c.new_token)
    c.new_token = copy
    c.new_token_length = <uint32_t>f.length
    event_push(c, EV_NEW_TOKEN, NULL, 0, 0)
    return 0


cdef uint64_t on_stream(Conn *c, int space, Frame *f, int64_t now) noexcept nogil:
    return streams_on_data(c, f)


cdef uint64_t on_max_data(Conn *c, int space, Frame *f, int64_t now) noexcept nogil:
    cdef Stream *s
    if f.value <= c.send_limit:
        return 0
    c.send_limit = f.value
    s = c.all_head
    while s != NULL:
        if s.send.next < s.send.end and s.send.next < s.send_limit:
            stream_wants_send(c, s)
        s = s.all_next
    return 0


cdef uint64_t on_max_stream_data(Conn *c, int space, Frame *f, int64_t now) noexcept nogil:
    return streams_on_max_stream_data(c, f)


cdef uint64_t on_max_streams(Conn *c, int space, Frame *f, int64_t now) noexcept nogil:
    return streams_on_max_streams(c, f.type == FRAME_MAX_STREAMS_UNI, f.value)


cdef uint64_t on_stream_blocked(Conn *c, int space, Frame *f, int64_t now) noexcept nogil:
    return streams_on_blocked(c, f)


cdef uint64_t on_new_cid(Conn *c, int space, Frame *f, int64_t now) noexcept nogil:
    return cid_on_new(c, f)


cdef uint64_t on_retire_cid(Conn *c, int space, Frame *f, int64_t now) noexcept nogil:
    return cid_on_retire(c, f)


cdef uint64_t on_path_challenge(Conn *c, int space, Frame *f, int64_t now) noexcept nogil:
    # One pending answer per path, the newest (SECURITY row 3).
    memcpy(c.path.response, f.data, 8)
    c.path.response_due = 1
    return 0


cdef uint64_t on_path_response(Conn *c, int space, Frame *f, int64_t now) noexcept nogil:
    if memcmp(c.path.challenge, f.data, 8) == 0 and not c.path.validated:
        c.path.validated = 1
        event_push(c, EV_PATH_VALIDATED, NULL, 0, 0)
    return 0


cdef uint64_t on_close(Conn *c, int space, Frame *f, int64_t now) noexcept nogil:
    close_by_peer(c, f, now)
    return 0


cdef uint64_t on_handshake_done(Conn *c, int space, Frame *f, int64_t now) noexcept nogil:
    if not c.is_client:
        return PROTOCOL_VIOLATION        # RFC 9000 §19.20
    handshake_confirmed(c, now)
    return 0


cdef void fill_handlers() noexcept nogil:
    cdef int i
    for i in range(HANDLERS):
        handlers[i] = on_nothing
    handlers[<int>FRAME_ACK] = on_ack
    handlers[<int>FRAME_ACK_ECN] = on_ack
    handlers[<int>FRAME_RESET_STREAM] = on_reset
    handlers[<int>FRAME_STOP_SENDING] = on_stop
    handlers[<int>FRAME_CRYPTO] = on_crypto
    handlers[<int>FRAME_NEW_TOKEN] = on_new_token
    for i in range(8):
        handlers[<int>FRAME_STREAM + i] = on_stream
    handlers[<int>FRAME_MAX_DATA] = on_max_data
    handlers[<int>FRAME_MAX_STREAM_DATA] = on_max_stream_data
    handlers[<int>FRAME_MAX_STREAMS_BIDI] = on_max_streams
    handlers[<int>FRAME_MAX_STREAMS_UNI] = on_max_streams
    handlers[<int>FRAME_STREAM_DATA_BLOCKED] = on_stream_blocked
    handlers[<int>FRAME_NEW_CONNECTION_ID] = on_new_cid
    handlers[<int>FRAME_RETIRE_CONNECTION_ID] = on_retire_cid
    handlers[<int>FRAME_PATH_CHALLENGE] = on_path_challenge
    handlers[<int>FRAME_PATH_RESPONSE] = on_path_response
    handlers[<int>FRAME_CONNECTION_CLOSE] = on_close
    handlers[<int>FRAME_APPLICATION_CLOSE] = on_close
    handlers[<int>FRAME_HANDSHAKE_DONE] = on_handshake_done


fill_handlers()


cdef uint64_t extension_frame(Conn *c, Cursor *at, uint64_t pn, uint8_t ecn, int64_t now,
        bint *eliciting) noexcept nogil:
    """A frame type without a row in wire: an extension's, if it was negotiated (SECURITY row 24)."""
    cdef ExtFrame *slot
    cdef Frame f
    cdef const ExtRow *row
    cdef uint64_t type
    cdef uint32_t i
    if c.ext_table == NULL or varint_get(at, &type):
        return FRAME_ENCODING_ERROR
    for i in range(c.ext_table.count):
        row = &c.ext_table.rows[i]
        if row.type != type or not (c.ext_negotiated >> i) & 1:
            continue
        f.type = type
        if row.parse(at, &f):
            return FRAME_ENCODING_ERROR
        eliciting[0] |= row.ack_eliciting
        if c.ext_in == NULL:
            c.ext_in = <ExtFrame *>malloc(EXT_QUEUE_MAX * sizeof(ExtFrame))
        if c.ext_in == NULL or c.ext_in_count == EXT_QUEUE_MAX:
            c.stats.ext_dropped += 1
            return 0
        slot = &c.ext_in[c.ext_in_count]
        slot.frame = f
        slot.pn = pn
        slot.time = now
        slot.ecn = ecn
        slot.epoch = EPOCH_1
        c.ext_in_count += 1
        return 0
    return FRAME_ENCODING_ERROR


cdef uint64_t dispatch_payload(Conn *c, int space, const uint8_t *p, const uint8_t *end, uint64_t pn, uint8_t ecn,
                               int64_t now, bint *eliciting) noexcept nogil:
    cdef Cursor at, before
    cdef Frame f
    cdef const FrameRow *row
    cdef uint64_t error
    cdef uint8_t bit = EPOCH_1 if space == SPACE_APP else (EPOCH_I if space == 0 else EPOCH_H)
    cdef int rc
    at.p = p
    at.end = end
    eliciting[0] = 0
    if p == end:
        c.close_frame_type = 0
        return PROTOCOL_VIOLATION        # RFC 9000 §12.4: a packet without frames
    while at.p < at.end:
        before = at
        rc = frame_parse(&at, &f)
        if rc:
            if rc == FRAME_UNKNOWN and space == SPACE_APP:
                at = before
                error = extension_frame(c, &at, pn, ecn, now, eliciting)
                if error == 0:
                    continue
                varint_get(&before, &c.close_frame_type)
                return error
            c.close_frame_type = 0
            varint_get(&before, &c.close_frame_type)
            return FRAME_ENCODING_ERROR
        if FRAME_STREAM <= f.type <= FRAME_STREAM + 7:
            eliciting[0] = 1
            if space != SPACE_APP:
                c.close_frame_type = f.type
                return PROTOCOL_VIOLATION
            error = streams_on_data(c, &f)
        else:
            row = frame_row(f.type)
            if not row.epochs & bit:
                c.close_frame_type = f.type
                return PROTOCOL_VIOLATION
            eliciting[0] |= row.ack_eliciting
            error = handlers[f.type](c, space, &f, now)
        if error:
            c.close_frame_type = f.type
            return error
        if c.error or c.close.state != CLOSE_NONE:
            return 0
    return 0
