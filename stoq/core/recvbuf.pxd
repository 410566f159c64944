# Reassembly of one ordered byte stream (RFC 9000 §2.2): STREAM and CRYPTO alike.
# In-order bytes are never copied here: they are noted as spans into the
# caller's datagram memory, and copied once by recvbuf_take into the object
# the application gets. Out-of-order bytes are copied into sparse pages.
# Where frames disagree about a byte, the one received first wins
# (RFC 9000 §2.2 lets the receiver choose).
#
# A page carries one bit for each byte (held or not), not a set of ranges:
# a window riddled with one-byte gaps then costs 1.14x its size, where 16 to
# 20 bytes a range would make it 10x, and a frame costs the same at any
# number of gaps.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    RECV_PAGE = 4096         # one sparse page; all memory is at most 1.25x the window + 16 KiB, spans aside
    RECV_CELL = 512          # a page begins with this much and becomes whole when that does not suffice
    RECV_INLINE_SPANS = 2    # one frame in order, or one that joins bytes behind it, needs no array

# p == NULL: the next `length` bytes of the stream lie in the pages.
cdef struct Span:
    const uint8_t *p
    uint64_t length

# The struct may be moved in memory.
cdef struct RecvBuf:
    uint64_t next            # offset of the first byte not yet received in order
    uint64_t highest         # largest offset + 1 seen so far (flow control counts this)
    uint64_t final_size      # all ones: unknown
    uint64_t pending         # in-order bytes noted in spans, waiting for recvbuf_take
    uint64_t ahead           # out-of-order bytes held, all behind a gap at `next`
    Span first_spans[2]      # used while `spans` is NULL
    Span *spans
    uint32_t span_head       # spans taken entirely
    uint32_t span_count      # spans, those taken included
    uint32_t span_capacity   # of `spans`
    void *pages              # private to recvbuf.pyx

cdef enum RecvBufResult:
    RECVBUF_OK = 0           # stored, or duplicate
    RECVBUF_NO_MEMORY = -1
    RECVBUF_FINAL_SIZE = -2  # data past the final size, or a final size that changed (RFC 9000 §4.5)

cdef void recvbuf_init(RecvBuf *b) noexcept nogil
cdef void recvbuf_clear(RecvBuf *b) noexcept nogil       # frees all memory; as after recvbuf_init
# Take one frame. Overlaps with what is already there are ignored byte by byte. The memory at p must stay
# valid until the next recvbuf_take or recvbuf_detach (the end of the receive batch).
# On an error nothing has changed. The caller has checked offset + length <= 2^62 - 1 and flow control.
# RESET_STREAM: push its final size with length 0 and fin, then use `highest` for flow control.
cdef int recvbuf_push(RecvBuf *b, uint64_t offset, const uint8_t *p, uint32_t length, bint fin) noexcept nogil
# Copy all pending in-order bytes to dst (room for b.pending) and forget them; returns the count.
cdef uint64_t recvbuf_take(RecvBuf *b, uint8_t *dst) noexcept nogil
# Copy at most `room` pending bytes to dst and forget those; the rest stays pending.
cdef uint64_t recvbuf_take_some(RecvBuf *b, uint8_t *dst, uint64_t room) noexcept nogil
# Make pending spans independent of the caller's memory (copied into owned memory), when the batch ends and nobody took
# them: 0, or -1 out of memory (then take the bytes or clear the buffer before the caller's memory goes).
cdef int recvbuf_detach(RecvBuf *b) noexcept nogil
# 1 when the final size is known and every byte was received in order (pending bytes count as received).
cdef bint recvbuf_complete(const RecvBuf *b) noexcept nogil
# Bytes of heap held.
cdef size_t recvbuf_memory(const RecvBuf *b) noexcept nogil
# Every inner invariant holds (for tests). O(memory held).
cdef bint recvbuf_valid(const RecvBuf *b) noexcept nogil
