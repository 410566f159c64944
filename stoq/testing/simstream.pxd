from stoq.connection.stream cimport StreamHandle


cdef class SimulatedStream(StreamHandle):
    cdef public object handler           # gets the calls; None: the connection's listener
    cdef public object note              # the handler's own
    cdef object target(self)
