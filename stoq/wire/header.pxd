# Packet headers (RFC 9000 §17): long, short, Version Negotiation, Retry.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    VERSION_NEGOTIATION = 0
    QUIC_V1 = 1
    CID_MAX = 20             # RFC 9000 §17.2: versions 1 and 2
    TOKEN_MAX = 1024         # Initial tokens we accept; ours are far shorter

cdef enum PacketType:
    PACKET_INITIAL = 0
    PACKET_ZERO_RTT = 1
    PACKET_HANDSHAKE = 2
    PACKET_RETRY = 3
    PACKET_ONE_RTT = 4
    PACKET_VERSION_NEGOTIATION = 5
    PACKET_UNKNOWN_VERSION = 6   # long header of a version we do not speak: only the invariant fields are set

cdef struct Header:
    int type                 # PacketType
    uint8_t first            # still protected
    uint32_t version
    const uint8_t *dcid
    const uint8_t *scid
    const uint8_t *token     # Initial and Retry
    size_t dcid_length
    size_t scid_length
    size_t token_length
    size_t pn_offset         # from the start of this packet; 0 for Retry and Version Negotiation
    size_t packet_length     # this packet's bytes within the datagram (coalescing: the next starts there)
    const uint8_t *versions  # Version Negotiation: the list, 4 bytes each
    size_t versions_length

cdef enum HeaderError:
    HEADER_OK = 0
    HEADER_TRUNCATED = -1
    HEADER_BAD_CID = -2      # longer than CID_MAX in a version that we know
    HEADER_BAD_FIXED_BIT = -3
    HEADER_BAD_TOKEN = -4    # longer than TOKEN_MAX

# Parse the header at p (one packet, perhaps followed by coalesced ones). short_cid: length of our connection IDs.
cdef int header_parse(const uint8_t *p, size_t n, size_t short_cid, Header *h) noexcept nogil
# Write a long header with a two-byte Length field of zero, to be patched: returns its end (where the packet number
# starts); *length_at is where the Length field stands. Room: 1 + 4 + 1 + 20 + 1 + 20 + token + 4.
cdef uint8_t *header_put_long(uint8_t *p, int type, uint32_t version, const uint8_t *dcid, size_t dcid_length,
                              const uint8_t *scid, size_t scid_length, const uint8_t *token, size_t token_length,
                              size_t pn_length, uint8_t **length_at) noexcept nogil
# Short header up to the packet number.
cdef uint8_t *header_put_short(uint8_t *p, const uint8_t *dcid, size_t dcid_length, bint spin, bint key_phase,
                               size_t pn_length) noexcept nogil
# Version Negotiation (RFC 9000 §17.2.1), answering a packet that carried these IDs (they are swapped here; up to 255
# bytes each). `random` fills the unused bits and picks the greased version, which is added in front of `versions`.
# Returns the length, 0 when it does not fit.
cdef size_t header_put_version_negotiation(
        uint8_t *p, size_t room, const uint8_t *received_dcid, size_t received_dcid_length,
        const uint8_t *received_scid, size_t received_scid_length, const uint32_t *versions, size_t count,
        uint32_t random) noexcept nogil
# Retry without its integrity tag (crypto appends the 16 bytes); the IDs are the Retry's own. `random` fills the four
# unused bits. Returns the length, 0 when it does not fit.
cdef size_t header_put_retry(uint8_t *p, size_t room, uint32_t version, const uint8_t *dcid, size_t dcid_length,
                             const uint8_t *scid, size_t scid_length, const uint8_t *token, size_t token_length,
                             uint8_t random) noexcept nogil
cdef bint version_known(uint32_t version) noexcept nogil
