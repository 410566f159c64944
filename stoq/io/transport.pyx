"""The base of all transports: addresses, counters, and a Python face over the batch calls.

Datagram addresses in Python are `(host, port)`; a link-local scope stands in the host, `("fe80::1%2", 4433)`.
"""
import errno as errno_names
cimport cython
from types import MappingProxyType

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from posix.stdlib cimport posix_memalign

from stoq.io cimport _socket as c
from stoq.io.buffers cimport BUFFER_SIZE, POOL_BUFFERS_MAX, buffer_drop, buffer_retain, pool_new, pool_unref
from stoq.wire.batch cimport DATAGRAM_TRUNCATED, RECV_BATCH_MAX, SEND_SEGMENTS_MAX

from stoq.errors import ConfigurationError, StoqError
from stoq.io.caps import Counters


class TransportError(StoqError):
    """A transport could not be opened, or was used after close()."""


cdef int address_from_python(object address, Address *out) except -1:
    """Parse `(host, port)`; host is an IP literal. Python's 4-tuples of IPv6 are taken too. ConfigurationError."""
    cdef bytes text
    cdef bytes scope = b""
    memset(out, 0, sizeof(Address))
    if not isinstance(address, tuple) or len(address) not in (2, 4) or not isinstance(address[0], str):
        raise ConfigurationError(f"an address is (host, port), not {address!r}")
    port = address[1]
    if not isinstance(port, int) or not 0 <= port <= 65535:
        raise ConfigurationError(f"a port is 0 to 65535, not {port!r}")
    out.port = port
    try:
        text = address[0].encode("ascii")
    except UnicodeEncodeError:
        raise ConfigurationError(f"not an IP address: {address[0]!r}") from None
    if b"%" in text:
        text, scope = text.split(b"%", 1)
    if c.inet_pton(c.AF_INET, <const char *>text, out.addr) == 1 and not scope:
        out.family = 4
        return 0
    if c.inet_pton(c.AF_INET6, <const char *>text, out.addr) != 1:
        raise ConfigurationError(f"not an IP address: {address[0]!r}")
    out.family = 6
    if scope:
        out.scope_id = <uint32_t>int(scope) if scope.isdigit() else c.if_nametoindex(<const char *>scope)
        if out.scope_id == 0:
            raise ConfigurationError(f"no such network interface: {address[0]!r}")
    elif len(address) == 4:
        out.scope_id = address[3]
    return 0


cdef object address_to_python(const Address *address):
    """`(host, port)`, or None when the family is 0."""
    cdef char text[64]
    if address.family == 0:
        return None
    if c.inet_ntop(c.AF_INET if address.family == 4 else c.AF_INET6, address.addr, text, sizeof(text)) == NULL:
        return None
    host = (<bytes>text).decode("ascii")
    if address.scope_id:
        host = f"{host}%{address.scope_id}"
    return host, address.port


def normalize_address(address):
    """`address` as every transport reports it (canonical text of the host); ConfigurationError when it is none."""
    cdef Address parsed
    address_from_python(address, &parsed)
    return address_to_python(&parsed)


@cython.final
cdef class Received:
    """One received entry: a datagram, or a train of datagrams of `segment` bytes each.

    Gives its bytes through the buffer protocol, writable, and keeps the transport's buffer for as long as it lives.
    """

    cdef void *owner
    cdef uint8_t *data
    cdef readonly Py_ssize_t length
    cdef readonly int segment
    cdef readonly int ecn
    cdef readonly int flags
    cdef readonly object peer
    cdef readonly object local

    def __cinit__(self):
        self.owner = NULL

    def __dealloc__(self):
        if self.owner != NULL:
            buffer_drop(self.owner)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.length, 0, flags)

    def __len__(self):
        return self.length

    @property
    def truncated(self):
        return bool(self.flags & DATAGRAM_TRUNCATED)

    def datagrams(self):
        """The datagrams of the entry, copied."""
        data = bytes(self)
        step = self.segment or self.length or 1
        return [data[at:at + step] for at in range(0, self.length, step)] or [b""]


cdef class Transport:
    """Batches of datagrams in and out, without blocking. Concrete transports: stoq.io.udp, stoq.io.sim."""

    def __cinit__(self, *args, **kwargs):
        memset(&self.count, 0, sizeof(self.count))
        memset(&self.local, 0, sizeof(self.local))
        self.pool = NULL
        self.send_memory = NULL
        self.closed = False

    def __dealloc__(self):
        if self.pool != NULL:
            pool_unref(self.pool)
        free(self.send_memory)

    cdef int set_up(self, bint gso, max_segments, buffer_size, receive_slots, send_slots) except -1:
        if not 1 <= max_segments <= SEND_SEGMENTS_MAX:
            raise ConfigurationError(f"max_segments is 1 to {SEND_SEGMENTS_MAX}, not {max_segments}")
        if not 1 <= receive_slots <= RECV_BATCH_MAX:
            raise ConfigurationError(f"receive_slots is 1 to {RECV_BATCH_MAX}, not {receive_slots}")
        if not 1 <= send_slots <= SEND_SLOTS_MAX:
            raise ConfigurationError(f"send_slots is 1 to {SEND_SLOTS_MAX}, not {send_slots}")
        if not 1 <= buffer_size <= BUFFER_SIZE:
            raise ConfigurationError(f"buffer_size is 1 to {BUFFER_SIZE} bytes, not {buffer_size}")
        self.gso = gso and max_segments > 1
        self.max_segments = max_segments
        self.receive_slots = receive_slots
        self.send_slots = send_slots
        self.pool = pool_new(buffer_size, min(POOL_BUFFERS_MAX, max(64, 4 * receive_slots)))
        if self.pool == NULL:
            raise MemoryError
        return 0

    cdef uint32_t entry_size(self) noexcept:
        return SEND_ENTRY_MAX if self.gso else PLAIN_ENTRY_MAX

    cdef int receive(self, RecvBatch *batch) except -1:
        raise NotImplementedError

    cdef int release(self, RecvBatch *batch) noexcept:
        cdef uint32_t i = batch.count
        # Backwards, so that the first buffer lies on top of the pool again: it is the warm one.
        while i > 0:
            i -= 1
            buffer_drop(batch.owner[i])
        batch.count = 0
        return 0

    cdef int acquire(self, SendBatch *batch) except -1:
        cdef uint32_t i, size = self.entry_size(), slots = self.send_slots
        if self.closed:
            raise TransportError("the transport is closed")
        if self.send_memory == NULL:
            if posix_memalign(<void **>&self.send_memory, 64, <size_t>slots * SEND_ENTRY_MAX):
                raise MemoryError
        batch.max_segments = self.max_segments
        if not self.gso:
            slots *= SEND_ENTRY_MAX // PLAIN_ENTRY_MAX
            batch.max_segments = 1
        # SAFETY: slots * size never exceeds send_slots * SEND_ENTRY_MAX.
        for i in range(slots):
            batch.data[i] = self.send_memory + <size_t>i * size
            batch.capacity[i] = size
            batch.owner[i] = NULL
        batch.slots = slots
        batch.count = 0
        return 0

    cdef int send(self, SendBatch *batch) except -1:
        raise NotImplementedError

    cpdef int fileno(self):
        """File descriptor to poll, or -1 when there is none (the simulator) or the transport is closed."""
        return -1

    cdef bint poll(self, int64_t timeout_ns, bint writable) except -1:
        raise NotImplementedError

    cpdef close(self):
        """Give up the port. Idempotent; memory that somebody still holds stays valid."""
        self.closed = True

    def wait(self, timeout_ns, writable=False):
        """Block until something can be received (or sent, with `writable`); False after `timeout_ns` nanoseconds.

        A negative timeout waits for ever. TransportError when closed.
        """
        return self.poll(timeout_ns, writable)

    @property
    def local_address(self):
        """`(host, port)` that datagrams leave from, as far as known."""
        return address_to_python(&self.local)

    @property
    def caps(self):
        """The transport's Caps as of now (a feature may be turned off while running, with its reason)."""
        raise NotImplementedError

    def _receive_overflow(self):
        return 0

    @property
    def counters(self):
        """A snapshot of the Counters."""
        cdef TransportCounters *n = &self.count
        cdef int i
        errors = {errno_names.errorcode.get(i, "UNKNOWN"): n.errors[i] for i in range(ERRNO_MAX) if n.errors[i]}
        return Counters(
            n.datagrams_in, n.bytes_in, n.receive_calls, n.truncated, n.starved, n.datagrams_out, n.bytes_out,
            n.send_calls, n.not_writable, n.dropped, MappingProxyType(errors), self._receive_overflow(),
        )

    def receive_entries(self):
        """What has arrived, as Received entries which keep their buffers; [] when nothing is there. TransportError."""
        cdef RecvBatch batch
        cdef Received entry
        cdef uint32_t i
        entries = []
        self.receive(&batch)
        for i in range(batch.count):
            entry = Received.__new__(Received)
            entry.data = batch.data[i]
            entry.length = batch.length[i]
            entry.segment = batch.segment[i]
            entry.ecn = batch.ecn[i]
            entry.flags = batch.flags[i]
            entry.peer = address_to_python(&batch.peer[i])
            entry.local = address_to_python(&batch.local[i])
            entry.owner = batch.owner[i]
            buffer_retain(entry.owner)
            entries.append(entry)
        self.release(&batch)
        return entries

    def receive_datagrams(self):
        """What has arrived, as a list of `(data, address, ecn)`; trains are split, truncated datagrams left out."""
        cdef RecvBatch batch
        cdef uint32_t i, at, step
        out = []
        self.receive(&batch)
        for i in range(batch.count):
            if batch.flags[i] & DATAGRAM_TRUNCATED:
                continue
            peer = address_to_python(&batch.peer[i])
            step = batch.segment[i] if batch.segment[i] else batch.length[i]
            at = 0
            while True:
                size = min(step, batch.length[i] - at)
                out.append((PyBytes_FromStringAndSize(<char *>batch.data[i] + at, size), peer, batch.ecn[i]))
                at += step
                if at >= batch.length[i]:
                    break
        self.release(&batch)
        return out

    cdef int put(self, SendBatch *batch, uint32_t i, object data, object segment, object address, object ecn,
                 object local) except -1:
        """Copy one entry into memory that acquire() gave."""
        cdef Py_buffer view
        if address is None:
            memset(&batch.peer[i], 0, sizeof(Address))
        else:
            address_from_python(address, &batch.peer[i])
        if local is None:
            memset(&batch.local[i], 0, sizeof(Address))
        else:
            address_from_python(local, &batch.local[i])
        batch.segment[i] = segment
        batch.ecn[i] = ecn
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if view.len > batch.capacity[i]:
                raise ConfigurationError(f"{view.len} bytes do not fit one send of {batch.capacity[i]}")
            memcpy(batch.data[i], view.buf, view.len)
            batch.length[i] = <uint32_t>view.len
        finally:
            PyBuffer_Release(&view)
        return 0

    def send_datagrams(self, datagrams):
        """Send a list of `(data, address)`, `(data, address, ecn)` or `(data, address, ecn, local)`.

        Returns how many were taken; fewer than given means "not writable now". An address of None is the
        connected peer. Datagrams that cannot be sent for another reason count as taken (see `counters`).
        """
        cdef SendBatch batch
        cdef Py_ssize_t done = 0, total = len(datagrams)
        cdef uint32_t i
        cdef int taken
        while done < total:
            self.acquire(&batch)
            i = 0
            while i < batch.slots and done + i < total:
                item = datagrams[done + i]
                self.put(&batch, i, item[0], 0, item[1], item[2] if len(item) > 2 else 0,
                         item[3] if len(item) > 3 else None)
                i += 1
            batch.count = i
            taken = self.send(&batch)
            done += taken
            if <uint32_t>taken < i:
                break
        return done

    def send_all(self, datagrams, int64_t timeout_ns=1000000000):
        """Send as send_datagrams(), waiting for room up to `timeout_ns` each time. False: some were not taken."""
        cdef SendBatch batch
        cdef Py_ssize_t done = 0, total = len(datagrams)
        cdef uint32_t i
        while done < total:
            self.acquire(&batch)
            i = 0
            while i < batch.slots and done < total:
                item = datagrams[done]
                self.put(&batch, i, item[0], 0, item[1], item[2] if len(item) > 2 else 0,
                         item[3] if len(item) > 3 else None)
                i += 1
                done += 1
            batch.count = i
            while True:
                send_batch_consume(&batch, self.send(&batch))
                if batch.count == 0:
                    break
                if not self.poll(timeout_ns, True):
                    return False
        return True

    def send_train(self, data, segment, address, ecn=0, local=None):
        """Send `data` as datagrams of `segment` bytes (the last may be shorter) in one call.

        Returns how many bytes were taken: less than len(data) means "not writable now". ConfigurationError when
        it is more than an entry holds (caps.max_segments, caps.max_datagram_size tell).
        """
        cdef SendBatch batch
        self.acquire(&batch)
        if not 0 < segment <= 65535 or datagrams_of(len(data), segment) > batch.max_segments:
            raise ConfigurationError(f"one send holds 1 to {batch.max_segments} datagrams")
        self.put(&batch, 0, data, segment, address, ecn, local)
        batch.count = 1
        if self.send(&batch) == 1:
            return len(data)
        return len(data) - batch.length[0]
