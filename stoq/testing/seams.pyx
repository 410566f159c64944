"""Insides of the core, reachable from tests: facts, trains, memory, congestion control. No program needs this module.

stoq.testing.hooks has the seams that extensions hook into.
"""
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from cpython.bytes cimport PyBytes_AS_STRING
from stoq.wire.batch cimport Address, SEND_BATCH_MAX, SEND_SEGMENTS_MAX, SendBatch
from stoq.core.cc cimport AckSample, Cc, CcOps, CcState, LossSample, cc_find
from stoq.core.ledger cimport core_ledger
from stoq.core.pacer cimport Pacer, pacer_refill, pacer_set, pacer_spend, pacer_when
from stoq.core.sentlog cimport SENT_NONE, SENT_OUTSTANDING, sentlog_at, sentlog_reserve
from stoq.core.state cimport Conn, SPACE_APP, Space
from stoq.connection.address cimport fill_address
from stoq.connection.connection cimport Connection
from stoq.testing._malloc cimport mallinfo2

cdef enum:
    ENTRY = 65507                # one UDP payload

cdef uint64_t NONE = 0xFFFFFFFFFFFFFFFFU


cdef Conn *core_of(Connection connection) except NULL:
    if connection is None or connection.c == NULL:
        raise ValueError("the connection has no core")
    return connection.c


cdef object known(uint64_t value):
    return None if value == NONE else value


# ---------------------------------------------------------------- facts
cdef dict space_facts(const Space *sp):
    return {
        "next": sp.sent.next, "base": sp.sent.base, "eliciting": sp.eliciting_in_flight,
        "largest_acked": known(sp.largest_acked), "largest_received": known(sp.largest_received),
        "ranges": sp.received.count, "forgotten": sp.forgotten, "ack_deadline": sp.ack_deadline,
        "ack_now": bool(sp.ack_now), "loss_time": sp.loss_time, "last_eliciting_time": sp.last_eliciting_time,
        "probes": sp.probes, "discarded": bool(sp.discarded), "has_rx": bool(sp.has_rx), "has_tx": bool(sp.has_tx),
        "skipped": [sp.skipped[i] for i in range(4) if sp.skipped[i] != NONE],
        "ect0": sp.ect0, "ect1": sp.ect1, "ce": sp.ce,
    }


def facts(Connection connection):
    """What the core knows, as nested dicts: times in ns, sizes in bytes."""
    cdef Conn *c = core_of(connection)
    cdef int i
    return {
        "handshake": c.handshake, "now": c.now,
        "spaces": [space_facts(&c.spaces[i]) for i in range(3)],
        "path": {
            "mtu": c.path.mtu, "validated": bool(c.path.validated), "received": c.path.bytes_received,
            "sent": c.path.bytes_sent, "in_flight": c.path.in_flight, "srtt": c.path.srtt, "rttvar": c.path.rttvar,
            "min_rtt": c.path.min_rtt, "latest_rtt": c.path.latest_rtt, "response_due": bool(c.path.response_due),
            "cwnd": c.path.cc.cwnd, "ssthresh": known(c.path.cc.ssthresh),
            "recovery_start": c.path.cc.recovery_start, "pacing_rate": c.path.pacer.rate,
            "pacing_burst": c.path.pacer.burst, "app_limited_until": c.path.app_limited_until,
        },
        "pto_count": c.pto_count, "loss_deadline": c.loss_deadline, "idle_deadline": c.idle_deadline,
        "idle_timeout": c.idle_timeout, "pace_until": c.pace_until,
        "close": {"state": c.close.state, "cause": c.close.cause, "code": c.close.code,
                  "frame_type": c.close.frame_type, "deadline": c.close.deadline, "heard": c.close.heard},
        "dcid": None if c.dcid == NULL else (<const char *>c.dcid.cid)[:c.dcid.length],
        "remote_cids": [(c.remote_cids[i].sequence, (<const char *>c.remote_cids[i].cid)[:c.remote_cids[i].length])
                        for i in range(8) if c.remote_cids[i].active],
        "local_cids": [(c.local_cids[i].sequence, (<const char *>c.local_cids[i].cid)[:c.local_cids[i].length])
                       for i in range(8) if c.local_cids[i].active],
        "retire_due": c.retire_due_count, "retire_unacked": c.retire_unacked, "retire_prior_to": c.retire_prior_to,
        "kinds": [{"next": c.kinds[i].next, "limit": c.kinds[i].limit, "closed": c.kinds[i].closed}
                  for i in range(4)],
        "send_limit": c.send_limit, "send_total": c.send_total, "recv_limit": c.recv_limit,
        "recv_total": c.recv_total, "recv_consumed": c.recv_consumed, "recv_window": c.recv_window,
        "streams": c.table.count, "records": c.slab.live, "events": c.events.capacity, "ext_in": c.ext_in_count,
        "token": (<const char *>c.token)[:c.token_length] if c.token != NULL else b"",
    }


def outstanding(Connection connection, int space=SPACE_APP):
    """Packets on the books of a space, as (number, size, flags, send time)."""
    cdef Space *sp = &core_of(connection).spaces[space]
    cdef uint64_t pn
    return [
        (pn, sentlog_at(&sp.sent, pn).size, sentlog_at(&sp.sent, pn).flags, sentlog_at(&sp.sent, pn).time)
        for pn in range(sp.sent.base, sp.sent.next) if sentlog_at(&sp.sent, pn).state == SENT_OUTSTANDING
    ]


def take_number(Connection connection, int space=SPACE_APP):
    """A packet number for a packet made outside: sent, as far as the connection knows, and never on its books."""
    cdef Space *sp = &core_of(connection).spaces[space]
    cdef uint64_t pn = sp.sent.next
    if sentlog_reserve(&sp.sent):
        raise MemoryError
    sentlog_at(&sp.sent, pn).state = SENT_NONE
    sentlog_at(&sp.sent, pn).frames = 0
    sp.sent.next += 1
    if sp.sent.base == pn:
        sp.sent.base = pn + 1
    return pn


def core_memory(Connection connection):
    """Bytes of heap by struct, the sum under "total" (stoq.core.ledger)."""
    return core_ledger(core_of(connection))


def heap_in_use():
    """Bytes that malloc has given out in this process. Small Python objects are not among them."""
    cdef size_t used = mallinfo2().uordblks + mallinfo2().hblkhd
    return used


# ---------------------------------------------------------------- trains
cdef int take_train(Connection connection, bytes data, uint32_t segment, object peer, int64_t now, uint8_t ecn,
                    object between) except -1:
    """between(): called when everything was read and the batch is not yet finished; or None."""
    # A private copy: packets are opened in place.
    cdef uint8_t *memory = <uint8_t *>malloc(len(data) if data else 1)
    cdef Address a
    cdef Address none
    if memory == NULL:
        raise MemoryError
    try:
        fill_address(&a, peer)
        memset(&none, 0, sizeof(Address))
        memcpy(memory, PyBytes_AS_STRING(data), <size_t>len(data))
        connection.receive(memory, <uint32_t>len(data), segment, ecn, &a, &none, now)
        if between is not None:
            between()
        connection.finish_batch(now)
    finally:
        free(memory)
    return 0


def receive_train(Connection connection, bytes data, uint32_t segment, peer, int64_t now, uint8_t ecn=0):
    """Datagrams of `segment` bytes in one buffer (the last may be shorter), as GRO hands them over; one batch."""
    core_of(connection)
    take_train(connection, data, segment, peer, now, ecn, None)


def send_trains(Connection connection, int64_t now, uint32_t segments=SEND_SEGMENTS_MAX, uint32_t slots=SEND_BATCH_MAX,
                uint32_t capacity=ENTRY):
    """One send call: [(bytes, segment size or 0)] of the entries that were filled."""
    cdef SendBatch *batch
    cdef uint8_t *memory
    cdef uint32_t i
    core_of(connection)
    if not 1 <= slots <= SEND_BATCH_MAX:
        raise ValueError("1 to 16 slots")
    batch = <SendBatch *>calloc(1, sizeof(SendBatch))
    memory = <uint8_t *>malloc(<size_t>slots * capacity)
    try:
        if batch == NULL or memory == NULL:
            raise MemoryError
        batch.slots = slots
        batch.max_segments = segments
        for i in range(slots):
            batch.data[i] = memory + <size_t>i * capacity
            batch.capacity[i] = capacity
        connection.send(batch, now)
        return [((<char *>batch.data[i])[:batch.length[i]], batch.segment[i]) for i in range(batch.count)]
    finally:
        free(batch)
        free(memory)


# ---------------------------------------------------------------- congestion control and pacing by themselves
@cython.final
cdef class Controller:
    """A congestion controller without a connection."""
    cdef Cc cc

    def __init__(self, str name="reno", uint64_t mtu=1200):
        cdef bytes raw = name.encode()
        cdef const CcOps *ops = cc_find(raw)
        if ops == NULL:
            raise ValueError(f"no such congestion controller: {name}")
        memset(&self.cc, 0, sizeof(Cc))
        self.cc.ops = ops
        ops.init(&self.cc, mtu)

    def acked(self, *, int64_t now, uint64_t size, int64_t sent, uint64_t in_flight=0, bint limited=True,
              int64_t rtt=0):
        cdef AckSample s
        memset(&s, 0, sizeof(AckSample))
        s.now = now
        s.acked_bytes = size
        s.largest_sent_time = sent
        s.in_flight = in_flight
        s.rtt_ns = rtt
        s.window_limited = limited
        self.cc.ops.acked(&self.cc, &s)

    def lost(self, *, int64_t now, uint64_t size, int64_t sent, uint64_t in_flight=0, bint persistent=False):
        cdef LossSample s
        memset(&s, 0, sizeof(LossSample))
        s.now = now
        s.lost_bytes = size
        s.largest_lost_sent_time = sent
        s.in_flight = in_flight
        s.persistent = persistent
        self.cc.ops.lost(&self.cc, &s)

    def pacing_rate(self, int64_t srtt):
        return self.cc.ops.pacing_rate(&self.cc, srtt)

    def set_mtu(self, uint64_t mtu):
        self.cc.ops.set_mtu(&self.cc, mtu)

    def export(self):
        cdef CcState state
        memset(&state, 0, sizeof(CcState))
        self.cc.ops.export(&self.cc, &state)
        return {"cwnd": state.cwnd, "ssthresh": state.ssthresh, "pacing_rate": state.pacing_rate,
                "min_rtt": state.min_rtt_ns}

    def enter(self, uint64_t cwnd, uint64_t ssthresh):
        cdef CcState state
        memset(&state, 0, sizeof(CcState))
        state.cwnd = cwnd
        state.ssthresh = ssthresh
        self.cc.ops.enter(&self.cc, &state)

    @property
    def cwnd(self):
        return self.cc.cwnd

    @property
    def ssthresh(self):
        return known(self.cc.ssthresh)

    @property
    def mtu(self):
        return self.cc.mtu

    @property
    def recovery_start(self):
        return self.cc.recovery_start


def exchange_controller(Connection connection, str name="reno"):
    """Put a fresh controller on a running connection, seeded from the state of the one in use."""
    cdef Conn *c = core_of(connection)
    cdef bytes raw = name.encode()
    cdef const CcOps *ops = cc_find(raw)
    cdef CcState state
    if ops == NULL:
        raise ValueError(f"no such congestion controller: {name}")
    memset(&state, 0, sizeof(CcState))
    c.path.cc.ops.export(&c.path.cc, &state)
    c.path.cc.ops = ops
    ops.init(&c.path.cc, c.path.mtu)
    ops.enter(&c.path.cc, &state)


@cython.final
cdef class PacerBox:
    """A pacer without a connection."""
    cdef Pacer p

    def __init__(self):
        memset(&self.p, 0, sizeof(Pacer))

    def set(self, uint64_t rate, uint64_t burst_ns, uint64_t mtu, int64_t now):
        pacer_set(&self.p, rate, burst_ns, mtu, now)

    def refill(self, int64_t now):
        pacer_refill(&self.p, now)
        return self.p.credit

    def spend(self, uint64_t size):
        pacer_spend(&self.p, size)

    def when(self, int64_t now):
        return pacer_when(&self.p, now)

    @property
    def rate(self):
        return self.p.rate

    @property
    def credit(self):
        return self.p.credit

    @property
    def burst(self):
        return self.p.burst
