"""The command `stoq` (extra `stoq[cli]`): file transfer over ALPN hq-interop, test certificates, diagnosis."""
