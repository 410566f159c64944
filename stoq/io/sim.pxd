from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from stoq.io.simlink cimport LinkState, SimLink
from stoq.io.transport cimport Transport
from stoq.wire.batch cimport Address

cdef enum PacketKind:
    SIM_DATAGRAM
    SIM_REBIND               # `target` takes `destination` as its visible address
    SIM_WRITABLE             # `target` may send again

# A datagram under way (or a thing that happens at a time); its bytes follow the struct.
cdef struct SimPacket:
    int64_t due
    uint64_t order           # of making: breaks ties, so that equal times keep their order
    SimPacket *next          # in the inbox or the free list
    LinkState *link
    uint32_t target
    uint32_t length
    uint32_t capacity
    uint8_t kind
    uint8_t ecn
    bint keep_old            # of SIM_REBIND
    Address source
    Address destination


cdef class SimNetwork:
    cdef readonly int64_t now
    cdef readonly uint64_t seed
    cdef readonly uint64_t unreachable   # datagrams to addresses that nobody has
    cdef uint64_t order
    cdef uint64_t version                # changes with the addresses
    cdef SimPacket **heap
    cdef uint32_t heap_count
    cdef uint32_t heap_capacity
    cdef SimPacket *spare
    cdef list transports
    cdef dict nodes                      # the bytes of an Address -> index of its transport
    cdef dict links                      # (from, to) -> SimLink
    cdef object default_config
    cdef uint16_t next_port

    cdef SimPacket *packet(self, uint32_t length) except NULL
    cdef void recycle(self, SimPacket *p) noexcept
    cdef int schedule(self, SimPacket *p, int64_t due) except -1
    cdef SimPacket *pop(self) noexcept
    cdef int deliver(self, SimPacket *p) except -1
    cdef SimLink link_between(self, uint32_t a, uint32_t b)
    cdef int rebind_now(self, uint32_t index, const Address *address, bint keep_old) except -1
    cdef int carry(self, SimTransport sender, uint32_t target, SimLink link, const uint8_t *data, uint32_t length,
                   uint8_t ecn, const Address *destination) except -1


cdef class SimTransport(Transport):
    cdef readonly SimNetwork network
    cdef uint32_t index
    cdef Address visible                 # source that others see (a NAT may change it)
    cdef Address remote
    cdef SimPacket *inbox_head
    cdef SimPacket *inbox_tail
    cdef uint64_t inbox_bytes
    cdef uint64_t inbox_limit
    cdef uint64_t overflow
    cdef uint64_t send_limit             # bytes that may wait in a link before a send is put off; 0: none
    cdef bint blocked
    cdef bint gro
    cdef bint ecn
    cdef uint64_t last_version
    cdef uint32_t last_target            # what the last send resolved to
    cdef Address last_peer
    cdef SimLink last_link

    cdef void take_inbox(self) noexcept
    cdef bint resolve(self, const Address *peer) except -1
    cdef bint put_off(self, LinkState *link) except -1
