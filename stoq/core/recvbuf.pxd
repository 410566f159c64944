# Reassembly of one ordered byte stream (RFC 9000 §2.2): STREAM and CRYPTO alike.
# In-order bytes are never copied here: they are noted as spans into the
# caller's datagram memory, and copied once by recvbuf_take into the object
# the application gets. Out-of-order bytes are copied into sparse pages.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from stoq.core.rangeset cimport RangeSet

cdef enum:
    RECV_PAGE = 4096         # one sparse page; memory for out-of-order data is at most 2x the window + 64 KiB

cdef struct Span:
    const uint8_t *p
    uint32_t length
    uint32_t owned           # 1: points into a page held until recvbuf_take

cdef struct RecvBuf:
    uint64_t next            # offset of the first byte not yet received in order
    uint64_t highest         # largest offset + 1 seen so far (flow control counts this)
    uint64_t final_size      # all ones: unknown
    uint64_t pending         # in-order bytes noted in spans, waiting for recvbuf_take
    Span *spans
    uint32_t span_count
    uint32_t span_capacity
    RangeSet ooo             # out-of-order byte ranges held in pages (absolute offsets, all >= next)
    void *pages              # private to recvbuf.pyx

cdef enum RecvBufResult:
    RECVBUF_OK = 0           # stored, or duplicate
    RECVBUF_NO_MEMORY = -1
    RECVBUF_FINAL_SIZE = -2  # data past the final size, or a final size that changed (RFC 9000 §4.5)

cdef void recvbuf_init(RecvBuf *b) noexcept nogil
cdef void recvbuf_clear(RecvBuf *b) noexcept nogil
# Take one frame. Overlaps with what is already there are ignored byte by byte. The memory at p must stay
# valid until the next recvbuf_take or recvbuf_detach (the end of the receive batch).
# On an error nothing has changed. The caller has checked offset + length <= 2^62 - 1 and flow control.
cdef int recvbuf_push(RecvBuf *b, uint64_t offset, const uint8_t *p, uint32_t length, bint fin) noexcept nogil
# Copy all pending in-order bytes to dst (room for b.pending) and forget them; returns the count.
cdef uint64_t recvbuf_take(RecvBuf *b, uint8_t *dst) noexcept nogil
# Copy at most `room` pending bytes to dst and forget those; the rest stays pending.
cdef uint64_t recvbuf_take_some(RecvBuf *b, uint8_t *dst, uint64_t room) noexcept nogil
# Make pending spans independent of the caller's memory (copied into owned memory), when the batch ends and nobody took them.
cdef int recvbuf_detach(RecvBuf *b) noexcept nogil
# 1 when the final size is known and every byte was received in order (pending bytes count as received).
cdef bint recvbuf_complete(const RecvBuf *b) noexcept nogil
cdef size_t recvbuf_memory(const RecvBuf *b) noexcept nogil
