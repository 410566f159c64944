"""What stoq can use on this machine, asked once: packet protection, the cipher library, the UDP transport."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from stoq.crypto.aead import backends, default_backend
from stoq.io.caps import Caps
from stoq.io.udp import open_udp


@dataclass(frozen=True, slots=True)
class Capabilities:
    """See capabilities()."""

    aead_backend: str | None
    """What seals and opens packets unless told otherwise."""
    aead_backends: tuple[str, ...]
    """Those that protect; the null backend of tests is left out."""
    cipher_library: str
    """Name and version of the libcrypto in this process; "" when it does not tell."""
    transport: Caps
    """Of a UDP transport on every local address."""


def cipher_library() -> str:
    try:
        library = ctypes.CDLL("libcrypto.so.3")  # the name by which stoq's modules load it: no second copy
        library.OpenSSL_version.restype = ctypes.c_char_p
        text = library.OpenSSL_version(0)
    except (OSError, AttributeError):
        return ""
    return text.decode("ascii", "replace") if isinstance(text, bytes) else ""


def capabilities() -> Capabilities:
    """Open a UDP transport on a free port for a moment and look. TransportError when not even that works."""
    transport = open_udp(None, 0)
    try:
        caps = transport.caps
    finally:
        transport.close()
    protecting = tuple(name for name in backends() if name != "null")
    return Capabilities(default_backend(), protecting, cipher_library(), caps)
