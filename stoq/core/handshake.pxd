# Keys and milestones of the handshake (RFC 9001 §4).
from libc.stdint cimport uint8_t, uint16_t, uint64_t, int64_t
from stoq.core.state cimport Conn

cdef int handshake_initial_keys(Conn *c, const uint8_t *dcid, size_t length) noexcept nogil
cdef int handshake_install_key(Conn *c, int epoch, bint sending, uint16_t suite, const uint8_t *secret,
        size_t length) noexcept nogil
# Keys of a space are dropped (RFC 9001 §4.9).
cdef void handshake_discard(Conn *c, int space) noexcept nogil
# TLS is done on our side (RFC 9001 §4.1.1); for a server that also confirms.
cdef void handshake_complete(Conn *c, int64_t now) noexcept nogil
cdef void handshake_confirmed(Conn *c, int64_t now) noexcept nogil
# A Retry packet arrived at a client (RFC 9000 §17.2.5).
cdef void handshake_on_retry(Conn *c, const uint8_t *packet, size_t length, const uint8_t *scid, size_t scid_length,
        const uint8_t *token, size_t token_length) noexcept nogil
# A Version Negotiation packet arrived at a client (RFC 9000 §6.2).
cdef void handshake_on_versions(Conn *c, const uint8_t *versions, size_t length, int64_t now) noexcept nogil
