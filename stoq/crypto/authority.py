"""A certificate authority for tests and development: P-256 keys, ECDSA, subject alternative names.

Not for the public web: no revocation, no serial register, keys unencrypted in memory.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from stoq.crypto.credentials import Credentials
from stoq.errors import ConfigurationError

# Certificates begin this long before `now`, for machines whose clocks differ a little.
BACKDATE = timedelta(minutes=5)


class Issued:
    """A certificate that was made here, its private key, and the certificates above it (root excluded)."""

    def __init__(self, certificate: x509.Certificate, private_key: Any, above: Sequence[x509.Certificate] = ()) -> None:
        self.certificate = certificate
        self.private_key = private_key
        self.above = tuple(above)

    @property
    def certificate_pem(self) -> bytes:
        """PEM of this certificate alone (of an authority: what others trust)."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def chain_pem(self) -> bytes:
        """PEM of this certificate and of the intermediates above it: what a server loads."""
        return b"".join(c.public_bytes(Encoding.PEM) for c in (self.certificate, *self.above))

    @property
    def key_pem(self) -> bytes:
        """PEM (PKCS #8, unencrypted) of the private key."""
        pem: bytes = self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return pem

    def credentials(self) -> Credentials:
        """Ready for a TLS configuration."""
        return Credentials([self.certificate, *self.above], self.private_key)


def make_test_ca(
    now: datetime,
    *,
    name: str = "stoq test CA",
    days: float = 365,
    issuer: Issued | None = None,
    private_key: Any = None,
    serial: int | None = None,
    deterministic: bool = False,
) -> Issued:
    """A certificate authority, self-signed or (with `issuer`) an intermediate.

    Valid from 5 min before `now`, for `days`. deterministic: ECDSA signatures of RFC 6979, the same bytes every time.
    """
    key = ec.generate_private_key(ec.SECP256R1()) if private_key is None else private_key
    builder = _builder(name, key, (now, days), issuer, serial)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = builder.add_extension(usage, critical=True)
    return _sign(builder, key, issuer, deterministic)


def make_leaf(
    issuer: Issued,
    names: Sequence[str],
    now: datetime,
    *,
    days: float = 90,
    private_key: Any = None,
    serial: int | None = None,
    deterministic: bool = False,
) -> Issued:
    """A server certificate for host names and IP addresses (ConfigurationError when there is none).

    Valid from 5 min before `now`, for `days`. A key may be given: P-256 otherwise.
    """
    if not names:
        raise ConfigurationError("a certificate needs at least one host name or IP address")
    key = ec.generate_private_key(ec.SECP256R1()) if private_key is None else private_key
    builder = _builder(names[0][:64], key, (now, days), issuer, serial)
    alternative = x509.SubjectAlternativeName([_general_name(n) for n in names])
    builder = builder.add_extension(alternative, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = builder.add_extension(usage, critical=False)
    return _sign(builder, key, issuer, deterministic)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError:
        raise ConfigurationError(f"{name!r} is not an ASCII host name") from None


def _builder(
    name: str, key: Any, validity: tuple[datetime, float], issuer: Issued | None, serial: int | None
) -> x509.CertificateBuilder:
    now, days = validity
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    above = subject if issuer is None else issuer.certificate.subject
    issuer_key = (key if issuer is None else issuer.private_key).public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(above)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number() if serial is None else serial)
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _sign(builder: x509.CertificateBuilder, key: Any, issuer: Issued | None, deterministic: bool) -> Issued:
    signer = key if issuer is None else issuer.private_key
    digest = None if isinstance(signer, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else hashes.SHA256()
    certificate = builder.sign(signer, digest, ecdsa_deterministic=True if deterministic else None)
    # A root is known to the other side already; an intermediate is not.
    above: list[x509.Certificate] = []
    if issuer is not None and issuer.certificate.issuer != issuer.certificate.subject:
        above = [issuer.certificate, *issuer.above]
    return Issued(certificate, key, above)
