# The part of OpenSSL 3.0's libcrypto that stoq calls. Nothing here is
# deprecated there; every function is documented in its section 3 manual page.
from libc.stdint cimport uint8_t

cdef extern from "openssl/types.h" nogil:
    ctypedef struct EVP_CIPHER:
        pass
    ctypedef struct EVP_CIPHER_CTX:
        pass
    ctypedef struct EVP_MAC:
        pass
    ctypedef struct EVP_MAC_CTX:
        pass
    ctypedef struct OSSL_LIB_CTX:
        pass
    ctypedef struct OSSL_PARAM:
        const char *key
        unsigned int data_type
        void *data
        size_t data_size
        size_t return_size

cdef extern from "openssl/params.h" nogil:
    OSSL_PARAM OSSL_PARAM_construct_octet_string(const char *key, void *buf, size_t bsize) noexcept
    OSSL_PARAM OSSL_PARAM_construct_utf8_string(const char *key, char *buf, size_t bsize) noexcept
    OSSL_PARAM OSSL_PARAM_construct_end() noexcept

cdef extern from "openssl/evp.h" nogil:
    EVP_CIPHER *EVP_CIPHER_fetch(OSSL_LIB_CTX *ctx, const char *algorithm, const char *properties) noexcept
    EVP_CIPHER_CTX *EVP_CIPHER_CTX_new() noexcept
    void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX *ctx) noexcept
    int EVP_CIPHER_CTX_set_padding(EVP_CIPHER_CTX *ctx, int pad) noexcept
    int EVP_CIPHER_CTX_get_params(EVP_CIPHER_CTX *ctx, OSSL_PARAM *params) noexcept
    int EVP_EncryptInit_ex2(
        EVP_CIPHER_CTX *ctx, const EVP_CIPHER *cipher, const uint8_t *key, const uint8_t *iv, const OSSL_PARAM *params
    ) noexcept
    int EVP_EncryptUpdate(EVP_CIPHER_CTX *ctx, uint8_t *out, int *outl, const uint8_t *data, int inl) noexcept
    int EVP_EncryptFinal_ex(EVP_CIPHER_CTX *ctx, uint8_t *out, int *outl) noexcept
    int EVP_DecryptInit_ex2(
        EVP_CIPHER_CTX *ctx, const EVP_CIPHER *cipher, const uint8_t *key, const uint8_t *iv, const OSSL_PARAM *params
    ) noexcept
    int EVP_DecryptUpdate(EVP_CIPHER_CTX *ctx, uint8_t *out, int *outl, const uint8_t *data, int inl) noexcept
    int EVP_DecryptFinal_ex(EVP_CIPHER_CTX *ctx, uint8_t *out, int *outl) noexcept

    EVP_MAC *EVP_MAC_fetch(OSSL_LIB_CTX *ctx, const char *algorithm, const char *properties) noexcept
    void EVP_MAC_free(EVP_MAC *mac) noexcept
    EVP_MAC_CTX *EVP_MAC_CTX_new(EVP_MAC *mac) noexcept
    EVP_MAC_CTX *EVP_MAC_CTX_dup(const EVP_MAC_CTX *src) noexcept
    void EVP_MAC_CTX_free(EVP_MAC_CTX *ctx) noexcept
    int EVP_MAC_init(EVP_MAC_CTX *ctx, const uint8_t *key, size_t keylen, const OSSL_PARAM *params) noexcept
    int EVP_MAC_update(EVP_MAC_CTX *ctx, const uint8_t *data, size_t datalen) noexcept
    int EVP_MAC_final(EVP_MAC_CTX *ctx, uint8_t *out, size_t *outl, size_t outsize) noexcept

cdef extern from "openssl/crypto.h" nogil:
    void OPENSSL_cleanse(void *p, size_t n) noexcept
    int CRYPTO_memcmp(const void *a, const void *b, size_t n) noexcept

cdef extern from "openssl/err.h" nogil:
    void ERR_clear_error() noexcept

cdef extern from * nogil:
    void prefetch "__builtin_prefetch"(const void *p, int write, int locality) noexcept
