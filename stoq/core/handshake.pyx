"""Keys and milestones of the handshake (RFC 9001 §4), Retry and Version Negotiation at a client."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from stoq.crypto.aead cimport SUITE_AES_128_GCM, aead_key_clear
from stoq.crypto.keys cimport bytes_equal, keys_from_secret, keys_initial_secrets, keys_retry_tag
from stoq.core.cids cimport cid_set_remote
from stoq.core.closing cimport close_silently
from stoq.core.events cimport event_push
from stoq.core.keyupdate cimport update_keep_secret
from stoq.core.recovery cimport recovery_discard, recovery_requeue, recovery_set_timer
from stoq.core.sidestream cimport side_clear
from stoq.core.state cimport (
    CAUSE_VERSION, CRYPTO_CAP_AFTER, Conn, EPOCH_HANDSHAKE, EPOCH_INITIAL, EPOCH_ONE_RTT, EV_HANDSHAKE_CONFIRMED,
    SPACE_APP, SPACE_HANDSHAKE, SPACE_INITIAL, Space,
)

cdef enum:
    SHA256 = 32


cdef int space_of(int epoch) noexcept nogil:
    if epoch == EPOCH_INITIAL:
        return SPACE_INITIAL
    return SPACE_HANDSHAKE if epoch == EPOCH_HANDSHAKE else SPACE_APP


cdef int handshake_install_key(Conn *c, int epoch, bint sending, uint16_t suite, const uint8_t *secret,
                               size_t length) noexcept nogil:
    cdef Space *sp = &c.spaces[space_of(epoch)]
    if sp.discarded:
        return 0
    if sending:
        if sp.has_tx:
            aead_key_clear(&sp.tx)
            sp.has_tx = 0
        if keys_from_secret(&sp.tx, c.backend, c.version, suite, secret, length, 1):
            return -1
        sp.has_tx = 1
        if epoch == EPOCH_ONE_RTT:
            c.keys_ready = 1
            update_keep_secret(c, 1, suite, secret, length)
        return 0
    if sp.has_rx:
        aead_key_clear(&sp.rx)
        sp.has_rx = 0
    if keys_from_secret(&sp.rx, c.backend, c.version, suite, secret, length, 1):
        return -1
    sp.has_rx = 1
    if epoch == EPOCH_ONE_RTT:
        update_keep_secret(c, 0, suite, secret, length)
    return 0


cdef int handshake_initial_keys(Conn *c, const uint8_t *dcid, size_t length) noexcept nogil:
    cdef uint8_t client[SHA256]
    cdef uint8_t server[SHA256]
    cdef const uint8_t *ours = server
    cdef const uint8_t *theirs = client
    if keys_initial_secrets(c.version, dcid, length, client, server):
        return -1
    if c.is_client:
        ours = client
        theirs = server
    if handshake_install_key(c, EPOCH_INITIAL, 1, SUITE_AES_128_GCM, ours, SHA256):
        return -1
    return handshake_install_key(c, EPOCH_INITIAL, 0, SUITE_AES_128_GCM, theirs, SHA256)


cdef void handshake_discard(Conn *c, int space) noexcept nogil:
    cdef Space *sp = &c.spaces[space]
    if sp.discarded:
        return
    recovery_discard(c, space)
    if sp.has_rx:
        aead_key_clear(&sp.rx)
        sp.has_rx = 0
    if sp.has_tx:
        aead_key_clear(&sp.tx)
        sp.has_tx = 0
    side_clear(&sp.crypto, &c.drops)
    recovery_set_timer(c, c.now)


cdef void handshake_complete(Conn *c, int64_t now) noexcept nogil:
    if c.handshake:
        return
    c.handshake = 1
    c.handshake_deadline = 0
    c.spaces[SPACE_APP].crypto.cap = CRYPTO_CAP_AFTER
    if not c.is_client:
        # RFC 9001 §4.1.2: at a server, complete is confirmed.
        c.handshake_done_due = 1
        handshake_confirmed(c, now)
    recovery_set_timer(c, now)


cdef void handshake_confirmed(Conn *c, int64_t now) noexcept nogil:
    if c.handshake == 2:
        return
    c.handshake = 2
    c.handshake_deadline = 0
    c.path.validated = 1
    c.stats.handshake_ns = <uint64_t>(now - c.created)
    handshake_discard(c, SPACE_INITIAL)
    handshake_discard(c, SPACE_HANDSHAKE)
    event_push(c, EV_HANDSHAKE_CONFIRMED, NULL, 0, 0)


cdef void handshake_on_retry(Conn *c, const uint8_t *packet, size_t length, const uint8_t *scid, size_t scid_length,
                             const uint8_t *token, size_t token_length) noexcept nogil:
    cdef uint8_t tag[16]
    cdef uint8_t *copy
    # RFC 9000 §17.2.5.2: one Retry at most, none after a server packet, none without a token, none with our own DCID.
    if not c.is_client or c.retried or c.peer_scid_known or token_length == 0 or length < 16:
        return
    if keys_retry_tag(c.version, c.initial_dcid, c.initial_dcid_length, packet, length - 16, tag):
        return
    if not bytes_equal(tag, packet + length - 16, 16):
        c.stats.packets_dropped += 1
        return
    if scid_length == c.dcid.length and bytes_equal(scid, c.dcid.cid, scid_length):
        return
    copy = <uint8_t *>malloc(token_length)
    if copy == NULL:
        return
    memcpy(copy, token, token_length)
    free(c.token)
    c.token = copy
    c.token_length = <uint32_t>token_length
    c.retried = 1
    memcpy(c.retry_scid, scid, scid_length)
    c.retry_scid_length = <uint8_t>scid_length
    cid_set_remote(c, scid, scid_length)
    if handshake_initial_keys(c, scid, scid_length):
        c.error = 1
        return
    # Everything again, under the new keys; packet numbers go on (RFC 9000 §17.2.5.3).
    recovery_requeue(c, SPACE_INITIAL)
    c.pto_count = 0


cdef void handshake_on_versions(Conn *c, const uint8_t *versions, size_t length, int64_t now) noexcept nogil:
    cdef size_t i
    cdef uint32_t offered
    if not c.is_client or c.peer_scid_known or c.retried or length % 4:
        return
    for i in range(0, length, 4):
        offered = (<uint32_t>versions[i] << 24 | <uint32_t>versions[i + 1] << 16
                   | <uint32_t>versions[i + 2] << 8 | versions[i + 3])
        if offered == c.version:
            return               # RFC 9000 §6.2: it lists what we chose: discard
    close_silently(c, CAUSE_VERSION, now)
