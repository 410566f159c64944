# Connection IDs, ours and the peer's (RFC 9000 §5.1, §19.15, §19.16).
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from stoq.wire.frames cimport Frame
from stoq.core.state cimport Conn, LocalCid

cdef LocalCid *cid_local(Conn *c, const uint8_t *cid) noexcept nogil             # NULL: not one of ours
cdef LocalCid *cid_add_local(Conn *c, const uint8_t *cid, const uint8_t *token) noexcept nogil
cdef void cid_set_remote(Conn *c, const uint8_t *cid, size_t length) noexcept nogil   # handshake: the peer's first
cdef uint64_t cid_on_new(Conn *c, const Frame *f) noexcept nogil                 # 0 or a transport error
cdef uint64_t cid_on_retire(Conn *c, const Frame *f) noexcept nogil
# How many more IDs the peer may be given now.
cdef uint32_t cids_wanted(const Conn *c) noexcept nogil
# Does a datagram end with a stateless-reset token of the peer (RFC 9000 §10.3.1)? Constant-time per token.
cdef bint cid_is_reset(const Conn *c, const uint8_t *datagram, size_t length) noexcept nogil
