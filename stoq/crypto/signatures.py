"""Signature schemes: rows keyed by TLS code point (RFC 8446 §4.2.3).

    sign(private key, data)               -> signature
    verify(public key, signature, data)   -> None, or SignatureError
    accepts(public key)                   -> whether this key can be used with this scheme

Keys are the objects of `cryptography`, or whatever a registered row understands. `handshake` is False for schemes
that TLS 1.3 allows in certificates only (RSASSA-PKCS1-v1_5).
"""

from __future__ import annotations

from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from stoq.errors import StoqError

ECDSA_SECP256R1_SHA256 = 0x0403
ECDSA_SECP384R1_SHA384 = 0x0503
ECDSA_SECP521R1_SHA512 = 0x0603
ED25519 = 0x0807
RSA_PSS_RSAE_SHA256 = 0x0804
RSA_PSS_RSAE_SHA384 = 0x0805
RSA_PSS_RSAE_SHA512 = 0x0806
RSA_PKCS1_SHA256 = 0x0401
RSA_PKCS1_SHA384 = 0x0501
RSA_PKCS1_SHA512 = 0x0601

# Largest RSA modulus whose signature we check: the cost grows with its square, and the peer chooses it.
RSA_MODULUS_MAX = 8192
# Smallest: NIST SP 800-131A disallows shorter ones; they can be factored, or soon will be.
RSA_MODULUS_MIN = 2048


class SignatureError(StoqError):
    """A signature does not verify, or the key does not fit the scheme; the message is one line."""


class SignatureScheme(Protocol):
    """One signature scheme."""

    code: int
    name: str
    handshake: bool

    def accepts(self, public_key: Any) -> bool: ...

    def sign(self, private_key: Any, data: bytes) -> bytes: ...

    def verify(self, public_key: Any, signature: bytes, data: bytes) -> None: ...


class _Ecdsa:
    """ECDSA with the curve bound to the hash, as TLS 1.3 has it; DER signatures."""

    handshake = True

    def __init__(self, code: int, name: str, curve: type[ec.EllipticCurve], digest: hashes.HashAlgorithm) -> None:
        self.code = code
        self.name = name
        self._curve = curve
        self._algorithm = ec.ECDSA(digest)

    def accepts(self, public_key: Any) -> bool:
        return isinstance(public_key, ec.EllipticCurvePublicKey) and isinstance(public_key.curve, self._curve)

    def sign(self, private_key: Any, data: bytes) -> bytes:
        signature: bytes = private_key.sign(data, self._algorithm)
        return signature

    def verify(self, public_key: Any, signature: bytes, data: bytes) -> None:
        if not self.accepts(public_key):
            raise SignatureError(f"the certificate's key cannot be used with {self.name}")
        try:
            public_key.verify(signature, data, self._algorithm)
        except InvalidSignature:
            raise SignatureError(f"wrong {self.name} signature") from None


class _Ed25519:
    """RFC 8032, pure Ed25519."""

    code = ED25519
    name = "ed25519"
    handshake = True

    def accepts(self, public_key: Any) -> bool:
        return isinstance(public_key, ed25519.Ed25519PublicKey)

    def sign(self, private_key: Any, data: bytes) -> bytes:
        signature: bytes = private_key.sign(data)
        return signature

    def verify(self, public_key: Any, signature: bytes, data: bytes) -> None:
        if not self.accepts(public_key):
            raise SignatureError("the certificate's key cannot be used with ed25519")
        try:
            public_key.verify(signature, data)
        except InvalidSignature:
            raise SignatureError("wrong ed25519 signature") from None


class _Rsa:
    """RSASSA-PSS (salt as long as the digest, RFC 8446 §4.2.3) or, for certificates only, RSASSA-PKCS1-v1_5."""

    def __init__(self, code: int, name: str, digest: hashes.HashAlgorithm, *, pss: bool) -> None:
        self.code = code
        self.name = name
        self.handshake = pss
        self._digest = digest
        self._padding = padding.PSS(padding.MGF1(digest), digest.digest_size) if pss else padding.PKCS1v15()

    def accepts(self, public_key: Any) -> bool:
        if not isinstance(public_key, rsa.RSAPublicKey):
            return False
        return RSA_MODULUS_MIN <= public_key.key_size <= RSA_MODULUS_MAX

    def sign(self, private_key: Any, data: bytes) -> bytes:
        signature: bytes = private_key.sign(data, self._padding, self._digest)
        return signature

    def verify(self, public_key: Any, signature: bytes, data: bytes) -> None:
        if not self.accepts(public_key):
            raise SignatureError(f"the certificate's key cannot be used with {self.name}")
        try:
            public_key.verify(signature, data, self._padding, self._digest)
        except (InvalidSignature, ValueError):
            raise SignatureError(f"wrong {self.name} signature") from None


# code point -> row. Only register() adds to it.
SCHEMES: dict[int, SignatureScheme] = {}

# What a configuration offers and accepts when it names nothing, best first: cheap and widely used ones in front.
DEFAULT_SCHEMES: tuple[int, ...] = (
    ECDSA_SECP256R1_SHA256,
    ED25519,
    RSA_PSS_RSAE_SHA256,
    ECDSA_SECP384R1_SHA384,
    RSA_PSS_RSAE_SHA384,
    RSA_PSS_RSAE_SHA512,
    ECDSA_SECP521R1_SHA512,
    RSA_PKCS1_SHA256,
    RSA_PKCS1_SHA384,
    RSA_PKCS1_SHA512,
)


def register(scheme: SignatureScheme) -> None:
    """Add a row; the code point must be free (ValueError), or taken by this very object (no change)."""
    if SCHEMES.setdefault(scheme.code, scheme) is not scheme:
        raise ValueError(f"signature scheme 0x{scheme.code:04x} is registered already")


def schemes_for(public_key: Any) -> tuple[int, ...]:
    """Code points of the registered rows that can sign a handshake with this key."""
    return tuple(code for code, row in SCHEMES.items() if row.handshake and row.accepts(public_key))


_ROWS: tuple[SignatureScheme, ...] = (
    _Ecdsa(ECDSA_SECP256R1_SHA256, "ecdsa_secp256r1_sha256", ec.SECP256R1, hashes.SHA256()),
    _Ecdsa(ECDSA_SECP384R1_SHA384, "ecdsa_secp384r1_sha384", ec.SECP384R1, hashes.SHA384()),
    _Ecdsa(ECDSA_SECP521R1_SHA512, "ecdsa_secp521r1_sha512", ec.SECP521R1, hashes.SHA512()),
    _Ed25519(),
    _Rsa(RSA_PSS_RSAE_SHA256, "rsa_pss_rsae_sha256", hashes.SHA256(), pss=True),
    _Rsa(RSA_PSS_RSAE_SHA384, "rsa_pss_rsae_sha384", hashes.SHA384(), pss=True),
    _Rsa(RSA_PSS_RSAE_SHA512, "rsa_pss_rsae_sha512", hashes.SHA512(), pss=True),
    _Rsa(RSA_PKCS1_SHA256, "rsa_pkcs1_sha256", hashes.SHA256(), pss=False),
    _Rsa(RSA_PKCS1_SHA384, "rsa_pkcs1_sha384", hashes.SHA384(), pss=False),
    _Rsa(RSA_PKCS1_SHA512, "rsa_pkcs1_sha512", hashes.SHA512(), pss=False),
)
for _row in _ROWS:
    register(_row)
