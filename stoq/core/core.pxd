# Entry points of the data plane for the shell (stoq.connection). All are
# noexcept and GIL-free; none calls Python.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from stoq.wire.batch cimport Address, SendBatch
from stoq.crypto.aead cimport AeadBackend
from stoq.core.state cimport Conn, PeerParams, Stream

cdef enum CoreResult:
    CORE_DONE = 0
    CORE_NEED_TLS = 1        # CRYPTO bytes wait in a space: run TLS, install keys, call core_resume
    CORE_DEAD = -1           # out of memory or library failure: forget the connection

cdef Conn *core_new(bint is_client, uint32_t version, const AeadBackend *backend, const char *congestion,
        uint8_t cid_length, uint64_t random_seed, int64_t now) noexcept nogil
# Owners left in c.drops must be drained first (core_abandon fills it with everything still held).
cdef void core_abandon(Conn *c) noexcept nogil
cdef void core_free(Conn *c) noexcept nogil

# A received train (GRO) or datagram; opened in place. Spans in streams point into it until core_batch_end.
cdef int core_receive(Conn *c, uint8_t *data, uint32_t length, uint32_t segment, uint8_t ecn, const Address *peer,
        const Address *local, int64_t now) noexcept nogil
cdef int core_resume(Conn *c, int64_t now) noexcept nogil
# After the shell took or detached the data of readable streams.
cdef void core_batch_end(Conn *c) noexcept nogil
# Build what may leave now into the batch's free entries; returns datagrams added, or CORE_DEAD.
cdef int core_send(Conn *c, SendBatch *batch, int64_t now) noexcept nogil
# Next moment at which core_timer must run; 0: none. Always later than `now` of the last call that did work.
cdef int64_t core_deadline(const Conn *c) noexcept nogil
cdef void core_timer(Conn *c, int64_t now) noexcept nogil

cdef int core_install_key(Conn *c, int epoch, bint sending, uint16_t suite, const uint8_t *secret,
        size_t length) noexcept nogil
cdef int core_initial_keys(Conn *c, const uint8_t *dcid, size_t length) noexcept nogil
cdef void core_peer_params(Conn *c, const PeerParams *params) noexcept nogil
cdef void core_handshake_complete(Conn *c, int64_t now) noexcept nogil
cdef void core_address_validated(Conn *c) noexcept nogil
cdef int core_crypto_write(Conn *c, int epoch, const uint8_t *p, uint64_t length) noexcept nogil
cdef void core_close(Conn *c, uint64_t code, uint64_t frame_type, bint application, const uint8_t *reason,
        size_t reason_length, int64_t now) noexcept nogil
