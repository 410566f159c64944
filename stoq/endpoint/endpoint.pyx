"""One transport and the connections over it, whatever drives them: an event loop, or a simulation in virtual time."""
import logging
import os

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.pythread cimport PyThread_get_thread_ident
from libc.string cimport memcmp, memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from stoq.core.cids cimport cid_is_reset
from stoq.core.state cimport CLOSE_CLOSING, CLOSE_DRAINING, MIN_DATAGRAM
from stoq.endpoint.admission cimport ADMIT_ACCEPT, ADMIT_REFUSE, ADMIT_RETRY, InitialInfo
from stoq.endpoint.destination cimport destination
from stoq.endpoint.outbox cimport Outbox
from stoq.endpoint.replies cimport put_refusal, put_retry, put_stateless_reset, put_versions
from stoq.endpoint.session cimport Driver, Session
from stoq.io.transport cimport address_to_python
from stoq.wire.batch cimport DATAGRAM_TRUNCATED
from stoq.wire.header cimport (
    HEADER_OK, PACKET_INITIAL, PACKET_UNKNOWN_VERSION, PACKET_ZERO_RTT, header_parse,
)

from stoq.connection.factory import client_connection, server_connection
from stoq.endpoint.admission import DefaultAdmission
from stoq.endpoint.cid_scheme import RandomCids
from stoq.errors import ConfigurationError, StoqError, TransportErrorCode

logger = logging.getLogger("stoq")

cdef enum:
    # RFC 9000 §7.2: a client's first DCID has at least 8 bytes.
    CLIENT_DCID_MIN = 8
    # Connections whose reset tokens are compared with a datagram of no connection: clients have few.
    RESET_SEARCH_MAX = 64
    # A deadline at or before now is put off by so much, so that a mistaken one cannot stop the endpoint.
    LATE_TIMER_NS = 1000000
    RANDOM_REPLY = 32


cdef inline const uint8_t *raw(bytes data) noexcept:
    return <const uint8_t *><const char *>data


cdef class Endpoint:
    """Demultiplexes datagrams to connections, admits new ones, sends for all in turn, keeps their timers.

    transport: owned from here on. configuration: of connections that clients open (None: it takes none).
    clock: callable() -> integer ns (None: CLOCK_MONOTONIC). random: callable(n) -> n unpredictable bytes.
    The thread that makes it is the only one that may use it or its connections.
    """

    def __cinit__(self, *args, **kwargs):
        memset(&self.count, 0, sizeof(self.count))
        memset(&self.incoming, 0, sizeof(self.incoming))
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

    cdef void *lookup(self, const uint8_t *cid, size_t length) noexcept nogil:
        cdef void *found
        if self.last_session != NULL and length == self.last_length and memcmp(cid, self.last_id, length) == 0:
            return self.last_session
        found = self.ids.get(cid, length)
        if found != NULL:
            memcpy(self.last_id, cid, length)
            self.last_length = length
            self.last_session = found
        return found

    cdef int dispatch(self, uint32_t i, int64_t now) except -1:
        """Cut one received entry into runs of datagrams for one connection."""
        cdef uint8_t *data = self.incoming.data[i]
        cdef uint32_t length = self.incoming.length[i], step = self.incoming.segment[i]
        cdef uint32_t at = 0, end, size
        cdef size_t n, m, mine = self.scheme.length
        cdef const uint8_t *cid = NULL
        cdef const uint8_t *next_cid = NULL
        cdef void *found
        if self.incoming.flags[i] & DATAGRAM_TRUNCATED:
            return 0
        if step == 0 or step > length:
            step = length
        while at < length:
            size = min(step, length - at)
            if not destination(data + at, size, mine, &cid, &n):
                n = 0
            found = self.lookup(cid, n) if n else NULL
            if found == NULL:
                self.stray(i, at, size, now)
                at += size
                continue
            end = at + size
            while end < length:
                size = min(step, length - end)
                if not destination(data + end, size, mine, &next_cid, &m) or m != n or memcmp(cid, next_cid, n):
                    break
                end += size
            self.deliver(<Session>found, i, at, end - at, now)
            at = end
        return 0

    cdef int deliver(self, Session session, uint32_t i, uint32_t at, uint32_t size, int64_t now) except -1:
        cdef uint32_t segment = self.incoming.segment[i]
        if not session.touched:
            session.touched = True
            self.touched.append(session)
        try:
            session.connection.receive(self.incoming.data[i] + at, size, segment if size > segment else 0,
                                       self.incoming.ecn[i], &self.incoming.peer[i], &self.incoming.local[i], now)
        except Exception:
            self.failed(session)
        return 0

    cdef int process(self, int64_t now) except -1:
        """The batch in self.incoming: to the connections, then their events to the application, then answers."""
        cdef uint32_t i
        cdef Session session
        cdef list touched
        self.busy = True
        try:
            for i in range(self.incoming.count):
                self.dispatch(i, now)
            touched, self.touched = self.touched, []
            for session in touched:
                session.touched = False
                self.finish(session, now)
                self.enqueue(session)
        finally:
            self.transport.release(&self.incoming)
            self.busy = False
        return 0

    cdef int finish(self, Session session, int64_t now) except -1:
        try:
            session.connection.finish_batch(now)
        except Exception:
            self.failed(session)
        return 0

    cdef int failed(self, Session session) except -1:
        logger.exception("an event handler failed; its connection is closed")
        session.connection.close(<int>TransportErrorCode.INTERNAL_ERROR, "", application=False)
        return 0

    cdef int stray(self, uint32_t i, uint32_t at, uint32_t size, int64_t now) except -1:
        """A datagram of no connection that we know by its ID."""
        cdef uint8_t *p = self.incoming.data[i] + at
        cdef Header h
        cdef void *found
        cdef uint8_t *room
        cdef size_t length
        self.count.unknown += 1
        if size == 0:
            return 0
        if not p[0] & 0x80:
            return self.stray_short(i, at, size, now)
        if header_parse(p, size, self.scheme.length, &h) != HEADER_OK:
            return 0
        if h.type == PACKET_INITIAL or h.type == PACKET_ZERO_RTT:
            found = self.initials.get(h.dcid, h.dcid_length)
            if found != NULL:
                return self.deliver(<Session>found, i, at, size, now)
        if self.configuration is None:
            # A client's endpoint: Version Negotiation and Retry carry our ID, so they are not strays.
            return 0
        if h.type == PACKET_INITIAL:
            return self.stray_initial(i, at, size, &h, now)
        # RFC 9000 §6.1: only for datagrams that could open a connection; never in answer to Version Negotiation.
        if h.type == PACKET_UNKNOWN_VERSION and size >= MIN_DATAGRAM and self.may_reply(i, now):
            room = self.outbox.reply_room()
            if room != NULL:
                length = put_versions(room, &h, raw(self.random(4)))
                self.count.versions += length != 0
                self.outbox.reply(&self.incoming, i, length)
        return 0

    cdef bint may_reply(self, uint32_t i, int64_t now) noexcept:
        return self.replies.allow(&self.incoming.peer[i], now)

    cdef int stray_short(self, uint32_t i, uint32_t at, uint32_t size, int64_t now) except -1:
        cdef uint8_t *p = self.incoming.data[i] + at
        cdef Session session
        cdef uint8_t *room
        cdef bytes cid, noise, token
        cdef size_t length
        # A Stateless Reset looks like this (RFC 9000 §10.3.1).
        if len(self.sessions) <= RESET_SEARCH_MAX:
            for session in self.sessions:
                if session.connection.c != NULL and cid_is_reset(session.connection.c, p, size):
                    return self.deliver(session, i, at, size, now)
        if self.unknown == "drop" or size < 1 + <uint32_t>self.scheme.length:
            return 0
        cid = PyBytes_FromStringAndSize(<char *>p + 1, self.scheme.length)
        if self.unknown != "reset":
            self.count.handed_over += 1
            try:
                self.unknown(PyBytes_FromStringAndSize(<char *>p, size), address_to_python(&self.incoming.peer[i]),
                             self.scheme.recognise(cid))
            except Exception:
                logger.exception("handing over a datagram failed")
            return 0
        if not self.may_reply(i, now):
            return 0
        room = self.outbox.reply_room()
        if room != NULL:
            noise = self.random(RANDOM_REPLY)
            token = self.scheme.reset_token(cid)
            length = put_stateless_reset(room, size, raw(token), raw(noise))
            self.count.resets += length != 0
            self.outbox.reply(&self.incoming, i, length)
        return 0

    cdef int stray_initial(self, uint32_t i, uint32_t at, uint32_t size, const Header *h, int64_t now) except -1:
        cdef InitialInfo info
        cdef Admitted how
        cdef uint8_t *room
        cdef bytes scid, token
        cdef size_t length
        # RFC 9000 §14.1: an Initial in a smaller datagram is dropped.
        if size < MIN_DATAGRAM or h.dcid_length < CLIENT_DCID_MIN and not h.token_length:
            return 0
        if self.draining or self.closing:
            self.count.not_admitted += 1
            return 0
        info.token, info.token_length = h.token, h.token_length
        info.dcid, info.dcid_length = h.dcid, h.dcid_length
        info.scid, info.scid_length = h.scid, h.scid_length
        info.address = &self.incoming.peer[i]
        info.version = h.version
        info.flags = self.incoming.flags[i]
        info.half_open = self.half_open
        info.connections = <uint32_t>len(self.sessions)
        self.admission.admit(&info, now, &how)
        if how.verdict == ADMIT_ACCEPT:
            return self.accept(i, at, size, h, &how, now)
        room = NULL
        if how.verdict == ADMIT_RETRY or how.verdict == ADMIT_REFUSE and self.may_reply(i, now):
            room = self.outbox.reply_room()
        if room == NULL:
            self.count.not_admitted += 1
            return 0
        scid = self.scheme.make()
        if how.verdict == ADMIT_RETRY:
            token = self.admission.mint_retry(
                address_to_python(&self.incoming.peer[i]),
                PyBytes_FromStringAndSize(<const char *>h.dcid, h.dcid_length), scid, h.version, now)
            length = put_retry(room, h, raw(scid), len(scid), raw(token), len(token), <uint8_t>scid[0])
            self.count.retries += length != 0
        else:
            length = put_refusal(room, h, raw(scid), len(scid), how.error_code)
            self.count.refused += length != 0
        return self.outbox.reply(&self.incoming, i, length)

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
        session = self.session_factory()
        self.adopt(session, connection, cid)
        session.traffic_class = how.traffic_class
        session.half_open = True
        self.half_open += 1
        self.count.accepted += 1
        session.initial_id = dcid
        self.initials.put(raw(dcid), len(dcid), <void *>session)
        return self.deliver(session, i, at, size, now)

    # ---- connections

    def connect(self, configuration, peer, Session session not None, *, token=b"", original_dcid=None):
        """Begin a connection to `peer` (host, port). The first flight leaves with the next flush().

        token: from a NEW_TOKEN frame of an earlier connection. original_dcid: the first DCID, 8 to 20 bytes
        (None: random).
        """
        self.check_owner()
        if self.closing or session.connection is not None:
            raise StoqError("the endpoint is closed, or the session has a connection")
        cid = self.new_id()
        connection = client_connection(
            configuration, peer, now_ns=self.now(), random=self.random, cid=cid, token=token,
            original_dcid=self.random(CLIENT_DCID_MIN) if original_dcid is None else original_dcid)
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
            session.connection.add_cid(raw(cid), raw(token))
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
            session.terminated(session.connection)
        session.connection.wake = None
        session.connection.listener = None
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
        if connection.terminated or self.end_early and self.needless(connection):
            self.end(session)
        else:
            self.set_timer(session, now)
        return 0

    cdef bint needless(self, Connection connection):
        """RFC 9000 §10.2: a socket that is about to close need not stay for late packets; we stay for answers that a
        peer could miss, while the PTO is known."""
        cdef int state = connection.c.close.state
        return state == CLOSE_DRAINING or state == CLOSE_CLOSING and not connection.handshake_complete

    cdef int send_ready(self, int64_t now) except -1:
        """Send for all connections in turn, a batch each at a time, up to SEND_BATCHES."""
        cdef list work
        cdef Session session
        cdef int batches = 0
        cdef Py_ssize_t i
        cdef bint more
        self.busy = True
        try:
            while self.ready and not self.outbox.blocked and batches < SEND_BATCHES:
                work, self.ready = self.ready, []
                for i in range(len(work)):
                    session = work[i]
                    session.queued = False
                    more = self.send_some(session, now)
                    if more:
                        self.enqueue(session)
                        batches += 1
                        if self.outbox.push() or batches == SEND_BATCHES:
                            # Those that were not served come first next time.
                            self.ready = work[i + 1:] + self.ready
                            break
            if not self.outbox.blocked:
                self.outbox.push()
        finally:
            self.busy = False
        if self.ready and not self.outbox.blocked and not self.scheduled:
            self.scheduled = True
            self.driver.schedule()
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
        cdef int64_t now
        for _ in range(self.receive_batches):
            if self.transport.closed:    # the last connection ended with the batch before
                return False
            n = self.transport.receive(&self.incoming)
            if n == 0:
                break
            now = self.now()
            self.process(now)
            self.send_ready(now)
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
                        callback(now)
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
        if not self.sessions and self.when_empty is not None:
            self.when_empty()

    def counters(self):
        """What became of datagrams and clients without a connection: a dict of totals."""
        return dict(self.count)
