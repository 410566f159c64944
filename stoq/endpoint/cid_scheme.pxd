# Where our connection IDs come from (DESIGN §4 "Connection-ID scheme").


cdef class CidScheme:
    cdef readonly int length         # bytes of every ID of the endpoint, 4 to 20
    cdef readonly object epoch       # opaque: changes when IDs made before should be replaced

    cpdef bytes make(self)
    cpdef bytes reset_token(self, bytes cid)
    cpdef object recognise(self, bytes cid)


cdef class RandomCids(CidScheme):
    cdef object random               # callable(n) -> bytes
    cdef bytes key
    cdef bytes pool
    cdef Py_ssize_t used
