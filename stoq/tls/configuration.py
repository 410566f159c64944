"""What a TLS endpoint wants, and the pieces of its messages that never change, encoded once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from stoq.crypto import groups as group_registry
from stoq.crypto import signatures as scheme_registry
from stoq.crypto.credentials import Credentials
from stoq.crypto.groups import Group
from stoq.crypto.signatures import SignatureScheme
from stoq.crypto.trust import TrustStore, subject_of
from stoq.errors import ConfigurationError
from stoq.tls.codes import GREASE, LEGACY_VERSION, TLS_1_3, ExtensionType
from stoq.tls.reader import extension, vector8, vector16
from stoq.tls.suites import DEFAULT_SUITES, DEFAULT_SUPPORTED, SUITES, Suite

Row = TypeVar("Row")

# RFC 7301 §3.1: a name is 1 to 255 bytes.
ALPN_NAME_MAX = 255


@dataclass
class TlsConfiguration:
    """Share one between connections: encoded pieces are kept in it. Assigning a field makes them anew; lists must be
    replaced, not changed in place.

    alpn_protocols: best first. An empty list means that something else agrees on the protocol (RFC 9001 §8.1): ALPN
        is then neither sent nor required.
    server_name: client: the name or IP address to verify; names are sent as SNI, addresses are not (RFC 6066 §3).
    credentials: required for servers. Clients use theirs when a server asks for a certificate.
    verify, trust: clients check the server's chain against the store. Servers do not ask for certificates yet.
    cipher_suites, groups, signature_schemes: code points, best first; the server's order decides.
    supported_suites: what the AEAD layer can do; other suites are left out.
    key_shares: client: for how many groups, from the first, a share is sent. A server that would want another one
        answers HelloRetryRequest, which is not supported yet.
    keylog: called with lines of the NSS key log format (SSLKEYLOGFILE), without newline.
    """

    is_client: bool
    alpn_protocols: list[str] = field(default_factory=list)
    server_name: str | None = None
    credentials: Credentials | None = None
    verify: bool = True
    trust: TrustStore | None = None
    cipher_suites: list[int] = field(default_factory=lambda: list(DEFAULT_SUITES))
    groups: list[int] = field(default_factory=lambda: list(group_registry.DEFAULT_GROUPS))
    signature_schemes: list[int] = field(default_factory=lambda: list(scheme_registry.DEFAULT_SCHEMES))
    supported_suites: frozenset[int] = DEFAULT_SUPPORTED
    key_shares: int = 1
    keylog: Callable[[str], None] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        object.__setattr__(self, "_prepared", None)

    def prepared(self) -> Prepared:
        """The encoded pieces; ConfigurationError when the fields do not fit together."""
        prepared: Prepared | None = self.__dict__["_prepared"]
        if prepared is None:
            prepared = Prepared(self)
            object.__setattr__(self, "_prepared", prepared)
        return prepared


class Prepared:
    """A checked configuration: rows instead of code points, bytes instead of names. A handshake holds on to the one
    it began with, so that assigning a field later cannot change whom it verifies or with which key it signs."""

    def __init__(self, configuration: TlsConfiguration) -> None:
        c = configuration
        self.is_client = c.is_client
        self.verify = c.verify
        self.trust = c.trust
        self.server_name = c.server_name
        self.credentials = c.credentials
        self.keylog = c.keylog
        # Set by the first handshake whose key log fails, so that it is reported once.
        self.keylog_failed = False
        self.suites: dict[int, Suite] = {}
        for code in c.cipher_suites:
            if code not in SUITES:
                raise ConfigurationError(f"unknown cipher suite 0x{code:04x}")
            if code in c.supported_suites:
                self.suites[code] = SUITES[code]
        self.groups: dict[int, Group] = _rows(c.groups, group_registry.GROUPS, "group")
        self.schemes: dict[int, SignatureScheme] = _rows(
            c.signature_schemes, scheme_registry.SCHEMES, "signature scheme"
        )
        if not self.suites:
            raise ConfigurationError("no cipher suite is left to offer")
        if not self.groups or not self.schemes:
            raise ConfigurationError("at least one group and one signature scheme are needed")
        if c.key_shares < 1:
            raise ConfigurationError("key_shares must be at least 1")
        self.alpn = {_alpn_bytes(name): name for name in c.alpn_protocols}
        self.signing: list[SignatureScheme] = []
        if c.credentials is not None:
            supports = c.credentials.supports
            self.signing = [row for code, row in self.schemes.items() if supports(code)]
        if c.is_client:
            self._prepare_client(c)
        elif c.credentials is None:
            raise ConfigurationError("a TLS server needs a certificate and a private key")
        elif not self.signing:
            raise ConfigurationError("no signature scheme of the configuration fits the certificate's key")

    def _prepare_client(self, c: TlsConfiguration) -> None:
        if c.verify and c.trust is None:
            raise ConfigurationError("verification needs a trust store")
        if c.verify and not c.server_name:
            raise ConfigurationError("verification needs the server's name")
        self.shared_groups = list(self.groups.values())[: c.key_shares]
        self._fixed: list[bytes] = []
        offered = {
            ExtensionType.SUPPORTED_GROUPS,
            ExtensionType.SIGNATURE_ALGORITHMS,
            ExtensionType.SUPPORTED_VERSIONS,
            ExtensionType.KEY_SHARE,
            ExtensionType.QUIC_TRANSPORT_PARAMETERS,
        }
        if c.server_name:
            subject = subject_of(c.server_name)
            if isinstance(subject.value, str):
                offered.add(ExtensionType.SERVER_NAME)
                entry = b"\0" + vector16(subject.value.encode("ascii"))
                self._fixed.append(extension(ExtensionType.SERVER_NAME, vector16(entry)))
        if self.alpn:
            offered.add(ExtensionType.ALPN)
            names = b"".join(vector8(name) for name in self.alpn)
            self._fixed.append(extension(ExtensionType.ALPN, vector16(names)))
        self._fixed.append(extension(ExtensionType.SIGNATURE_ALGORITHMS, vector16(_u16s(self.schemes))))
        self._fixed.append(extension(ExtensionType.SUPPORTED_VERSIONS, vector8(TLS_1_3.to_bytes(2, "big"))))
        self.offered: frozenset[int] = frozenset(int(code) for code in offered)
        self._templates: dict[int, tuple[bytes, bytes]] = {}

    def client_hello_parts(self, choice: int) -> tuple[bytes, bytes]:
        """What stands before and behind the lengths of a ClientHello's variable extensions, for a choice of GREASE.

        (bytes after the random up to the extension block's length, extensions that never change). RFC 8701 §3.1: one
        suite, one group and one extension of no meaning, so that servers keep ignoring what they do not know.
        """
        parts = self._templates.get(choice)
        if parts is None:
            value = GREASE[choice].to_bytes(2, "big")
            suites = value + _u16s(self.suites)
            head = b"\0" + vector16(suites) + b"\x01\0"
            supported = extension(ExtensionType.SUPPORTED_GROUPS, vector16(value + _u16s(self.groups)))
            parts = self._templates[choice] = head, extension(GREASE[choice], b"") + supported + b"".join(self._fixed)
        return parts


HELLO_VERSION = LEGACY_VERSION.to_bytes(2, "big")


def _rows(codes: list[int], registry: dict[int, Row], what: str) -> dict[int, Row]:
    for code in codes:
        if code not in registry:
            raise ConfigurationError(f"unknown {what} 0x{code:04x}")
    return {code: registry[code] for code in codes}


def _u16s(codes: Any) -> bytes:
    return b"".join(code.to_bytes(2, "big") for code in codes)


def _alpn_bytes(name: str) -> bytes:
    encoded = name.encode("utf-8")
    if not 0 < len(encoded) <= ALPN_NAME_MAX:
        raise ConfigurationError(f"an ALPN name has 1 to {ALPN_NAME_MAX} bytes: {name[:40]!r}")
    return encoded
