# Sent packets of one space: a ring indexed by packet number, and frame
# records in a slab. Loss and acknowledgement are table walks.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t

cdef enum SentState:
    SENT_NONE = 0            # dropped from the books (pure ACK, or acknowledged, or lost)
    SENT_OUTSTANDING = 1
    SENT_ACKED = 2           # as NONE, and a run of losses ends here (RFC 9002 §7.6.2)

cdef enum SentFlag:
    SENT_ACK_ELICITING = 1
    SENT_IN_FLIGHT = 2
    SENT_APP_LIMITED = 4
    SENT_PROBE = 8
    SENT_MTU_PROBE = 16

# What one frame of a sent packet needs when it is acknowledged or lost.
cdef struct FrameRec:
    uint32_t next            # index of the packet's next record, 0: none
    uint8_t source           # row of the source table
    uint8_t kind             # the source's own
    uint8_t fin
    uint8_t pad
    uint64_t cookie
    uint64_t offset
    uint64_t length

cdef struct SentPacket:
    int64_t time
    uint64_t delivered       # rate sampler: bytes delivered when it left
    int64_t delivered_time
    int64_t first_sent_time
    uint32_t frames          # first record, 0: none
    uint32_t size            # bytes of the packet on the wire
    uint8_t state
    uint8_t flags
    uint8_t path
    uint8_t pad

cdef struct FrameSlab:
    FrameRec *items          # item 0 is never used
    uint32_t capacity
    uint32_t free            # head of the free list, 0: none
    uint32_t used            # high-water mark
    uint32_t live

cdef struct SentLog:
    SentPacket *ring
    uint64_t capacity        # power of two, 0 before the first packet
    uint64_t base            # lowest packet number still in the ring
    uint64_t next            # next packet number to use

cdef enum:
    SENTLOG_MAX = 1048576    # packets between base and next: beyond it we do not send (memory cap, 56 MiB)

cdef void slab_init(FrameSlab *s) noexcept nogil
cdef void slab_clear(FrameSlab *s) noexcept nogil
cdef uint32_t slab_take(FrameSlab *s) noexcept nogil                       # 0: out of memory
cdef void slab_give(FrameSlab *s, uint32_t index) noexcept nogil

cdef void sentlog_init(SentLog *l) noexcept nogil
cdef void sentlog_clear(SentLog *l) noexcept nogil
# Make sure that packet number l.next has a place. 0, or -1 (memory or SENTLOG_MAX).
cdef int sentlog_reserve(SentLog *l) noexcept nogil
# Move base past packets that are off the books.
cdef void sentlog_advance(SentLog *l) noexcept nogil
cdef void sentlog_shrink(SentLog *l) noexcept nogil


cdef inline SentPacket *sentlog_at(const SentLog *l, uint64_t pn) noexcept nogil:
    """Record of a packet number in [base, next)."""
    return &l.ring[pn & (l.capacity - 1)]
