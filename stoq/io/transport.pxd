# What a transport is (DESIGN §4 "Transport"): batches of datagrams in and
# out, non-blocking, over whatever carries them. One contract suite
# (tests/contract/test_transport.py) says what every implementation keeps.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp
from stoq.io.buffers cimport BufferPool
from stoq.wire.batch cimport Address, RecvBatch, SendBatch

cdef enum:
    # One UDP payload of an IPv4 packet is at most 65,507 bytes, one GSO send over IPv6 at most
    # 65,487. 64 * 1022 stays below both, in whole cache lines: 45 datagrams of 1452 bytes, 54 of 1200.
    SEND_ENTRY_MAX = 65408
    # Without segmentation an entry is one datagram: four times as many in the same memory.
    PLAIN_ENTRY_MAX = 16320
    SEND_SLOTS_MAX = 4           # SEND_BATCH_MAX plain entries
    # errno values are below 134 on Linux; 0 collects anything else.
    ERRNO_MAX = 134

cdef struct TransportCounters:
    uint64_t datagrams_in
    uint64_t bytes_in
    uint64_t receive_calls       # system calls, or drains of the simulator's queue
    uint64_t truncated           # datagrams cut by a small buffer (handed up, flagged)
    uint64_t starved             # receive() found every buffer kept by a holder
    uint64_t datagrams_out
    uint64_t bytes_out
    uint64_t send_calls
    uint64_t not_writable        # sends that were put off
    uint64_t dropped             # datagrams given up on send; the reasons are in `errors`
    uint64_t errors[134]         # by errno, sends and receives


# Owner of the memory it hands out. One thread at a time; the C methods hold the GIL.
cdef class Transport:
    cdef TransportCounters count
    cdef BufferPool *pool            # receive buffers
    cdef uint8_t *send_memory        # made by the first acquire()
    cdef uint32_t receive_slots      # buffers that one receive fills
    cdef uint32_t send_slots         # segmented entries that fit send_memory
    cdef uint16_t max_segments
    cdef bint gso                    # entries may be segmented (may be turned off while running)
    cdef Address local               # family 0 when not known
    cdef readonly bint closed

    # Fill `batch` with what has arrived, without blocking; returns batch.count, 0 when nothing is there.
    # The entries' memory is the caller's, writable, until release(batch). Several batches may be out.
    cdef int receive(self, RecvBatch *batch) except -1
    # Hand the batch's memory back (batch.count becomes 0). buffer_retain(batch.owner[i]) before it keeps one entry.
    cdef int release(self, RecvBatch *batch) noexcept
    # Memory to build into: sets slots, max_segments, data, capacity, and count = 0. One batch is out at a time:
    # acquiring again hands out the same memory, so take it when every entry of the last one was taken or given up.
    cdef int acquire(self, SendBatch *batch) except -1
    # Send entries [0, count); returns how many were taken. Fewer: not writable now. The rest stay the caller's:
    # send_batch_consume(batch, taken), then send again once writable; the first of them may have been sent in part, its
    # data and length then tell the rest. A datagram that cannot be sent for any other reason is dropped and counted.
    cdef int send(self, SendBatch *batch) except -1

    # Check and keep the options that all transports share; makes the pool.
    cdef int set_up(self, bint gso, max_segments, buffer_size, receive_slots, send_slots) except -1
    cdef uint32_t entry_size(self) noexcept      # bytes that an entry of acquire() holds
    # For the Python face: copy one entry into memory that acquire() gave.
    cdef int put(self, SendBatch *batch, uint32_t i, object data, object segment, object address, object ecn,
                 object local) except -1
    cpdef int fileno(self)                       # to poll for reading (and writing when put off), or -1
    # Block until readable (or writable); False after timeout_ns (negative: none).
    cdef bint poll(self, int64_t timeout_ns, bint writable) except -1
    cpdef close(self)


cdef inline bint address_equal(const Address *a, const Address *b) noexcept nogil:
    return memcmp(a, b, sizeof(Address)) == 0


cdef inline void send_batch_consume(SendBatch *batch, uint32_t taken) noexcept nogil:
    """Forget the first `taken` entries; the rest move to the front. Memory comes back only with acquire()."""
    cdef uint32_t i, left
    if taken == 0:
        return
    left = batch.count - taken
    for i in range(left):
        batch.data[i] = batch.data[i + taken]
        batch.capacity[i] = batch.capacity[i + taken]
        batch.length[i] = batch.length[i + taken]
        batch.segment[i] = batch.segment[i + taken]
        batch.ecn[i] = batch.ecn[i + taken]
        batch.peer[i] = batch.peer[i + taken]
        batch.local[i] = batch.local[i + taken]
        batch.owner[i] = batch.owner[i + taken]
    batch.count = left
    batch.slots = left


cdef inline uint32_t datagrams_of(uint32_t length, uint16_t segment) noexcept nogil:
    """How many datagrams an entry of `length` bytes with this segment size is (of no bytes: one empty datagram)."""
    if segment == 0 or length <= segment:
        return 1
    return (length + segment - 1) // segment


# Python's addresses are (host, port); a link-local scope stands in the host: ("fe80::1%2", 4433).
cdef int address_from_python(object address, Address *out) except -1
cdef object address_to_python(const Address *address)
