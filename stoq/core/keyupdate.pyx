"""Key update and the limits of AEAD use (RFC 9001 §6)."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.string cimport memcpy, memset
from stoq.crypto.aead cimport AEAD_BATCH_MAX, AeadJob, AeadKey, SUITE_CHACHA20_POLY1305, aead_key_clear
from stoq.crypto.keys cimport SECRET_MAX, keys_from_secret, keys_next_secret
from stoq.core.recovery cimport recovery_pto
from stoq.core.state cimport Conn, SPACE_APP, Space

cdef enum:
    AEAD_LIMIT_REACHED = 0x0f
    PHASE_BIT = 0x04             # RFC 9000 §17.3.1
    PREVIOUS_PTOS = 3            # RFC 9001 §6.5: how long old keys stay for late packets

# RFC 9001 §6.6, AES-GCM: at most 2^23 packets a key. ChaCha20-Poly1305 has no limit below 2^62.
cdef uint64_t SEAL_MAX = 1 << 23
# Packets that may fail authentication over the whole connection: 2^52 for GCM, 2^36 for ChaCha20-Poly1305.
cdef uint64_t FORGED_MAX_GCM = <uint64_t>1 << 52
cdef uint64_t FORGED_MAX_CHACHA = <uint64_t>1 << 36


cdef void update_keep_secret(Conn *c, bint sending, uint16_t suite, const uint8_t *secret,
                             size_t length) noexcept nogil:
    if length > SECRET_MAX:
        return
    if sending:
        memcpy(c.keys.tx_secret, secret, length)
    else:
        memcpy(c.keys.rx_secret, secret, length)
    c.keys.secret_length = <uint8_t>length
    c.keys.suite = suite


cdef int rekey(Conn *c, AeadKey *key, const uint8_t *secret) noexcept nogil:
    """A key of the secret without header protection of its own: that never changes (RFC 9001 §6.1)."""
    return keys_from_secret(key, c.backend, c.version, c.keys.suite, secret, c.keys.secret_length, 0)


cdef int advance(Conn *c, uint8_t *secret) noexcept nogil:
    cdef uint8_t following[SECRET_MAX]
    if keys_next_secret(c.version, c.keys.suite, secret, c.keys.secret_length, following):
        return -1
    memcpy(secret, following, c.keys.secret_length)
    memset(following, 0, SECRET_MAX)
    return 0


cdef int update_tx(Conn *c) noexcept nogil:
    """Our next generation."""
    cdef Space *sp = &c.spaces[SPACE_APP]
    if advance(c, c.keys.tx_secret) or rekey(c, &sp.tx, c.keys.tx_secret):
        return -1
    c.keys.tx_phase ^= 1
    c.keys.tx_first = sp.sent.next
    c.keys.tx_count = 0
    c.keys.asked = 0
    c.stats.key_updates += 1
    return 0


cdef int commit_rx(Conn *c, uint64_t pn, int64_t now) noexcept nogil:
    """A packet of the next generation was authentic: it is the present one now, and ours follows (§6.2)."""
    cdef Space *sp = &c.spaces[SPACE_APP]
    if c.keys.has_previous:
        aead_key_clear(&c.keys.previous)
        c.keys.has_previous = 0
    if rekey(c, &c.keys.previous, c.keys.rx_secret):
        return -1
    c.keys.has_previous = 1
    c.keys.previous_until = now + PREVIOUS_PTOS * recovery_pto(c, 1)
    if advance(c, c.keys.rx_secret) or rekey(c, &sp.rx, c.keys.rx_secret):
        return -1
    if c.keys.has_next:
        aead_key_clear(&c.keys.next)
        c.keys.has_next = 0
    c.keys.rx_phase ^= 1
    c.keys.rx_first = pn
    if c.keys.tx_phase != c.keys.rx_phase:
        return update_tx(c)
    return 0


cdef int open_other(Conn *c, AeadJob *job, int64_t now) noexcept nogil:
    """A packet of the other phase: the generation before, or the next one."""
    cdef uint8_t following[SECRET_MAX]
    job.ok = 0
    if c.keys.has_previous and job.pn < c.keys.rx_first:
        c.backend.open(&c.keys.previous, job, 1)
        return 0
    if c.handshake == 0:
        return 0                 # §6.1: no update before the handshake is complete
    if not c.keys.has_next:
        # Made once a generation, whatever forged packets come (§9.5 of RFC 9001: the time of it tells only the bit).
        memcpy(following, c.keys.rx_secret, c.keys.secret_length)
        if advance(c, following) or rekey(c, &c.keys.next, following):
            return -1
        memset(following, 0, SECRET_MAX)
        c.keys.has_next = 1
    c.backend.open(&c.keys.next, job, 1)
    if job.ok:
        return commit_rx(c, job.pn, now)
    return 0


cdef int update_open(Conn *c, AeadJob *jobs, uint32_t n, int64_t now) noexcept nogil:
    cdef Space *sp = &c.spaces[SPACE_APP]
    cdef uint32_t i = 0
    cdef uint32_t run
    if c.keys.has_previous and now > c.keys.previous_until:
        aead_key_clear(&c.keys.previous)
        c.keys.has_previous = 0
    while i < n:
        run = i
        while run < n and ((jobs[run].header[0] & PHASE_BIT) != 0) == c.keys.rx_phase:
            run += 1
        if run > i:
            sp.rx.backend.open(&sp.rx, &jobs[i], run - i)
            i = run
            continue
        if open_other(c, &jobs[i], now):
            return -1
        i += 1
    return 0


cdef int update_request(Conn *c) noexcept nogil:
    # RFC 9001 §6.1: the handshake is confirmed, and a packet of the present phase was acknowledged.
    cdef const Space *sp = &c.spaces[SPACE_APP]
    if c.handshake != 2 or sp.largest_acked == <uint64_t>-1 or sp.largest_acked < c.keys.tx_first:
        return -1
    if c.keys.tx_phase != c.keys.rx_phase:
        return -1                # the peer has not followed yet
    c.keys.asked = 1
    return 0


cdef int64_t update_before_send(Conn *c) noexcept nogil:
    cdef uint64_t forged
    if c.keys.tx_count >= c.knobs.key_update_packets:
        update_request(c)
    if c.keys.asked and update_tx(c):
        return -1
    if c.keys.suite == SUITE_CHACHA20_POLY1305:
        forged = FORGED_MAX_CHACHA
    else:
        forged = FORGED_MAX_GCM
        if c.keys.tx_count + AEAD_BATCH_MAX > SEAL_MAX:
            return AEAD_LIMIT_REACHED
    return AEAD_LIMIT_REACHED if c.stats.auth_failures >= forged else 0


cdef void update_clear(Conn *c) noexcept nogil:
    if c.keys.has_previous:
        aead_key_clear(&c.keys.previous)
    if c.keys.has_next:
        aead_key_clear(&c.keys.next)
    memset(&c.keys, 0, sizeof(c.keys))
