# Frames of RFC 9000 §19: one codec row per type. Parsing is flat: one struct
# for all, whose fields mean what the row says.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from stoq.wire.varint cimport Cursor

cdef enum FrameType:
    FRAME_PADDING = 0x00
    FRAME_PING = 0x01
    FRAME_ACK = 0x02
    FRAME_ACK_ECN = 0x03
    FRAME_RESET_STREAM = 0x04
    FRAME_STOP_SENDING = 0x05
    FRAME_CRYPTO = 0x06
    FRAME_NEW_TOKEN = 0x07
    FRAME_STREAM = 0x08          # to 0x0f: OFF 0x04, LEN 0x02, FIN 0x01
    FRAME_MAX_DATA = 0x10
    FRAME_MAX_STREAM_DATA = 0x11
    FRAME_MAX_STREAMS_BIDI = 0x12
    FRAME_MAX_STREAMS_UNI = 0x13
    FRAME_DATA_BLOCKED = 0x14
    FRAME_STREAM_DATA_BLOCKED = 0x15
    FRAME_STREAMS_BLOCKED_BIDI = 0x16
    FRAME_STREAMS_BLOCKED_UNI = 0x17
    FRAME_NEW_CONNECTION_ID = 0x18
    FRAME_RETIRE_CONNECTION_ID = 0x19
    FRAME_PATH_CHALLENGE = 0x1a
    FRAME_PATH_RESPONSE = 0x1b
    FRAME_CONNECTION_CLOSE = 0x1c
    FRAME_APPLICATION_CLOSE = 0x1d
    FRAME_HANDSHAKE_DONE = 0x1e

# Which packets may carry a frame (RFC 9000 §12.4, table 3).
cdef enum FrameEpoch:
    EPOCH_I = 1
    EPOCH_0 = 2
    EPOCH_H = 4
    EPOCH_1 = 8

#                        stream_id  offset   value            value2            data/length        extra
# ACK                                        largest          delay (raw)       ranges span        range_count,
#                                                               first_range; ect0, ect1, ce for 0x03
# RESET_STREAM           id                  error code       final size
# STOP_SENDING           id                  error code
# CRYPTO                            offset                                      bytes
# NEW_TOKEN                                                                     token
# STREAM                 id         offset                                      bytes              fin
# MAX_DATA, DATA_BLOCKED                     maximum
# MAX_STREAM_DATA, …     id                  maximum
# MAX_STREAMS, …_BLOCKED                     maximum
# NEW_CONNECTION_ID                          sequence         retire prior to   connection ID      16-byte reset token
# RETIRE_CONNECTION_ID                       sequence
# PATH_CHALLENGE/RESPONSE                                                       8 bytes
# CONNECTION_CLOSE                           error code       frame type        reason phrase
# APPLICATION_CLOSE                          error code                         reason phrase
# PADDING                                    run of padding bytes consumed (count)
# `type` of a STREAM frame always reads 0x08: its three bits live in the fields. Fields that a row does not
# name keep what was in them before.
cdef struct Frame:
    uint64_t type
    uint64_t stream_id
    uint64_t offset
    uint64_t value
    uint64_t value2
    const uint8_t *data
    size_t length
    const uint8_t *extra
    uint64_t range_count
    uint64_t first_range
    uint64_t ect0
    uint64_t ect1
    uint64_t ce
    bint fin

cdef enum FrameResult:
    FRAME_OK = 0
    FRAME_BAD = -1           # FRAME_ENCODING_ERROR (0x07)
    FRAME_UNKNOWN = -2       # a type without a row (also FRAME_ENCODING_ERROR, but extensions may claim it first)

# One row per type: facts that do not need code.
cdef struct FrameRow:
    uint64_t type
    const char *name         # as qlog spells it
    uint8_t epochs
    bint ack_eliciting
    bint probing             # RFC 9000 §9.1

cdef const FrameRow *frame_row(uint64_t type) noexcept nogil      # NULL: unknown. STREAM types all give the 0x08 row
# Parse one frame, type included. On success the cursor stands after it; data points into the input.
# FRAME_UNKNOWN leaves the cursor after the type; FRAME_BAD leaves it anywhere within the span. f.type is the type
# as read in both (0 when even that failed): the frame type of the CONNECTION_CLOSE that follows.
# Range lists of ACK frames are checked whole (RFC 9000 §19.3.1: no smallest below 0).
# STREAM and CRYPTO: offset + length beyond 2^62 - 1 is FRAME_BAD. MAX_STREAMS above 2^60 is FRAME_BAD.
# NEW_CONNECTION_ID: length 1..20, retire_prior_to <= sequence, else FRAME_BAD (§19.15). An empty NEW_TOKEN is FRAME_BAD
# (§19.7). A non-minimal type varint is FRAME_BAD (§12.4: PROTOCOL_VIOLATION allowed).
cdef int frame_parse(Cursor *c, Frame *f) noexcept nogil
# Walk the ranges of a parsed ACK, highest first, as inclusive [*low, *high]: 1 while there is one, 0 at the end.
cdef struct AckWalk:
    Cursor cursor
    uint64_t left
    uint64_t smallest
    bint started
cdef void ack_walk_init(AckWalk *w, const Frame *f) noexcept nogil
cdef bint ack_walk_next(AckWalk *w, const Frame *f, uint64_t *low, uint64_t *high) noexcept nogil
# Emit an ACK: `pairs` holds `count` inclusive ranges low0, high0, low1, high1, …, highest first, at least one number
# missing between two. Writes as many of the highest ranges as fit, and returns the bytes written; 0 when not even
# the first fits (or there is none).
cdef size_t frame_emit_ack(uint8_t *p, size_t room, uint64_t delay_raw, const uint64_t *pairs, size_t count, bint ecn,
                           uint64_t ect0, uint64_t ect1, uint64_t ce) noexcept nogil
# Emit a frame (not ACK, not PADDING) from the struct; STREAM with its length. Bytes written, or 0 when it does not fit
# into `room`. Every number must be below 2^62.
cdef size_t frame_emit(uint8_t *p, size_t room, const Frame *f) noexcept nogil
# STREAM head (data follows; with_length = 0 lets it run to the packet's end). Bytes written, 0 when it does not fit.
cdef size_t frame_emit_stream_head(uint8_t *p, size_t room, uint64_t stream_id, uint64_t offset, uint64_t length,
                                   bint with_length, bint fin) noexcept nogil
