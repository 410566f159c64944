"""Cipher suites: rows keyed by code point (RFC 8446 §B.4)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

TLS_AES_128_GCM_SHA256 = 0x1301
TLS_AES_256_GCM_SHA384 = 0x1302
TLS_CHACHA20_POLY1305_SHA256 = 0x1303


class Suite(NamedTuple):
    """A suite as the handshake sees it: the hash of its key schedule. The AEAD belongs to packet protection."""

    code: int
    name: str
    algorithm: str
    hash_length: int
    new_hash: Callable[..., Any]


SUITES: dict[int, Suite] = {
    row.code: row
    for row in (
        Suite(TLS_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256", "sha256", 32, hashlib.sha256),
        Suite(TLS_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384", "sha384", 48, hashlib.sha384),
        Suite(TLS_CHACHA20_POLY1305_SHA256, "TLS_CHACHA20_POLY1305_SHA256", "sha256", 32, hashlib.sha256),
    )
}

# Preference when a configuration names nothing: AES-128 is the fastest where AES instructions exist.
DEFAULT_SUITES: tuple[int, ...] = (TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384, TLS_CHACHA20_POLY1305_SHA256)
# What the AEAD layer is known to offer everywhere; a caller that has ChaCha20 says so.
DEFAULT_SUPPORTED: frozenset[int] = frozenset((TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384))
