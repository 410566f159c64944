"""Answers to datagrams of no connection. Each is smaller than the datagram that it answers."""
from libc.string cimport memcpy, memset
from stoq.crypto.aead cimport (
    AEAD_TAG, HP_SAMPLE, SUITE_AES_128_GCM, AeadBackend, AeadJob, AeadKey, aead_default, aead_key_clear,
)
from stoq.crypto.keys cimport keys_from_secret, keys_initial_secrets, keys_retry_tag
from stoq.wire.header cimport (
    PACKET_INITIAL, QUIC_V1, header_put_long, header_put_retry, header_put_version_negotiation,
)
from stoq.wire.varint cimport varint_put

cdef enum:
    SECOND = 1000000000
    # RFC 9000 §10.3: 5 bytes of header and randomness at least, and the token.
    RESET_MIN = 21
    # Where RFC 9000 §10.3 finds a reset hard to tell from a packet: 1 + 20 + 1 + 5 + 16.
    RESET_SIZE = 43
    FRAME_CLOSE = 0x1C
    SECRET = 32
    PN_BYTES = 2


cdef class ReplyLimit:
    """key: 48 random bytes, for hashing addresses."""

    def __cinit__(self, bytes key not None):
        if len(key) != sizeof(self.keys):
            raise ValueError(f"the key has {sizeof(self.keys)} bytes")
        memcpy(self.keys, <const char *>key, sizeof(self.keys))
        memset(self.slots, 0, sizeof(self.slots))

    cdef bint allow(self, const Address *peer, int64_t now) noexcept nogil:
        cdef uint32_t words[4]
        cdef uint64_t h = self.keys[0] + self.keys[5] * peer.port
        cdef ReplySlot *slot
        cdef int i
        memcpy(words, peer.addr, sizeof(words))
        for i in range(4):
            h += self.keys[i + 1] * words[i]
        slot = &self.slots[(h >> 32) & (REPLY_SLOTS - 1)]
        if slot.since == 0 or now - slot.since >= SECOND:
            slot.since = now
            slot.count = 0
        if self.since == 0 or now - self.since >= SECOND:
            self.since = now
            self.count = 0
        if slot.count >= REPLIES_PER_ADDRESS or self.count >= REPLIES_PER_SECOND:
            return False
        slot.count += 1
        self.count += 1
        return True


cdef size_t put_stateless_reset(uint8_t *p, size_t trigger, const uint8_t *token,
                                const uint8_t *random32) noexcept nogil:
    cdef size_t size = RESET_SIZE if trigger > RESET_SIZE else trigger - 1
    if trigger <= RESET_MIN:
        return 0
    memcpy(p, random32, size - 16)       # at most 27 bytes
    p[0] = 0x40 | (p[0] & 0x3F)
    memcpy(p + size - 16, token, 16)
    return size


cdef size_t put_versions(uint8_t *p, const Header *h, const uint8_t *random4) noexcept nogil:
    cdef uint32_t random, version = QUIC_V1
    memcpy(&random, random4, 4)
    return header_put_version_negotiation(
        p, REPLY_ROOM, h.dcid, h.dcid_length, h.scid, h.scid_length, &version, 1, random)


cdef size_t put_retry(uint8_t *p, const Header *h, const uint8_t *scid, size_t scid_length, const uint8_t *token,
                      size_t token_length, uint8_t random) noexcept nogil:
    cdef size_t n = header_put_retry(
        p, REPLY_ROOM - AEAD_TAG, h.version, h.scid, h.scid_length, scid, scid_length, token, token_length, random)
    if n == 0 or keys_retry_tag(h.version, h.dcid, h.dcid_length, p, n, p + n):
        return 0
    return n + AEAD_TAG


cdef size_t put_refusal(uint8_t *p, const Header *h, const uint8_t *scid, size_t scid_length,
                        uint64_t error_code) noexcept nogil:
    """An Initial with CONNECTION_CLOSE, without any state for the client (RFC 9000 §5.2.2)."""
    cdef const AeadBackend *backend = aead_default()
    cdef AeadKey key
    cdef AeadJob job
    cdef uint8_t client[SECRET]
    cdef uint8_t server[SECRET]
    cdef uint8_t sample[HP_SAMPLE]
    cdef uint8_t *length_at
    cdef uint8_t *pn
    cdef uint8_t *end
    cdef size_t total
    cdef int failed
    if backend == NULL or h.type != PACKET_INITIAL:
        return 0
    memset(&key, 0, sizeof(key))
    if keys_initial_secrets(h.version, h.dcid, h.dcid_length, client, server):
        return 0
    if keys_from_secret(&key, backend, h.version, SUITE_AES_128_GCM, server, SECRET, 1):
        return 0
    pn = header_put_long(p, PACKET_INITIAL, h.version, h.scid, h.scid_length, scid, scid_length, NULL, 0, PN_BYTES,
                         &length_at)
    memset(pn, 0, PN_BYTES)
    end = pn + PN_BYTES
    end[0] = FRAME_CLOSE
    end = varint_put(end + 1, error_code)
    end = varint_put(end, 0)             # frame type: not known
    end = varint_put(end, 0)             # reason: none
    total = PN_BYTES + <size_t>(end - pn - PN_BYTES) + AEAD_TAG
    length_at[0] = <uint8_t>(0x40 | (total >> 8))
    length_at[1] = <uint8_t>(total & 0xFF)
    memset(&job, 0, sizeof(job))
    job.header = p
    job.header_length = <uint32_t>(pn + PN_BYTES - p)
    job.payload = pn + PN_BYTES
    job.length = <uint32_t>(end - job.payload)
    failed = key.backend.seal(&key, &job, 1)
    if not failed:
        memcpy(sample, pn + 4, HP_SAMPLE)        # RFC 9001 §5.4.2
        failed = key.backend.hp_mask(&key, sample, 1)
    if not failed:
        p[0] ^= sample[0] & 0x0F
        pn[0] ^= sample[1]
        pn[1] ^= sample[2]
    aead_key_clear(&key)
    return 0 if failed else <size_t>(end - p) + AEAD_TAG
