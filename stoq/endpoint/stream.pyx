# cython: nonecheck=True
"""Streams for asyncio."""
import logging
from asyncio import IncompleteReadError, get_running_loop

from cpython.bytes cimport PyBytes_GET_SIZE
from stoq.connection.connection cimport Connection as Shell

from stoq.endpoint.demux import FATAL
from stoq.errors import ConfigurationError

logger = logging.getLogger("stoq")

cdef enum ReadMode:
    READ_SOME
    READ_ALL
    READ_EXACTLY

cdef enum:
    # write() waits above HIGH until the buffer has drained to LOW. Both count bytes that are not acknowledged yet.
    HIGH_WATER = 1 << 20
    LOW_WATER = 1 << 19

cdef uint64_t NO_LIMIT = 1 << 62


cdef int wake_all(list futures) except -1:
    """Wake every waiter; each looks for itself at what has changed. None: there are none."""
    if futures is None:
        return 0
    for future in futures:
        if not future.done():
            future.set_result(None)
    futures.clear()
    return 0


cdef inline Shell shell(Stream stream):
    """The sans-IO connection (`connection` is the user's here)."""
    return (<StreamHandle>stream).connection


cdef int forget(list futures, object future) except -1:
    """Take out a waiter that was cancelled; one that was woken is out already."""
    if future in futures:
        futures.remove(future)
    return 0


cdef int check_code(object code) except -1:
    if not 0 <= code < 1 << 62:
        raise ConfigurationError(f"an error code is 0 to 2**62 - 1, not {code}")
    return 0


cdef class Stream(StreamHandle):
    """One stream. Made by Connection.open_stream(), accept_stream() or handed to `on_stream`; never by hand.

    Reading and writing are independent. Cancelling a wait loses nothing: what was read goes to the next reader.
    """

    def __init__(self, connection, id):
        StreamHandle.__init__(self, connection, id)
        self.parts = []

    cdef int check_thread(self) except -1:
        cdef object owner = shell(self).listener
        if owner is not None:
            (<Session>owner).check_thread()
        return 0

    # ---- called by the connection

    cdef int on_data(self, bytes data, bint fin) except -1:
        StreamHandle.on_data(self, data, fin)
        if self.reader is not None:
            # One that is done was woken or cancelled and has not run yet: nobody wants more now.
            if not self.reader.done() and self.satisfied():
                self.wake_reader()
        elif self.receiver is not None:
            self.pump()
        return 0

    cdef int on_reset(self, uint64_t code) except -1:
        StreamHandle.on_reset(self, code)
        self.parts.clear()
        self.parts_size = 0
        self.wake_reader()
        if self.receiver is not None:
            self.call_receiver(None, True)
        return 0

    cdef int on_stopped(self, uint64_t code) except -1:
        StreamHandle.on_stopped(self, code)
        wake_all(self.writers)
        wake_all(self.senders)
        return 0

    cdef int on_writable(self) except -1:
        StreamHandle.on_writable(self)
        wake_all(self.writers)
        if self.held:
            self.held = False
            self.pump()
        return 0

    cdef int on_acked(self) except -1:
        StreamHandle.on_acked(self)
        wake_all(self.writers)
        wake_all(self.senders)
        return 0

    cdef int on_connection_closed(self) except -1:
        StreamHandle.on_connection_closed(self)
        self.wake_reader()
        wake_all(self.writers)
        wake_all(self.senders)
        if self.receiver is not None:
            self.call_receiver(None, True)
        return 0

    # ---- reading

    cdef int pull(self, uint64_t limit) except -1:
        """Move up to `limit` bytes from the connection to self.parts; that extends the peer's credit."""
        cdef bytes piece
        while limit:
            piece = self.take(limit)
            if not piece:
                break
            self.parts.append(piece)
            self.parts_size += <uint64_t>PyBytes_GET_SIZE(piece)
            limit -= <uint64_t>PyBytes_GET_SIZE(piece)
        return 0

    cdef bytes joined(self):
        cdef bytes data = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        self.parts.clear()
        self.parts_size = 0
        return data

    cdef bint satisfied(self) except -1:
        """Whether the reader's wish is fulfilled, or never will be."""
        if self.reading == READ_SOME:
            return self.chunks_size > 0 or self.fin_received
        if self.reading == READ_ALL:
            self.pull(NO_LIMIT)
        else:
            self.pull(self.wanted - self.parts_size)
            if self.parts_size >= self.wanted:
                return True
        return self.at_end()

    cdef int wake_reader(self) except -1:
        if self.reader is not None and not self.reader.done():
            self.reader.set_result(None)
        return 0

    def _begin_read(self):
        self.check_thread()
        if self.reader is not None:
            raise RuntimeError(f"another task is reading from stream {self.id}")
        if self.receiver is not None:
            raise RuntimeError(f"stream {self.id} has a receiver")

    def _no_more(self):
        """Raise why nothing more will come, if that is so."""
        if self.reset_code is not None:
            raise self.receive_error()
        if self.stopped:
            raise ConfigurationError(f"stream {self.id}: reading was stopped")
        if shell(self).close_reason is not None:
            raise shell(self).close_reason.with_traceback(None)

    async def read(self, n=-1):
        """Bytes from the stream; b"" at its end.

        n < 0: everything up to the end. Otherwise at least 1 and at most n bytes, as soon as there are any.
        Raises StreamReset when the peer gave up, or the connection's close reason, once no data is left to give.
        """
        cdef bytes data
        self._begin_read()
        if n == 0:
            return b""
        if n < 0:
            self.reading = READ_ALL
            while not self.satisfied():
                self._no_more()
                self.reader = get_running_loop().create_future()
                try:
                    await self.reader
                finally:
                    self.reader = None
            return self.joined()
        self.reading = READ_SOME
        while True:
            if self.parts:
                return self._from_parts(n)
            data = self.take(n)
            if data or self.at_end():
                return data
            self._no_more()
            self.reader = get_running_loop().create_future()
            try:
                await self.reader
            finally:
                self.reader = None

    def _from_parts(self, n):
        """What an interrupted read(-1) or readexactly() had taken."""
        cdef bytes first = self.parts[0]
        if len(first) > n:
            self.parts[0] = first[n:]
            first = first[:n]
        else:
            del self.parts[0]
        self.parts_size -= <uint64_t>PyBytes_GET_SIZE(first)
        return first

    async def readexactly(self, n):
        """Exactly n bytes. asyncio.IncompleteReadError when the stream ends earlier (`partial` has what there was)."""
        cdef bytes data
        if n < 0:
            raise ValueError("n is a number of bytes")
        self._begin_read()
        if n == 0:
            return b""
        self.reading = READ_EXACTLY
        self.wanted = n
        while not self.satisfied():
            self._no_more()
            self.reader = get_running_loop().create_future()
            try:
                await self.reader
            finally:
                self.reader = None
        if self.parts_size < <uint64_t>n:
            raise IncompleteReadError(self.joined(), n)
        data = self.joined()
        if <uint64_t>PyBytes_GET_SIZE(data) > <uint64_t>n:
            self.parts.append(data[n:])
            self.parts_size = <uint64_t>(PyBytes_GET_SIZE(data) - n)
            data = data[:n]
        return data

    def __aiter__(self):
        return self

    async def __anext__(self):
        data = await self.read(NO_LIMIT)
        if not data:
            raise StopAsyncIteration
        return data

    def deliver(self, receiver):
        """Give what arrives to receiver(stream, data, end) at once, instead of keeping it for read().

        No task and no future is involved. `end`: nothing follows; the last call may have data b"". data is None when
        the stream ended early (reset, or the connection closed). A receiver that writes to this stream gets nothing
        while more than 1 MiB is unacknowledged, so that an echo cannot be made to buffer without bound.
        """
        self._begin_read()
        self.receiver = receiver
        if self.reset_code is not None or shell(self).close_reason is not None and not self.fin_received:
            self.call_receiver(None, True)
        else:
            self.pump()

    cdef int pump(self) except -1:
        cdef bytes data
        cdef bint end
        cdef uint64_t before, after
        while not self.receiver_told_end and not self.held:
            data = self._from_parts(NO_LIMIT) if self.parts else self.take(NO_LIMIT)
            end = self.at_end() and not self.parts
            if not data and not end:
                break
            before = StreamHandle.buffered(self)
            self.call_receiver(data, end)
            after = StreamHandle.buffered(self)
            if not end and after > before and after > HIGH_WATER:
                self.held = True
                self.want_writable(LOW_WATER)
        return 0

    cdef int call_receiver(self, bytes data, bint end) except -1:
        if self.receiver_told_end:
            return 0
        self.receiver_told_end = end
        try:
            self.receiver(self, data, end)
        except FATAL:
            raise
        except BaseException:    # CancelledError too: it comes from a future that the receiver looked at
            logger.exception("the receiver of stream %d failed", self.id)
            self.receiver_told_end = True
            StreamHandle.reset(self, HANDLER_FAILED)
        return 0

    # ---- writing

    def write_nowait(self, data):
        """Queue bytes without regard to how many wait already; returns the bytes now unacknowledged.

        Raises the connection's close reason, StreamStopped when the peer no longer reads, ConfigurationError when the
        stream was finished or reset, or is receive-only. Immutable `bytes` are kept, not copied.
        """
        self.check_thread()
        return StreamHandle.write(self, data)

    async def write(self, data):
        """Queue bytes; when more than 1 MiB is unacknowledged, wait until it is half of that.

        Raises like write_nowait(), also when the peer stops the stream or the connection closes during the wait.
        """
        self.check_thread()
        if StreamHandle.write(self, data) > HIGH_WATER:
            await self._drain(LOW_WATER)

    async def _drain(self, uint64_t low):
        while StreamHandle.buffered(self) > low:
            if shell(self).close_reason is not None:
                raise shell(self).close_reason.with_traceback(None)
            self.check_writable()
            if self.writers is None:
                self.writers = []
            waiter = get_running_loop().create_future()
            self.writers.append(waiter)
            self.want_writable(low)
            try:
                await waiter
            finally:
                forget(self.writers, waiter)
            # A connection that is over holds nothing any more: the buffer looks drained.
            if shell(self).close_reason is not None:
                raise shell(self).close_reason.with_traceback(None)
        if self.stop_code is not None:
            self.check_writable()
        if shell(self).close_reason is not None and not self.all_acked:
            raise shell(self).close_reason.with_traceback(None)    # the buffer is gone, not sent

    async def drain(self):
        """Wait until at most 512 KiB of what was written is unacknowledged. For write_nowait()."""
        self.check_thread()
        await self._drain(LOW_WATER)

    def finish(self):
        """Nothing more will be written. What is buffered is still sent."""
        self.check_thread()
        StreamHandle.finish(self)

    def reset(self, code=0):
        """Give up sending: the peer's reads raise StreamReset(code). Unsent data is forgotten."""
        self.check_thread()
        check_code(code)
        StreamHandle.reset(self, code)
        self.gave_up = True
        wake_all(self.writers)
        wake_all(self.senders)

    def stop(self, code=0):
        """Ask the peer to stop sending: its writes raise StreamStopped(code). Unread data is forgotten."""
        self.check_thread()
        check_code(code)
        StreamHandle.stop(self, code)
        self.stopped = True
        self.parts.clear()
        self.parts_size = 0
        self.wake_reader()

    async def wait_sent(self):
        """Wait until the peer has acknowledged everything, the end included (call finish() first).

        Raises StreamStopped, or the connection's close reason, when that can no longer happen.
        """
        self.check_thread()
        while not self.all_acked:
            if shell(self).close_reason is not None:
                raise shell(self).close_reason.with_traceback(None)
            if not self.fin_written or self.stop_code is not None:
                self.check_writable()
                raise ConfigurationError("finish() the stream before wait_sent()")
            if self.gave_up or self.s == NULL:
                raise ConfigurationError(f"stream {self.id} was reset")
            if self.senders is None:
                self.senders = []
            waiter = get_running_loop().create_future()
            self.senders.append(waiter)
            try:
                await waiter
            finally:
                forget(self.senders, waiter)

    # ---- facts

    @property
    def connection(self):
        """The Connection, None once it is over."""
        return shell(self).listener

    @property
    def buffered(self):
        """Bytes written and not yet acknowledged."""
        return StreamHandle.buffered(self)

    @property
    def is_unidirectional(self):
        return bool(self.id & 2)

    @property
    def is_local(self):
        """We opened it."""
        return (self.id & 1) == (0 if shell(self).is_client else 1)
