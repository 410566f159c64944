"""The shell: owns one core and one TLS handshake, moves CRYPTO bytes and keys between them; sans-IO."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport PyObject, Py_DECREF
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from stoq.wire.batch cimport Address, SEND_SEGMENTS_MAX, SendBatch
from stoq.core cimport core
from stoq.core.cids cimport cid_add_local
from stoq.core.cids cimport cids_wanted as core_cids_wanted
from stoq.core.events cimport event_pop
from stoq.core.keyupdate cimport update_request
from stoq.core.knobs cimport knob_set, knobs_dict, stats_dict
from stoq.core.recvbuf cimport recvbuf_complete, recvbuf_detach, recvbuf_take
from stoq.core.sendbuf cimport droplist_pop, droplist_waiting
from stoq.core.state cimport (
    CLOSE_DONE, CLOSE_NONE, Conn, EV_AUTH_THRESHOLD, EV_CID_RETIRED, EV_CLOSED, EV_HANDSHAKE_CONFIRMED, EV_NEW_TOKEN,
    EV_PING_ACKED, EV_STREAMS_AVAILABLE, EV_STREAM_FINISHED, EV_STREAM_GONE, EV_STREAM_OPENED, EV_STREAM_RESET,
    EV_STREAM_STOPPED, EV_STREAM_WRITABLE, Event, PeerParams, RecvBuf, SPACE_APP, STREAM_FIN_READ, STREAM_GONE_TOLD,
    STREAM_RESET_GOT, STREAM_STOP_SENT,
)
from stoq.core.state cimport Stream as CStream
from stoq.core.streams cimport (
    stream_can_open, stream_maybe_free, stream_open, stream_pop_readable, stream_read_end,
    streams_credit,
)
from stoq.connection.address cimport fill_address, show_address
from stoq.connection.reasons cimport close_reason
from stoq.connection.stream cimport StreamHandle

from stoq.errors import ConfigurationError, StreamLimitError, TransportErrorCode, TransportParameterError
from stoq.tls import Epoch, TlsAlert
from stoq.connection.parameters import read_peer_parameters

cdef enum:
    CRYPTO_FRAME = 0x06
    INTERNAL_ERROR = 0x01
    UNEXPECTED_MESSAGE = 0x010A      # CRYPTO_ERROR + unexpected_message (RFC 9001 §6)
    ENTRY_BYTES = 65507              # one UDP payload, for datagrams_to_send

cdef class Connection(Negotiated):
    """One QUIC connection without I/O: datagrams and time in, datagrams and events out.

    Made by `client_connection` or `server_connection`. Times are integer nanoseconds of any one monotonic clock.
    """

    def __dealloc__(self):
        if self.c != NULL:
            core.core_abandon(self.c)
            self.drain_drops()
            core.core_free(self.c)
            self.c = NULL

    # ---------------------------------------------------------------- driver side
    cdef int receive(self, uint8_t *data, uint32_t length, uint32_t segment, uint8_t ecn, const Address *peer,
                     const Address *local, int64_t now) except -1:
        cdef int rc
        if self.terminated:
            return 0
        self.in_batch = True
        self.last_now = now
        rc = core.core_receive(self.c, data, length, segment, ecn, peer, local, now)
        while rc == core.CORE_NEED_TLS:
            self.pump_tls(now)
            rc = core.core_resume(self.c, now)
        if rc == core.CORE_DEAD:
            self.die()
        return 0

    cdef int finish_batch(self, int64_t now) except -1:
        if self.c == NULL or self.terminated:
            self.in_batch = False
            return 0
        self.in_batch = True
        self.last_now = now
        try:
            if self.c.spaces[SPACE_APP].crypto.recv.pending or not self.handshake_complete:
                self.pump_tls(now)
            self.pump_events()
            if self.c.read_head != NULL:
                self.pump_readable()
                self.pump_events()
        finally:
            # Also when a callback raised: the datagrams' memory goes away now.
            self.in_batch = False
            core.core_batch_end(self.c)
            if droplist_waiting(&self.c.drops):
                self.drain_drops()
            if self.c.error:
                self.die()
            self.check_end()
        return 0

    cdef int send(self, SendBatch *batch, int64_t now) except -1:
        cdef int n
        self.waking = False
        if self.terminated or self.c == NULL:
            return 0
        self.last_now = now
        n = core.core_send(self.c, batch, now)
        if n < 0:
            self.die()
            return 0
        return n

    cdef int64_t deadline(self):
        if self.terminated or self.c == NULL:
            return 0
        return core.core_deadline(self.c)

    cdef int timer(self, int64_t now) except -1:
        if not self.terminated and self.c != NULL:
            self.last_now = now
            core.core_timer(self.c, now)
        return 0

    cdef bint wants_send(self):
        return self.waking

    cdef int notify(self) except -1:
        """The application made something to send: wake the driver, once until it sends."""
        if self.waking or self.in_batch or self.wake is None or self.terminated:
            return 0
        self.waking = True
        self.wake(self)
        return 0

    cdef uint32_t cids_wanted(self):
        return 0 if self.c == NULL or self.terminated else core_cids_wanted(self.c)

    cdef int add_cid(self, const uint8_t *cid, const uint8_t *token16) except -1:
        if self.c != NULL and cid_add_local(self.c, cid, token16) == NULL:
            raise ConfigurationError("no room for another connection ID")
        return 0

    # ---------------------------------------------------------------- TLS
    cdef int pump_tls(self, int64_t now) except -1:
        """CRYPTO bytes to TLS, its output and secrets to the core."""
        cdef Conn *c = self.c
        cdef RecvBuf *buf
        cdef bytes data
        cdef int space
        cdef object tls = self.tls
        if c.close.state != CLOSE_NONE:
            return 0
        for space in range(3):
            buf = &c.spaces[space].crypto.recv
            if c.spaces[space].discarded or buf.pending == 0:
                continue
            data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>buf.pending)
            recvbuf_take(buf, <uint8_t *>PyBytes_AS_STRING(data))
            if tls is None:
                # A server has nothing more to hear from a client: QUIC has no TLS KeyUpdate (RFC 9001 §6).
                core.core_close(c, UNEXPECTED_MESSAGE, CRYPTO_FRAME, 0, b"", 0, now)
                return 0
            try:
                tls.receive(Epoch(3 if space == 2 else space * 2), data)
            except TlsAlert as alert:
                self.move_tls()
                reason = alert.message.encode()[:256]
                core.core_close(c, <uint64_t>alert.error_code, CRYPTO_FRAME, 0,
                        <const uint8_t *>PyBytes_AS_STRING(reason),
                                <size_t>len(reason), now)
                return 0
            if not self.params_applied and tls.peer_transport_parameters is not None:
                self.apply_params(tls.peer_transport_parameters)
                if c.close.state != CLOSE_NONE:
                    return 0
            self.move_tls()
        if tls is not None and tls.complete and not self.handshake_complete:
            self.negotiated = (tls.alpn, tls.cipher_suite, tls.group, tls.signature_scheme, tls.server_name,
                               tls.peer_certificates)
            self.handshake_complete = True
            core.core_handshake_complete(c, now)
            if not self.is_client:
                # Not tls.export: that would keep the whole handshake for the connection's life.
                self.exporter = tls.schedule.export
                self.tls = None
            self.emit("handshake_completed", None)
        return 0

    cdef int move_tls(self) except -1:
        cdef bytes data
        cdef bytes secret
        for item in self.tls.take_secrets():
            secret = item.secret
            if core.core_install_key(self.c, item.epoch, item.sending, item.suite,
                                     <const uint8_t *>PyBytes_AS_STRING(secret), <size_t>len(secret)):
                self.c.error = 1
        for epoch, data in self.tls.take_output():
            if core.core_crypto_write(self.c, epoch, <const uint8_t *>PyBytes_AS_STRING(data), <uint64_t>len(data)):
                self.c.error = 1
        return 0

    cdef int apply_params(self, bytes encoded) except -1:
        """The peer's transport parameters: checked against the handshake (RFC 9000 §7.3), then obeyed."""
        cdef Conn *c = self.c
        cdef PeerParams p
        self.params_applied = True
        try:
            params = read_peer_parameters(
                encoded, self.is_client, (<const char *>c.peer_scid)[:c.peer_scid_length], self.original_dcid,
                (<const char *>c.retry_scid)[:c.retry_scid_length] if c.retried else None)
        except TransportParameterError as error:
            reason = error.reason.encode()[:256]
            core.core_close(c, <uint64_t>TransportErrorCode.TRANSPORT_PARAMETER_ERROR, CRYPTO_FRAME, 0,
                            <const uint8_t *>PyBytes_AS_STRING(reason), <size_t>len(reason), self.last_now)
            return 0
        self.peer_params = params
        memset(&p, 0, sizeof(PeerParams))
        # Milliseconds from the peer, up to 2^62: an idle timeout beyond a day is as good as none shorter.
        p.max_idle_timeout_ns = <uint64_t>min(params.max_idle_timeout, 86_400_000) * 1000000
        p.max_udp_payload_size = params.max_udp_payload_size
        p.initial_max_data = params.initial_max_data
        p.initial_max_stream_data_bidi_local = params.initial_max_stream_data_bidi_local
        p.initial_max_stream_data_bidi_remote = params.initial_max_stream_data_bidi_remote
        p.initial_max_stream_data_uni = params.initial_max_stream_data_uni
        p.initial_max_streams_bidi = params.initial_max_streams_bidi
        p.initial_max_streams_uni = params.initial_max_streams_uni
        p.ack_delay_exponent = params.ack_delay_exponent
        p.max_ack_delay_ns = <uint64_t>params.max_ack_delay * 1000000
        p.active_connection_id_limit = params.active_connection_id_limit
        p.disable_active_migration = params.disable_active_migration
        core.core_peer_params(c, &p)
        if self.is_client and params.stateless_reset_token is not None and c.dcid != NULL:
            memcpy(c.dcid.token, PyBytes_AS_STRING(params.stateless_reset_token), 16)
            c.dcid.has_token = 1
        return 0

    # ---------------------------------------------------------------- events
    cdef int emit(self, str name, object value) except -1:
        if self.listener is None:
            self.event_list.append((name, value))
        elif value is None:
            getattr(self.listener, name)(self)
        else:
            getattr(self.listener, name)(self, value)
        return 0

    cdef int emit_once(self, uint32_t bit, str name, object value) except -1:
        """As emit; a list that nobody reads holds one of these."""
        if self.listener is None:
            if self.listed & bit:
                return 0
            self.listed |= bit
        return self.emit(name, value)

    cdef StreamHandle_new(self, CStream *s):
        cdef StreamHandle handle = self.stream_factory(self, s.id)
        handle.s = s
        s.user = <void *><PyObject *>handle
        self.handles[s.id] = handle
        return handle

    cdef int pump_events(self) except -1:
        cdef Conn *c = self.c
        cdef Event e
        cdef StreamHandle handle
        while event_pop(c, &e):
            if e.type == EV_STREAM_OPENED:
                handle = self.StreamHandle_new(e.stream)
                self.emit("stream_opened", handle)
            elif e.type == EV_STREAM_GONE:
                handle = self.handles.pop(e.stream_id, None)
                if handle is not None:
                    handle.s = NULL
                    handle.over = True
                if self.is_client == <bint>(e.stream_id & 1) and (handle is None or not handle.unaccepted):
                    streams_credit(c, e.stream_id)
                e.stream.user = NULL
                e.stream.flags |= STREAM_GONE_TOLD
                stream_maybe_free(c, e.stream)
            elif e.type == EV_STREAM_RESET:
                handle = self.handles.get(e.stream_id)
                if handle is not None:
                    handle.on_reset(e.a)
                    if self.listener is None:
                        self.event_list.append(("stream_reset", handle))
            elif e.type == EV_STREAM_STOPPED:
                handle = self.handles.get(e.stream_id)
                if handle is not None:
                    handle.on_stopped(e.a)
                    if self.listener is None:
                        self.event_list.append(("stream_stopped", handle))
            elif e.type == EV_STREAM_WRITABLE:
                handle = self.handles.get(e.stream_id)
                if handle is not None:
                    handle.on_writable()
            elif e.type == EV_STREAM_FINISHED:
                handle = self.handles.get(e.stream_id)
                if handle is not None:
                    handle.on_acked()
            elif e.type == EV_STREAMS_AVAILABLE:
                self.emit_once(1 if e.a & 2 else 2, "streams_available", bool(e.a & 2))
            elif e.type == EV_CLOSED:
                self.told_closed()
            elif e.type == EV_CID_RETIRED:
                c.local_cids[e.stream_id].retired = 0
                self.emit("cid_retired", (<const char *>c.local_cids[e.stream_id].cid)[:c.cid_length])
            elif e.type == EV_NEW_TOKEN:
                if c.new_token != NULL:
                    self.newest_token = (<const char *>c.new_token)[:c.new_token_length]
                    self.emit_once(4, "new_token", self.newest_token)
            elif e.type == EV_PING_ACKED:
                # A probe repeats a PING: several packets may carry the same cookie.
                if self.pings is None or e.a not in self.pings:
                    continue
                self.pings.discard(e.a)
                self.emit("ping_acked", e.a)
            elif e.type == EV_AUTH_THRESHOLD:
                self.emit("auth_threshold", e.a)
            elif e.type == EV_HANDSHAKE_CONFIRMED and self.listener is None:
                self.event_list.append(("handshake_confirmed", None))
        return 0

    cdef int pump_readable(self) except -1:
        """In-order data of the batch: one bytes object a stream, copied once."""
        cdef Conn *c = self.c
        cdef CStream *s
        cdef StreamHandle handle
        cdef bytes data
        cdef uint64_t size
        cdef bint fin
        while True:
            s = stream_pop_readable(c)
            if s == NULL:
                return 0
            if s.user == NULL:
                # Its factory raised: the connection is about to close.
                if recvbuf_detach(&s.recv):
                    c.error = 1
                stream_maybe_free(c, s)
                continue
            if s.flags & (STREAM_FIN_READ | STREAM_STOP_SENT | STREAM_RESET_GOT):
                stream_maybe_free(c, s)
                continue
            handle = <StreamHandle>s.user
            size = s.recv.pending
            data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
            if size:
                recvbuf_take(&s.recv, <uint8_t *>PyBytes_AS_STRING(data))
                c.stats.stream_bytes_received += size
            fin = recvbuf_complete(&s.recv)
            if fin:
                stream_read_end(c, s)
            handle.on_data(data, fin)
            if self.listener is None and not handle.data_told:
                handle.data_told = True
                self.event_list.append(("stream_data", handle))

    cdef int drain_drops(self) except -1:
        cdef void *owner = droplist_pop(&self.c.drops)
        while owner != NULL:
            Py_DECREF(<object>owner)
            owner = droplist_pop(&self.c.drops)
        return 0

    # ---------------------------------------------------------------- the end
    cdef int told_closed(self) except -1:
        cdef StreamHandle handle
        if self.closed_told:
            return 0
        self.closed_told = True
        self.close_reason = close_reason(self.c, self.handshake_complete)
        for handle in list(self.handles.values()):
            handle.on_connection_closed()
        self.emit("closed", None)
        return 0

    cdef int check_end(self) except -1:
        cdef StreamHandle handle
        if self.c.close.state != CLOSE_DONE or self.terminated:
            return 0
        self.told_closed()
        self.terminated = True
        for handle in self.handles.values():
            handle.s = NULL
            handle.over = True
        self.handles.clear()
        core.core_abandon(self.c)
        self.drain_drops()
        self.tls = None
        self.emit("terminated", None)
        return 0

    cdef int die(self) except -1:
        """The core ran out of memory or its library failed: nothing can be said any more."""
        self.c.error = 0
        if self.c.close.state == CLOSE_NONE:
            self.c.close.cause = 6
        self.c.close.state = CLOSE_DONE
        self.c.close.deadline = 0
        return self.check_end()

    # ---------------------------------------------------------------- Python: acts
    def can_open_stream(self, bint unidirectional=False):
        return self.c != NULL and stream_can_open(self.c, unidirectional)

    def open_stream(self, bint unidirectional=False):
        """A new stream of ours. Raises StreamLimitError at the peer's limit, the close reason once closed."""
        cdef CStream *s
        if self.close_reason is not None:
            raise self.close_reason
        s = stream_open(self.c, unidirectional)
        if s == NULL:
            if self.c.error:
                raise MemoryError
            self.notify()
            raise StreamLimitError("the peer allows no further stream now")
        return self.StreamHandle_new(s)

    def get_stream(self, uint64_t stream_id):
        """The live stream of that ID, or None."""
        return self.handles.get(stream_id)

    def close(self, uint64_t error_code=0, str reason="", bint application=True, frame_type=0):
        """Close with an application error code (or a transport one). Repeating it does nothing."""
        cdef bytes text = reason.encode()[:256]
        if self.c == NULL or self.terminated:
            return
        if error_code > 0x3FFFFFFFFFFFFFFF:
            raise ConfigurationError("an error code is below 2**62")
        core.core_close(self.c, error_code, frame_type, application, <const uint8_t *>PyBytes_AS_STRING(text),
                        <size_t>len(text), self.last_now)
        if not self.in_batch:
            self.pump_events()
        self.notify()

    def ping(self, uint64_t cookie=1):
        """Send a PING; event ping_acked(cookie) follows its acknowledgement."""
        if self.c != NULL and not self.terminated:
            self.c.ping_due = 1
            self.c.ping_cookie = cookie
            if self.pings is None:
                self.pings = set()
            self.pings.add(cookie)
            self.notify()

    def update_keys(self):
        """Change the 1-RTT keys with the next packet (RFC 9001 §6.1); False when that is not permitted now."""
        if self.c == NULL or self.terminated or update_request(self.c):
            return False
        self.c.ping_due = 1
        self.notify()
        return True

    def set_knob(self, str name, value):
        """Change one knob of the running connection, from the next batch on; ValueError outside its range."""
        if self.c != NULL:
            knob_set(&self.c.knobs_next, name, value)
            self.c.knobs_dirty = 1

    # ---------------------------------------------------------------- Python: facts
    def stats(self):
        """Counters and gauges as a dict (stoq.core.knobs.STAT_ROWS gives units)."""
        cdef Conn *c = self.c
        if c == NULL:
            return {}
        c.stats.cwnd = c.path.cc.cwnd
        c.stats.ssthresh = c.path.cc.ssthresh
        c.stats.srtt_ns = <uint64_t>c.path.srtt
        c.stats.rttvar_ns = <uint64_t>c.path.rttvar
        c.stats.latest_rtt_ns = <uint64_t>c.path.latest_rtt
        c.stats.min_rtt_ns = <uint64_t>c.path.min_rtt
        c.stats.bytes_in_flight = c.path.in_flight
        c.stats.pacing_rate = c.path.pacer.rate
        c.stats.delivery_rate = c.path.rate
        c.stats.delivered = c.path.delivered
        c.stats.max_datagram_size = c.path.mtu
        return stats_dict(&c.stats)

    def knobs(self):
        return {} if self.c == NULL else knobs_dict(&self.c.knobs)

    def events(self):
        """Events since the last call as (name, value) tuples, when there is no listener."""
        cdef StreamHandle handle
        events = self.event_list
        self.event_list = []
        self.listed = 0
        for i, (name, value) in enumerate(events):
            if name == "stream_data":
                handle = value
                handle.data_told = False
            elif name == "new_token":
                events[i] = name, self.newest_token
        return events

    @property
    def handshake_confirmed(self):
        return self.c != NULL and self.c.handshake == 2

    @property
    def version(self):
        return self.c.version if self.c != NULL else 0

    @property
    def peer(self):
        return show_address(&self.c.path.peer) if self.c != NULL else None

    @property
    def peer_parameters(self):
        """The peer's TransportParameters, None before they are known."""
        return self.peer_params

    @property
    def backend(self):
        """Name of the packet-protection library in use."""
        return self.c.backend.name.decode()

    def export(self, bytes label, bytes context, length):
        """Keying material for the application (RFC 8446 §7.5)."""
        if self.tls is not None:
            return self.tls.export(label, context, length)
        if self.exporter is None:
            raise RuntimeError("the exporter exists only once 1-RTT secrets do")
        return self.exporter(label, context, length)

    def local_cids(self):
        """Our live connection IDs."""
        if self.c == NULL:
            return []
        return [(<const char *>self.c.local_cids[i].cid)[:self.c.cid_length]
                for i in range(8) if self.c.local_cids[i].active]

    @property
    def first_dcid(self):
        """The Destination Connection ID of the client's first packet."""
        return self.original_dcid

    # ---------------------------------------------------------------- Python: sans-IO driver
    def receive_datagram(self, data, peer, int64_t now_ns, uint8_t ecn=0):
        """One datagram; events and stream data follow at once."""
        cdef bytes copy = bytes(bytearray(data))
        cdef Address a
        cdef Address none
        fill_address(&a, peer)
        memset(&none, 0, sizeof(Address))
        if not copy:
            return
        # A private copy, opened in place: bytes(bytearray(...)) is never shared.
        try:
            self.receive(<uint8_t *>PyBytes_AS_STRING(copy), <uint32_t>len(copy), 0, ecn, &a, &none, now_ns)
        finally:
            self.finish_batch(now_ns)

    def datagrams_to_send(self, int64_t now_ns):
        """Datagrams that may leave now, as [(bytes, peer)]."""
        cdef SendBatch *batch = <SendBatch *>malloc(sizeof(SendBatch))
        cdef uint8_t *memory = <uint8_t *>malloc(ENTRY_BYTES)
        cdef uint32_t at, size
        cdef list out = []
        if batch == NULL or memory == NULL:
            free(batch)
            free(memory)
            raise MemoryError
        try:
            while True:
                batch.count = 0
                batch.slots = 1
                batch.max_segments = SEND_SEGMENTS_MAX
                batch.data[0] = memory
                batch.capacity[0] = ENTRY_BYTES
                if self.send(batch, now_ns) == 0:
                    break
                peer = show_address(&batch.peer[0])
                at = 0
                while at < batch.length[0]:
                    size = batch.length[0] - at
                    if batch.segment[0] and size > batch.segment[0]:
                        size = batch.segment[0]
                    out.append(((<char *>memory + at)[:size], peer))
                    at += size
        finally:
            free(batch)
            free(memory)
        return out

    def next_timeout(self):
        """When handle_timeout must be called, in ns; None: no timer."""
        cdef int64_t at = self.deadline()
        return at if at else None

    def handle_timeout(self, int64_t now_ns):
        self.timer(now_ns)
        self.finish_batch(now_ns)

    def connection_ids_wanted(self):
        return self.cids_wanted()

    def add_connection_id(self, bytes cid, bytes reset_token):
        if len(cid) != self.c.cid_length or len(reset_token) != 16:
            raise ConfigurationError("a connection ID of the endpoint's length and a 16-byte token are needed")
        self.add_cid(<const uint8_t *>PyBytes_AS_STRING(cid), <const uint8_t *>PyBytes_AS_STRING(reset_token))
