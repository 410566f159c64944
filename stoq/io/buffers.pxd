# Receive buffers: allocated once, recycled for ever, counted by reference so
# that a later holder may keep the bytes of one datagram without a copy. One
# thread owns a pool and all its buffers (the counts are not atomic).
from libc.stdint cimport uint8_t, uint32_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc

cdef enum:
    # 64 KiB is what one GRO train may hold (16-bit UDP length).
    BUFFER_SIZE = 65536
    # Buffers exactly 64 KiB apart fall into the same sets of a 1 MiB, 16-way
    # cache: headers of many small datagrams would evict each other.
    BUFFER_STAGGER = 1088
    # A pool never holds more than this; when all are kept by holders, receive() reports
    # nothing and counts `starved` (the kernel keeps or drops the datagrams).
    POOL_BUFFERS_MAX = 256

cdef struct BufferPool:
    uint32_t refs            # the transport, plus one for each buffer that somebody holds
    uint32_t size            # usable bytes of each buffer
    uint32_t allocated
    uint32_t limit
    RecvBuffer *spare        # last in, first out: the warmest buffer is used first

cdef struct RecvBuffer:
    uint8_t *data
    uint32_t refs
    BufferPool *pool
    RecvBuffer *next_spare
    void *memory


cdef inline BufferPool *pool_new(uint32_t size, uint32_t limit) noexcept nogil:
    """An empty pool (buffers are made on demand), or NULL when memory is short. Owner: whoever holds the reference."""
    cdef BufferPool *pool = <BufferPool *>calloc(1, sizeof(BufferPool))
    if pool != NULL:
        pool.refs = 1
        pool.size = size
        pool.limit = limit
    return pool


cdef inline void pool_unref(BufferPool *pool) noexcept nogil:
    """Give up one reference; the last one frees the pool and its spare buffers."""
    cdef RecvBuffer *buffer
    pool.refs -= 1
    if pool.refs:
        return
    while pool.spare != NULL:
        buffer = pool.spare
        pool.spare = buffer.next_spare
        free(buffer.memory)
        free(buffer)
    free(pool)


cdef inline RecvBuffer *buffer_take(BufferPool *pool) noexcept nogil:
    """A buffer with one reference, or NULL: the pool's limit is reached or memory is short."""
    cdef RecvBuffer *buffer = pool.spare
    if buffer != NULL:
        pool.spare = buffer.next_spare
    else:
        if pool.allocated >= pool.limit:
            return NULL
        buffer = <RecvBuffer *>calloc(1, sizeof(RecvBuffer))
        if buffer == NULL:
            return NULL
        # SAFETY: data lies inside memory: 15 * BUFFER_STAGGER at most, and the rounding up to a
        # cache line takes less than the sixteenth.
        buffer.memory = malloc(<size_t>pool.size + 16 * BUFFER_STAGGER)
        if buffer.memory == NULL:
            free(buffer)
            return NULL
        buffer.data = <uint8_t *>((<uintptr_t>buffer.memory + 63) & ~<uintptr_t>63)
        buffer.data += (pool.allocated % 16) * BUFFER_STAGGER
        buffer.pool = pool
        pool.allocated += 1
    buffer.refs = 1
    pool.refs += 1
    return buffer


cdef inline void buffer_retain(void *owner) noexcept nogil:
    """Keep the memory behind a RecvBatch entry beyond release(); pairs with buffer_drop()."""
    (<RecvBuffer *>owner).refs += 1


cdef inline void buffer_drop(void *owner) noexcept nogil:
    """Give up one reference to a RecvBatch entry's memory. It may outlive the transport."""
    cdef RecvBuffer *buffer = <RecvBuffer *>owner
    cdef BufferPool *pool = buffer.pool
    buffer.refs -= 1
    if buffer.refs == 0:
        buffer.next_spare = pool.spare
        pool.spare = buffer
        pool_unref(pool)
