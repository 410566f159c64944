"""Key-exchange groups: rows keyed by TLS code point (RFC 8446 §4.2.7).

The interface has the shape of a key encapsulation, so that hybrids with ML-KEM are rows too:

    client   generate(random)               -> (private, client share)
    server   respond(client share, random)  -> (server share, secret)
    client   finish(private, server share)  -> secret

`random(n)` returns n bytes; every random choice comes from it, so that a seeded source replays exactly.
A share that is malformed, or that leads to a degenerate secret, raises KeyExchangeError (TLS: illegal_parameter).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from stoq.errors import StoqError

Random = Callable[[int], bytes]

X25519 = 0x001D
SECP256R1 = 0x0017


class KeyExchangeError(StoqError):
    """The peer's key share is unusable; the message is one line."""


class Group(Protocol):
    """One key-exchange group."""

    code: int
    name: str

    def generate(self, random: Random) -> tuple[Any, bytes]: ...

    def respond(self, client_share: bytes, random: Random) -> tuple[bytes, bytes]: ...

    def finish(self, private: Any, server_share: bytes) -> bytes: ...


class _X25519:
    """RFC 7748 §6.1, RFC 8446 §7.4.2: shares and secret are 32 bytes."""

    code = X25519
    name = "X25519"

    def generate(self, random: Random) -> tuple[Any, bytes]:
        private = x25519.X25519PrivateKey.from_private_bytes(random(32))
        return private, private.public_key().public_bytes_raw()

    def respond(self, client_share: bytes, random: Random) -> tuple[bytes, bytes]:
        private = x25519.X25519PrivateKey.from_private_bytes(random(32))
        secret = self.finish(private, client_share)
        return private.public_key().public_bytes_raw(), secret

    def finish(self, private: Any, server_share: bytes) -> bytes:
        try:
            secret: bytes = private.exchange(x25519.X25519PublicKey.from_public_bytes(server_share))
        except ValueError:
            # Wrong length, or the all-zero secret of a small-order point (RFC 7748 §6.1 obliges us to refuse it).
            raise KeyExchangeError("X25519 key share is malformed or of small order") from None
        return secret


# Order of the P-256 base point (SP 800-186 §3.2.1.3).
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_P256_SHARE = 65  # RFC 8446 §4.2.8.2: only the uncompressed form, 0x04 || X || Y


class _P256:
    """RFC 8446 §7.4.2: the share is an uncompressed point, the secret its X coordinate."""

    code = SECP256R1
    name = "P-256"
    _curve = ec.SECP256R1()
    _ecdh = ec.ECDH()

    def _private(self, random: Random) -> ec.EllipticCurvePrivateKey:
        # FIPS 186-5 A.2.1: 64 bits more than the order has, so that the reduction has no usable bias.
        scalar = int.from_bytes(random(40), "big") % (_P256_ORDER - 1) + 1
        return ec.derive_private_key(scalar, self._curve)

    def generate(self, random: Random) -> tuple[Any, bytes]:
        private = self._private(random)
        return private, private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def respond(self, client_share: bytes, random: Random) -> tuple[bytes, bytes]:
        private, share = self.generate(random)
        return share, self.finish(private, client_share)

    def finish(self, private: Any, server_share: bytes) -> bytes:
        if len(server_share) != _P256_SHARE or server_share[0] != 4:
            raise KeyExchangeError("P-256 key share is not an uncompressed point")
        try:
            peer = ec.EllipticCurvePublicKey.from_encoded_point(self._curve, server_share)
            secret: bytes = private.exchange(self._ecdh, peer)
        except ValueError:
            raise KeyExchangeError("P-256 key share is not a point of the curve") from None
        return secret


# code point -> row. Only register() adds to it.
GROUPS: dict[int, Group] = {}

# What a configuration offers and accepts when it names nothing, best first.
DEFAULT_GROUPS: tuple[int, ...] = (X25519, SECP256R1)


def register(group: Group) -> None:
    """Add a row; the code point must be free (ValueError), or taken by this very object (no change)."""
    if GROUPS.setdefault(group.code, group) is not group:
        raise ValueError(f"group 0x{group.code:04x} is registered already")


for _row in (_X25519(), _P256()):
    register(_row)
