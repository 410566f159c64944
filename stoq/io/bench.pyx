"""Send and receive loops over any Transport, compiled: what perf/micro measures transports with."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from stoq.io.transport cimport Transport, address_from_python, datagrams_of
from stoq.wire.batch cimport Address, RecvBatch, SendBatch

cdef enum:
    SOURCE = 1 << 24         # bytes that touched payloads are copied from: more than the caches hold
    STALL_NS = 20000000      # nothing acknowledged for so long: what is in flight counts as lost


cdef int64_t clock() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * 1000000000 + t.tv_nsec


def blast(Transport transport, peer, double seconds, uint32_t segment, uint32_t segments, uint32_t entries,
          uint64_t window, bint touch, int ecn=0, local=None):
    """Send trains for `seconds`, at most `window` bytes ahead of the receiver's acknowledgements.

    touch: copy every payload from a large buffer, as sealing would. Returns (bytes, datagrams, trains, stalls, ns).
    """
    cdef SendBatch out
    cdef RecvBatch back
    cdef Address to, source
    cdef uint64_t sent = 0, acked = 0, value, trains = 0, stalls = 0, at = 0
    cdef uint32_t i, size = segment * segments
    cdef int64_t start = clock(), end = start + <int64_t>(seconds * 1e9), progress = start, now = start
    cdef uint8_t *data = <uint8_t *>malloc(SOURCE)
    cdef int taken
    if data == NULL:
        raise MemoryError
    memset(data, 7, SOURCE)
    memset(&to, 0, sizeof(to))
    memset(&source, 0, sizeof(source))
    if peer is not None:
        address_from_python(peer, &to)
    if local is not None:
        address_from_python(local, &source)
    try:
        while now < end:
            now = clock()
            transport.acquire(&out)
            i = 0
            while i < out.slots and i < entries and sent + size - acked <= window:
                if touch:
                    memcpy(out.data[i], data + at, size)
                    at = at + size if at + 2 * size <= SOURCE else 0
                else:
                    memset(out.data[i], 1, 8)
                out.length[i] = size
                out.segment[i] = <unsigned short>segment if segments > 1 else 0
                out.ecn[i] = <uint8_t>ecn
                out.peer[i] = to
                out.local[i] = source
                sent += size
                i += 1
            out.count = i
            if i:
                taken = transport.send(&out)
                trains += taken
                if <uint32_t>taken < i:
                    sent -= (i - taken) * <uint64_t>size
                    transport.poll(STALL_NS, True)
            else:
                transport.poll(STALL_NS, False)
            if i == 0 or sent + size - acked > window // 2:
                transport.receive(&back)
                for i in range(back.count):
                    if back.length[i] % 8 == 0 and back.length[i]:
                        memcpy(&value, back.data[i] + back.length[i] - 8, 8)
                        if value > acked:
                            acked = value
                            progress = now
                transport.release(&back)
            if now - progress > STALL_NS and sent > acked:
                stalls += 1
                acked = sent
                progress = now
        end = clock()
        for _ in range(5):
            transport.acquire(&out)
            out.length[0] = 1
            out.segment[0] = 0
            out.ecn[0] = 0
            out.peer[0] = to
            out.local[0] = source
            out.count = 1
            transport.send(&out)
    finally:
        free(data)
    return sent, trains * segments, trains, stalls, end - start


def drain(Transport transport, double seconds, uint64_t ack_every, bint touch, bint ack=True):
    """Receive until a 1-byte datagram or for `seconds`; acknowledge every `ack_every` bytes with the running total.

    touch: copy every payload once, as delivering would. Returns (bytes, datagrams, entries, calls, ns of it all).
    """
    cdef RecvBatch batch
    cdef SendBatch out
    cdef Address peer
    cdef uint64_t total = 0, datagrams = 0, entries = 0, calls = 0, told = 0, copied = 0
    cdef int64_t first = 0, last = 0, end = clock() + <int64_t>(seconds * 1e9)
    cdef uint32_t i
    cdef bint bye = False
    cdef uint8_t *sink = <uint8_t *>malloc(1 << 20)
    if sink == NULL:
        raise MemoryError
    memset(sink, 0, 1 << 20)
    try:
        while not bye and clock() < end:
            if transport.receive(&batch) == 0:
                transport.poll(50000000, False)
                continue
            calls += 1
            last = clock()
            if first == 0:
                first = last
            for i in range(batch.count):
                if batch.length[i] == 1:
                    bye = True
                    continue
                if touch:
                    if copied + batch.length[i] > 1 << 20:
                        copied = 0
                    memcpy(sink + copied, batch.data[i], batch.length[i])
                    copied += batch.length[i]
                total += batch.length[i]
                datagrams += datagrams_of(batch.length[i], batch.segment[i])
                entries += 1
            peer = batch.peer[0]
            transport.release(&batch)
            if ack and total - told >= ack_every:
                told = total
                transport.acquire(&out)
                memcpy(out.data[0], &total, 8)
                out.length[0] = 8
                out.segment[0] = 0
                out.ecn[0] = 0
                out.peer[0] = peer
                memset(&out.local[0], 0, sizeof(Address))
                out.count = 1
                transport.send(&out)
    finally:
        free(sink)
    return total, datagrams, entries, calls, last - first
