"""The containers of core as Python sees them: for tests and measurements; no program needs them.

Methods raise MemoryError where the C function returns -1. Those named *_many take native-endian 64-bit pairs in one
bytes object and run without Python in between.
"""
cimport cython
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from stoq.core.rangeset cimport (
    Range, RangeSet, rangeset_add, rangeset_at, rangeset_clear, rangeset_contains, rangeset_covers, rangeset_first,
    rangeset_first_gap, rangeset_init, rangeset_last, rangeset_memory, rangeset_remove, rangeset_seek,
    rangeset_trim_low, rangeset_valid,
)
from stoq.core.recvbuf cimport (
    RecvBuf, recvbuf_clear, recvbuf_complete, recvbuf_detach, recvbuf_init, recvbuf_memory, recvbuf_push, recvbuf_take,
    recvbuf_take_some, recvbuf_valid,
)
from stoq.core.sendbuf cimport (
    DropList, SendBuf, droplist_clear, droplist_init, droplist_pop, droplist_waiting, sendbuf_acked, sendbuf_clear,
    sendbuf_complete, sendbuf_copy, sendbuf_init, sendbuf_lost, sendbuf_memory, sendbuf_peek, sendbuf_run,
    sendbuf_sent, sendbuf_valid, sendbuf_write,
)


@cython.final
cdef class RangeSetView:
    """A RangeSet."""
    cdef RangeSet s

    def __cinit__(self):
        rangeset_init(&self.s)

    def __dealloc__(self):
        rangeset_clear(&self.s)

    def __len__(self):
        return self.s.count

    def __contains__(self, uint64_t value):
        return bool(rangeset_contains(&self.s, value))

    @property
    def covered(self):
        return self.s.covered

    @property
    def memory(self):
        return rangeset_memory(&self.s)

    @property
    def size(self):
        """Bytes of the struct."""
        return sizeof(RangeSet)

    @property
    def valid(self):
        return bool(rangeset_valid(&self.s))

    def ranges(self):
        """All ranges, as rangeset_at gives them."""
        cdef Range r
        cdef uint64_t i
        found = []
        for i in range(self.s.count):
            r = rangeset_at(&self.s, i)
            found.append((r.start, r.end))
        return found

    def clear(self):
        rangeset_clear(&self.s)

    def add(self, uint64_t start, uint64_t end):
        if rangeset_add(&self.s, start, end):
            raise MemoryError

    def remove(self, uint64_t start, uint64_t end):
        if rangeset_remove(&self.s, start, end):
            raise MemoryError

    def add_many(self, pairs: bytes):
        """Add ranges, given as start and end of each."""
        cdef const uint64_t *p = <const uint64_t *><const char *>pairs
        cdef size_t i, count = <size_t>len(pairs) // 16
        cdef int failed = 0
        with nogil:
            for i in range(count):
                failed |= rangeset_add(&self.s, p[2 * i], p[2 * i + 1])
        if failed:
            raise MemoryError

    def remove_many(self, pairs: bytes):
        """Remove ranges, given as start and end of each."""
        cdef const uint64_t *p = <const uint64_t *><const char *>pairs
        cdef size_t i, count = <size_t>len(pairs) // 16
        cdef int failed = 0
        with nogil:
            for i in range(count):
                failed |= rangeset_remove(&self.s, p[2 * i], p[2 * i + 1])
        if failed:
            raise MemoryError

    def covers(self, uint64_t start, uint64_t end):
        return bool(rangeset_covers(&self.s, start, end))

    def first(self):
        if self.s.count == 0:
            raise IndexError("empty set")
        cdef Range r = rangeset_first(&self.s)
        return r.start, r.end

    def last(self):
        if self.s.count == 0:
            raise IndexError("empty set")
        cdef Range r = rangeset_last(&self.s)
        return r.start, r.end

    def seek(self, uint64_t value):
        cdef Range r
        return None if rangeset_seek(&self.s, value, &r) else (r.start, r.end)

    def trim_low(self, uint64_t keep):
        return rangeset_trim_low(&self.s, keep)

    def first_gap(self, uint64_t start, uint64_t end):
        cdef Range r
        return None if rangeset_first_gap(&self.s, start, end, &r) else (r.start, r.end)


@cython.final
cdef class RecvBuffer:
    """A RecvBuf.

    push() copies each frame into memory that stands for a datagram, and that is overwritten as soon as the contract
    allows it: after detach() and when nothing is pending any more.
    """
    cdef RecvBuf b
    cdef list datagrams

    def __cinit__(self):
        recvbuf_init(&self.b)
        self.datagrams = []

    def __dealloc__(self):
        recvbuf_clear(&self.b)

    @property
    def next(self):
        return self.b.next

    @property
    def highest(self):
        return self.b.highest

    @property
    def final_size(self):
        return None if self.b.final_size == 0xFFFFFFFFFFFFFFFFU else self.b.final_size

    @property
    def pending(self):
        return self.b.pending

    @property
    def ahead(self):
        """Bytes held out of order."""
        return self.b.ahead

    @property
    def spans(self):
        """Spans that wait for take()."""
        return self.b.span_count - self.b.span_head

    @property
    def complete(self):
        return bool(recvbuf_complete(&self.b))

    @property
    def memory(self):
        return recvbuf_memory(&self.b)

    @property
    def size(self):
        """Bytes of the struct."""
        return sizeof(RecvBuf)

    @property
    def valid(self):
        return bool(recvbuf_valid(&self.b))

    def push(self, uint64_t offset, data: bytes, fin: bool = False):
        """Take one frame; returns a RecvBufResult."""
        if offset + <uint64_t>len(data) > 0x3FFFFFFFFFFFFFFF or len(data) > 0xFFFFFFFF:
            raise ValueError("outside of any stream")
        datagram = bytearray(data)
        self.datagrams.append(datagram)
        return recvbuf_push(&self.b, offset, <const uint8_t *><char *>datagram, <uint32_t>len(data), fin)

    def push_many(self, data: bytes, uint64_t base, pairs: bytes, uint64_t stride = 0):
        """Take frames of `data`, the stream from `base` on, given as offset and length; returns the sum of results.

        With a stride, the i-th frame lies at data[i * stride:] instead, as one datagram of many in a buffer does.
        """
        cdef const uint64_t *p = <const uint64_t *><const char *>pairs
        cdef const uint8_t *stream = data
        cdef uint64_t i, count = <uint64_t>len(pairs) // 16, size = <uint64_t>len(data)
        cdef int result = 0
        self.datagrams.append(data)
        for i in range(count):
            if (i * stride if stride else p[2 * i] - base) + p[2 * i + 1] > size or p[2 * i] < base:
                raise ValueError("frame outside of data")
        with nogil:
            for i in range(count):
                result += recvbuf_push(
                    &self.b, p[2 * i], stream + (i * stride if stride else p[2 * i] - base), <uint32_t>p[2 * i + 1], 0
                )
        return result

    def take(self):
        room = bytearray(self.b.pending)
        count = recvbuf_take(&self.b, <uint8_t *><char *>room)
        assert count == <uint64_t>len(room)
        self._datagrams_end()
        return bytes(room)

    def take_some(self, uint64_t room):
        taken = bytearray(min(room, self.b.pending))
        count = recvbuf_take_some(&self.b, <uint8_t *><char *>taken, room)
        assert count == <uint64_t>len(taken)
        if self.b.pending == 0:
            self._datagrams_end()
        return bytes(taken)

    def detach(self):
        if recvbuf_detach(&self.b):
            raise MemoryError
        self._datagrams_end()

    def clear(self):
        recvbuf_clear(&self.b)
        self._datagrams_end()

    def _datagrams_end(self):
        for datagram in self.datagrams:
            if isinstance(datagram, bytearray):
                datagram[:] = b"\xee" * len(datagram)
        self.datagrams.clear()


@cython.final
cdef class SendBuffer:
    """A SendBuf with a DropList."""
    cdef SendBuf b
    cdef DropList drops

    def __cinit__(self):
        sendbuf_init(&self.b)
        droplist_init(&self.drops)

    def __dealloc__(self):
        sendbuf_clear(&self.b, &self.drops)
        self.drain()
        droplist_clear(&self.drops)

    @property
    def base(self):
        return self.b.base

    @property
    def next(self):
        return self.b.next

    @property
    def end(self):
        return self.b.end

    @property
    def chunks(self):
        return self.b.chunk_count

    @property
    def complete(self):
        return bool(sendbuf_complete(&self.b))

    @property
    def memory(self):
        return sendbuf_memory(&self.b)

    @property
    def size(self):
        """Bytes of the struct."""
        return sizeof(SendBuf)

    @property
    def valid(self):
        return bool(sendbuf_valid(&self.b))

    @property
    def waiting(self):
        """Some owner waits to be released."""
        return bool(droplist_waiting(&self.drops))

    def drain(self):
        """Release the owners that wait; returns how many."""
        cdef void *owner
        count = 0
        while True:
            owner = droplist_pop(&self.drops)
            if owner == NULL:
                return count
            count += 1
            Py_DECREF(<object>owner)

    def clear(self):
        sendbuf_clear(&self.b, &self.drops)

    def write(self, data: bytes, keep: bool = False):
        """Append data: copied, or (keep) referred to."""
        if keep:
            Py_INCREF(data)
        if sendbuf_write(&self.b, data, <uint64_t>len(data), <void *>data if keep else NULL):
            if keep:
                Py_DECREF(data)
            raise MemoryError

    def finish(self):
        self.b.fin = True

    def peek(self, uint64_t room, uint64_t limit = 0xFFFFFFFFFFFFFFFFU):
        """(offset, length, fin, is_new), or None when nothing is due."""
        cdef uint64_t offset, length
        cdef bint fin, is_new
        if not sendbuf_peek(&self.b, room, limit, &offset, &length, &fin, &is_new):
            return None
        return offset, length, bool(fin), bool(is_new)

    def sent(self, uint64_t offset, uint64_t length, fin: bool = False):
        if sendbuf_sent(&self.b, offset, length, fin):
            raise MemoryError

    def acked(self, uint64_t offset, uint64_t length, fin: bool = False):
        if sendbuf_acked(&self.b, offset, length, fin, &self.drops):
            raise MemoryError

    def lost(self, uint64_t offset, uint64_t length, fin: bool = False):
        if sendbuf_lost(&self.b, offset, length, fin):
            raise MemoryError

    def copy(self, uint64_t offset, uint64_t length):
        self._inside(offset, length)
        room = bytearray(length)
        sendbuf_copy(&self.b, offset, length, <uint8_t *><char *>room)
        return bytes(room)

    def run(self, uint64_t offset, uint64_t length):
        """The bytes of the run that sendbuf_run gives."""
        cdef uint64_t got
        self._inside(offset, length)
        cdef const uint8_t *p = sendbuf_run(&self.b, offset, length, &got)
        return (<const char *>p)[:got] if got else b""

    def pump(self, uint64_t run, copy: bool = True):
        """Peek, copy out and mark as sent, `run` bytes at a time, until nothing is due; returns the number of runs."""
        cdef uint64_t offset, length, count = 0
        cdef bint fin, is_new, copying = copy
        cdef uint8_t *room = <uint8_t *>malloc(run + 1)
        if room == NULL:
            raise MemoryError
        with nogil:
            while sendbuf_peek(&self.b, run, 0xFFFFFFFFFFFFFFFFU, &offset, &length, &fin, &is_new):
                if copying:
                    sendbuf_copy(&self.b, offset, length, room)
                sendbuf_sent(&self.b, offset, length, fin)
                count += 1
        free(room)
        return count

    def acked_many(self, pairs: bytes):
        """Acknowledge runs, given as offset and length."""
        cdef const uint64_t *p = <const uint64_t *><const char *>pairs
        cdef size_t i, count = <size_t>len(pairs) // 16
        cdef int failed = 0
        with nogil:
            for i in range(count):
                failed |= sendbuf_acked(&self.b, p[2 * i], p[2 * i + 1], 0, &self.drops)
        if failed:
            raise MemoryError

    def _inside(self, uint64_t offset, uint64_t length):
        if offset < self.b.base or offset > self.b.end or length > self.b.end - offset:
            raise ValueError("these bytes are not held")
