# Bytes waiting to be sent, in flight, or to be sent again, of one ordered
# stream. Chunks refer to memory that an owner keeps alive (immutable bytes
# are not copied); an owner is released through a drop list, which the shell
# drains under the GIL.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from stoq.core.rangeset cimport RangeSet

cdef enum:
    SEND_GATHER = 4096       # small writes are copied together into chunks of at most this many bytes

cdef struct SendChunk:
    const uint8_t *p
    uint64_t offset          # stream offset of p[0]
    uint64_t length
    void *owner              # a PyObject* with a reference held, or NULL when p is malloc'd by us (then freed here)

cdef struct SendBuf:
    SendChunk *chunks        # ring of chunks, power-of-two capacity
    uint32_t chunk_capacity
    uint32_t chunk_head      # index of the oldest chunk
    uint32_t chunk_count
    uint32_t chunk_hint      # slot of the chunk that the last read ended in (sequential reads are O(1))
    uint64_t base            # every byte below is acknowledged and its chunks are gone
    uint64_t next            # first byte never sent
    uint64_t end             # bytes written so far
    bint fin                 # the application finished the stream at `end`; set by the caller, no write may follow
    bint fin_sent
    bint fin_acked
    bint fin_lost            # FIN must be sent again
    RangeSet acked           # acknowledged ranges above base
    RangeSet lost            # ranges to send again

# Owners to be released, which core cannot do itself. The shell, under the GIL, calls droplist_pop until it gives NULL
# and Py_DECREFs each owner; `count` alone is not enough (see `rest`).
cdef struct DropList:
    void **items
    uint32_t count
    uint32_t capacity
    void *rest               # owners of cleared buffers that did not fit when memory ran out; none is ever lost

cdef void droplist_init(DropList *d) noexcept nogil
cdef void droplist_clear(DropList *d) noexcept nogil     # frees the array, not the owners: drain first
# 0, or -1 out of memory: the caller still has the owner.
cdef int droplist_push(DropList *d, void *owner) noexcept nogil
# An owner, or NULL when none is left.
cdef void *droplist_pop(DropList *d) noexcept nogil


# 1 when droplist_pop would give something.
cdef inline bint droplist_waiting(const DropList *d) noexcept nogil:
    return d.count != 0 or d.rest != NULL


cdef void sendbuf_init(SendBuf *b) noexcept nogil
# Free everything; as after sendbuf_init. Owners go to `drops`, always.
cdef void sendbuf_clear(SendBuf *b, DropList *drops) noexcept nogil
# Append bytes. owner != NULL: referenced, the caller has already taken a reference for us. owner == NULL: copied
# (small appends are gathered: the last own chunk grows up to SEND_GATHER bytes, which may move it, so no pointer of
# sendbuf_run survives a write). 0, or -1: out of memory, a write after fin, or nothing to refer to (length 0 with an
# owner); then nothing has changed and the caller still has its reference.
cdef int sendbuf_write(SendBuf *b, const uint8_t *p, uint64_t length, void *owner) noexcept nogil
# Bytes that could be sent now: lost ones first, else new ones below `limit` (stream offset, flow control).
# Returns 1 and the next contiguous run [*offset, *offset + *length) with *length <= room; may be of length 0 only
# when a bare FIN is due. *fin tells whether FIN belongs on it, *is_new whether it is new data. 0 when nothing is due.
cdef bint sendbuf_peek(SendBuf *b, uint64_t room, uint64_t limit, uint64_t *offset, uint64_t *length, bint *fin,
                       bint *is_new) noexcept nogil
# Mark a run that sendbuf_peek gave (or a prefix of it, then fin = 0) as sent: 0 (trimming a run takes no memory).
cdef int sendbuf_sent(SendBuf *b, uint64_t offset, uint64_t length, bint fin) noexcept nogil
# Copy stream bytes [offset, offset + length) to dst; they must lie in [base, end).
cdef void sendbuf_copy(SendBuf *b, uint64_t offset, uint64_t length, uint8_t *dst) noexcept nogil
# Pointer to the run that starts at `offset` and its contiguous length in memory, capped at `length` (for sealing
# without a copy). NULL when length is 0.
cdef const uint8_t *sendbuf_run(SendBuf *b, uint64_t offset, uint64_t length, uint64_t *got) noexcept nogil
# A packet with this run was acknowledged / declared lost. Spurious order is fine: acked wins over lost. What was never
# sent is ignored. 0, or -1 out of memory (the buffer stays valid; some of the run may be sent once more than needed,
# or, for sendbuf_lost, not be sent again).
cdef int sendbuf_acked(SendBuf *b, uint64_t offset, uint64_t length, bint fin, DropList *drops) noexcept nogil
cdef int sendbuf_lost(SendBuf *b, uint64_t offset, uint64_t length, bint fin) noexcept nogil
# Everything written, sent and acknowledged, FIN included.
cdef bint sendbuf_complete(const SendBuf *b) noexcept nogil
# Bytes of heap held, without those that owners hold.
cdef size_t sendbuf_memory(const SendBuf *b) noexcept nogil
# Every inner invariant holds (for tests). O(n).
cdef bint sendbuf_valid(const SendBuf *b) noexcept nogil
