# What a handshake agreed on.
cdef class Negotiated:
    # (alpn, cipher suite, group, signature scheme, server name, certificates of the peer), None before.
    cdef object negotiated
