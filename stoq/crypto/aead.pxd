# Packet protection (RFC 9001 §5) behind one C vtable, in batches. Backends
# fill an AeadBackend; keys carry a pointer to theirs.
cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum CipherSuite:
    SUITE_AES_128_GCM = 0x1301
    SUITE_AES_256_GCM = 0x1302
    SUITE_CHACHA20_POLY1305 = 0x1303

cdef enum:
    AEAD_TAG = 16            # RFC 9001 §5.3: all QUIC v1 AEADs have 16-byte tags
    AEAD_IV = 12
    HP_SAMPLE = 16
    HP_MASK = 5              # RFC 9001 §5.4.1
    AEAD_BATCH_MAX = 64
    AEAD_LENGTH_MAX = 65535  # no UDP datagram holds more; longer jobs are refused

# One packet. Sealing: `header` is the AAD; plaintext of `length` bytes lies at `payload` (then in place), and if
# tail != NULL the last tail_length bytes of it are read from there instead (sealed without a copy by the caller);
# ciphertext and tag are written to payload[0 .. length + 16). Opening: payload holds `length` bytes of ciphertext
# and tag; the plaintext (length - 16 bytes) replaces it; ok says whether it authenticated. What stands at payload
# after a failed open is not authentic and must not be read.
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

# All zeros is a key that was never filled: clearing it does nothing. One thread at a time uses a key.
cdef struct AeadKey:
    const AeadBackend *backend
    uint16_t suite
    uint8_t key_length       # 16 or 32
    uint8_t iv[12]
    void *state              # the backend's own

cdef struct AeadBackend:
    const char *name
    # 0, or -1 (suite unknown to this backend, or the library failed). `key` and `hp` are key_length bytes.
    # hp may be NULL to keep the header-protection part of `key.state` (key update: RFC 9001 §6.1); a key that never
    # had one then seals and opens, and its hp_mask fails.
    int (*init)(AeadKey *key, const uint8_t *secret_key, const uint8_t *hp) noexcept nogil
    void (*clear)(AeadKey *key) noexcept nogil
    # Seal n jobs (n <= AEAD_BATCH_MAX). 0, or -1 when the library failed: the connection must die then.
    int (*seal)(AeadKey *key, AeadJob *jobs, uint32_t n) noexcept nogil
    # Open n jobs; each job's ok is set to 0 or 1. Returns how many failed.
    int (*open)(AeadKey *key, AeadJob *jobs, uint32_t n) noexcept nogil
    # samples: n x 16 bytes, replaced by masks (RFC 9001 §5.4.3/§5.4.4; the first five bytes of each count).
    # 0 or -1.
    int (*hp_mask)(AeadKey *key, uint8_t *samples, uint32_t n) noexcept nogil
    bint protects            # 0: for measurements and tests; never the default

# The registered backend of that name, or NULL.
cdef const AeadBackend *aead_backend(const char *name) noexcept nogil
# The first registered backend that protects, or NULL. The order of imports at the end of aead.pyx is best first.
cdef const AeadBackend *aead_default() noexcept nogil
cdef int aead_register(const AeadBackend *backend) except -1
# Fill *key for a suite: 0 or -1. *key is all zeros, or was filled before: then its old secrets go, except that
# hp == NULL keeps the header-protection key, for which backend and suite must be the old ones. After -1 the key is
# empty and safe to clear or to fill again, and its seal, open and hp_mask fail.
cdef int aead_key_init(
    AeadKey *key, const AeadBackend *backend, uint16_t suite,
    const uint8_t *secret_key, const uint8_t *iv, const uint8_t *hp,
) noexcept nogil
# Wipe and free. The key may be filled again.
cdef void aead_key_clear(AeadKey *key) noexcept nogil
# 16 or 32; 0 for an unknown suite.
cdef uint8_t aead_key_length(uint16_t suite) noexcept nogil


@cython.final
cdef class PacketKey:
    cdef AeadKey key


@cython.final
cdef class PacketBatch:
    cdef AeadJob jobs[64]
    cdef uint32_t count
    cdef uint8_t *memory
    cdef size_t memory_size
    cdef list tails
    cdef AeadJob *job(self, index) except NULL
