# Frames handed from one connection to another of the same endpoint, in C (DESIGN §4 "Relay"). The queue belongs to the
# egress connection; whoever hands over must run in the thread that owns it.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from stoq.core.state cimport Conn

cdef enum RelayResult:
    RELAY_OK = 0
    RELAY_NO_MEMORY = -1
    RELAY_NOT_OWNER = -2
    RELAY_FULL = -3          # RELAY_QUEUE_MAX frames wait: the ingress side holds back

cdef enum:
    RELAY_QUEUE_MAX = 1024

# Queue one encoded frame (copied) with the cookie of its acknowledged and lost notices.
cdef int relay_push(Conn *egress, const void *thread, const uint8_t *frame, uint32_t length,
        uint64_t cookie) noexcept nogil
