# Acknowledgements, loss detection and probe timeouts (RFC 9002).
from libc.stdint cimport uint32_t, uint64_t, int64_t
from stoq.wire.frames cimport Frame
from stoq.core.state cimport Conn, PacketBuild, Path, Space

cdef enum:
    GRANULARITY_NS = 1000000             # RFC 9002 §6.1.2: kGranularity = 1 ms
    INITIAL_RTT_NS = 333000000           # RFC 9002 §6.2.2
    PACKET_THRESHOLD = 3                 # RFC 9002 §6.1.1
    PERSISTENT_THRESHOLD = 3             # RFC 9002 §7.6.1
    PTO_EXPONENT_MAX = 16                # 2^16 x PTO is far beyond any idle timeout

# A packet was built and goes out now.
cdef int recovery_sent(Conn *c, PacketBuild *b, uint32_t size, int64_t now) noexcept nogil
# A parsed ACK frame: 0, or the transport error to close with.
cdef uint64_t recovery_acked(Conn *c, int space, const Frame *f, int64_t now) noexcept nogil
cdef void recovery_set_timer(Conn *c, int64_t now) noexcept nogil
# Put something worth repeating into the next probe of a space.
cdef void recovery_probe_data(Conn *c, int space) noexcept nogil
cdef void recovery_timeout(Conn *c, int64_t now) noexcept nogil
# Forget a space: its keys are gone (RFC 9002 §6.4).
cdef void recovery_discard(Conn *c, int space) noexcept nogil
# Everything outstanding in a space is to be sent again (Retry, RFC 9000 §17.2.5.2).
cdef void recovery_requeue(Conn *c, int space) noexcept nogil
cdef int64_t recovery_pto(const Conn *c, bint with_ack_delay) noexcept nogil
