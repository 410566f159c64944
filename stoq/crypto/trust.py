"""Which certificate chains a client believes: trust anchors, and verification of a chain for a name and an instant.

Path building and signatures are `cryptography`'s X.509 verifier (RFC 5280 with the web PKI's profile). Three points of
that profile are relaxed, since certificate authorities of one's own often lack them and RFC 5280 §6 does not ask a
verifier for them: an absent authority key identifier, an absent key usage in a CA certificate, and a certificate that
was itself given as a trust anchor (self-signed or not) is accepted for the names it carries.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from stoq.crypto.chain import ChainError, ChainProblem, PeerChain, first_line, name_of
from stoq.errors import ConfigurationError

# Where Linux distributions keep the system's bundle; the first that exists is used.
SYSTEM_TRUST_PATHS = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Alpine, Gentoo
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",
)

# A positive result is kept for this long at most, and never past the end of a certificate's validity.
VERIFIED_SECONDS = 60
# Positive results kept per trust store, least recently used dropped first.
VERIFIED_MAX = 64

# RFC 1123 §2.1, with the underscore that names in use have.
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*")

Subject = x509.DNSName | x509.IPAddress


class TrustStore:
    """A set of trust anchors. Build one and share it: it remembers chains that it verified.

    The memory holds only successes, keyed by (SHA-256 of the exact chain, subject). One answers for at most
    VERIFIED_SECONDS after the verification and within the validity of every certificate sent, for instants at or
    after the verification.
    """

    def __init__(self, anchors: Iterable[x509.Certificate]) -> None:
        self.anchors = tuple(anchors)
        if not self.anchors:
            raise ConfigurationError("a trust store needs at least one certificate")
        self._store = Store(list(self.anchors))
        self._anchor_bytes = frozenset(a.public_bytes(Encoding.DER) for a in self.anchors)
        self._verified: OrderedDict[tuple[bytes, str], tuple[datetime, datetime]] = OrderedDict()

    # ---- construction

    @classmethod
    def from_pem(cls, data: bytes) -> TrustStore:
        """All certificates of a PEM text; ConfigurationError when there is none or one is malformed."""
        return cls(_load_pem(data, "trusted certificates"))

    @classmethod
    def from_file(cls, path: str | Path) -> TrustStore:
        """As from_pem, from a file."""
        return cls(_load_pem(_read(Path(path)), str(path)))

    @classmethod
    def from_directory(cls, path: str | Path) -> TrustStore:
        """All PEM certificates of the files in a directory (OpenSSL's capath; the hashed names do not matter)."""
        directory = Path(path)
        if not directory.is_dir():
            raise ConfigurationError(f"{path}: not a directory")
        found: dict[bytes, x509.Certificate] = {}
        for entry in sorted(directory.iterdir()):
            data = _read(entry) if entry.is_file() else b""
            if b"-----BEGIN CERTIFICATE-----" in data:
                for certificate in _load_pem(data, str(entry)):
                    found[certificate.public_bytes(Encoding.DER)] = certificate
        if not found:
            raise ConfigurationError(f"{path}: no certificate in this directory")
        return cls(found.values())

    @classmethod
    def system(cls, paths: Sequence[str] = SYSTEM_TRUST_PATHS) -> TrustStore:
        """The system's bundle: the first of `paths` that exists (about 10 ms; keep the result)."""
        for path in paths:
            if Path(path).is_file():
                return cls.from_file(path)
        raise ConfigurationError("no system certificate bundle found; name a file of trusted certificates")

    # ---- verification

    def verify(self, chain: PeerChain, host: str, now: datetime) -> None:
        """Check a server's chain for a host name or IP address at the instant `now` (UTC where it has no zone).

        ChainError says why not; ConfigurationError when `host` is neither a name nor an address.
        """
        if now.tzinfo is None:
            now = now.replace(tzinfo=UTC)
        key = (chain.digest, host)
        known = self._verified.get(key)
        if known is not None:
            if known[0] <= now < known[1]:
                self._verified.move_to_end(key)
                return
            del self._verified[key]
        subject = subject_of(host)
        intermediates = chain.intermediates()
        try:
            self._check(chain, intermediates, subject, now)
        except (VerificationError, ValueError) as error:
            try:
                reason = self._explain(chain, intermediates, host, now, error)
            except Exception:  # names, dates and extensions are parsed only when read, and fail in many ways
                text = f"the certificate chain is malformed: {first_line(error)}"
                reason = ChainError(ChainProblem.MALFORMED, text)
            raise reason from None
        ends = [c.not_valid_after_utc for c in (chain.leaf, *intermediates)]
        self._verified[key] = (now, min(*ends, now + timedelta(seconds=VERIFIED_SECONDS)))
        if len(self._verified) > VERIFIED_MAX:
            self._verified.popitem(last=False)

    def _check(self, chain: PeerChain, intermediates: list[x509.Certificate], subject: Subject, now: datetime) -> None:
        ca_policy, leaf_policy, pinned_policy = _policies()
        pinned = chain.certificates[0] in self._anchor_bytes
        PolicyBuilder().store(self._store).time(now).extension_policies(
            ca_policy=ca_policy, ee_policy=pinned_policy if pinned else leaf_policy
        ).build_server_verifier(subject).verify(chain.leaf, intermediates)

    def _explain(
        self,
        chain: PeerChain,
        intermediates: list[x509.Certificate],
        host: str,
        now: datetime,
        error: Exception,
    ) -> ChainError:
        """Find the reason in facts of our own: the verifier's text is not an interface."""
        for certificate in (chain.leaf, *intermediates):
            if now > certificate.not_valid_after_utc:
                when = certificate.not_valid_after_utc.isoformat(" ", "minutes")
                return ChainError(
                    ChainProblem.EXPIRED, f"the certificate {name_of(certificate.subject)} expired at {when}"
                )
            if now < certificate.not_valid_before_utc:
                when = certificate.not_valid_before_utc.isoformat(" ", "minutes")
                return ChainError(
                    ChainProblem.EXPIRED, f"the certificate {name_of(certificate.subject)} is not valid before {when}"
                )
        names = _names_of(chain.leaf)
        if not names:
            return ChainError(ChainProblem.WRONG_NAME, "the certificate carries no DNS name and no IP address")
        if self._is_good_for(chain, intermediates, names[0], now):
            listed = ", ".join(str(n.value) for n in names[:5]) + (", ..." if len(names) > 5 else "")
            return ChainError(ChainProblem.WRONG_NAME, f"the certificate is for {listed}, not for {host}")
        missing = self._missing_issuer(chain.leaf, intermediates)
        if missing is not None:
            return ChainError(ChainProblem.UNKNOWN_ISSUER, missing)
        return ChainError(ChainProblem.INVALID, f"the certificate chain is invalid: {first_line(error)}")

    def _is_good_for(
        self, chain: PeerChain, intermediates: list[x509.Certificate], name: Subject, now: datetime
    ) -> bool:
        if isinstance(name, x509.DNSName) and name.value.startswith("*."):
            name = x509.DNSName("a" + name.value[1:])
        try:
            self._check(chain, intermediates, name, now)
        except (VerificationError, ValueError):
            return False
        return True

    def _missing_issuer(self, leaf: x509.Certificate, intermediates: list[x509.Certificate]) -> str | None:
        """Follow issuer names upwards; None when they lead to an anchor."""
        anchors = {a.subject for a in self.anchors}
        by_subject = {c.subject: c for c in intermediates}
        current = leaf
        for _ in range(len(intermediates) + 1):
            if current.issuer in anchors:
                return None
            if current.issuer == current.subject:
                return f"the certificate {name_of(current.subject)} is self-signed and not trusted"
            above = by_subject.get(current.issuer)
            if above is None:
                break
            current = above
        return f"the issuer {name_of(current.issuer)} is not known, or an intermediate certificate is missing"


def subject_of(host: str) -> Subject:
    """An IP address or a DNS name (an A-label; a trailing dot is dropped); ConfigurationError for neither."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    name = host.removesuffix(".")
    if len(name) > 253 or not _HOST_NAME.fullmatch(name):
        raise ConfigurationError(f"{host!r} is neither a host name (IDNA: its ASCII form) nor an IP address")
    return x509.DNSName(name)


def _names_of(certificate: x509.Certificate) -> list[Subject]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [n for n in names if isinstance(n, x509.DNSName | x509.IPAddress)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None


def _load_pem(data: bytes, what: str) -> list[x509.Certificate]:
    if b"-----BEGIN CERTIFICATE-----" not in data:
        raise ConfigurationError(f"{what}: no PEM certificate found")
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise ConfigurationError(f"{what}: malformed certificate: {first_line(error)}") from None


def _may_sign_certificates(policy: Policy, certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    # RFC 5280 §4.2.1.3: when key usage is there, a CA must have keyCertSign.
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("the key usage of a CA certificate does not allow signing certificates")


def _may_be_server(policy: Policy, certificate: x509.Certificate, usage: x509.ExtendedKeyUsage | None) -> None:
    allowed = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
    if usage is not None and not any(oid in allowed for oid in usage):
        raise ValueError("the certificate is not meant for servers")


@functools.cache
def _policies() -> tuple[ExtensionPolicy, ExtensionPolicy, ExtensionPolicy]:
    """For CA certificates, for leaves, and for leaves that are themselves anchors (see the module's head)."""
    either = Criticality.AGNOSTIC
    ca = ExtensionPolicy.webpki_defaults_ca()
    ca = ca.may_be_present(x509.AuthorityKeyIdentifier, either, None)
    ca = ca.may_be_present(x509.KeyUsage, either, _may_sign_certificates)
    leaf = ExtensionPolicy.webpki_defaults_ee().may_be_present(x509.AuthorityKeyIdentifier, either, None)
    pinned = ExtensionPolicy.permit_all().require_present(x509.SubjectAlternativeName, either, None)
    pinned = pinned.may_be_present(x509.ExtendedKeyUsage, either, _may_be_server)
    return ca, leaf, pinned
