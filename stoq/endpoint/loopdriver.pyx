"""Runs an endpoint on an asyncio event loop, uvloop included."""
from libc.stdint cimport uint64_t
from stoq.endpoint cimport _timerfd as c


cdef class LoopDriver(Driver):
    """Watches the transport's descriptor and keeps one timer. Give it to an Endpoint, then start(endpoint).

    precise: use a timerfd. The loop's own timers (call_at) are rounded up to a millisecond by epoll and libuv, which
    caps a paced connection. when_refused: callable() for a connected transport that hears that nobody listens at the
    peer's port; set it before start(). It may be cleared later.
    """

    def __cinit__(self, loop, *, precise=True):
        self.loop = loop
        self.fd = -1
        self.timer_fd = c.timerfd_create(c.CLOCK_MONOTONIC, c.TFD_NONBLOCK | c.TFD_CLOEXEC) if precise else -1

    def __dealloc__(self):
        if self.timer_fd >= 0:
            c.close(self.timer_fd)

    def start(self, Endpoint endpoint not None):
        """Begin to watch. The loop must be the running one."""
        self.endpoint = endpoint
        # As Python objects: Cython cannot bind a cpdef method of a typed name.
        cdef object methods = endpoint
        self.flush_callback = methods.flush
        self.writable_callback = methods.on_writable
        self.fd = endpoint.transport.fileno()
        self.loop.add_reader(self.fd, self._readable if self.when_refused is not None else methods.on_readable)
        if self.timer_fd >= 0:
            self.loop.add_reader(self.timer_fd, self._timer_fired)

    def stop(self):
        """Stop watching and close the transport. Idempotent."""
        if self.fd < 0:
            return
        if not self.loop.is_closed():
            self.loop.remove_reader(self.fd)
            self.loop.remove_writer(self.fd)
            if self.timer_fd >= 0:
                self.loop.remove_reader(self.timer_fd)
        self.fd = -1
        if self.timer_handle is not None:
            self.timer_handle.cancel()
            self.timer_handle = None
        if self.timer_fd >= 0:
            c.close(self.timer_fd)
            self.timer_fd = -1
        self.endpoint.transport.close()

    def _readable(self):
        """As endpoint.on_readable, and looks whether nobody listens: a socket reports that (ICMP) as an error."""
        cdef uint64_t before = self.endpoint.transport.count.errors[c.ECONNREFUSED]
        self.endpoint.on_readable()
        if self.endpoint.transport.count.errors[c.ECONNREFUSED] != before and self.when_refused is not None:
            self.when_refused()

    cpdef schedule(self):
        self.loop.call_soon(self.flush_callback)

    cpdef watch_writable(self, bint on):
        if self.fd < 0:
            return
        if on:
            self.loop.add_writer(self.fd, self.writable_callback)
        else:
            self.loop.remove_writer(self.fd)

    cpdef arm(self, int64_t deadline):
        cdef c.itimerspec when
        if self.fd < 0:
            return
        if self.timer_fd >= 0:
            when.it_interval.tv_sec = 0
            when.it_interval.tv_nsec = 0
            when.it_value.tv_sec = deadline // 1000000000
            when.it_value.tv_nsec = deadline % 1000000000
            c.timerfd_settime(self.timer_fd, c.TFD_TIMER_ABSTIME, &when, NULL)
            return
        if self.timer_handle is not None:
            self.timer_handle.cancel()
        # The loop's clock is the same one on Linux (time.monotonic), in float seconds: a microsecond up, so that
        # rounding never makes it fire early.
        self.timer_handle = self.loop.call_at((deadline + 1000) / 1e9, self._timer_fired)

    def _timer_fired(self):
        cdef uint64_t expirations
        if self.fd < 0:
            return
        if self.timer_fd >= 0:
            c.read(self.timer_fd, &expirations, sizeof(expirations))
        self.timer_handle = None
        self.endpoint.on_timer()
