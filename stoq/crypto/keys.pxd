# QUIC key schedule (RFC 9001 §5.1, §5.2, §6.1): traffic secrets to packet keys.
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from stoq.crypto.aead cimport AeadBackend, AeadKey

cdef enum:
    SECRET_MAX = 48          # SHA-384

# Derive "quic key", "quic iv", "quic hp" (labels by version) from a traffic secret into *key. with_hp = 0 keeps
# the header-protection key (key update). What *key must be, and what it is after a failure: as aead_key_init says.
# secret_length is that of the suite's hash. 0 or -1.
cdef int keys_from_secret(
    AeadKey *key, const AeadBackend *backend, uint32_t version, uint16_t suite,
    const uint8_t *secret, size_t secret_length, bint with_hp,
) noexcept nogil
# Next-generation secret ("quic ku"); out has secret_length bytes. 0 or -1.
cdef int keys_next_secret(
    uint32_t version, uint16_t suite, const uint8_t *secret, size_t secret_length, uint8_t *out
) noexcept nogil
# Initial secrets from the client's first DCID: 32 bytes each. 0, or -1 for an unknown version or more than 20 bytes.
cdef int keys_initial_secrets(
    uint32_t version, const uint8_t *dcid, size_t dcid_length, uint8_t *client, uint8_t *server
) noexcept nogil
# Retry integrity tag (RFC 9001 §5.8) over the Retry packet without its tag (1 to 65535 bytes). 0 or -1.
cdef int keys_retry_tag(
    uint32_t version, const uint8_t *odcid, size_t odcid_length, const uint8_t *packet, size_t length, uint8_t *tag16
) noexcept nogil
# Constant-time comparison: 1 equal, 0 not.
cdef bint bytes_equal(const uint8_t *a, const uint8_t *b, size_t length) noexcept nogil
