# Key update and the limits of AEAD use (RFC 9001 §6).
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from stoq.crypto.aead cimport AeadJob
from stoq.core.state cimport Conn

# Keep a 1-RTT secret: the next generation comes from it.
cdef void update_keep_secret(Conn *c, bint sending, uint16_t suite, const uint8_t *secret, size_t length) noexcept nogil
# Open 1-RTT packets, each with the key of its phase; sets ok in each job. 0, or -1: the library failed.
cdef int update_open(Conn *c, AeadJob *jobs, uint32_t n, int64_t now) noexcept nogil
# Before a train of 1-RTT packets is built (they are sealed together, with one key): change our keys when they have
# served long enough, or were asked to. 0; -1: the
# library failed; a transport error: the keys may not be used any more (AEAD_LIMIT_REACHED).
cdef int64_t update_before_send(Conn *c) noexcept nogil
# The application asks for an update: 0, or -1 when it may not be now (RFC 9001 §6.1).
cdef int update_request(Conn *c) noexcept nogil
cdef void update_clear(Conn *c) noexcept nogil
