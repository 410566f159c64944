"""A peer's certificate chain as parsed objects, and why one is refused."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable
from enum import Enum
from typing import Any

from cryptography import x509
from cryptography.x509.oid import PublicKeyAlgorithmOID

from stoq.errors import StoqError

# Certificates in a peer's message, leaf included. Public chains have 2 to 4; some servers send ones of no use besides.
# How many of them a path may have, and what finding it may cost, is bounded in trust.py.
CERTIFICATE_CHAIN_MAX = 10

# `cryptography` warns of oddities in the certificates it reads (serial numbers, lengths of attributes). Peers choose
# them: they must not write to our standard error. Only what is attributed to the modules that read them is silenced.
warnings.filterwarnings("ignore", module=r"stoq\.crypto\.(chain|trust)\Z")


class ChainProblem(Enum):
    """Why a chain is refused. TLS maps each to an alert (RFC 8446 §6.2)."""

    MALFORMED = "malformed"
    UNSUPPORTED_KEY = "unsupported key"
    EXPIRED = "outside its validity"
    UNKNOWN_ISSUER = "unknown issuer"
    WRONG_NAME = "wrong name"
    INVALID = "invalid"


class ChainError(StoqError):
    """A peer's certificate chain is refused. `problem` says why, `message` is one line for people."""

    def __init__(self, problem: ChainProblem, message: str) -> None:
        super().__init__(problem, message)
        self.problem = problem
        self.message = message

    def __str__(self) -> str:
        return self.message


class PeerChain:
    """A chain as the peer sent it, leaf first. Immutable; shared between connections by the caches above it.

    certificates: DER of each. leaf: parsed. public_key: the leaf's. digest: SHA-256 over lengths and DER bytes, the
    identity of exactly this chain.
    """

    __slots__ = ("certificates", "digest", "leaf", "public_key")

    def __init__(self, certificates: Iterable[bytes]) -> None:
        self.certificates = tuple(certificates)
        if not self.certificates:
            raise ChainError(ChainProblem.MALFORMED, "the certificate chain is empty")
        if len(self.certificates) > CERTIFICATE_CHAIN_MAX:
            raise ChainError(
                ChainProblem.INVALID, f"{len(self.certificates)} certificates, more than {CERTIFICATE_CHAIN_MAX}"
            )
        self.leaf = parse_certificate(self.certificates[0])
        self.public_key = parse_public_key(self.leaf)
        digest = hashlib.sha256()
        for der in self.certificates:
            digest.update(len(der).to_bytes(4, "big"))
            digest.update(der)
        self.digest = digest.digest()

    def intermediates(self) -> list[x509.Certificate]:
        """The certificates above the leaf, parsed, each once; ChainError when one is malformed."""
        return [parse_certificate(der) for der in dict.fromkeys(self.certificates[1:])]


def parse_certificate(der: bytes) -> x509.Certificate:
    """DER to an object; ChainError (MALFORMED) otherwise."""
    try:
        return x509.load_der_x509_certificate(der)
    except Exception as error:  # the parser's errors have no common base (ValueError, InvalidVersion, ...)
        raise ChainError(ChainProblem.MALFORMED, f"a certificate cannot be parsed: {first_line(error)}") from None


def parse_public_key(certificate: x509.Certificate) -> Any:
    """The key of a certificate; ChainError (UNSUPPORTED_KEY) when it is of a kind that we cannot use."""
    try:
        if certificate.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSASSA_PSS:
            # RFC 8446 §4.2.3: such a key signs with rsa_pss_pss_*, never with the rsae schemes that we have.
            raise ValueError("id-RSASSA-PSS is not supported")
        return certificate.public_key()
    except Exception as error:  # as above: ValueError, UnsupportedAlgorithm, TypeError
        raise ChainError(
            ChainProblem.UNSUPPORTED_KEY, f"the certificate's key cannot be used: {first_line(error)}"
        ) from None


def first_line(error: BaseException) -> str:
    """The beginning of an exception's text, for one-line messages."""
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__


def name_of(name: x509.Name) -> str:
    """A distinguished name for messages: at most 100 characters, printable ones only."""
    text = name.rfc4514_string()
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= 100 else text[:97] + "..."
