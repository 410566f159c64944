"""One transport and the connections over it, whatever drives them: an event loop, or a simulation in virtual time."""
import logging
import os

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.pythread cimport PyThread_get_thread_ident
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from stoq.core.state cimport CLOSE_CLOSING, CLOSE_DRAINING, CLOSE_NONE
from stoq.endpoint.admission cimport Admitted
from stoq.endpoint.cidmap cimport CidMap
from stoq.endpoint.demux cimport CLIENT_DCID_MIN, Demux, raw
from stoq.endpoint.outbox cimport Outbox
from stoq.endpoint.replies cimport ReplyLimit
from stoq.endpoint.session cimport Driver, Session
from stoq.endpoint.timerheap cimport TimerHeap
from stoq.io.transport cimport Transport, address_from_python, address_to_python
from stoq.wire.header cimport TOKEN_MAX, Header

from stoq.connection.factory import client_connection, server_connection
from stoq.endpoint.admission import DefaultAdmission
from stoq.endpoint.cid_scheme import RandomCids
from stoq.endpoint.demux import FATAL
from stoq.errors import ConfigurationError, StoqError

logger = logging.getLogger("stoq")

cdef enum:
    # A deadline at or before now is put off by so much, so that a mistaken one cannot stop the endpoint.
    LATE_TIMER_NS = 1000000


cdef class Endpoint(Demux):
    """Demultiplexes datagrams to connections, admits new ones, sends for all in turn, keeps their timers.

    transport: owned from here on. configuration: of connections that clients open (None: it takes none).
    clock: callable() -> integer ns (None: CLOCK_MONOTONIC). random: callable(n) -> n unpredictable bytes.
    The thread that makes it is the only one that may use it or its connections.
    """

    def __cinit__(self, *args, **kwargs):
        self.owner = <unsigned long>PyThread_get_thread_ident()

    def __init__(self, Transport transport not None, *, configuration=None, admission=None, scheme=None,
                 session_factory=Session, stream_factory=None, unknown=None, driver=None, clock=None,
                 random=os.urandom):
        if unknown is None:
            unknown = "drop" if configuration is None else "reset"
        if not callable(unknown) and unknown not in ("drop", "reset"):
            raise ConfigurationError(f"unknown is 'drop', 'reset' or a callable, not {unknown!r}")
        self.transport = transport
        self.configuration = configuration
        self.admission = DefaultAdmission() if admission is None and configuration is not None else admission
        self.scheme = RandomCids(random=random) if scheme is None else scheme
        self.session_factory = session_factory
        self.stream_factory = stream_factory
        self.unknown = unknown
        self.driver = Driver() if driver is None else driver
        self.outbox = Outbox(transport, self.driver)
        self.clock = clock
        self.random = random
        self.wake_callback = self._wake
        self.timers = TimerHeap()
        self.ids = CidMap(random(56))
        self.initials = CidMap(random(56))
        self.replies = ReplyLimit(random(48))
        self.receive_batches = RECEIVE_BATCHES
        self.sessions = set()
        self.touched = []
        self.ready = []

    cdef int64_t now(self) except? -1:
        cdef timespec t
        if self.clock is not None:
            return self.clock()
        clock_gettime(CLOCK_MONOTONIC, &t)
        return <int64_t>t.tv_sec * 1000000000 + t.tv_nsec

    cdef int check_owner(self) except -1:
        if <unsigned long>PyThread_get_thread_ident() != self.owner:
            raise RuntimeError("a stoq endpoint and its connections belong to the thread that made them")
        return 0

    # ---- receive

    cdef int process(self, int64_t now) except -1:
        """The batch in self.incoming: to the connections, then their events to the application.

        Whatever fails, every connection that was given datagrams is finished before their memory goes back.
        """
        cdef uint32_t i
        cdef Session session
        cdef list touched
        self.busy = True
        error = None
        for i in range(self.incoming.count):
            try:
                self.dispatch(i, now)
            except BaseException as caught:
                error = error or caught
        touched, self.touched = self.touched, []
        for session in touched:
            session.touched = False
            try:
                self.finish(session, now)
            except BaseException as caught:
                error = error or caught
            self.enqueue(session)
        self.transport.release(&self.incoming)
        self.busy = False
        if error is not None:
            raise error
        return 0

    cdef int finish(self, Session session, int64_t now) except -1:
        try:
            session.connection.finish_batch(now)
        except BaseException as error:
            self.failed(session)
            if isinstance(error, FATAL):
                raise
        return 0

    cdef int accept(self, uint32_t i, uint32_t at, uint32_t size, const Header *h, const Admitted *how,
                    int64_t now) except -1:
        cdef bytes dcid = PyBytes_FromStringAndSize(<const char *>h.dcid, h.dcid_length)
        cdef bytes cid = self.new_id()
        cdef Session session
        cdef Connection connection
        original, scid = dcid, None
        if how.retried:
            original = PyBytes_FromStringAndSize(<const char *>how.original_dcid, how.original_dcid_length)
            scid = PyBytes_FromStringAndSize(<const char *>how.retry_scid, how.retry_scid_length)
        connection = server_connection(
            self.configuration, address_to_python(&self.incoming.peer[i]), address_to_python(&self.incoming.local[i]),
            now_ns=now, random=self.random, cid=cid, reset_token=self.scheme.reset_token(cid),
            original_dcid=original, initial_dcid=dcid, retry_scid=scid, validated=how.validated, version=h.version)
        # Text has no place for the scope of a link-local address.
        connection.c.path.peer = self.incoming.peer[i]
        connection.c.path.local = self.incoming.local[i]
        session = self.session_factory()
        self.adopt(session, connection, cid)
        session.traffic_class = how.traffic_class
        session.half_open = True
        self.half_open += 1
        self.count.accepted += 1
        session.initial_id = dcid
        self.initials.put(raw(dcid), len(dcid), <void *>session)
        self.deliver(session, i, at, size, now)
        if not connection.c.peer_scid_known:
            # Nothing in it was authentic, to whoever knows how to make an Initial: not worth a half-open place.
            self.count.accepted -= 1
            self.end(session)
        return 0

    # ---- connections

    def connect(self, configuration, peer, Session session not None, *, bytes token=b"", original_dcid=None):
        """Begin a connection to `peer` (host, port). The first flight leaves with the next flush().

        token: from a NEW_TOKEN frame of an earlier connection. original_dcid: the first DCID, 8 to 20 bytes
        (None: random).
        """
        cdef Connection connection
        self.check_owner()
        if self.closing or session.connection is not None:
            raise StoqError("the endpoint is closed, or the session has a connection")
        cid = self.new_id()
        if len(token) > TOKEN_MAX:
            raise ConfigurationError(f"a token has at most {TOKEN_MAX} bytes")
        connection = client_connection(
            configuration, peer, now_ns=self.now(), random=self.random, cid=cid, token=token,
            original_dcid=self.random(CLIENT_DCID_MIN) if original_dcid is None else original_dcid)
        address_from_python(peer, &connection.c.path.peer)
        self.adopt(session, connection, cid)
        self._wake(connection)
        return session

    cdef int adopt(self, Session session, Connection connection, bytes cid) except -1:
        session.timer = self.timers.add(<void *>session)
        self.ids.put(raw(cid), len(cid), <void *>session)
        session.ids.append(cid)
        self.sessions.add(session)
        connection.listener = session
        connection.wake = self.wake_callback
        if self.stream_factory is not None:
            connection.stream_factory = self.stream_factory
        session.endpoint = self
        session.connection = connection
        return 0

    cdef bytes new_id(self):
        cdef bytes cid = self.scheme.make()
        while self.ids.get(raw(cid), len(cid)) != NULL:
            cid = self.scheme.make()
        return cid

    cdef int issue(self, Session session) except -1:
        """Give the connection the IDs that it wants."""
        cdef uint32_t wanted = session.connection.cids_wanted()
        cdef bytes cid, token
        while wanted:
            cid = self.new_id()
            token = self.scheme.reset_token(cid)
            try:
                session.connection.add_cid(raw(cid), raw(token))
            except ConfigurationError:
                break        # one that the peer retired still has its place: later
            self.ids.put(raw(cid), len(cid), <void *>session)
            session.ids.append(cid)
            wanted -= 1
        return 0

    def forget_id(self, Session session, bytes cid):
        """The peer retired one of our IDs."""
        if cid in session.ids:
            session.ids.remove(cid)
            self.ids.pop(raw(cid), len(cid))
            self.last_session = NULL

    def handshake_ended(self):
        self.half_open -= 1

    cdef int end(self, Session session) except -1:
        """Forget a connection that is over."""
        cdef bytes cid
        if session not in self.sessions:
            return 0
        for cid in session.ids:
            self.ids.pop(raw(cid), len(cid))
        session.ids = []
        if session.initial_id is not None:
            self.initials.pop(raw(session.initial_id), len(session.initial_id))
            session.initial_id = None
        self.last_session = NULL
        self.timers.remove(session.timer)
        session.timer = -1
        session.handshake_over()
        self.sessions.discard(session)
        if not session.connection.terminated:
            try:
                session.terminated(session.connection)
            except Exception:
                logger.exception("an event handler failed as its connection ended")
        session.connection.wake = None
        session.connection.listener = None
        self.ended_one = True
        return 0

    cdef int tell_empty(self) except -1:
        """After what the last connection had to say has left, the owner may close the transport."""
        self.ended_one = False
        if not self.sessions and self.when_empty is not None:
            self.when_empty()
        return 0

    def _wake(self, Connection connection not None):
        """The application made something to send."""
        cdef Session session = connection.listener
        self.check_owner()
        if session is None or session.timer < 0:
            return
        self.enqueue(session)
        if not self.busy and not self.scheduled:
            self.scheduled = True
            self.driver.schedule()

    # ---- send

    cdef int enqueue(self, Session session) except -1:
        if not session.queued:
            session.queued = True
            self.ready.append(session)
        return 0

    cdef int send_some(self, Session session, int64_t now) except -1:
        """Build datagrams of one connection until it has none, or the batch is full: then 1."""
        cdef Connection connection = session.connection
        cdef int added
        cdef int64_t deadline
        if session.timer < 0:
            return 0
        # A deadline may come while datagrams or calls of the application are handled: it counts as come.
        deadline = connection.deadline()
        if deadline and deadline <= now:
            connection.timer(now)
            self.finish(session, now)
        self.issue(session)
        while True:
            self.outbox.open()
            added = connection.send(&self.outbox.batch, now)
            if self.outbox.batch.count >= self.outbox.batch.slots:
                return 1
            if added == 0:
                break
        if connection.terminated or connection.c.close.state != CLOSE_NONE and self.needless(connection):
            self.end(session)
        else:
            self.set_timer(session, now)
        return 0

    cdef bint needless(self, Connection connection):
        """Whether a closing connection need not wait for late packets (RFC 9000 §10.2).

        Not when the socket is about to close, as far as the peer has heard. And not for strangers, once the close had
        its chance to leave: who never proved an address does not get three seconds of memory for a ClientHello.
        """
        cdef int state = connection.c.close.state
        if not connection.is_client and not connection.c.path.validated:
            return True
        if not self.end_early:
            return False
        return state == CLOSE_DRAINING or (
            state == CLOSE_CLOSING and not connection.c.close.send_due and not connection.handshake_complete)

    cdef int send_ready(self, int64_t now) except -1:
        """Send for all connections in turn, a batch each at a time, up to SEND_BYTES."""
        cdef list work
        cdef Session session
        cdef uint64_t sent = 0
        cdef int batches = 0
        cdef Py_ssize_t i, n
        self.busy = True
        try:
            while self.ready and not self.outbox.blocked and sent < SEND_BYTES and batches < SEND_BATCHES:
                work, self.ready = self.ready, []
                n = len(work)
                i = 0
                while i < n:
                    session = work[i]
                    i += 1
                    session.queued = False
                    if self.send_safely(session, now):
                        self.enqueue(session)
                        sent += self.outbox.bytes_waiting()
                        batches += 1
                        if self.outbox.push() or sent >= SEND_BYTES or batches >= SEND_BATCHES:
                            break
                # Those that were not served come first next time.
                if i < n:
                    self.ready = work[i:] + self.ready
            if not self.outbox.blocked:
                self.outbox.push()
        finally:
            self.busy = False
        if self.ended_one and not self.outbox.blocked:
            self.tell_empty()
        if self.ready and not self.outbox.blocked and not self.scheduled:
            self.scheduled = True
            self.driver.schedule()
        return 0

    cdef int send_safely(self, Session session, int64_t now) except -1:
        """send_some(); a connection that cannot be served is closed, and at the second time forgotten."""
        try:
            return self.send_some(session, now)
        except Exception:
            if session.connection.close_reason is not None:
                logger.exception("a connection is given up")
                self.end(session)
            else:
                self.failed(session)
                self.enqueue(session)
            return 0

    # ---- timers

    cdef int set_timer(self, Session session, int64_t now) except -1:
        cdef int64_t deadline = session.connection.deadline()
        if deadline and deadline <= now:
            self.count.late_timers += 1
            deadline = now + LATE_TIMER_NS
        self.timers.set(session.timer, deadline)
        return 0

    cdef int arm(self) except -1:
        cdef int64_t deadline = self.timers.next()
        # A deadline that moved later is looked at when the earlier one fires: no call per batch.
        if deadline and (self.armed == 0 or deadline < self.armed):
            self.armed = deadline
            self.driver.arm(deadline)
        return 0

    # ---- what the driver calls

    cpdef on_readable(self):
        """Datagrams have arrived. Returns whether more may be waiting."""
        cdef int n
        cdef bint alone
        cdef int64_t now
        for _ in range(self.receive_batches):
            if self.transport.closed:    # the last connection ended with the batch before
                return False
            n = self.transport.receive(&self.incoming)
            if n == 0:
                break
            now = self.now()
            alone = n == 1 and self.incoming.segment[0] == 0
            self.process(now)
            self.send_ready(now)
            if alone:
                break        # most likely nothing waits behind it; the poller calls again if something does
        else:
            self.arm()
            return True
        self.arm()
        return False

    cpdef on_writable(self):
        """The transport takes datagrams again."""
        if self.outbox.blocked:
            if self.outbox.push():
                return
            self.outbox.blocked = False
            self.driver.watch_writable(False)
        self.send_ready(self.now())
        self.arm()

    cpdef on_timer(self):
        """A deadline may have come. (Early calls are harmless.)"""
        cdef int64_t now = self.now()
        cdef int32_t slot
        cdef Session session
        self.armed = 0
        self.busy = True
        try:
            while True:
                slot = self.timers.pop(now)
                if slot < 0:
                    break
                if self.timers.slots[slot].owner == NULL:
                    callback = self.timers.callbacks.get(slot)
                    if callback is not None:
                        try:
                            callback(now)
                        except Exception:
                            logger.exception("a timer's callback failed")
                    continue
                session = <Session>self.timers.slots[slot].owner
                session.connection.timer(now)
                self.finish(session, now)
                self.enqueue(session)
        finally:
            self.busy = False
        self.send_ready(now)
        self.arm()

    cpdef flush(self):
        """Send what the application made (the driver's answer to schedule())."""
        self.scheduled = False
        self.send_ready(self.now())
        self.arm()

    # ---- for owners

    def schedule_timer(self, int32_t slot, int64_t deadline):
        """timers.schedule(slot, deadline), for a slot of timers.register(); and the driver hears of it."""
        self.timers.schedule(slot, deadline)
        self.arm()

    def next_deadline(self):
        """When on_timer() is due, in ns of the clock; None: never."""
        cdef int64_t deadline = self.timers.next()
        return deadline if deadline else None

    @property
    def is_blocked(self):
        """Datagrams wait for on_writable()."""
        return self.outbox.blocked

    def drain(self):
        """Take no new connections; those that exist go on."""
        self.check_owner()
        self.draining = True

    def close(self, error_code=0, reason="", application=True):
        """Close every connection and take no new ones. They linger until terminated (three PTO), then when_empty()."""
        cdef Session session
        self.check_owner()
        if not self.closing:
            self.closing = True
            for session in list(self.sessions):
                session.connection.close(error_code, reason, application=application)
                self.enqueue(session)
            self.flush()
        if not self.sessions:
            self.tell_empty()

    def counters(self):
        """What became of datagrams and clients without a connection: a dict of totals."""
        return dict(self.count)
