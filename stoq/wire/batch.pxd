# What crosses the border between protocol and I/O: batches of datagrams as
# struct-of-arrays (DESIGN §4 "Transport"). io fills and sends them, the
# protocol side reads and builds them; neither knows the other.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t

cdef enum:
    RECV_BATCH_MAX = 32      # buffers a receive call may return
    SEND_BATCH_MAX = 16      # buffers a send call may take
    SEND_SEGMENTS_MAX = 64   # UDP_MAX_SEGMENTS of Linux before 6.9 (larger since)

# An IP address and UDP port, without any socket header. `family` is 4, 6 or 0 (none).
# `port` in host order; IPv4 sits in the first four bytes of addr, the rest zero,
# so that memcmp over the struct is equality.
cdef struct Address:
    uint8_t addr[16]
    uint32_t scope_id
    uint16_t port
    uint8_t family
    uint8_t pad

cdef enum:
    DATAGRAM_VALIDATED = 1   # the transport or a packet filter vouches for the source address
    DATAGRAM_TRUNCATED = 2   # the buffer was too small: to be dropped

# Received buffers. One entry is one datagram, or with segment != 0 a GRO
# train of datagrams of `segment` bytes each (the last may be shorter) from
# one peer. Memory stays valid and writable (packets are opened in place)
# until the batch is handed back to the transport.
cdef struct RecvBatch:
    uint32_t count
    uint32_t queue                       # receive queue it came from (0 for sockets)
    uint8_t *data[32]
    uint32_t length[32]
    uint16_t segment[32]
    uint8_t ecn[32]                      # the two ECN bits of the IP header
    uint8_t flags[32]
    Address peer[32]
    Address local[32]                    # family 0 when the transport cannot tell
    void *owner[32]                      # the transport's own; opaque

# Memory to build into, given by the transport. One entry becomes one send:
# `segment` bytes each datagram, the last one may be shorter; segment == 0 or
# length <= segment means one datagram.
cdef struct SendBatch:
    uint32_t count                       # entries that carry data
    uint32_t slots                       # entries with memory behind them
    uint32_t max_segments                # datagrams an entry may hold (1: no segmentation)
    uint8_t *data[16]
    uint32_t capacity[16]
    uint32_t length[16]
    uint16_t segment[16]
    uint8_t ecn[16]
    Address peer[16]
    Address local[16]                    # source to send from; family 0: let the kernel choose
    void *owner[16]
