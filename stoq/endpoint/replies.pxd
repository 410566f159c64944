# Answers that need no connection: Version Negotiation, Retry, Stateless Reset, a refusal. And how many of them.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from stoq.wire.batch cimport Address
from stoq.wire.header cimport Header

cdef enum:
    REPLY_ROOM = 1280        # bytes that any answer fits into (a Retry: 7 + 2 * 20 + 1024 + 16)
    REPLY_SLOTS = 256
    # RFC 9000 §10.3.3: no loops. Two stoq endpoints that were wired together fall silent after this many.
    REPLIES_PER_ADDRESS = 4
    # A Retry above the half-open threshold is not counted: it is smaller than what it answers.
    REPLIES_PER_SECOND = 1000

cdef struct ReplySlot:
    int64_t since            # when the count began, 0: never
    uint32_t count


# Bounds answers to strangers: in all, and to one address (addresses share 256 counters).
cdef class ReplyLimit:
    cdef ReplySlot slots[256]
    cdef int64_t since
    cdef uint32_t count
    cdef uint64_t keys[6]
    cdef bint allow(self, const Address *peer, int64_t now) noexcept nogil

# Each returns the length written to p (room for REPLY_ROOM bytes), or 0.
cdef size_t put_stateless_reset(uint8_t *p, size_t trigger, const uint8_t *token,
                                const uint8_t *random32) noexcept nogil
cdef size_t put_versions(uint8_t *p, const Header *h, const uint8_t *random4) noexcept nogil
cdef size_t put_retry(uint8_t *p, const Header *h, const uint8_t *scid, size_t scid_length, const uint8_t *token,
                      size_t token_length, uint8_t random) noexcept nogil
cdef size_t put_refusal(uint8_t *p, const Header *h, const uint8_t *scid, size_t scid_length,
                        uint64_t error_code) noexcept nogil
