"""Registered names of what a handshake agreed on (IANA's TLS registries)."""

from __future__ import annotations

CIPHER_SUITES = {
    0x1301: "TLS_AES_128_GCM_SHA256",
    0x1302: "TLS_AES_256_GCM_SHA384",
    0x1303: "TLS_CHACHA20_POLY1305_SHA256",
}
GROUPS = {
    0x0017: "secp256r1",
    0x0018: "secp384r1",
    0x0019: "secp521r1",
    0x001D: "x25519",
    0x001E: "x448",
    0x11EB: "SecP256r1MLKEM768",
    0x11EC: "X25519MLKEM768",
    0x11ED: "SecP384r1MLKEM1024",
}


def name_of(code: int | None, registry: dict[int, str]) -> str:
    """ "" for None, hexadecimal for what the registry does not know."""
    if code is None:
        return ""
    return registry.get(code, f"0x{code:04x}")
