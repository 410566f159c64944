"""Why a connection is over, as one of the exceptions of stoq.errors."""
from stoq.core.state cimport (
    CAUSE_HANDSHAKE_TIMEOUT, CAUSE_IDLE, CAUSE_LOCAL, CAUSE_PEER, CAUSE_STATELESS_RESET, CAUSE_VERSION, Conn,
)

from stoq.errors import (
    ApplicationClosed, HandshakeFailed, IdleTimeout, StatelessReset, TransportClosed, VersionNegotiationFailed,
)

cdef enum:
    INTERNAL_ERROR = 0x01


cdef object close_reason(const Conn *c, bint handshake_complete):
    reason = (<const char *>c.close.reason)[:c.close.reason_length].decode("utf-8", "replace")
    by_peer = c.close.cause == CAUSE_PEER
    if c.close.cause == CAUSE_IDLE:
        if not handshake_complete:
            return HandshakeFailed(0, None, "no answer from the peer before the idle timeout")
        return IdleTimeout()
    if c.close.cause == CAUSE_HANDSHAKE_TIMEOUT:
        return HandshakeFailed(0, None, "not complete in time" if c.peer_scid_known else "no answer from the peer")
    if c.close.cause == CAUSE_STATELESS_RESET:
        return StatelessReset()
    if c.close.cause == CAUSE_VERSION:
        return VersionNegotiationFailed()
    if c.close.cause not in (CAUSE_LOCAL, CAUSE_PEER):
        return TransportClosed(INTERNAL_ERROR, None, "out of memory", False)
    if c.close.application:
        return ApplicationClosed(c.close.code, None, reason, by_peer)
    if not handshake_complete or 0x100 <= c.close.code <= 0x1ff:
        return HandshakeFailed(c.close.code, c.close.frame_type, reason, by_peer)
    return TransportClosed(c.close.code, c.close.frame_type, reason, by_peer)
