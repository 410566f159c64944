"""What a handshake agreed on, kept when TLS is gone."""


cdef class Negotiated:
    """Facts of a complete handshake; None (no certificates) before."""

    @property
    def alpn(self):
        return self.negotiated[0] if self.negotiated else None

    @property
    def cipher_suite(self):
        return self.negotiated[1] if self.negotiated else None

    @property
    def group(self):
        return self.negotiated[2] if self.negotiated else None

    @property
    def signature_scheme(self):
        return self.negotiated[3] if self.negotiated else None

    @property
    def server_name(self):
        return self.negotiated[4] if self.negotiated else None

    @property
    def peer_certificates(self):
        return self.negotiated[5] if self.negotiated else []
