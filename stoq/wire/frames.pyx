"""Frames of RFC 9000 §19: the table of rows, the parser, the emitters. frame_codec.pyx is their Python face."""
from libc.string cimport memcpy
from stoq.wire.varint cimport Cursor, VARINT_MAX, unlikely, varint_get, varint_put, varint_size

cdef enum:
    STREAM_FIN = 0x01        # RFC 9000 §19.8
    STREAM_LEN = 0x02
    STREAM_OFF = 0x04
    RESET_TOKEN_SIZE = 16    # §19.15
    CID_SIZE_MAX = 20
    CHALLENGE_SIZE = 8       # §19.17
    ROWS = 0x1F
    EPOCHS_ALL = EPOCH_I | EPOCH_0 | EPOCH_H | EPOCH_1
    EPOCHS_IH1 = EPOCH_I | EPOCH_H | EPOCH_1
    EPOCHS_01 = EPOCH_0 | EPOCH_1

# ---------------------------------------------------------------- rows (RFC 9000 §12.4, table 3)
cdef FrameRow[ROWS] table


cdef void row(uint64_t type, const char *name, int epochs, bint ack_eliciting=True, bint probing=False) noexcept:
    table[type].type = type
    table[type].name = name
    table[type].epochs = <uint8_t>epochs
    table[type].ack_eliciting = ack_eliciting
    table[type].probing = probing


row(FRAME_PADDING, b"padding", EPOCHS_ALL, False, True)
row(FRAME_PING, b"ping", EPOCHS_ALL)
row(FRAME_ACK, b"ack", EPOCHS_IH1, False)
row(FRAME_ACK_ECN, b"ack", EPOCHS_IH1, False)
row(FRAME_RESET_STREAM, b"reset_stream", EPOCHS_01)
row(FRAME_STOP_SENDING, b"stop_sending", EPOCHS_01)
row(FRAME_CRYPTO, b"crypto", EPOCHS_IH1)
row(FRAME_NEW_TOKEN, b"new_token", EPOCH_1)
row(FRAME_STREAM, b"stream", EPOCHS_01)
row(FRAME_MAX_DATA, b"max_data", EPOCHS_01)
row(FRAME_MAX_STREAM_DATA, b"max_stream_data", EPOCHS_01)
row(FRAME_MAX_STREAMS_BIDI, b"max_streams", EPOCHS_01)
row(FRAME_MAX_STREAMS_UNI, b"max_streams", EPOCHS_01)
row(FRAME_DATA_BLOCKED, b"data_blocked", EPOCHS_01)
row(FRAME_STREAM_DATA_BLOCKED, b"stream_data_blocked", EPOCHS_01)
row(FRAME_STREAMS_BLOCKED_BIDI, b"streams_blocked", EPOCHS_01)
row(FRAME_STREAMS_BLOCKED_UNI, b"streams_blocked", EPOCHS_01)
row(FRAME_NEW_CONNECTION_ID, b"new_connection_id", EPOCHS_01, True, True)
row(FRAME_RETIRE_CONNECTION_ID, b"retire_connection_id", EPOCHS_01)
row(FRAME_PATH_CHALLENGE, b"path_challenge", EPOCHS_01, True, True)
row(FRAME_PATH_RESPONSE, b"path_response", EPOCH_1, True, True)
row(FRAME_CONNECTION_CLOSE, b"connection_close", EPOCHS_ALL, False)
row(FRAME_APPLICATION_CLOSE, b"connection_close", EPOCHS_01, False)
row(FRAME_HANDSHAKE_DONE, b"handshake_done", EPOCH_1)


cdef const FrameRow *frame_row(uint64_t type) noexcept nogil:
    if type & ~<uint64_t>7 == FRAME_STREAM:
        return &table[<size_t>FRAME_STREAM]
    return &table[type] if type < ROWS else NULL


# ---------------------------------------------------------------- parsing
cdef inline int take(Cursor *c, uint64_t length, Frame *f) noexcept nogil:
    """`length` bytes as the frame's data."""
    if unlikely(<uint64_t>(c.end - c.p) < length):
        return FRAME_BAD
    f.data = c.p
    f.length = <size_t>length
    c.p += length
    return FRAME_OK


cdef inline int take_counted(Cursor *c, Frame *f) noexcept nogil:
    """A varint length, then that many bytes."""
    cdef uint64_t length
    if unlikely(varint_get(c, &length)):
        return FRAME_BAD
    return take(c, length, f)


cdef inline int parse_stream(Cursor *c, uint64_t type, Frame *f) noexcept nogil:
    cdef uint64_t length
    f.type = FRAME_STREAM
    f.fin = type & STREAM_FIN
    if unlikely(varint_get(c, &f.stream_id)):
        return FRAME_BAD
    if type & STREAM_OFF:
        if unlikely(varint_get(c, &f.offset)):
            return FRAME_BAD
    else:
        f.offset = 0
    if type & STREAM_LEN:
        if unlikely(varint_get(c, &length)):
            return FRAME_BAD
    else:
        length = <uint64_t>(c.end - c.p)
    if unlikely(take(c, length, f) or f.offset + length > VARINT_MAX):
        return FRAME_BAD
    return FRAME_OK


cdef inline int parse_ack(Cursor *c, uint64_t type, Frame *f) noexcept nogil:
    """§19.3. The loop ends with the bytes at the latest, whatever the range count claims."""
    cdef uint64_t smallest, left, gap, length
    if unlikely(varint_get(c, &f.value) or varint_get(c, &f.value2) or varint_get(c, &f.range_count)
                or varint_get(c, &f.first_range)):
        return FRAME_BAD
    if unlikely(f.first_range > f.value):
        return FRAME_BAD
    f.data = c.p
    smallest = f.value - f.first_range
    left = f.range_count
    while left:
        left -= 1
        if unlikely(varint_get(c, &gap) or varint_get(c, &length)):
            return FRAME_BAD
        # The next range ends at smallest - gap - 2 and must not begin below 0. Varints: no overflow.
        if unlikely(gap + length + 2 > smallest):
            return FRAME_BAD
        smallest -= gap + length + 2
    f.length = <size_t>(c.p - f.data)
    if type == FRAME_ACK_ECN:
        if unlikely(varint_get(c, &f.ect0) or varint_get(c, &f.ect1) or varint_get(c, &f.ce)):
            return FRAME_BAD
    return FRAME_OK


cdef inline int parse_padding(Cursor *c, Frame *f) noexcept nogil:
    """The whole run: an Initial is padded to 1,200 bytes, so eight bytes a step."""
    cdef const uint8_t *start = c.p
    cdef const uint8_t *p = start
    cdef uint64_t word
    while c.end - p >= 8:
        memcpy(&word, p, 8)
        if word:
            break
        p += 8
    while p < c.end and p[0] == 0:
        p += 1
    f.value = <uint64_t>(p - start) + 1      # the type byte was one of them
    c.p = p
    return FRAME_OK


cdef inline int parse_new_connection_id(Cursor *c, Frame *f) noexcept nogil:
    """§19.15."""
    if unlikely(varint_get(c, &f.value) or varint_get(c, &f.value2) or c.p == c.end):
        return FRAME_BAD
    f.length = c.p[0]
    c.p += 1
    if unlikely(f.length == 0 or f.length > CID_SIZE_MAX or f.value2 > f.value):
        return FRAME_BAD
    if unlikely(<size_t>(c.end - c.p) < f.length + RESET_TOKEN_SIZE):
        return FRAME_BAD
    f.data = c.p
    f.extra = c.p + f.length
    c.p += f.length + RESET_TOKEN_SIZE
    return FRAME_OK


cdef int parse_body(Cursor *c, uint64_t type, Frame *f) noexcept nogil:
    """Everything but STREAM and ACK. Compiled to one jump table."""
    if type == FRAME_PADDING:
        return parse_padding(c, f)
    elif type == FRAME_PING or type == FRAME_HANDSHAKE_DONE:
        return FRAME_OK
    elif type == FRAME_CRYPTO:
        if varint_get(c, &f.offset) or take_counted(c, f) or f.offset + f.length > VARINT_MAX:
            return FRAME_BAD
        return FRAME_OK
    elif type == FRAME_MAX_DATA or type == FRAME_DATA_BLOCKED or type == FRAME_RETIRE_CONNECTION_ID:
        return FRAME_BAD if varint_get(c, &f.value) else FRAME_OK
    elif type == FRAME_MAX_STREAM_DATA or type == FRAME_STREAM_DATA_BLOCKED or type == FRAME_STOP_SENDING:
        return FRAME_BAD if varint_get(c, &f.stream_id) or varint_get(c, &f.value) else FRAME_OK
    elif (type == FRAME_MAX_STREAMS_BIDI or type == FRAME_MAX_STREAMS_UNI or type == FRAME_STREAMS_BLOCKED_BIDI
          or type == FRAME_STREAMS_BLOCKED_UNI):
        # §19.11, §19.14: at most 2^60 streams
        return FRAME_BAD if varint_get(c, &f.value) or f.value > <uint64_t>1 << 60 else FRAME_OK
    elif type == FRAME_RESET_STREAM:
        if varint_get(c, &f.stream_id) or varint_get(c, &f.value) or varint_get(c, &f.value2):
            return FRAME_BAD
        return FRAME_OK
    elif type == FRAME_NEW_CONNECTION_ID:
        return parse_new_connection_id(c, f)
    elif type == FRAME_PATH_CHALLENGE or type == FRAME_PATH_RESPONSE:
        return take(c, CHALLENGE_SIZE, f)
    elif type == FRAME_NEW_TOKEN:
        return FRAME_BAD if take_counted(c, f) or f.length == 0 else FRAME_OK      # §19.7: never empty
    elif type == FRAME_CONNECTION_CLOSE:
        return FRAME_BAD if varint_get(c, &f.value) or varint_get(c, &f.value2) or take_counted(c, f) else FRAME_OK
    elif type == FRAME_APPLICATION_CLOSE:
        return FRAME_BAD if varint_get(c, &f.value) or take_counted(c, f) else FRAME_OK
    return FRAME_UNKNOWN


cdef int frame_parse(Cursor *c, Frame *f) noexcept nogil:
    cdef Cursor k                # a local one can live in registers
    cdef uint64_t type
    cdef int rc
    k.p = c.p
    k.end = c.end
    f.type = 0
    if unlikely(varint_get(&k, &type)):
        return FRAME_BAD
    f.type = type
    if type & ~<uint64_t>7 == FRAME_STREAM and k.p - c.p == 1:
        rc = parse_stream(&k, type, f)
    elif (type == FRAME_ACK or type == FRAME_ACK_ECN) and k.p - c.p == 1:
        rc = parse_ack(&k, type, f)
    elif unlikely(<size_t>(k.p - c.p) != varint_size(type)):
        rc = FRAME_BAD           # §12.4: the type has one encoding
    else:
        rc = parse_body(&k, type, f)
    c.p = k.p
    return rc


cdef void ack_walk_init(AckWalk *w, const Frame *f) noexcept nogil:
    w.cursor.p = f.data
    w.cursor.end = f.data + f.length
    w.left = f.range_count
    w.smallest = f.value
    w.started = False


cdef bint ack_walk_next(AckWalk *w, const Frame *f, uint64_t *low, uint64_t *high) noexcept nogil:
    cdef uint64_t gap, length
    if not w.started:
        w.started = True
        high[0] = f.value
        low[0] = w.smallest = f.value - f.first_range
        return True
    if w.left == 0:
        return False
    w.left -= 1
    # frame_parse has checked the list; this only keeps a Frame that never went through it from running away.
    if unlikely(varint_get(&w.cursor, &gap) or varint_get(&w.cursor, &length) or gap + length + 2 > w.smallest):
        w.left = 0
        return False
    high[0] = w.smallest - gap - 2
    low[0] = w.smallest = high[0] - length
    return True


# ---------------------------------------------------------------- emitting
cdef inline size_t emit_numbers(uint8_t *p, size_t room, uint64_t type, size_t count, uint64_t a, uint64_t b,
                                uint64_t c) noexcept nogil:
    """A type below 0x40 and the first `count` (0 to 3) of a, b, c."""
    cdef size_t size = 1
    if count > 0:
        size += varint_size(a)
    if count > 1:
        size += varint_size(b)
    if count > 2:
        size += varint_size(c)
    if unlikely(size > room):
        return 0
    p[0] = <uint8_t>type
    p += 1
    if count > 0:
        p = varint_put(p, a)
    if count > 1:
        p = varint_put(p, b)
    if count > 2:
        p = varint_put(p, c)
    return size


cdef inline size_t append(uint8_t *p, size_t room, size_t head, const uint8_t *data, size_t length) noexcept nogil:
    """`length` bytes behind a head of `head` bytes (0: the head did not fit, so nothing does)."""
    if head == 0 or room - head < length:
        return 0
    if length:
        memcpy(p + head, data, length)
    return head + length


cdef size_t frame_emit_stream_head(uint8_t *p, size_t room, uint64_t stream_id, uint64_t offset, uint64_t length,
                                   bint with_length, bint fin) noexcept nogil:
    cdef uint8_t type = FRAME_STREAM
    cdef size_t size = 1 + varint_size(stream_id)
    if fin:
        type |= STREAM_FIN
    if offset:
        type |= STREAM_OFF
        size += varint_size(offset)
    if with_length:
        type |= STREAM_LEN
        size += varint_size(length)
    if unlikely(size > room):
        return 0
    p[0] = type
    p = varint_put(p + 1, stream_id)
    if offset:
        p = varint_put(p, offset)
    if with_length:
        varint_put(p, length)
    return size


cdef size_t frame_emit_ack(uint8_t *p, size_t room, uint64_t delay_raw, const uint64_t *pairs, size_t count, bint ecn,
                           uint64_t ect0, uint64_t ect1, uint64_t ce) noexcept nogil:
    cdef uint8_t *start = p
    cdef uint64_t smallest
    cdef size_t size, step, fitting, i
    if count == 0 or pairs[0] > pairs[1]:
        return 0
    # The count field is reserved at its largest; a list that is cut short may write a shorter one.
    size = 1 + varint_size(pairs[1]) + varint_size(delay_raw) + varint_size(count - 1)
    size += varint_size(pairs[1] - pairs[0])
    if ecn:
        size += varint_size(ect0) + varint_size(ect1) + varint_size(ce)
    if size > room:
        return 0
    smallest = pairs[0]
    fitting = 1
    while fitting < count:
        i = 2 * fitting
        # A range that does not lie below the one before, with a gap, cannot be written: the list ends there.
        if unlikely(pairs[i] > pairs[i + 1] or smallest < 2 or pairs[i + 1] > smallest - 2):
            break
        step = varint_size(smallest - pairs[i + 1] - 2) + varint_size(pairs[i + 1] - pairs[i])
        if step > room - size:
            break
        size += step
        smallest = pairs[i]
        fitting += 1

    p[0] = FRAME_ACK_ECN if ecn else FRAME_ACK
    p = varint_put(p + 1, pairs[1])
    p = varint_put(p, delay_raw)
    p = varint_put(p, fitting - 1)
    p = varint_put(p, pairs[1] - pairs[0])
    for i in range(1, fitting):
        p = varint_put(p, pairs[2 * i - 2] - pairs[2 * i + 1] - 2)
        p = varint_put(p, pairs[2 * i + 1] - pairs[2 * i])
    if ecn:
        p = varint_put(p, ect0)
        p = varint_put(p, ect1)
        p = varint_put(p, ce)
    return <size_t>(p - start)


cdef size_t frame_emit(uint8_t *p, size_t room, const Frame *f) noexcept nogil:
    cdef uint64_t type = f.type
    cdef size_t head
    if type == FRAME_PING or type == FRAME_HANDSHAKE_DONE:
        return emit_numbers(p, room, type, 0, 0, 0, 0)
    elif type == FRAME_STREAM:
        head = frame_emit_stream_head(p, room, f.stream_id, f.offset, f.length, True, f.fin)
        return append(p, room, head, f.data, f.length)
    elif type == FRAME_CRYPTO:
        head = emit_numbers(p, room, type, 2, f.offset, f.length, 0)
        return append(p, room, head, f.data, f.length)
    elif (type == FRAME_MAX_DATA or type == FRAME_DATA_BLOCKED or type == FRAME_RETIRE_CONNECTION_ID
          or type == FRAME_MAX_STREAMS_BIDI or type == FRAME_MAX_STREAMS_UNI
          or type == FRAME_STREAMS_BLOCKED_BIDI or type == FRAME_STREAMS_BLOCKED_UNI):
        return emit_numbers(p, room, type, 1, f.value, 0, 0)
    elif type == FRAME_MAX_STREAM_DATA or type == FRAME_STREAM_DATA_BLOCKED or type == FRAME_STOP_SENDING:
        return emit_numbers(p, room, type, 2, f.stream_id, f.value, 0)
    elif type == FRAME_RESET_STREAM:
        return emit_numbers(p, room, type, 3, f.stream_id, f.value, f.value2)
    elif type == FRAME_NEW_TOKEN:
        head = emit_numbers(p, room, type, 1, f.length, 0, 0)
        return append(p, room, head, f.data, f.length)
    elif type == FRAME_NEW_CONNECTION_ID:
        if f.length > CID_SIZE_MAX:
            return 0
        # A length below 64 is its own varint.
        head = emit_numbers(p, room, type, 3, f.value, f.value2, f.length)
        head = append(p, room, head, f.data, f.length)
        return append(p, room, head, f.extra, RESET_TOKEN_SIZE)
    elif type == FRAME_PATH_CHALLENGE or type == FRAME_PATH_RESPONSE:
        if f.length != CHALLENGE_SIZE:
            return 0
        head = emit_numbers(p, room, type, 0, 0, 0, 0)
        return append(p, room, head, f.data, CHALLENGE_SIZE)
    elif type == FRAME_CONNECTION_CLOSE:
        head = emit_numbers(p, room, type, 3, f.value, f.value2, f.length)
        return append(p, room, head, f.data, f.length)
    elif type == FRAME_APPLICATION_CLOSE:
        head = emit_numbers(p, room, type, 2, f.value, f.length, 0)
        return append(p, room, head, f.data, f.length)
    return 0
