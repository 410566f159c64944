"""What one stream has to send: the bodies of sendbuf.pxd."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from stoq.core.memory cimport memory_alloc, memory_free, memory_resize
from stoq.core.rangeset cimport (
    Range, rangeset_add, rangeset_clear, rangeset_first, rangeset_first_gap, rangeset_init, rangeset_memory,
    rangeset_remove, rangeset_seek, rangeset_valid,
)

cdef enum:
    FIRST_CHUNKS = 4         # a power of two; 128 bytes
    FIRST_OWN = 64           # a small write (an HTTP/3 frame head, a ping) takes this much
    FIRST_DROPS = 16
    DROPS_KEPT = 256         # a longer array is given back once drained

# Owners that are still to be released, in the memory of a ring of chunks; they follow in memory.
cdef struct Rest:
    Rest *next
    uint64_t count


# -- owners to release ------------------------------------------------------------------------------------------------

cdef void droplist_init(DropList *d) noexcept nogil:
    memset(d, 0, sizeof(DropList))


cdef void droplist_clear(DropList *d) noexcept nogil:
    memory_free(d.items)
    d.items = NULL
    d.count = 0
    d.capacity = 0


cdef int droplist_push(DropList *d, void *owner) noexcept nogil:
    cdef uint32_t capacity
    cdef void **items
    if d.count == d.capacity:
        capacity = d.capacity * 2 if d.capacity != 0 else FIRST_DROPS
        items = <void **>memory_resize(d.items, capacity * sizeof(void *))
        if items == NULL:
            return -1
        d.items = items
        d.capacity = capacity
    d.items[d.count] = owner
    d.count += 1
    return 0


cdef void *droplist_pop(DropList *d) noexcept nogil:
    cdef Rest *rest
    cdef void *owner
    if d.count != 0:
        d.count -= 1
        return d.items[d.count]
    if d.capacity > DROPS_KEPT:
        droplist_clear(d)
    if d.rest == NULL:
        return NULL
    rest = <Rest *>d.rest
    rest.count -= 1
    owner = (<void **>(rest + 1))[rest.count]
    if rest.count == 0:
        d.rest = rest.next
        memory_free(rest)
    return owner


# -- chunks -----------------------------------------------------------------------------------------------------------

# The i-th chunk from the oldest.
cdef inline SendChunk *chunk_at(const SendBuf *b, uint32_t i) noexcept nogil:
    return &b.chunks[(b.chunk_head + i) & (b.chunk_capacity - 1)]


cdef inline bint holds(const SendChunk *chunk, uint64_t offset) noexcept nogil:
    return offset - chunk.offset < chunk.length


# Bytes that stand behind an own chunk of this length: a function of the length, so that no field is needed.
cdef inline uint64_t own_capacity(uint64_t length) noexcept nogil:
    cdef uint64_t capacity = FIRST_OWN
    if length > SEND_GATHER:
        return length
    while capacity < length:
        capacity *= 2
    return capacity


# The chunk that holds this byte, which lies in [base, end). Reads are sequential but for retransmissions.
cdef SendChunk *chunk_of(SendBuf *b, uint64_t offset) noexcept nogil:
    cdef uint32_t mask = b.chunk_capacity - 1, low, high, middle
    low = (b.chunk_hint - b.chunk_head) & mask
    if low < b.chunk_count:
        if holds(chunk_at(b, low), offset):
            return chunk_at(b, low)
        low += 1
        if low < b.chunk_count and holds(chunk_at(b, low), offset):
            b.chunk_hint = (b.chunk_head + low) & mask
            return chunk_at(b, low)
    low = 0
    high = b.chunk_count
    while high - low > 1:
        middle = (low + high) >> 1
        if chunk_at(b, middle).offset <= offset:
            low = middle
        else:
            high = middle
    b.chunk_hint = (b.chunk_head + low) & mask
    return chunk_at(b, low)


# Room for one more chunk in the ring: 0, or -1 out of memory.
cdef int ring_reserve(SendBuf *b) noexcept nogil:
    cdef uint32_t i, capacity
    cdef SendChunk *chunks
    if b.chunk_count < b.chunk_capacity:
        return 0
    capacity = b.chunk_capacity * 2 if b.chunk_capacity != 0 else FIRST_CHUNKS
    chunks = <SendChunk *>memory_alloc(capacity * sizeof(SendChunk))
    if chunks == NULL:
        return -1
    for i in range(b.chunk_count):
        chunks[i] = chunk_at(b, i)[0]
    memory_free(b.chunks)
    b.chunks = chunks
    b.chunk_capacity = capacity
    b.chunk_head = 0
    b.chunk_hint = 0
    return 0


cdef void ring_free(SendBuf *b) noexcept nogil:
    memory_free(b.chunks)
    b.chunks = NULL
    b.chunk_capacity = 0
    b.chunk_head = 0
    b.chunk_count = 0
    b.chunk_hint = 0


# Release the chunks below base. An owner that finds no room stays, until the next time or sendbuf_clear.
cdef void chunks_release(SendBuf *b, DropList *drops) noexcept nogil:
    cdef SendChunk *chunk
    while b.chunk_count != 0:
        chunk = &b.chunks[b.chunk_head]
        if chunk.offset + chunk.length > b.base:
            return
        if chunk.owner == NULL:
            memory_free(<void *>chunk.p)
        elif droplist_push(drops, chunk.owner):
            return
        b.chunk_head = (b.chunk_head + 1) & (b.chunk_capacity - 1)
        b.chunk_count -= 1
    ring_free(b)


# The drop list cannot grow: make the ring itself, with the owners left in it, a part of the list.
cdef void ring_hand_over(SendBuf *b, DropList *drops) noexcept nogil:
    cdef Rest *rest = <Rest *>b.chunks
    cdef void **owners = <void **>(rest + 1)
    cdef SendChunk chunk
    cdef uint64_t count = 0
    cdef uint32_t i
    # Slot by slot, as an owner is written no further than the slot that was just read.
    for i in range(b.chunk_capacity):
        chunk = b.chunks[i]
        if (i - b.chunk_head) & (b.chunk_capacity - 1) >= b.chunk_count:
            continue
        if chunk.owner == NULL:
            memory_free(<void *>chunk.p)
        else:
            owners[count] = chunk.owner
            count += 1
    rest.count = count
    rest.next = <Rest *>drops.rest
    drops.rest = rest
    b.chunks = NULL


# -- the contract -----------------------------------------------------------------------------------------------------

cdef void sendbuf_init(SendBuf *b) noexcept nogil:
    memset(b, 0, sizeof(SendBuf))
    rangeset_init(&b.acked)
    rangeset_init(&b.lost)


cdef void sendbuf_clear(SendBuf *b, DropList *drops) noexcept nogil:
    b.base = b.end
    chunks_release(b, drops)
    if b.chunk_count != 0:
        ring_hand_over(b, drops)
    rangeset_clear(&b.acked)
    rangeset_clear(&b.lost)
    sendbuf_init(b)


cdef int sendbuf_write(SendBuf *b, const uint8_t *p, uint64_t length, void *owner) noexcept nogil:
    cdef SendChunk *chunk
    cdef uint8_t *own
    cdef uint64_t capacity
    if b.fin:
        return -1
    if length == 0:
        return -1 if owner != NULL else 0
    if owner == NULL:
        if b.chunk_count != 0:
            chunk = chunk_at(b, b.chunk_count - 1)
            if chunk.owner == NULL and chunk.length + length <= SEND_GATHER:
                capacity = own_capacity(chunk.length + length)
                if capacity != own_capacity(chunk.length):
                    own = <uint8_t *>memory_resize(<void *>chunk.p, capacity)
                    if own == NULL:
                        return -1
                    chunk.p = own
                memcpy(<uint8_t *>chunk.p + chunk.length, p, length)
                chunk.length += length
                b.end += length
                return 0
        own = <uint8_t *>memory_alloc(own_capacity(length))
        if own == NULL:
            return -1
        memcpy(own, p, length)
        p = own
    if ring_reserve(b):
        if owner == NULL:
            memory_free(<void *>p)
        return -1
    b.chunk_count += 1
    chunk = chunk_at(b, b.chunk_count - 1)
    chunk.p = p
    chunk.offset = b.end
    chunk.length = length
    chunk.owner = owner
    b.end += length
    return 0


# FIN must go (again).
cdef inline bint fin_due(const SendBuf *b) noexcept nogil:
    return b.fin and not b.fin_acked and (b.fin_lost or not b.fin_sent)


cdef bint sendbuf_peek(SendBuf *b, uint64_t room, uint64_t limit, uint64_t *offset, uint64_t *length, bint *fin,
                       bint *is_new) noexcept nogil:
    cdef Range r
    cdef uint64_t start, stop
    if room != 0:
        if b.lost.count != 0:
            r = rangeset_first(&b.lost)
            start = r.start
            stop = r.end
            is_new[0] = False
        else:
            start = b.next
            stop = b.end if b.end < limit else limit
            is_new[0] = True
        if start < stop:
            if stop - start > room:
                stop = start + room
            offset[0] = start
            length[0] = stop - start
            fin[0] = stop == b.end and fin_due(b)
            return True
    if b.next == b.end and fin_due(b):
        offset[0] = b.end
        length[0] = 0
        fin[0] = True
        is_new[0] = not b.fin_sent
        return True
    return False


cdef int sendbuf_sent(SendBuf *b, uint64_t offset, uint64_t length, bint fin) noexcept nogil:
    if fin:
        b.fin_sent = True
        b.fin_lost = False
    if offset == b.next:
        b.next += length
        return 0
    return rangeset_remove(&b.lost, offset, offset + length)


cdef void sendbuf_copy(SendBuf *b, uint64_t offset, uint64_t length, uint8_t *dst) noexcept nogil:
    cdef SendChunk *chunk
    cdef uint64_t at, n
    while length != 0:
        chunk = chunk_of(b, offset)
        at = offset - chunk.offset
        n = chunk.length - at
        if n > length:
            n = length
        memcpy(dst, chunk.p + at, n)
        offset += n
        dst += n
        length -= n


cdef const uint8_t *sendbuf_run(SendBuf *b, uint64_t offset, uint64_t length, uint64_t *got) noexcept nogil:
    cdef SendChunk *chunk
    cdef uint64_t at
    got[0] = 0
    if length == 0:
        return NULL
    chunk = chunk_of(b, offset)
    at = offset - chunk.offset
    got[0] = chunk.length - at if chunk.length - at < length else length
    return chunk.p + at


cdef int sendbuf_acked(SendBuf *b, uint64_t offset, uint64_t length, bint fin, DropList *drops) noexcept nogil:
    cdef uint64_t end = offset + length
    cdef Range r
    if fin and b.fin_sent:
        b.fin_acked = True
        b.fin_lost = False
    if end > b.next:
        end = b.next
    if end <= b.base or offset >= end:
        return 0
    if offset > b.base:
        if rangeset_add(&b.acked, offset, end):
            return -1
        return rangeset_remove(&b.lost, offset, end) if b.lost.count != 0 else 0
    if b.acked.count != 0:
        if rangeset_seek(&b.acked, end, &r) == 0 and r.start <= end:
            end = r.end
        rangeset_remove(&b.acked, 0, end)       # ends where a range ends: takes no memory
    b.base = end
    if b.lost.count != 0:
        rangeset_remove(&b.lost, 0, end)        # nothing stays below: takes no memory
    chunks_release(b, drops)
    return 0


cdef int sendbuf_lost(SendBuf *b, uint64_t offset, uint64_t length, bint fin) noexcept nogil:
    cdef uint64_t end = offset + length
    cdef Range gap
    if fin and b.fin_sent and not b.fin_acked:
        b.fin_lost = True
    if end > b.next:
        end = b.next
    if offset < b.base:
        offset = b.base
    if b.acked.count == 0:
        return rangeset_add(&b.lost, offset, end) if offset < end else 0
    while rangeset_first_gap(&b.acked, offset, end, &gap) == 0:
        if rangeset_add(&b.lost, gap.start, gap.end):
            return -1
        offset = gap.end
    return 0


cdef bint sendbuf_complete(const SendBuf *b) noexcept nogil:
    return b.fin and b.fin_acked and b.base == b.end


cdef size_t sendbuf_memory(const SendBuf *b) noexcept nogil:
    cdef size_t total = b.chunk_capacity * sizeof(SendChunk) + rangeset_memory(&b.acked) + rangeset_memory(&b.lost)
    cdef SendChunk *chunk
    cdef uint32_t i
    for i in range(b.chunk_count):
        chunk = chunk_at(b, i)
        if chunk.owner == NULL:
            total += own_capacity(chunk.length)
    return total


cdef bint sendbuf_valid(const SendBuf *b) noexcept nogil:
    cdef uint64_t at = 0
    cdef uint32_t i
    if b.base > b.next or b.next > b.end or b.chunk_count > b.chunk_capacity:
        return False
    for i in range(b.chunk_count):
        if chunk_at(b, i).length == 0 or (i > 0 and chunk_at(b, i).offset != at):
            return False
        at = chunk_at(b, i).offset + chunk_at(b, i).length
    if b.chunk_count != 0 and at != b.end:
        return False
    # What may still be read is there.
    if b.base < b.end and (b.chunk_count == 0 or chunk_at(b, 0).offset > b.base):
        return False
    if b.acked.count != 0 and (rangeset_first(&b.acked).start <= b.base or b.acked.last.end > b.next):
        return False
    if b.lost.count != 0 and (rangeset_first(&b.lost).start < b.base or b.lost.last.end > b.next):
        return False
    return rangeset_valid(&b.acked) and rangeset_valid(&b.lost)
