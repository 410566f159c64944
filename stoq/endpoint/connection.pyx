# cython: nonecheck=True
"""Connections for asyncio (any event loop that has add_reader)."""
import asyncio
import inspect
import logging
from collections import deque

from stoq.connection.stream cimport StreamHandle
from stoq.endpoint.stream cimport HANDLER_FAILED, Stream, check_code, forget, wake_all

from stoq.crypto.groups import GROUPS
from stoq.endpoint.demux import FATAL
from stoq.errors import (
    ApplicationClosed, ConnectionClosedError, StreamError, StreamLimitError, TransportClosed, TransportErrorCode,
)
from stoq.io.transport import TransportError
from stoq.tls.suites import SUITES

logger = logging.getLogger("stoq")


def only_stoq_errors(error):
    """The peer, or our own close(), ended what a handler was doing: nothing to report."""
    expected = (StreamError, ConnectionClosedError)
    if isinstance(error, BaseExceptionGroup):
        return error.split(expected)[1] is None
    return isinstance(error, expected)


cdef class Connection(Session):
    """A QUIC connection. Made by stoq.connect(), or handed to the handler of stoq.serve()."""

    def __init__(self, loop, *, connection_handler=None, stream_handler=None):
        self.loop = loop
        self.connection_handler = connection_handler
        self.stream_handler = stream_handler
        self.handler_is_async = stream_handler is not None and inspect.iscoroutinefunction(stream_handler)

    def __repr__(self):
        side = "client" if self.connection.is_client else "server"
        state = "closed" if self.connection.close_reason is not None else "open"
        return f"<stoq.Connection {side} {self.peer_address} {state}>"

    cdef int spawn(self, object coroutine) except -1:
        task = self.loop.create_task(coroutine)
        if self.tasks is None:
            self.tasks = set()
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return 0

    # ---- called by the connection

    def handshake_completed(self, connection):
        Session.handshake_completed(self, connection)
        wake_all(self.connected_waiters)
        if self.connection_handler is not None:
            self.spawn(self._run_handler())

    async def _run_handler(self):
        try:
            result = self.connection_handler(self)
            if inspect.isawaitable(result):
                await result
        except Exception as error:
            if only_stoq_errors(error):
                logger.debug("handler of %r ended: %s", self, error)
                return
            logger.exception("the handler of %r failed", self)
            if self.connection.close_reason is None:
                self.connection.close(<int>TransportErrorCode.INTERNAL_ERROR, "", application=False)

    def stream_opened(self, connection, Stream stream not None):
        if self.stream_handler is not None:
            if self.handler_is_async:
                # So many tasks at once as streams are permitted, however fast these end.
                stream.unaccepted = True
                self.spawn(self._run_stream_handler(stream))
                return
            try:
                result = self.stream_handler(stream)
            except FATAL:
                raise
            except BaseException:
                logger.exception("the stream handler of %r failed", self)
                self._abandon(stream)
                return
            if inspect.isawaitable(result):      # a lambda, or an object with an asynchronous __call__
                stream.unaccepted = True
                self.spawn(self._run_stream_handler(stream, result))
            return
        if self.arrived is None:
            self.arrived = deque()
        stream.unaccepted = True
        self.arrived.append(stream)
        self._wake_one()

    def _wake_one(self):
        """Wake the first that waits in accept_stream() and was not cancelled."""
        while self.accepting:
            waiter = self.accepting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                break

    async def _run_stream_handler(self, Stream stream, awaitable=None):
        try:
            await (self.stream_handler(stream) if awaitable is None else awaitable)
        except Exception as error:
            if only_stoq_errors(error):
                logger.debug("handler of stream %d ended: %s", stream.id, error)
            else:
                logger.exception("the handler of stream %d failed", stream.id)
            self._abandon(stream)
        finally:
            stream.accepted()

    def _abandon(self, Stream stream):
        """A handler failed: neither direction of its stream makes sense any more."""
        local = stream.is_local
        if local or not stream.is_unidirectional:
            StreamHandle.reset(stream, HANDLER_FAILED)
        if (not local or not stream.is_unidirectional) and not stream.at_end() and stream.reset_code is None:
            StreamHandle.stop(stream, HANDLER_FAILED)

    def streams_available(self, connection, unidirectional):
        wake_all(self.opening)

    def closed(self, connection):
        Session.closed(self, connection)
        wake_all(self.connected_waiters)
        wake_all(self.opening)
        wake_all(self.closed_waiters)
        while self.accepting:
            waiter = self.accepting.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def new_token(self, connection, token):
        self.token = token

    # ---- streams

    def open_stream(self, unidirectional=False):
        """A new stream. StreamLimitError when the peer permits no more now; else the close reason."""
        self.check_thread()
        if self.connection.close_reason is not None:
            raise self.connection.close_reason.with_traceback(None)
        return self.connection.open_stream(unidirectional)

    async def wait_open_stream(self, unidirectional=False):
        """A new stream, as soon as the peer permits one."""
        self.check_thread()
        while True:
            try:
                return self.open_stream(unidirectional)
            except StreamLimitError:
                pass
            waiter = self.loop.create_future()
            if self.opening is None:
                self.opening = []
            self.opening.append(waiter)
            try:
                await waiter
            finally:
                forget(self.opening, waiter)

    async def accept_stream(self):
        """The next stream that the peer opened. Raises the close reason when there will be none."""
        cdef Stream stream
        self.check_thread()
        if self.stream_handler is not None:
            raise RuntimeError("the streams of this connection go to on_stream")
        while not self.arrived:
            if self.connection.close_reason is not None:
                raise self.connection.close_reason.with_traceback(None)
            waiter = self.loop.create_future()
            if self.accepting is None:
                self.accepting = deque()
            self.accepting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter in self.accepting:
                    self.accepting.remove(waiter)
                if not waiter.cancelled() and self.arrived:
                    self._wake_one()     # its wake-up goes to the next in line
                raise
        stream = self.arrived.popleft()
        stream.accepted()
        return stream

    def __aiter__(self):
        return self

    async def __anext__(self):
        """Streams of the peer until the connection is closed without an error."""
        try:
            return await self.accept_stream()
        except (ApplicationClosed, TransportClosed) as error:
            if error.error_code == 0:
                raise StopAsyncIteration from None
            raise

    # ---- life cycle

    async def wait_connected(self):
        """Wait for the end of the handshake; HandshakeFailed and its like when there is none."""
        while not self.connection.handshake_complete:
            if self.connection.close_reason is not None:
                raise self.connection.close_reason.with_traceback(None)
            if self.refusal is not None:
                raise self.refusal
            waiter = self.loop.create_future()
            if self.connected_waiters is None:
                self.connected_waiters = []
            self.connected_waiters.append(waiter)
            try:
                await waiter
            finally:
                forget(self.connected_waiters, waiter)

    def refused(self):
        """Nobody listens at the peer's port: wait_connected() raises TransportError at once."""
        host, port = self.peer_address
        self.refusal = TransportError(f"nobody listens at {host} port {port}")
        wake_all(self.connected_waiters)

    def abort(self, error_code=0, reason=""):
        """As close(), without a coroutine."""
        self.check_thread()
        check_code(error_code)
        self.connection.close(error_code, reason)
        if self.endpoint is not None and self.timer >= 0:
            self.endpoint.flush()

    async def close(self, error_code=0, reason=""):
        """Close with an application error code (below 2**62) and a reason. The peer's calls raise ApplicationClosed.

        What is still buffered is lost: wait_sent() on the streams first, if it matters. Repeating it does nothing.
        """
        self.abort(error_code, reason)

    async def wait_closed(self):
        """Wait until either side has closed the connection; close_reason says why."""
        self.check_thread()
        while self.connection.close_reason is None:
            waiter = self.loop.create_future()
            if self.closed_waiters is None:
                self.closed_waiters = []
            self.closed_waiters.append(waiter)
            try:
                await waiter
            finally:
                forget(self.closed_waiters, waiter)

    async def __aenter__(self):
        return self

    async def __aexit__(self, kind, error, traceback):
        await self.close()

    def ping(self):
        """Send a PING: keeps the connection alive and measures the round trip (stats()["latest_rtt_ns"])."""
        self.check_thread()
        self.connection.ping()

    # ---- facts

    def stats(self):
        """Counters and measurements as a dict; names and units as in stoq.core.knobs.STAT_ROWS."""
        return self.connection.stats()

    @property
    def close_reason(self):
        """Why the connection is closed (an exception of stoq.errors), None while it is open."""
        return self.connection.close_reason

    @property
    def is_client(self):
        return self.connection.is_client

    @property
    def alpn(self):
        """The application protocol agreed on, None before the handshake or without one."""
        return self.connection.alpn

    @property
    def cipher_suite(self):
        """Name of the TLS cipher suite, None before the handshake."""
        code = self.connection.cipher_suite
        return SUITES[code].name if code in SUITES else code

    @property
    def group(self):
        """Name of the key-exchange group, None before the handshake."""
        code = self.connection.group
        return GROUPS[code].name if code in GROUPS else code

    @property
    def version(self):
        return self.connection.version

    @property
    def server_name(self):
        return self.connection.server_name

    @property
    def peer_certificates(self):
        """DER, leaf first; [] when the peer showed none."""
        return self.connection.peer_certificates

    @property
    def peer_address(self):
        """(host, port) that datagrams go to now."""
        return self.connection.peer
