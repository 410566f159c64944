"""QUIC key schedule (RFC 9001 §5.1, §5.2, §5.8, §6.1) and the HKDF it shares with TLS 1.3.

`algorithm` is "sha256" or "sha384" throughout. The Python functions take
`bytes` only and raise ValueError for sizes that the RFCs do not allow.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, strlen

from stoq.crypto._libcrypto cimport (
    CRYPTO_memcmp,
    ERR_clear_error,
    EVP_CIPHER,
    EVP_CIPHER_CTX,
    EVP_CIPHER_CTX_free,
    EVP_CIPHER_CTX_get_params,
    EVP_CIPHER_CTX_new,
    EVP_CIPHER_fetch,
    EVP_EncryptFinal_ex,
    EVP_EncryptInit_ex2,
    EVP_EncryptUpdate,
    EVP_MAC,
    EVP_MAC_CTX,
    EVP_MAC_CTX_dup,
    EVP_MAC_CTX_free,
    EVP_MAC_CTX_new,
    EVP_MAC_fetch,
    EVP_MAC_final,
    EVP_MAC_free,
    EVP_MAC_init,
    EVP_MAC_update,
    OPENSSL_cleanse,
    OSSL_PARAM,
    OSSL_PARAM_construct_end,
    OSSL_PARAM_construct_octet_string,
    OSSL_PARAM_construct_utf8_string,
)
from stoq.crypto.aead cimport (
    AEAD_IV,
    AEAD_LENGTH_MAX,
    AEAD_TAG,
    SUITE_AES_256_GCM,
    AeadBackend,
    AeadKey,
    PacketKey,
    aead_key_init,
    aead_key_length,
)

from stoq.wire.header cimport CID_MAX, QUIC_V1

from stoq.crypto.aead import AeadError

cdef enum:
    HASH_MAX = SECRET_MAX
    # HkdfLabel (RFC 8446 §7.1): length, label<7..255> with its prefix, context<0..255>
    LABEL_MAX = 255
    CONTEXT_MAX = 255
    INFO_MAX = 2 + 1 + LABEL_MAX + 1 + CONTEXT_MAX

cdef const char *LABEL_PREFIX = b"tls13 "


# ------------------------------------------------------------ version rows

cdef struct VersionRow:
    uint32_t version
    const char *salt         # 20 bytes
    const char *key
    const char *iv
    const char *hp
    const char *ku
    const char *retry_key    # 16 bytes
    const char *retry_nonce  # 12 bytes

cdef VersionRow VERSIONS[2]

# QUIC v1: RFC 9001 §5.1, §5.2, §5.8, §6.1.
VERSIONS[0].version = QUIC_V1
VERSIONS[0].salt = b"\x38\x76\x2c\xf7\xf5\x59\x34\xb3\x4d\x17\x9a\xe6\xa4\xc8\x0c\xad\xcc\xbb\x7f\x0a"
VERSIONS[0].key = b"quic key"
VERSIONS[0].iv = b"quic iv"
VERSIONS[0].hp = b"quic hp"
VERSIONS[0].ku = b"quic ku"
VERSIONS[0].retry_key = b"\xbe\x0c\x69\x0b\x9f\x66\x57\x5a\x1d\x76\x6b\x54\xe3\x68\xc8\x4e"
VERSIONS[0].retry_nonce = b"\x46\x15\x99\xd3\x5d\x63\x2b\xf2\x23\x98\x25\xbb"
# QUIC v2: RFC 9369 §3.3.
VERSIONS[1].version = 0x6B3343CF
VERSIONS[1].salt = b"\x0d\xed\xe3\xde\xf7\x00\xa6\xdb\x81\x93\x81\xbe\x6e\x26\x9d\xcb\xf9\xbd\x2e\xd9"
VERSIONS[1].key = b"quicv2 key"
VERSIONS[1].iv = b"quicv2 iv"
VERSIONS[1].hp = b"quicv2 hp"
VERSIONS[1].ku = b"quicv2 ku"
VERSIONS[1].retry_key = b"\x8f\xb4\xb0\x1b\x56\xac\x48\xe2\x60\xfb\xcb\xce\xad\x7c\xcc\x92"
VERSIONS[1].retry_nonce = b"\xd8\x69\x69\xbc\x2d\x7c\x6d\x99\x90\xef\xb0\x4a"


cdef const VersionRow *version_row(uint32_t version) noexcept nogil:
    cdef int i
    for i in range(2):
        if VERSIONS[i].version == version:
            return &VERSIONS[i]
    return NULL


# ------------------------------------------------------------- HMAC, HKDF

cdef enum Hash:
    SHA256 = 0
    SHA384 = 1

cdef size_t HASH_LENGTH[2]
HASH_LENGTH[0] = 32
HASH_LENGTH[1] = 48

# One HMAC context per hash with the digest resolved, never keyed with a secret: every use works on a copy. The
# one-shot HMAC() looks the algorithm up each time: 1,047 ns (SHA-256) and 1,653 ns (SHA-384) for 40 bytes, a copy
# of the template 678 ns, and 196 ns for each further run with the same key (three labels of one secret).
cdef EVP_MAC_CTX *TEMPLATES[2]
# For the Retry integrity tag.
cdef EVP_CIPHER *RETRY_CIPHER = EVP_CIPHER_fetch(NULL, b"AES-128-GCM", NULL)


cdef EVP_MAC_CTX *hmac_template(EVP_MAC *mac, const char *digest) noexcept nogil:
    cdef OSSL_PARAM params[2]
    cdef EVP_MAC_CTX *ctx = EVP_MAC_CTX_new(mac)
    params[0] = OSSL_PARAM_construct_utf8_string(b"digest", <char *>digest, 0)
    params[1] = OSSL_PARAM_construct_end()
    # Keyed with a byte that is no secret: a context without any key cannot be copied.
    if ctx != NULL and EVP_MAC_init(ctx, <const uint8_t *>b"", 1, params) != 1:
        EVP_MAC_CTX_free(ctx)
        ctx = NULL
    return ctx


cdef int make_templates() except -1:
    cdef EVP_MAC *mac = EVP_MAC_fetch(NULL, b"HMAC", NULL)
    if mac != NULL:
        TEMPLATES[0] = hmac_template(mac, b"SHA256")
        TEMPLATES[1] = hmac_template(mac, b"SHA384")
        EVP_MAC_free(mac)
    ERR_clear_error()
    if TEMPLATES[0] == NULL or TEMPLATES[1] == NULL or RETRY_CIPHER == NULL:
        raise ImportError("this libcrypto lacks HMAC with SHA-256 and SHA-384, or AES-128-GCM")
    return 0


make_templates()


cdef EVP_MAC_CTX *hmac_begin(int hash, const uint8_t *key, size_t length) noexcept nogil:
    """A context keyed and ready for a first run; NULL when the library failed."""
    cdef EVP_MAC_CTX *ctx = EVP_MAC_CTX_dup(TEMPLATES[hash])
    # A NULL key would mean "the key of before".
    if ctx != NULL and EVP_MAC_init(ctx, key if length else <const uint8_t *>b"", length, NULL) != 1:
        EVP_MAC_CTX_free(ctx)
        ctx = NULL
    if ctx == NULL:
        ERR_clear_error()
    return ctx


cdef int hmac_end(EVP_MAC_CTX *ctx, int hash, uint8_t *out) noexcept nogil:
    cdef size_t written
    if EVP_MAC_final(ctx, out, &written, HASH_LENGTH[hash]) == 1:
        return 0
    ERR_clear_error()
    return -1


cdef int hmac(
    int hash, const uint8_t *key, size_t key_length, const uint8_t *data, size_t length, uint8_t *out
) noexcept nogil:
    cdef int rc = -1
    cdef EVP_MAC_CTX *ctx = hmac_begin(hash, key, key_length)
    if ctx != NULL and EVP_MAC_update(ctx, data, length) == 1:
        rc = hmac_end(ctx, hash, out)
    EVP_MAC_CTX_free(ctx)
    return rc


# HKDF-Expand (RFC 5869 §2.3) with a context keyed with the pseudorandom key. `fresh` says that it has not been used.
cdef int expand(
    EVP_MAC_CTX *ctx, bint fresh, int hash, const uint8_t *info, size_t info_length, uint8_t *out, size_t length
) noexcept nogil:
    cdef uint8_t block[HASH_MAX]
    cdef uint8_t counter = 0
    cdef size_t size = HASH_LENGTH[hash]
    cdef size_t at = 0
    cdef size_t part
    cdef int rc = 0
    while at < length:
        if not fresh and EVP_MAC_init(ctx, NULL, 0, NULL) != 1:
            rc = -1
            break
        fresh = 0
        if at > 0 and EVP_MAC_update(ctx, block, size) != 1:
            rc = -1
            break
        # The caller has seen to it that 255 blocks are enough.
        counter += 1
        if (
            EVP_MAC_update(ctx, info, info_length) != 1
            or EVP_MAC_update(ctx, &counter, 1) != 1
            or hmac_end(ctx, hash, block) != 0
        ):
            rc = -1
            break
        part = length - at if length - at < size else size
        memcpy(out + at, block, part)
        at += part
    OPENSSL_cleanse(block, sizeof(block))
    if rc != 0:
        ERR_clear_error()
    return rc


# The info of HKDF-Expand-Label (RFC 8446 §7.1); returns its length. The caller has checked the three sizes.
cdef size_t label_info(
    uint8_t *info, size_t length, const uint8_t *label, size_t label_length,
    const uint8_t *context, size_t context_length,
) noexcept nogil:
    cdef size_t prefix = strlen(LABEL_PREFIX)
    cdef uint8_t *p = info
    p[0] = <uint8_t>(length >> 8)
    p[1] = <uint8_t>length
    p[2] = <uint8_t>(prefix + label_length)
    memcpy(p + 3, LABEL_PREFIX, prefix)
    memcpy(p + 3 + prefix, label, label_length)
    p += 3 + prefix + label_length
    p[0] = <uint8_t>context_length
    memcpy(p + 1, context, context_length)
    return <size_t>(p - info) + 1 + context_length


# One label of a secret with an empty context: the form of every QUIC derivation.
cdef int expand_quic(
    EVP_MAC_CTX *ctx, bint fresh, int hash, const char *label, uint8_t *out, size_t length
) noexcept nogil:
    cdef uint8_t info[INFO_MAX]
    cdef size_t size = label_info(info, length, <const uint8_t *>label, strlen(label), <const uint8_t *>b"", 0)
    return expand(ctx, fresh, hash, info, size, out, length)


# ------------------------------------------------------------ QUIC's keys

cdef inline int suite_hash(uint16_t suite) noexcept nogil:
    return SHA384 if suite == SUITE_AES_256_GCM else SHA256


cdef int keys_from_secret(
    AeadKey *key, const AeadBackend *backend, uint32_t version, uint16_t suite,
    const uint8_t *secret, size_t secret_length, bint with_hp,
) noexcept nogil:
    cdef const VersionRow *row = version_row(version)
    cdef int hash = suite_hash(suite)
    cdef size_t length = aead_key_length(suite)
    cdef uint8_t raw[32]
    cdef uint8_t hp[32]
    cdef uint8_t iv[AEAD_IV]
    cdef EVP_MAC_CTX *ctx
    cdef int rc = -1
    if row == NULL or length == 0 or secret_length != HASH_LENGTH[hash]:
        return -1
    ctx = hmac_begin(hash, secret, secret_length)
    if (
        ctx != NULL
        and expand_quic(ctx, 1, hash, row.key, raw, length) == 0
        and expand_quic(ctx, 0, hash, row.iv, iv, AEAD_IV) == 0
        and (not with_hp or expand_quic(ctx, 0, hash, row.hp, hp, length) == 0)
    ):
        rc = aead_key_init(key, backend, suite, raw, iv, hp if with_hp else NULL)
    EVP_MAC_CTX_free(ctx)
    OPENSSL_cleanse(raw, sizeof(raw))
    OPENSSL_cleanse(hp, sizeof(hp))
    OPENSSL_cleanse(iv, sizeof(iv))
    return rc


cdef int keys_next_secret(
    uint32_t version, uint16_t suite, const uint8_t *secret, size_t secret_length, uint8_t *out
) noexcept nogil:
    cdef const VersionRow *row = version_row(version)
    cdef int hash = suite_hash(suite)
    cdef EVP_MAC_CTX *ctx
    cdef int rc = -1
    if row == NULL or aead_key_length(suite) == 0 or secret_length != HASH_LENGTH[hash]:
        return -1
    ctx = hmac_begin(hash, secret, secret_length)
    if ctx != NULL:
        rc = expand_quic(ctx, 1, hash, row.ku, out, secret_length)
    EVP_MAC_CTX_free(ctx)
    return rc


cdef int keys_initial_secrets(
    uint32_t version, const uint8_t *dcid, size_t dcid_length, uint8_t *client, uint8_t *server
) noexcept nogil:
    cdef const VersionRow *row = version_row(version)
    cdef uint8_t secret[32]
    cdef EVP_MAC_CTX *ctx
    cdef int rc = -1
    if row == NULL or dcid_length > CID_MAX:
        return -1
    if hmac(SHA256, <const uint8_t *>row.salt, 20, dcid, dcid_length, secret) == 0:
        ctx = hmac_begin(SHA256, secret, 32)
        if (
            ctx != NULL
            and expand_quic(ctx, 1, SHA256, b"client in", client, 32) == 0
            and expand_quic(ctx, 0, SHA256, b"server in", server, 32) == 0
        ):
            rc = 0
        EVP_MAC_CTX_free(ctx)
    OPENSSL_cleanse(secret, sizeof(secret))
    return rc


cdef int keys_retry_tag(
    uint32_t version, const uint8_t *odcid, size_t odcid_length, const uint8_t *packet, size_t length, uint8_t *tag16
) noexcept nogil:
    cdef const VersionRow *row = version_row(version)
    cdef OSSL_PARAM params[2]
    cdef EVP_CIPHER_CTX *ctx
    cdef uint8_t head[1 + CID_MAX]
    cdef int written
    cdef int rc = -1
    if row == NULL or odcid_length > CID_MAX or length == 0 or length > AEAD_LENGTH_MAX:
        return -1
    # The Retry pseudo-packet is the AAD of an empty plaintext.
    head[0] = <uint8_t>odcid_length
    if odcid_length > 0:
        memcpy(head + 1, odcid, odcid_length)
    params[0] = OSSL_PARAM_construct_octet_string(b"tag", tag16, AEAD_TAG)
    params[1] = OSSL_PARAM_construct_end()
    ctx = EVP_CIPHER_CTX_new()
    if (
        ctx != NULL
        and EVP_EncryptInit_ex2(
            ctx, RETRY_CIPHER, <const uint8_t *>row.retry_key, <const uint8_t *>row.retry_nonce, NULL) == 1
        and EVP_EncryptUpdate(ctx, NULL, &written, head, <int>odcid_length + 1) == 1
        and EVP_EncryptUpdate(ctx, NULL, &written, packet, <int>length) == 1
        and EVP_EncryptFinal_ex(ctx, tag16, &written) == 1
        and EVP_CIPHER_CTX_get_params(ctx, params) == 1
    ):
        rc = 0
    else:
        ERR_clear_error()
    EVP_CIPHER_CTX_free(ctx)
    return rc


cdef bint bytes_equal(const uint8_t *a, const uint8_t *b, size_t length) noexcept nogil:
    return CRYPTO_memcmp(a, b, length) == 0


# ------------------------------------------------------------ Python face

cdef inline const uint8_t *span(bytes data) noexcept:
    return <const uint8_t *>PyBytes_AS_STRING(data)


cdef inline size_t size_of(bytes data) noexcept:
    return <size_t>PyBytes_GET_SIZE(data)


cdef int hash_of(str algorithm) except -1:
    if algorithm == "sha256":
        return SHA256
    if algorithm == "sha384":
        return SHA384
    raise ValueError(f"the hash must be sha256 or sha384, not {algorithm!r}")


cdef int library_failed() except -1:
    raise AeadError("the cipher library failed")


def hmac_digest(str algorithm not None, bytes key not None, bytes data not None) -> bytes:
    """HMAC (RFC 2104): 32 or 48 bytes."""
    cdef int hash = hash_of(algorithm)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>HASH_LENGTH[hash])
    if hmac(hash, span(key), size_of(key), span(data), size_of(data), <uint8_t *>PyBytes_AS_STRING(out)) != 0:
        library_failed()
    return out


def hkdf_extract(str algorithm not None, bytes salt not None, bytes ikm not None) -> bytes:
    """HKDF-Extract (RFC 5869 §2.2): the pseudorandom key, 32 or 48 bytes. An empty salt counts as zeros."""
    return hmac_digest(algorithm, salt, ikm)


cdef bytes expand_bytes(int hash, bytes secret, const uint8_t *info, size_t info_length, Py_ssize_t length):
    cdef bytes out
    cdef EVP_MAC_CTX *ctx
    cdef int rc = -1
    if not 1 <= length <= 255 * <Py_ssize_t>HASH_LENGTH[hash]:
        raise ValueError("HKDF gives 1 byte to 255 hashes")
    # Of two bytes at least while it is written to: shorter objects are shared by the interpreter.
    out = PyBytes_FromStringAndSize(NULL, length if length > 1 else 2)
    ctx = hmac_begin(hash, span(secret), size_of(secret))
    if ctx != NULL:
        rc = expand(ctx, 1, hash, info, info_length, <uint8_t *>PyBytes_AS_STRING(out), <size_t>length)
    EVP_MAC_CTX_free(ctx)
    if rc != 0:
        library_failed()
    return out if length > 1 else out[:1]


def hkdf_expand(str algorithm not None, bytes secret not None, bytes info not None, Py_ssize_t length) -> bytes:
    """HKDF-Expand (RFC 5869 §2.3): `length` bytes, 1 to 255 hashes."""
    return expand_bytes(hash_of(algorithm), secret, span(info), size_of(info), length)


def hkdf_expand_label(
    str algorithm not None, bytes secret not None, bytes label not None, bytes context not None, Py_ssize_t length
) -> bytes:
    """HKDF-Expand-Label (RFC 8446 §7.1). `label` without "tls13 ", up to 249 bytes; `context` up to 255."""
    cdef uint8_t info[INFO_MAX]
    cdef int hash = hash_of(algorithm)
    cdef size_t size
    if size_of(label) > LABEL_MAX - strlen(LABEL_PREFIX) or size_of(context) > CONTEXT_MAX:
        raise ValueError("label or context is too long")
    size = label_info(info, <size_t>length, span(label), size_of(label), span(context), size_of(context))
    return expand_bytes(hash, secret, info, size, length)


def initial_secrets(uint32_t version, bytes dcid not None) -> tuple[bytes, bytes]:
    """(client, server) Initial secrets from the first Destination Connection ID (RFC 9001 §5.2).

    ValueError for an unknown version or more than 20 bytes.
    """
    cdef bytes client = PyBytes_FromStringAndSize(NULL, 32)
    cdef bytes server = PyBytes_FromStringAndSize(NULL, 32)
    if version_row(version) == NULL or size_of(dcid) > CID_MAX:
        raise ValueError("unknown version, or connection ID too long")
    if keys_initial_secrets(
        version, span(dcid), size_of(dcid),
        <uint8_t *>PyBytes_AS_STRING(client), <uint8_t *>PyBytes_AS_STRING(server),
    ) != 0:
        library_failed()
    return client, server


def next_secret(uint32_t version, uint16_t suite, bytes secret not None) -> bytes:
    """Traffic secret of the next key phase (RFC 9001 §6.1); ValueError when version, suite or size is wrong."""
    cdef bytes out
    check_secret(version, suite, secret)
    out = PyBytes_FromStringAndSize(NULL, len(secret))
    if keys_next_secret(version, suite, span(secret), size_of(secret), <uint8_t *>PyBytes_AS_STRING(out)) != 0:
        library_failed()
    return out


def packet_key(uint32_t version, uint16_t suite, bytes secret not None, str backend not None="openssl") -> PacketKey:
    """The packet keys of a traffic secret (RFC 9001 §5.1); ValueError when version, suite or size is wrong."""
    cdef bytes zeros
    cdef PacketKey made
    check_secret(version, suite, secret)
    zeros = bytes(aead_key_length(suite))
    made = PacketKey(suite, zeros, bytes(AEAD_IV), zeros, backend)
    if keys_from_secret(&made.key, made.key.backend, version, suite, span(secret), size_of(secret), 1) != 0:
        library_failed()
    return made


def update_packet_key(uint32_t version, PacketKey key not None, bytes secret not None) -> None:
    """Give `key` the keys of the next phase's secret; header protection stays (RFC 9001 §6.1)."""
    check_secret(version, key.key.suite, secret)
    if keys_from_secret(&key.key, key.key.backend, version, key.key.suite, span(secret), size_of(secret), 0) != 0:
        library_failed()


cdef int check_secret(uint32_t version, uint16_t suite, bytes secret) except -1:
    if version_row(version) == NULL:
        raise ValueError(f"unknown QUIC version {version:#010x}")
    if aead_key_length(suite) == 0:
        raise ValueError(f"unknown cipher suite {suite:#06x}")
    if size_of(secret) != HASH_LENGTH[suite_hash(suite)]:
        raise ValueError("the secret must be as long as the suite's hash")
    return 0


def retry_integrity_tag(uint32_t version, bytes odcid not None, bytes packet not None) -> bytes:
    """The 16-byte tag of a Retry (RFC 9001 §5.8); `packet` is the Retry without it.

    `odcid` is the Destination Connection ID of the client's first Initial.
    ValueError for an unknown version, an ID of more than 20 bytes, or a packet that no datagram holds.
    """
    cdef bytes out = PyBytes_FromStringAndSize(NULL, AEAD_TAG)
    if version_row(version) == NULL or size_of(odcid) > CID_MAX or not 1 <= size_of(packet) <= AEAD_LENGTH_MAX:
        raise ValueError("unknown version, or connection ID or packet of a wrong length")
    if keys_retry_tag(
        version, span(odcid), size_of(odcid), span(packet), size_of(packet), <uint8_t *>PyBytes_AS_STRING(out)
    ) != 0:
        library_failed()
    return out


def constant_time_equal(bytes a not None, bytes b not None) -> bool:
    """Whether two byte strings are equal; the time tells their lengths only."""
    return size_of(a) == size_of(b) and bytes_equal(span(a), span(b), size_of(a))
