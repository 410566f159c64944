# An ordered reliable byte channel beside the streams: CRYPTO of one epoch, or an extension's own.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from stoq.core.recvbuf cimport RecvBuf
from stoq.core.sendbuf cimport DropList, SendBuf

cdef struct SideStream:
    RecvBuf recv
    SendBuf send
    uint64_t cap             # bytes above recv.next that may be buffered
    uint8_t epoch

cdef void side_init(SideStream *s, uint8_t epoch, uint64_t cap) noexcept nogil
cdef void side_clear(SideStream *s, DropList *drops) noexcept nogil
# Take bytes at an offset: 0; -1 out of memory; -2 beyond the cap (CRYPTO_BUFFER_EXCEEDED, RFC 9000 §7.5).
cdef int side_push(SideStream *s, uint64_t offset, const uint8_t *p, uint32_t length) noexcept nogil
cdef int side_write(SideStream *s, const uint8_t *p, uint64_t length) noexcept nogil
