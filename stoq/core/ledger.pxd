# Bytes of heap that one connection holds, struct by struct.
from stoq.core.state cimport Conn

cdef dict core_ledger(const Conn *c)
