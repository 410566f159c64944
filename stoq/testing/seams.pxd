from libc.stdint cimport int64_t, uint8_t, uint32_t
from stoq.core.state cimport Conn
from stoq.connection.connection cimport Connection

cdef Conn *core_of(Connection connection) except NULL
cdef int take_train(Connection connection, bytes data, uint32_t segment, object peer, int64_t now, uint8_t ecn,
                    object between) except -1
