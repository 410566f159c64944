"""Packet-number coding (RFC 9000 §17.1, appendix A): the Python face of packet_number.pxd."""
from stoq.wire.packet_number cimport pn_decode, pn_length, pn_put


def encode_packet_number(uint64_t packet_number, largest_acked=None):
    """The 1 to 4 low bytes that carry packet_number to a peer who acknowledged largest_acked (None: nothing yet).

    ValueError outside 0 <= packet_number < 2**62, or when largest_acked is not below it.
    """
    cdef uint8_t buf[4]
    cdef uint64_t acked = <uint64_t>0xFFFFFFFFFFFFFFFFU
    if packet_number >> 62:
        raise ValueError("packet numbers end at 2**62 - 1")
    if largest_acked is not None:
        acked = largest_acked
        if acked >= packet_number:
            raise ValueError("largest_acked must be below the packet number")
    cdef size_t length = pn_length(packet_number, acked)
    pn_put(buf, packet_number, length)
    return (<char *>buf)[:length]


def decode_packet_number(bytes truncated not None, uint64_t expected):
    """Full packet number nearest to `expected` (largest received + 1). `truncated`: 1 to 4 bytes."""
    if not 1 <= len(truncated) <= 4:
        raise ValueError("a packet number has 1 to 4 bytes")
    if expected >> 62:
        raise ValueError("packet numbers end at 2**62 - 1")
    return pn_decode(int.from_bytes(truncated, "big"), len(truncated), expected)
