# Packets into the memory that the transport gave (DESIGN §3 "send").
from libc.stdint cimport int64_t
from stoq.wire.batch cimport SendBatch
from stoq.core.state cimport Conn

# Fill free entries of the batch: datagrams added, or -1.
cdef int packer_send(Conn *c, SendBatch *batch, int64_t now) noexcept nogil
