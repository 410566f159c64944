"""The `null` backend: framing without protection. IT PROTECTS NOTHING.

For instruction counts and simulations only, where the cost of a cipher (which
depends on the CPU) would hide the engine's own. Packets keep their shape: a
tag of 16 zero bytes, which open checks, and header-protection masks of zero.
It is reached by its name alone and is never the default.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from stoq.crypto.aead cimport AEAD_LENGTH_MAX, AEAD_TAG, HP_SAMPLE, AeadBackend, AeadJob, AeadKey, aead_register


cdef inline void copy_words(uint8_t *to, const uint8_t *source, size_t n) noexcept nogil:
    # Not memcpy: libc picks its body by CPU, and the counts must not depend on that.
    cdef size_t at = 0
    cdef uint64_t word
    while at + 8 <= n:
        memcpy(&word, source + at, 8)
        memcpy(to + at, &word, 8)
        at += 8
    while at < n:
        to[at] = source[at]
        at += 1


cdef int null_init(AeadKey *key, const uint8_t *secret_key, const uint8_t *hp) noexcept nogil:
    return 0


cdef void null_clear(AeadKey *key) noexcept nogil:
    pass


cdef int null_seal(AeadKey *key, AeadJob *jobs, uint32_t n) noexcept nogil:
    cdef uint32_t i
    cdef AeadJob *job
    for i in range(n):
        job = &jobs[i]
        if job.length > AEAD_LENGTH_MAX:
            return -1
        if job.tail != NULL:
            if job.tail_length > job.length:
                return -1
            copy_words(job.payload + (job.length - job.tail_length), job.tail, job.tail_length)
        memset(job.payload + job.length, 0, AEAD_TAG)
    return 0


cdef int null_open(AeadKey *key, AeadJob *jobs, uint32_t n) noexcept nogil:
    cdef uint32_t i
    cdef int failed = 0
    cdef uint64_t tag[2]
    for i in range(n):
        jobs[i].ok = 0
        if AEAD_TAG <= jobs[i].length <= AEAD_LENGTH_MAX + AEAD_TAG:
            memcpy(tag, jobs[i].payload + (jobs[i].length - AEAD_TAG), AEAD_TAG)
            jobs[i].ok = (tag[0] | tag[1]) == 0
        failed += 1 - jobs[i].ok
    return failed


cdef int null_hp_mask(AeadKey *key, uint8_t *samples, uint32_t n) noexcept nogil:
    memset(samples, 0, <size_t>n * HP_SAMPLE)
    return 0


cdef AeadBackend NULL_BACKEND
NULL_BACKEND.name = b"null"
NULL_BACKEND.init = null_init
NULL_BACKEND.clear = null_clear
NULL_BACKEND.seal = null_seal
NULL_BACKEND.open = null_open
NULL_BACKEND.hp_mask = null_hp_mask
NULL_BACKEND.protects = 0
aead_register(&NULL_BACKEND)
