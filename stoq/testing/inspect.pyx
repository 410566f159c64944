# cython: nonecheck=True
"""A look into a connection's structs, for invariants. Reads only; never part of a program."""
from libc.stdint cimport uint64_t
from stoq.connection.connection cimport Connection
from stoq.core.recovery cimport recovery_pto
from stoq.core.rangeset cimport rangeset_memory
from stoq.core.recvbuf cimport recvbuf_memory
from stoq.core.sendbuf cimport sendbuf_memory
from stoq.core.sentlog cimport FrameRec, SentPacket
from stoq.core.state cimport Conn
from stoq.core.state cimport Stream as CStream
from stoq.endpoint.session cimport Session

CLOSE_STATES = ("open", "closing", "draining", "done")


def snapshot(Session session not None):
    """The facts that invariants speak of, as a dict; {} once the connection's memory is gone. Times in ns."""
    cdef Connection connection = session.connection
    cdef Conn *c
    cdef int i
    cdef uint64_t probes = 0
    if connection is None or connection.c == NULL:
        return {}
    c = connection.c
    for i in range(3):
        probes += c.spaces[i].probes
    return {
        "in_flight": c.path.in_flight,
        "cwnd": c.path.cc.cwnd,
        "mtu": c.path.mtu,
        "probes": probes,
        "ptos": c.stats.ptos,
        "mtu_probing": bool(c.path.mtu_probing),
        "mtu_target": c.path.mtu_target,
        "validated": bool(c.path.validated),
        "bytes_received": c.path.bytes_received,
        "bytes_sent": c.path.bytes_sent,
        "close_state": CLOSE_STATES[c.close.state],
        "close_deadline": c.close.deadline,
        "pto": recovery_pto(c, 1),
        "deadline": connection.deadline(),
        "pto_count": c.pto_count,
        "handshake": c.handshake,
        "srtt": c.path.srtt,
    }


def ack_ranges(Session session not None):
    """Ranges of received packet numbers kept in each space."""
    cdef Conn *c = session.connection.c
    if c == NULL:
        return []
    return [c.spaces[i].received.count for i in range(3)]


def memory(Session session not None):
    """Bytes that a peer can make a connection hold, by what holds them."""
    cdef Conn *c = session.connection.c
    cdef CStream *s
    cdef int i
    if c == NULL:
        return {}
    cdef size_t received = 0, sent = 0, log = 0, ranges = 0, crypto = 0, streams = 0
    s = c.all_head
    while s != NULL:
        streams += sizeof(CStream)
        received += recvbuf_memory(&s.recv)
        sent += sendbuf_memory(&s.send)
        s = s.all_next
    for i in range(3):
        log += c.spaces[i].sent.capacity * sizeof(SentPacket)
        ranges += rangeset_memory(&c.spaces[i].received)
        crypto += recvbuf_memory(&c.spaces[i].crypto.recv) + sendbuf_memory(&c.spaces[i].crypto.send)
    return {
        "connection": sizeof(Conn), "streams": streams, "stream_receive": received, "stream_send": sent,
        "sent_packets": log, "frame_records": c.slab.capacity * sizeof(FrameRec), "ack_ranges": ranges,
        "crypto": crypto,
    }


def receive_limits(Session session not None):
    """(bytes of flow control that the peer may still have unread, connection window)."""
    cdef Conn *c = session.connection.c
    if c == NULL:
        return 0, 0
    return c.recv_limit - c.recv_consumed, c.recv_window
