# Packet protection (RFC 9001 §5) behind one C vtable, in batches. Backends
# fill an AeadBackend; keys carry a pointer to theirs.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum CipherSuite:
    SUITE_AES_128_GCM = 0x1301
    SUITE_AES_256_GCM = 0x1302
    SUITE_CHACHA20_POLY1305 = 0x1303

cdef enum:
    AEAD_TAG = 16            # RFC 9001 §5.3: all QUIC v1 AEADs have 16-byte tags
    AEAD_IV = 12
    HP_SAMPLE = 16
    AEAD_BATCH_MAX = 64

# One packet. Sealing: `header` is the AAD; plaintext of `length` bytes lies at `payload` (then in place), and if
# tail != NULL the last tail_length bytes of it are read from there instead (sealed without a copy);
# ciphertext and tag are written to payload[0 .. length + 16). Opening: payload holds `length` bytes of ciphertext
# and tag; the plaintext (length - 16 bytes) replaces it; ok says whether it authenticated.
cdef struct AeadJob:
    uint64_t pn
    uint8_t *header
    uint8_t *payload
    const uint8_t *tail
    uint32_t tail_length
    uint32_t header_length
    uint32_t length
    int ok

cdef struct AeadBackend

cdef struct AeadKey:
    const AeadBackend *backend
    uint16_t suite
    uint8_t key_length       # 16 or 32
    uint8_t iv[12]
    void *state              # the backend's own

cdef struct AeadBackend:
    const char *name
    # 0, or -1 (suite unknown to this backend, or the library failed). `key` and `hp` are key_length bytes.
    # hp may be NULL to keep the header-protection part of `key.state` (key update: RFC 9001 §6.1).
    int (*init)(AeadKey *key, const uint8_t *secret_key, const uint8_t *hp) noexcept nogil
    void (*clear)(AeadKey *key) noexcept nogil
    # Seal n jobs (n <= AEAD_BATCH_MAX). 0, or -1 when the library failed: the connection must die then.
    int (*seal)(AeadKey *key, AeadJob *jobs, uint32_t n) noexcept nogil
    # Open n jobs; each job's ok is set to 0 or 1. Returns how many failed.
    int (*open)(AeadKey *key, AeadJob *jobs, uint32_t n) noexcept nogil
    # samples: n x 16 bytes, replaced by masks (RFC 9001 §5.4.3/§5.4.4; the first five bytes of each count).
    int (*hp_mask)(AeadKey *key, uint8_t *samples, uint32_t n) noexcept nogil

# Registered backends, best first; NULL after the last.
cdef const AeadBackend *aead_backend(const char *name) noexcept nogil
cdef const AeadBackend *aead_default() noexcept nogil
cdef int aead_register(const AeadBackend *backend) except -1
# Fill *key for a suite: 0 or -1.
cdef int aead_key_init(AeadKey *key, const AeadBackend *backend, uint16_t suite, const uint8_t *secret_key, const uint8_t *iv, const uint8_t *hp) noexcept nogil
cdef void aead_key_clear(AeadKey *key) noexcept nogil
