"""Entry points of the data plane: life cycle, receive, send, timers."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from stoq.wire.batch cimport Address, SendBatch
from stoq.crypto.aead cimport AeadBackend, aead_key_clear
from stoq.core.cc cimport CcOps, cc_find
from stoq.core.closing cimport CLOSE_PTOS, close_silently, close_start, idle_restart
from stoq.core.events cimport event_pop, events_clear
from stoq.core.handshake cimport (
    handshake_complete, handshake_initial_keys, handshake_install_key,
)
from stoq.core.keyupdate cimport update_clear
from stoq.core.knobs cimport knobs_defaults
from stoq.core.packer cimport packer_send
from stoq.core.recvbuf cimport recvbuf_detach
from stoq.core.receive cimport receive_walk
from stoq.core.recovery cimport recovery_discard, recovery_pto, recovery_timeout
from stoq.core.sendbuf cimport droplist_clear, droplist_init
from stoq.core.sentlog cimport sentlog_clear, slab_clear, slab_init
from stoq.core.sidestream cimport side_clear, side_init, side_write
from stoq.core.rangeset cimport rangeset_clear, rangeset_init
from stoq.core.sources cimport default_sources
from stoq.core.state cimport (
    CAUSE_HANDSHAKE_TIMEOUT, CAUSE_IDLE, CIDS_MAX, CLOSE_CLOSING, CLOSE_DONE, CLOSE_DRAINING, CLOSE_NONE,
    CRYPTO_CAP_HANDSHAKE, Conn, EPOCH_HANDSHAKE, EPOCH_INITIAL, EPOCH_ONE_RTT, EV_STREAM_GONE, Event, MIN_DATAGRAM,
    Path, PeerParams, SKIPPED_REMEMBERED, SPACE_APP, SPACE_HANDSHAKE, SPACE_INITIAL, STREAM_GONE_TOLD,
    STREAM_IN_CONTROL, Space, Stream,
)
from stoq.core.streams cimport stream_maybe_free, stream_pop_readable, streams_apply_params, streams_clear

cdef enum:
    CONNECTION_REFUSED = 0x02
    AUTH_THRESHOLD = 1024        # AEAD refusals after which the shell is told; corruption alone makes far fewer
    FIRST_SKIP = 16              # the first number left out comes within so many packets


cdef Conn *core_new(bint is_client, uint32_t version, const AeadBackend *backend, const char *congestion,
                    uint8_t cid_length, uint64_t random_seed, int64_t now) noexcept nogil:
    cdef Conn *c = <Conn *>calloc(1, sizeof(Conn))
    cdef const CcOps *ops = cc_find(congestion)
    cdef Space *sp
    cdef int i, j
    if c == NULL or ops == NULL:
        free(c)
        return NULL
    c.paths = <Path *>calloc(1, sizeof(Path))
    if c.paths == NULL:
        free(c)
        return NULL
    c.path = c.paths
    c.path_count = 1
    c.is_client = is_client
    c.version = version
    c.backend = backend
    c.cid_length = cid_length
    c.cids_promised = CIDS_MAX
    c.created = now
    c.now = now
    # xorshift must not start at zero.
    c.random_state = random_seed | 1
    c.auth_threshold = AUTH_THRESHOLD
    c.limited_by = 4
    c.limited_since = now
    c.sources = default_sources()
    knobs_defaults(&c.knobs)
    c.knobs_next = c.knobs
    slab_init(&c.slab)
    droplist_init(&c.drops)
    for i in range(3):
        sp = &c.spaces[i]
        rangeset_init(&sp.received)
        sp.largest_received = <uint64_t>-1
        sp.largest_acked = <uint64_t>-1
        sp.skip_in = FIRST_SKIP
        for j in range(SKIPPED_REMEMBERED):
            sp.skipped[j] = <uint64_t>-1
    side_init(&c.spaces[SPACE_INITIAL].crypto, EPOCH_INITIAL, CRYPTO_CAP_HANDSHAKE)
    side_init(&c.spaces[SPACE_HANDSHAKE].crypto, EPOCH_HANDSHAKE, CRYPTO_CAP_HANDSHAKE)
    side_init(&c.spaces[SPACE_APP].crypto, EPOCH_ONE_RTT, CRYPTO_CAP_HANDSHAKE)
    for i in range(4):
        rangeset_init(&c.kinds[i].opened)
        c.kinds[i].blocked_at = <uint64_t>-1
    c.blocked_at = <uint64_t>-1
    c.recv_window = c.knobs.receive_window
    c.recv_limit = c.recv_window
    c.recv_tuned = now
    c.stream_promise = c.knobs.stream_window
    c.path.mtu = MIN_DATAGRAM
    c.path.mtu_target = MIN_DATAGRAM
    # A client chose its server's address itself (RFC 9000 §8.1).
    c.path.validated = is_client
    c.path.cc.ops = ops
    ops.init(&c.path.cc, c.path.mtu)
    # RFC 9000 §18.2 defaults, until the parameters are here.
    c.peer.ack_delay_exponent = 3
    c.peer.max_ack_delay_ns = 25000000
    c.peer.max_udp_payload_size = 65527
    c.peer.active_connection_id_limit = 2
    return c


cdef void core_abandon(Conn *c) noexcept nogil:
    cdef Stream *s
    cdef Event e
    cdef int i
    # Streams that are over live on only through frame records, queues and events: let go of each, so that none leaks.
    for i in range(3):
        recovery_discard(c, i)
    while c.control_head != NULL:
        s = c.control_head
        c.control_head = s.control_next
        s.flags &= ~<uint32_t>STREAM_IN_CONTROL
        stream_maybe_free(c, s)
    c.control_tail = NULL
    while True:
        s = stream_pop_readable(c)
        if s == NULL:
            break
        stream_maybe_free(c, s)
    while event_pop(c, &e):
        if e.type == EV_STREAM_GONE:
            e.stream.flags |= STREAM_GONE_TOLD
            stream_maybe_free(c, e.stream)
    streams_clear(c)
    for i in range(3):
        side_clear(&c.spaces[i].crypto, &c.drops)


cdef void core_free(Conn *c) noexcept nogil:
    cdef int i
    cdef uint32_t k
    for i in range(3):
        sentlog_clear(&c.spaces[i].sent)
        rangeset_clear(&c.spaces[i].received)
        if c.spaces[i].has_rx:
            aead_key_clear(&c.spaces[i].rx)
        if c.spaces[i].has_tx:
            aead_key_clear(&c.spaces[i].tx)
    for k in range(c.ext_out_count):
        free(c.ext_out[k].data)
    free(c.ext_out)
    free(c.ext_in)
    free(c.ext_notices)
    free(c.token)
    free(c.new_token)
    update_clear(c)
    events_clear(c)
    slab_clear(&c.slab)
    droplist_clear(&c.drops)
    free(c.paths)
    free(c)


cdef inline void take_knobs(Conn *c) noexcept nogil:
    """Knobs change between batches only; the other buffer is the application's."""
    if not c.knobs_dirty:
        return
    c.knobs = c.knobs_next
    c.knobs_dirty = 0
    apply_mtu(c)
    if c.close.state == CLOSE_NONE:
        keep_alive(c, c.now)


cdef void apply_mtu(Conn *c) noexcept nogil:
    """Datagram size from the knob and the peer: smaller at once, larger only after a probe (RFC 9000 §14.3)."""
    cdef uint64_t size = c.knobs.max_datagram_size
    if size > c.peer.max_udp_payload_size:
        size = c.peer.max_udp_payload_size
    if size < MIN_DATAGRAM or not c.peer_known:
        size = MIN_DATAGRAM
    if size != c.path.mtu_target:
        c.path.mtu_target = size
        c.path.mtu_tries = 0
    if size < c.path.mtu:
        c.path.mtu = size
        c.path.cc.ops.set_mtu(&c.path.cc, size)


cdef int core_receive(Conn *c, uint8_t *data, uint32_t length, uint32_t segment, uint8_t ecn, const Address *peer,
                      const Address *local, int64_t now) noexcept nogil:
    take_knobs(c)
    c.rx_data = data
    c.rx_length = length
    c.rx_segment = segment if 0 < segment < length else length
    c.rx_pos = 0
    c.rx_in = 0
    c.rx_ecn = ecn
    c.rx_active = 1
    return core_resume(c, now)


cdef int core_resume(Conn *c, int64_t now) noexcept nogil:
    c.now = now
    return receive_walk(c, now)


cdef void core_batch_end(Conn *c) noexcept nogil:
    cdef Stream *s = c.read_head
    cdef int i
    # Nobody took these (a callback raised): the transport is about to reuse the memory they lie in.
    while s != NULL:
        if recvbuf_detach(&s.recv):
            c.error = 1
        s = s.read_next
    for i in range(3):
        if c.spaces[i].crypto.recv.pending and not c.spaces[i].discarded and recvbuf_detach(&c.spaces[i].crypto.recv):
            c.error = 1
    c.ext_in_count = 0
    c.ext_notice_count = 0


cdef int core_send(Conn *c, SendBatch *batch, int64_t now) noexcept nogil:
    if c.close.state == CLOSE_DRAINING or c.close.state == CLOSE_DONE:
        return 0
    c.now = now
    if c.close.state == CLOSE_CLOSING and c.close.deadline == 0:
        # The closing period begins when the peer can first hear of it: an application closes between two batches.
        c.close.deadline = now + CLOSE_PTOS * recovery_pto(c, 1)
    take_knobs(c)
    return packer_send(c, batch, now)


cdef inline int64_t sooner(int64_t a, int64_t b) noexcept nogil:
    if a == 0:
        return b
    return b if b and b < a else a


cdef int64_t core_deadline(const Conn *c) noexcept nogil:
    cdef int64_t best
    if c.close.state != CLOSE_NONE:
        return c.close.deadline
    best = sooner(c.loss_deadline, c.idle_deadline)
    best = sooner(best, c.spaces[SPACE_APP].ack_deadline)
    best = sooner(best, c.pace_until)
    best = sooner(best, c.handshake_deadline)
    return sooner(best, c.keep_alive_deadline)


cdef void keep_alive(Conn *c, int64_t now) noexcept nogil:
    """PING when nothing that asks for an answer left for so long; else look again then (RFC 9000 §10.1.2)."""
    cdef int64_t period = <int64_t>c.knobs.keep_alive_ns
    cdef int64_t last = c.spaces[SPACE_APP].last_eliciting_time
    c.keep_alive_deadline = 0
    if period == 0 or c.handshake == 0:
        return
    if last + period > now:
        c.keep_alive_deadline = last + period
        return
    c.ping_due = 1
    c.keep_alive_deadline = now + period


cdef void core_timer(Conn *c, int64_t now) noexcept nogil:
    cdef Space *sp = &c.spaces[SPACE_APP]
    c.now = now
    if c.close.state == CLOSE_CLOSING or c.close.state == CLOSE_DRAINING:
        if c.close.deadline and c.close.deadline <= now:
            close_silently(c, c.close.cause, now)
        return
    if c.close.state == CLOSE_DONE:
        return
    if c.handshake_deadline and c.handshake_deadline <= now:
        if not c.peer_scid_known:
            close_silently(c, CAUSE_HANDSHAKE_TIMEOUT, now)
            return
        # Somebody is there: say that we give up, or it would wait for its idle timeout.
        close_start(c, CONNECTION_REFUSED, 0, 0, b"handshake timeout", 17, now)
        c.close.cause = CAUSE_HANDSHAKE_TIMEOUT
        return
    if c.idle_deadline and c.idle_deadline <= now:
        close_silently(c, CAUSE_IDLE, now)
        return
    if sp.ack_deadline and sp.ack_deadline <= now:
        sp.ack_deadline = 0
        sp.ack_now = 1
    if c.pace_until and c.pace_until <= now:
        c.pace_until = 0
    if c.keep_alive_deadline and c.keep_alive_deadline <= now:
        keep_alive(c, now)
    if c.loss_deadline and c.loss_deadline <= now:
        recovery_timeout(c, now)


cdef int core_install_key(Conn *c, int epoch, bint sending, uint16_t suite, const uint8_t *secret,
        size_t length) noexcept nogil:
    return handshake_install_key(c, epoch, sending, suite, secret, length)


cdef int core_initial_keys(Conn *c, const uint8_t *dcid, size_t length) noexcept nogil:
    memcpy(c.initial_dcid, dcid, length)
    c.initial_dcid_length = <uint8_t>length
    return handshake_initial_keys(c, dcid, length)


cdef void core_peer_params(Conn *c, const PeerParams *params) noexcept nogil:
    cdef int64_t idle = <int64_t>params.max_idle_timeout_ns
    c.peer = params[0]
    c.peer_known = 1
    streams_apply_params(c)
    # RFC 9000 §10.1: the smaller of both.
    if idle and (c.idle_timeout == 0 or idle < c.idle_timeout):
        c.idle_timeout = idle
    c.idle_least = 3 * recovery_pto(c, 1)
    idle_restart(c, c.now)
    apply_mtu(c)


cdef void core_handshake_complete(Conn *c, int64_t now) noexcept nogil:
    handshake_complete(c, now)
    if c.knobs.keep_alive_ns:
        c.keep_alive_deadline = now + <int64_t>c.knobs.keep_alive_ns


cdef void core_address_validated(Conn *c) noexcept nogil:
    c.path.validated = 1


cdef int core_crypto_write(Conn *c, int epoch, const uint8_t *p, uint64_t length) noexcept nogil:
    cdef int space = SPACE_INITIAL if epoch == EPOCH_INITIAL else (
        SPACE_HANDSHAKE if epoch == EPOCH_HANDSHAKE else SPACE_APP)
    if c.spaces[space].discarded:
        return 0
    return side_write(&c.spaces[space].crypto, p, length)


cdef void core_close(Conn *c, uint64_t code, uint64_t frame_type, bint application, const uint8_t *reason,
                     size_t reason_length, int64_t now) noexcept nogil:
    c.now = now
    close_start(c, code, frame_type, application, reason, reason_length, now)
