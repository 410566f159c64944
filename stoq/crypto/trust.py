"""Which certificate chains a client believes: trust anchors, and verification of a chain for a name and an instant.

Path building and signatures are `cryptography`'s X.509 verifier (RFC 5280 with the web PKI's profile). Three points of
that profile are relaxed, since certificate authorities of one's own often lack them and RFC 5280 §6 does not ask a
verifier for them: an absent authority key identifier, an absent key usage in a CA certificate, and a certificate that
was itself given as a trust anchor (self-signed or not) is accepted for the names it carries. One is tightened: a leaf
whose key usage lacks digitalSignature cannot sign a handshake (RFC 8446 §4.4.2.2).

The peer chooses the certificates, so what one chain may cost is bounded before the verifier sees it.
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
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
)

from stoq.crypto.chain import ChainError, ChainProblem, PeerChain, first_line, name_of
from stoq.crypto.signatures import RSA_MODULUS_MAX
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

# Certificates between leaf and anchor; public chains have 1 to 3. The verifier's own limit is 8.
CHAIN_DEPTH_MAX = 5
# Signatures that path building may have to check among the certificates sent. A chain without detours needs one for
# each certificate; authorities that sign each other, each with several certificates, multiply it at every step.
CHAIN_SIGNATURES_MAX = 32

# RFC 1123 §2.1, with the underscore that names in use have.
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*")
# getaddrinfo reads a name that ends so as an IPv4 address in one of its old forms (127.1, 0x7f000001).
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")

Subject = x509.DNSName | x509.IPAddress


class TrustStore:
    """A set of trust anchors. Build one and share it: it remembers chains that it verified.

    The memory holds only successes, keyed by (SHA-256 of the exact chain, subject). One answers for at most
    VERIFIED_SECONDS after the verification and within the validity of every certificate on the path that was found, its
    anchor included, for instants at or after the verification.
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
        # Taken out and put back: threads may share a store, and another may drop the entry in between.
        known = self._verified.pop(key, None)
        if known is not None and known[0] <= now < known[1]:
            self._verified[key] = known
            return
        subject = subject_of(host)
        intermediates = chain.intermediates()
        _check_cost(chain, intermediates)
        try:
            path = self._check(chain, intermediates, subject, now)
            end = min(c.not_valid_after_utc for c in path)
        except Exception as error:  # VerificationError, and whatever the parsers of names and dates raise
            try:
                reason = self._explain(chain, intermediates, subject, host, now, error)
            except Exception:  # names, dates and extensions are parsed only when read, and fail in many ways
                text = f"the certificate chain is malformed: {first_line(error)}"
                reason = ChainError(ChainProblem.MALFORMED, text)
            raise reason from None
        self._verified[key] = (now, min(end, now + timedelta(seconds=VERIFIED_SECONDS)))
        if len(self._verified) > VERIFIED_MAX:
            self._verified.popitem(last=False)

    def _check(
        self, chain: PeerChain, intermediates: list[x509.Certificate], subject: Subject, now: datetime
    ) -> list[x509.Certificate]:
        """The path found, leaf first, anchor last; VerificationError or ValueError."""
        ca_policy, leaf_policy, pinned_policy = _policies()
        policy = pinned_policy if self._is_pinned(chain) else leaf_policy
        builder = PolicyBuilder().store(self._store).time(now).max_chain_depth(CHAIN_DEPTH_MAX)
        builder = builder.extension_policies(ca_policy=ca_policy, ee_policy=policy)
        return builder.build_server_verifier(subject).verify(chain.leaf, intermediates)

    def _is_pinned(self, chain: PeerChain) -> bool:
        return chain.certificates[0] in self._anchor_bytes

    def _explain(
        self,
        chain: PeerChain,
        intermediates: list[x509.Certificate],
        subject: Subject,
        host: str,
        now: datetime,
        error: Exception,
    ) -> ChainError:
        """Find the reason in facts of our own: the verifier's text is not an interface. No signature is checked."""
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
        missing = None if self._is_pinned(chain) else self._missing_issuer(chain.leaf, intermediates)
        if missing is not None:
            return ChainError(ChainProblem.UNKNOWN_ISSUER, missing)
        if not any(_covers(name, subject) for name in names):
            listed = ", ".join(str(n.value) for n in names[:5]) + (", ..." if len(names) > 5 else "")
            return ChainError(ChainProblem.WRONG_NAME, f"the certificate is for {listed}, not for {host}")
        return ChainError(ChainProblem.INVALID, f"the certificate chain is invalid: {first_line(error)}")

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
    if len(name) > 253 or not _HOST_NAME.fullmatch(name) or _NUMBER.fullmatch(name.rpartition(".")[2]):
        raise ConfigurationError(f"{host!r} is neither a host name (IDNA: its ASCII form) nor an IP address")
    return x509.DNSName(name)


def _names_of(certificate: x509.Certificate) -> list[Subject]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [n for n in names if isinstance(n, x509.DNSName | x509.IPAddress)]


def _covers(name: Subject, subject: Subject) -> bool:
    """Whether a name of a certificate is for a subject (RFC 6125 §6.4; to explain, not to decide)."""
    if isinstance(name, x509.IPAddress) or isinstance(subject, x509.IPAddress):
        return name == subject
    pattern, host = name.value.lower(), subject.value.lower()
    return pattern == host or (pattern.startswith("*.") and pattern[2:] == host.partition(".")[2])


def _check_cost(chain: PeerChain, intermediates: Sequence[x509.Certificate]) -> None:
    """Refuse (ChainError) a chain whose verification could take long, whatever the verifier's strategy."""
    for certificate in intermediates:
        try:
            key = certificate.public_key()
        except Exception:  # of a kind that no signature can be checked with
            continue
        if isinstance(key, rsa.RSAPublicKey) and key.key_size > RSA_MODULUS_MAX:
            raise ChainError(
                ChainProblem.UNSUPPORTED_KEY, f"an RSA key of {key.key_size} bits, more than {RSA_MODULUS_MAX}"
            )
    try:
        links = [(c.subject, c.issuer) for c in (chain.leaf, *intermediates)]
    except Exception as error:  # as where names are parsed elsewhere
        text = f"a certificate's name cannot be parsed: {first_line(error)}"
        raise ChainError(ChainProblem.MALFORMED, text) from None
    above = [[at for at in range(1, len(links)) if links[at][0] == issuer] for _, issuer in links]
    # walks[i]: ways of `depth` steps, each from a certificate to one with its issuer's name, from the leaf to i.
    walks, signatures = [1] + [0] * len(intermediates), 0
    for _ in range(CHAIN_DEPTH_MAX):
        further = [0] * len(links)
        for at, ways in enumerate(walks):
            for issuer in above[at]:
                further[issuer] += ways
        walks = further
        signatures += sum(walks)
    if signatures > CHAIN_SIGNATURES_MAX:
        raise ChainError(ChainProblem.INVALID, "the certificates sent form too many paths")


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


def _may_sign_handshakes(policy: Policy, certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.digital_signature:
        raise ValueError("the key usage of the certificate does not allow signatures (RFC 8446 §4.4.2.2)")


def _is_leaf_usage(policy: Policy, certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    _may_sign_handshakes(policy, certificate, usage)
    # As the profile's own check, which this one replaces: RFC 5280 §4.2.1.9, only CA certificates sign others.
    if usage is not None and usage.key_cert_sign:
        raise ValueError("the key usage of a server's certificate allows signing certificates")


@functools.cache
def _policies() -> tuple[ExtensionPolicy, ExtensionPolicy, ExtensionPolicy]:
    """For CA certificates, for leaves, and for leaves that are themselves anchors (see the module's head)."""
    either = Criticality.AGNOSTIC
    ca = ExtensionPolicy.webpki_defaults_ca()
    ca = ca.may_be_present(x509.AuthorityKeyIdentifier, either, None)
    ca = ca.may_be_present(x509.KeyUsage, either, _may_sign_certificates)
    leaf = ExtensionPolicy.webpki_defaults_ee().may_be_present(x509.AuthorityKeyIdentifier, either, None)
    leaf = leaf.may_be_present(x509.KeyUsage, either, _is_leaf_usage)
    pinned = ExtensionPolicy.permit_all().require_present(x509.SubjectAlternativeName, either, None)
    pinned = pinned.may_be_present(x509.ExtendedKeyUsage, either, _may_be_server)
    pinned = pinned.may_be_present(x509.KeyUsage, either, _may_sign_handshakes)
    return ca, leaf, pinned
