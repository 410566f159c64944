"""Which connection a datagram belongs to, and what becomes of those that belong to none."""
import logging

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.string cimport memcmp, memcpy, memset
from stoq.core.cids cimport cid_is_reset
from stoq.core.state cimport MIN_DATAGRAM
from stoq.endpoint.admission cimport ADMIT_ACCEPT, ADMIT_REFUSE, ADMIT_RETRY, InitialInfo
from stoq.endpoint.destination cimport destination
from stoq.endpoint.replies cimport put_refusal, put_retry, put_stateless_reset, put_versions
from stoq.io.transport cimport address_to_python
from stoq.wire.batch cimport DATAGRAM_TRUNCATED
from stoq.wire.header cimport (
    HEADER_OK, PACKET_INITIAL, PACKET_UNKNOWN_VERSION, PACKET_ZERO_RTT, header_parse,
)

from stoq.errors import TransportErrorCode

logger = logging.getLogger("stoq")

# These end the program, not a connection.
FATAL = (KeyboardInterrupt, SystemExit)

cdef uint64_t CONNECTION_REFUSED = TransportErrorCode.CONNECTION_REFUSED

cdef enum:
    # Connections whose reset tokens are compared with a datagram of no connection: clients have few.
    RESET_SEARCH_MAX = 64
    RANDOM_REPLY = 32


cdef class Demux:
    """The receiving half of an Endpoint, which derives from it."""

    def __cinit__(self, *args, **kwargs):
        memset(&self.count, 0, sizeof(self.count))
        memset(&self.incoming, 0, sizeof(self.incoming))

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
                try:
                    self.stray(i, at, size, now)
                except Exception:
                    logger.exception("a datagram of no connection could not be handled")
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
        except BaseException as error:
            self.failed(session)
            if isinstance(error, FATAL):
                raise
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
        how.retried = False
        cdef uint8_t *room
        cdef bytes scid, token
        cdef size_t length
        # RFC 9000 §14.1: an Initial in a smaller datagram is dropped.
        if size < MIN_DATAGRAM:
            return 0
        info.token, info.token_length = h.token, h.token_length
        info.dcid, info.dcid_length = h.dcid, h.dcid_length
        info.scid, info.scid_length = h.scid, h.scid_length
        info.address = &self.incoming.peer[i]
        info.version = h.version
        info.flags = self.incoming.flags[i]
        info.half_open = self.half_open
        info.connections = <uint32_t>len(self.sessions)
        if self.draining or self.closing:
            how.verdict = ADMIT_REFUSE   # at once, so that the client can turn to another server
            how.error_code = CONNECTION_REFUSED
        else:
            self.admission.admit(&info, now, &how)
        # RFC 9000 §7.2: a client's own first DCID has at least 8 bytes; only after a Retry it is ours.
        if h.dcid_length < CLIENT_DCID_MIN and not how.retried:
            return 0
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
        raise NotImplementedError

    cdef int failed(self, Session session) except -1:
        """Called while an exception is handled: report it, and close the connection that it came from."""
        logger.exception("an event handler failed; its connection is closed")
        try:
            session.connection.close(<int>TransportErrorCode.INTERNAL_ERROR, "", application=False)
        except Exception:
            logger.exception("and so did closing it")
        return 0
