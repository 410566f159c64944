"""One stream as the shell's user sees it, sans-IO."""
from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t, uint64_t
from stoq.core.sendbuf cimport sendbuf_write
from stoq.core.state cimport (
    CLOSE_NONE, Conn, STREAM_CAN_RECV, STREAM_CAN_SEND, STREAM_RESET_SENT, STREAM_SEND_ACKED, STREAM_WANT_WRITABLE,
)
from stoq.core.streams cimport (
    stream_consumed, stream_reset, stream_stop, stream_wants_send, streams_credit, streams_discarded,
)
from stoq.connection.connection cimport Connection

from stoq.errors import ConfigurationError, StreamReset, StreamStopped

cdef enum:
    KEEP_FROM = 512          # bytes objects from this size on are kept by reference; smaller ones are cheaper to copy
    JOIN_BELOW = 4096        # small pieces are joined, so that unread one-byte frames do not become one object each


cdef class StreamHandle:
    """A stream of a `Connection`. Nothing here does I/O; the connection's driver sends afterwards."""

    def __init__(self, Connection connection, id):
        self.connection = connection
        self.id = id
        self.chunks = deque()

    def __repr__(self):
        return f"<{type(self).__name__} {self.id}>"

    # ---------------------------------------------------------------- called by the connection
    cdef int on_data(self, bytes data, bint fin) except -1:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        if size:
            if size < JOIN_BELOW and self.chunks:
                last = self.chunks.pop()
                if PyBytes_GET_SIZE(last) + size <= JOIN_BELOW:
                    self.chunks.append(last + data)
                else:
                    self.chunks.append(last)
                    self.chunks.append(data)
            else:
                self.chunks.append(data)
            self.chunks_size += <uint64_t>size
        if fin:
            self.fin_received = True
        return 0

    cdef int on_reset(self, uint64_t code) except -1:
        self.reset_code = code
        self.discard()
        return 0

    cdef int on_stopped(self, uint64_t code) except -1:
        self.stop_code = code
        return 0

    cdef int on_writable(self) except -1:
        return 0

    cdef int on_acked(self) except -1:
        self.all_acked = True
        return 0

    cdef int on_connection_closed(self) except -1:
        return 0

    cdef int discard(self) except -1:
        """Unread data is consumed, as far as flow control goes."""
        cdef uint64_t size = self.chunks_size
        self.chunks.clear()
        self.chunks_size = 0
        self.head_taken = 0
        return self.credit(size)

    cdef int credit(self, uint64_t size) except -1:
        cdef Conn *c = self.connection.c
        if c == NULL or size == 0 or c.close.state != CLOSE_NONE:
            return 0
        if self.s != NULL:
            stream_consumed(c, self.s, size)
            if c.max_data_due or c.control_head != NULL:
                self.connection.notify()
        else:
            streams_discarded(c, size)
            if c.max_data_due:
                self.connection.notify()
        return 0

    cdef int accepted(self) except -1:
        cdef Conn *c = self.connection.c
        if not self.unaccepted:
            return 0
        self.unaccepted = False
        if self.over and c != NULL and c.close.state == CLOSE_NONE:
            streams_credit(c, self.id)
            if c.kinds[self.id & 3].max_due:
                self.connection.notify()
        return 0

    # ---------------------------------------------------------------- for the user
    cdef int check_writable(self) except -1:
        if self.connection.close_reason is not None:
            raise self.connection.close_reason
        if self.stop_code is not None:
            raise StreamStopped(self.stop_code, self.id)
        if self.fin_written:
            raise ConfigurationError(f"stream {self.id} is finished: nothing can be written after finish()")
        if self.s == NULL or self.s.flags & STREAM_RESET_SENT:
            raise ConfigurationError(f"stream {self.id} was reset: nothing can be written")
        if not self.s.flags & STREAM_CAN_SEND:
            raise ConfigurationError(f"stream {self.id} can only be read")
        return 0

    cpdef uint64_t write(self, data) except? 0xFFFFFFFFFFFFFFFF:
        """Queue bytes; returns what is now buffered (unsent and unacknowledged).

        Raises the connection's close reason, StreamStopped when the peer no longer reads, ConfigurationError when
        the stream was finished, reset or is receive-only.
        """
        cdef Py_buffer view
        cdef int rc
        cdef uint64_t size
        self.check_writable()
        if type(data) is bytes:
            size = <uint64_t>PyBytes_GET_SIZE(data)
            if size == 0:
                return self.buffered()
            if size >= KEEP_FROM:
                Py_INCREF(data)
                rc = sendbuf_write(&self.s.send, <const uint8_t *>PyBytes_AS_STRING(data), size, <void *>data)
                if rc:
                    Py_DECREF(data)
            else:
                rc = sendbuf_write(&self.s.send, <const uint8_t *>PyBytes_AS_STRING(data), size, NULL)
        else:
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
            try:
                rc = sendbuf_write(&self.s.send, <const uint8_t *>view.buf, <uint64_t>view.len, NULL) if view.len else 0
            finally:
                PyBuffer_Release(&view)
        if rc:
            raise MemoryError
        stream_wants_send(self.connection.c, self.s)
        self.connection.notify()
        return self.buffered()

    cpdef finish(self):
        """Nothing more will be written (FIN). Repeating it, or after a reset, does nothing."""
        if self.fin_written or self.s == NULL or self.s.flags & (STREAM_RESET_SENT | STREAM_SEND_ACKED):
            return
        if not self.s.flags & STREAM_CAN_SEND:
            raise ConfigurationError(f"stream {self.id} can only be read")
        self.fin_written = True
        self.s.send.fin = 1
        stream_wants_send(self.connection.c, self.s)
        self.connection.notify()

    cpdef reset(self, uint64_t code):
        """Give up sending: RESET_STREAM with an application error code below 2**62. Unsent data is forgotten."""
        if code > 0x3FFFFFFFFFFFFFFF:
            raise ConfigurationError("an error code is below 2**62")
        if self.s == NULL or self.connection.c == NULL:
            return
        stream_reset(self.connection.c, self.s, code)
        self.connection.drain_drops()
        self.connection.notify()

    cpdef stop(self, uint64_t code):
        """Ask the peer to stop sending (STOP_SENDING). Data that was received and not read is forgotten."""
        if code > 0x3FFFFFFFFFFFFFFF:
            raise ConfigurationError("an error code is below 2**62")
        # Also of a stream that is over already: what nobody will read must not hold back the connection's window.
        self.discard()
        if self.s == NULL or self.connection.c == NULL:
            return
        if not self.s.flags & STREAM_CAN_RECV:
            raise ConfigurationError(f"stream {self.id} can only be written")
        stream_stop(self.connection.c, self.s, code)
        self.connection.notify()

    cpdef uint64_t buffered(self):
        """Bytes written and not yet acknowledged."""
        if self.s == NULL:
            return 0
        return self.s.send.end - self.s.send.base

    cdef int want_writable(self, uint64_t low_water) except -1:
        if self.s != NULL:
            self.s.low_water = low_water
            self.s.flags |= STREAM_WANT_WRITABLE
        return 0

    cpdef bytes take(self, uint64_t limit):
        """Up to `limit` bytes of what has arrived: one piece, or part of it; b"" when there is none now."""
        cdef bytes head
        cdef uint64_t size
        if limit == 0 or not self.chunks:
            return b""
        head = self.chunks[0]
        size = <uint64_t>PyBytes_GET_SIZE(head) - self.head_taken
        if size <= limit:
            self.chunks.popleft()
            if self.head_taken:
                head = head[self.head_taken:]
                self.head_taken = 0
        else:
            head = head[self.head_taken:self.head_taken + limit]
            self.head_taken += limit
            size = limit
        self.chunks_size -= size
        self.credit(size)
        return head

    cdef bint at_end(self):
        return self.fin_received and self.chunks_size == 0

    def receive_error(self):
        """StreamReset when the peer reset its side, else None."""
        return None if self.reset_code is None else StreamReset(self.reset_code, self.id)

    @property
    def ended(self):
        """The peer finished its side and everything was read."""
        return self.at_end()

    @property
    def unread(self):
        """Bytes that have arrived and were not taken."""
        return self.chunks_size
