"""An ordered reliable byte channel beside the streams (CRYPTO, or an extension's own)."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from stoq.core.recvbuf cimport recvbuf_clear, recvbuf_init, recvbuf_push
from stoq.core.sendbuf cimport DropList, sendbuf_clear, sendbuf_init, sendbuf_write


cdef void side_init(SideStream *s, uint8_t epoch, uint64_t cap) noexcept nogil:
    recvbuf_init(&s.recv)
    sendbuf_init(&s.send)
    s.cap = cap
    s.epoch = epoch


cdef void side_clear(SideStream *s, DropList *drops) noexcept nogil:
    recvbuf_clear(&s.recv)
    sendbuf_clear(&s.send, drops)


cdef int side_push(SideStream *s, uint64_t offset, const uint8_t *p, uint32_t length) noexcept nogil:
    cdef uint64_t end = offset + length
    # Bytes in order but not taken yet count too: TLS caps its own messages, this caps what waits for it.
    if end > s.recv.next and end - s.recv.next + s.recv.pending > s.cap:
        return -2
    return -1 if recvbuf_push(&s.recv, offset, p, length, 0) == -1 else 0


cdef int side_write(SideStream *s, const uint8_t *p, uint64_t length) noexcept nogil:
    return sendbuf_write(&s.send, p, length, NULL)
