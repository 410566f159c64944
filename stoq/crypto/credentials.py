"""Credentials: what an endpoint proves itself with. A certificate chain, leaf first, and the leaf's private key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from stoq.crypto.chain import CERTIFICATE_CHAIN_MAX, ChainError, first_line, parse_public_key
from stoq.crypto.signatures import SCHEMES, schemes_for
from stoq.errors import ConfigurationError


class CertificateError(ConfigurationError):
    """A certificate or private key of ours cannot be used; the message is one line."""


class Credentials:
    """A certificate chain and its private key, checked once and shared by every connection.

    certificates: DER, leaf first. public_key: the leaf's. `encoded` is a cache of the TLS layer (its Certificate
    message). CertificateError when chain and key cannot serve.
    """

    __slots__ = ("certificates", "encoded", "leaf", "private_key", "public_key")

    def __init__(self, chain: Sequence[x509.Certificate], private_key: Any) -> None:
        if not chain:
            raise CertificateError("the certificate chain is empty")
        if len(chain) > CERTIFICATE_CHAIN_MAX:
            raise CertificateError(f"the chain has {len(chain)} certificates, more than {CERTIFICATE_CHAIN_MAX}")
        self.leaf = chain[0]
        self.certificates = tuple(c.public_bytes(Encoding.DER) for c in chain)
        try:
            self.public_key = parse_public_key(self.leaf)
        except ChainError as error:
            raise CertificateError(error.message) from None
        self.private_key = private_key
        self.encoded: bytes | None = None
        if not schemes_for(self.public_key):
            kind = type(self.public_key).__name__.removesuffix("PublicKey")
            raise CertificateError(f"a certificate with a key of this kind cannot be used: {kind}")
        if _spki(private_key.public_key()) != _spki(self.public_key):
            raise CertificateError("the private key does not belong to the first certificate of the chain")

    @classmethod
    def from_pem(cls, chain: bytes, key: bytes, password: bytes | str | None = None) -> Credentials:
        """From PEM texts: the chain leaf first, the key in PKCS #8, PKCS #1 or SEC 1 form."""
        if b"-----BEGIN CERTIFICATE-----" not in chain:
            raise CertificateError("the certificate is not PEM: no BEGIN CERTIFICATE line")
        try:
            certificates = x509.load_pem_x509_certificates(chain)
        except ValueError as error:
            raise CertificateError(f"the certificate is malformed: {first_line(error)}") from None
        return cls(certificates, _load_key(key, password))

    @classmethod
    def from_files(cls, chain: str | Path, key: str | Path, password: bytes | str | None = None) -> Credentials:
        """As from_pem, from two files (which may be the same one)."""
        try:
            texts = Path(chain).read_bytes(), Path(key).read_bytes()
        except OSError as error:
            raise CertificateError(f"{error.filename}: {error.strerror}") from None
        return cls.from_pem(*texts, password)

    def supports(self, scheme: int) -> bool:
        """Whether this key can sign a handshake with a signature scheme."""
        row = SCHEMES.get(scheme)
        return row is not None and row.handshake and row.accepts(self.public_key)


def _load_key(key: bytes, password: bytes | str | None) -> Any:
    if b"-----BEGIN " not in key or b"PRIVATE KEY-----" not in key:
        raise CertificateError("the private key is not PEM: no BEGIN PRIVATE KEY line")
    secret = password.encode() if isinstance(password, str) else password
    try:
        return load_pem_private_key(key, secret or None)
    except TypeError:
        # What `cryptography` raises for a password too many or too few.
        if secret:
            return _load_key(key, None)
        raise CertificateError("the private key is encrypted: a password is needed") from None
    except ValueError as error:
        if secret:
            raise CertificateError("the private key cannot be read: wrong password, or a malformed key") from None
        raise CertificateError(f"the private key is malformed: {first_line(error)}") from None
    except UnsupportedAlgorithm as error:
        raise CertificateError(f"a private key of this kind cannot be used: {first_line(error)}") from None


def _spki(public_key: Any) -> bytes:
    der: bytes = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der
