"""Frames handed from one connection to another of the same endpoint, without Python."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport malloc, realloc
from libc.string cimport memcpy
from stoq.core.state cimport Conn, ExtOut

cdef enum:
    STEP = 16                # entries that the queue grows by


cdef int relay_push(Conn *egress, const void *thread, const uint8_t *frame, uint32_t length,
                    uint64_t cookie) noexcept nogil:
    cdef ExtOut *grown
    cdef uint8_t *copy
    if egress.owner_thread != thread:
        return RELAY_NOT_OWNER
    if egress.ext_out_count >= RELAY_QUEUE_MAX:
        return RELAY_FULL
    if egress.ext_out_count == egress.ext_out_capacity:
        grown = <ExtOut *>realloc(egress.ext_out, (egress.ext_out_capacity + STEP) * sizeof(ExtOut))
        if grown == NULL:
            return RELAY_NO_MEMORY
        egress.ext_out = grown
        egress.ext_out_capacity += STEP
    copy = <uint8_t *>malloc(length)
    if copy == NULL:
        return RELAY_NO_MEMORY
    memcpy(copy, frame, length)
    egress.ext_out[egress.ext_out_count].data = copy
    egress.ext_out[egress.ext_out_count].length = length
    egress.ext_out[egress.ext_out_count].cookie = cookie
    egress.ext_out_count += 1
    return RELAY_OK
