# cython: nonecheck=True
"""A connection as its endpoint sees it, and what drives an endpoint."""
from cpython.pythread cimport PyThread_get_thread_ident


cdef class Driver:
    """Base of the drivers; this one does nothing, and whoever owns the endpoint calls it."""

    cpdef schedule(self):
        pass

    cpdef watch_writable(self, bint on):
        pass

    cpdef arm(self, int64_t deadline):
        pass


cdef class Session:
    """A connection and its place in the endpoint. Derived classes override what they care about, and call the base.

    All methods below are called by the connection, from inside the endpoint's work. An exception from one of them is
    logged and closes this connection with INTERNAL_ERROR.
    """

    def __cinit__(self, *args, **kwargs):
        self.timer = -1
        self.ids = []
        self.thread = <unsigned long>PyThread_get_thread_ident()

    cdef int check_thread(self) except -1:
        if <unsigned long>PyThread_get_thread_ident() != self.thread:
            raise RuntimeError("a stoq connection belongs to the thread that made it")
        return 0

    cdef int handshake_over(self) except -1:
        if self.half_open:
            self.half_open = False
            self.endpoint.handshake_ended()
        return 0

    def handshake_completed(self, connection):
        """TLS is done: streams can be used in both directions."""
        self.handshake_over()

    def stream_opened(self, connection, stream):
        """The peer opened a stream."""

    def streams_available(self, connection, unidirectional):
        """The peer permits more streams of a kind."""

    def closed(self, connection):
        """connection.close_reason is set. The connection may linger to answer late packets."""

    def terminated(self, connection):
        """Nothing will be sent or received any more."""

    def cid_retired(self, connection, cid):
        """The peer no longer uses one of our IDs."""
        if self.endpoint is not None:
            self.endpoint.forget_id(self, cid)

    def auth_threshold(self, connection, count):
        """So many packets failed authentication (Conn.auth_threshold): somebody may be forging."""

    def ping_acked(self, connection, cookie):
        """A PING that was sent with this cookie arrived."""

    def new_token(self, connection, token):
        """The server sent a token for a later connection (RFC 9000 §8.1.3)."""
