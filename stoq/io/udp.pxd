from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from stoq.io cimport _socket as c
from stoq.io.buffers cimport RecvBuffer
from stoq.io.transport cimport Transport
from stoq.wire.batch cimport Address, SendBatch

cdef struct RecvSlot:
    uint64_t control[16]     # segment size, traffic class and packet info of one message: 88 bytes at most
    c.sockaddr_in6 name      # holds a sockaddr_in too
    c.iovec iov
    RecvBuffer *buffer       # NULL: lent out


cdef class UdpTransport(Transport):
    cdef int fd
    cdef bint ip6
    cdef bint wildcard
    cdef bint ecn
    cdef bint pktinfo
    cdef bint gro
    cdef int gso_error           # errno for which segmentation was turned off, 0 while it is on
    cdef uint8_t tos             # ECN bits that the connected socket sends by itself
    cdef Address remote          # connected peer; family 0 when not connected
    cdef Address receive_local   # `local` of received entries when the kernel does not say

    cdef c.mmsghdr rx[32]
    cdef RecvSlot slots[32]
    cdef uint32_t dirty          # slots [0, dirty) were written by the last receive call

    cdef c.msghdr tx
    cdef c.iovec tx_iov
    cdef c.sockaddr_in6 tx_name
    cdef uint64_t tx_control[16]
    cdef object caps_
    cdef dict reasons
    cdef int mtu

    cdef uint32_t arm(self) noexcept
    cdef void read_control(self, c.msghdr *m, uint16_t *segment, uint8_t *ecn, Address *local) noexcept
    cdef int transmit(self, uint8_t *data, size_t length, uint16_t segment, const Address *peer,
                      const Address *local, uint8_t ecn) noexcept
    cdef bint send_entry(self, SendBatch *batch, uint32_t i) noexcept
    cdef void count_error(self, int error, uint64_t datagrams) noexcept
