"""Handshake messages: bytes to structures and back (RFC 8446 §4).

Parsers take the whole message, its 4-byte head included, and raise TlsAlert. They check form (lengths, duplicates,
fixed fields); what a field means for the handshake is the business of client.py and server.py.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from stoq.crypto.chain import ChainError, ChainProblem, PeerChain
from stoq.crypto.credentials import Credentials
from stoq.tls.alerts import AlertDescription, TlsAlert
from stoq.tls.codes import (
    KEY_SHARES_MAX,
    LEGACY_VERSION,
    SSL_3,
    TLS_1_3,
    ExtensionType,
    MessageType,
)
from stoq.tls.reader import (
    Reader,
    decode_error,
    message,
    parse_extensions,
    u16_list,
    vector16,
    vector24,
    whole_vector8,
    whole_vector16,
)

_HEAD = 4
# Certificate messages whose parsed form is remembered: entries, and bytes of one (at most 1 MiB together).
CHAIN_CACHE_ENTRIES = 64
CHAIN_CACHE_MESSAGE_MAX = 16384

_ALERT_OF_PROBLEM = {
    ChainProblem.MALFORMED: AlertDescription.BAD_CERTIFICATE,
    ChainProblem.UNSUPPORTED_KEY: AlertDescription.UNSUPPORTED_CERTIFICATE,
    ChainProblem.EXPIRED: AlertDescription.CERTIFICATE_EXPIRED,
    ChainProblem.UNKNOWN_ISSUER: AlertDescription.UNKNOWN_CA,
    ChainProblem.WRONG_NAME: AlertDescription.BAD_CERTIFICATE,
    ChainProblem.INVALID: AlertDescription.BAD_CERTIFICATE,
}


def chain_alert(error: ChainError) -> TlsAlert:
    """The alert for a refused certificate chain (RFC 8446 §6.2)."""
    return TlsAlert(_ALERT_OF_PROBLEM[error.problem], error.message)


# ---- ClientHello


class ClientHello(NamedTuple):
    random: bytes
    session_id: bytes
    suites: tuple[int, ...]
    extensions: dict[int, bytes]


def parse_client_hello(data: bytes) -> ClientHello:
    """RFC 8446 §4.1.2."""
    reader = Reader(data, "ClientHello", _HEAD)
    if reader.u16() <= SSL_3:
        # §D.5: such a hello must be refused whatever else it says.
        raise TlsAlert(AlertDescription.PROTOCOL_VERSION, "ClientHello is of SSL 3.0 or older")
    random = reader.take(32)
    session_id = reader.vector8()
    if len(session_id) > 32:
        decode_error("ClientHello has a session id of more than 32 bytes")
    suites = u16_list(reader.vector16(2), "the list of cipher suites")
    compressions = reader.vector8(1)
    if not reader.more():
        # A hello of TLS 1.2 without extensions.
        raise TlsAlert(AlertDescription.PROTOCOL_VERSION, "the client does not offer TLS 1.3")
    extensions = parse_extensions(reader.vector16(), "ClientHello")
    reader.finish()
    versions = extensions.get(ExtensionType.SUPPORTED_VERSIONS)
    if versions is None or TLS_1_3 not in u16_list(whole_vector8(versions, "supported_versions"), "supported_versions"):
        raise TlsAlert(AlertDescription.PROTOCOL_VERSION, "the client does not offer TLS 1.3")
    if compressions != b"\0":
        raise TlsAlert(AlertDescription.ILLEGAL_PARAMETER, "the client offers compression")
    if ExtensionType.PRE_SHARED_KEY in extensions:
        if next(reversed(extensions)) != ExtensionType.PRE_SHARED_KEY:
            # §4.2.11
            raise TlsAlert(AlertDescription.ILLEGAL_PARAMETER, "pre_shared_key is not the last extension")
        if ExtensionType.PSK_KEY_EXCHANGE_MODES not in extensions:
            # §4.2.9
            raise TlsAlert(AlertDescription.MISSING_EXTENSION, "pre_shared_key without psk_key_exchange_modes")
    return ClientHello(random, session_id, suites, extensions)


def parse_client_shares(data: bytes, groups: tuple[int, ...]) -> dict[int, bytes]:
    """The key_share extension of a ClientHello to {group: share} (RFC 8446 §4.2.8)."""
    reader = Reader(whole_vector16(data, "key_share"), "key_share")
    shares: dict[int, bytes] = {}
    while reader.more():
        group = reader.u16()
        share = reader.vector16(1)
        if group in shares:
            raise TlsAlert(AlertDescription.ILLEGAL_PARAMETER, f"two key shares for group 0x{group:04x}")
        if group not in groups:
            raise TlsAlert(
                AlertDescription.ILLEGAL_PARAMETER, f"a key share for group 0x{group:04x}, which was not offered"
            )
        shares[group] = share
        if len(shares) > KEY_SHARES_MAX:
            decode_error(f"more than {KEY_SHARES_MAX} key shares")
    return shares


def parse_server_name(data: bytes) -> str | None:
    """The host name of a server_name extension (RFC 6066 §3), None when it names something else only."""
    reader = Reader(whole_vector16(data, "server_name"), "server_name")
    host: str | None = None
    if not reader.more():
        decode_error("server_name is empty")
    while reader.more():
        kind = reader.u8()
        name = reader.vector16(1)
        if kind != 0:
            continue
        if host is not None:
            raise TlsAlert(AlertDescription.ILLEGAL_PARAMETER, "server_name has more than one host name")
        if not name.isascii() or b"\0" in name:
            raise TlsAlert(AlertDescription.ILLEGAL_PARAMETER, "server_name is not an ASCII host name")
        host = name.decode("ascii")
    return host


def parse_alpn(data: bytes) -> list[bytes]:
    """RFC 7301 §3.1: a list of names, none of them empty."""
    reader = Reader(whole_vector16(data, "the ALPN extension"), "the ALPN extension")
    names = []
    while reader.more():
        names.append(reader.vector8(1))
    if not names:
        decode_error("the ALPN extension is empty")
    return names


# ---- ServerHello, EncryptedExtensions


class ServerHello(NamedTuple):
    random: bytes
    session_id: bytes
    suite: int
    compression: int
    version: int
    extensions: dict[int, bytes]


def parse_server_hello(data: bytes) -> ServerHello:
    """RFC 8446 §4.1.3. `version` is legacy_version."""
    reader = Reader(data, "ServerHello", _HEAD)
    version = reader.u16()
    random = reader.take(32)
    session_id = reader.vector8()
    suite = reader.u16()
    compression = reader.u8()
    # A ServerHello of TLS 1.2 may end here.
    extensions = parse_extensions(reader.vector16(), "ServerHello") if reader.more() else {}
    reader.finish()
    return ServerHello(random, session_id, suite, compression, version, extensions)


_SERVER_HELLO_MIDDLE = bytes((0,))  # an empty legacy_session_id_echo (RFC 9001 §8.4)
_SELECTED_VERSION = ExtensionType.SUPPORTED_VERSIONS.to_bytes(2, "big") + vector16(TLS_1_3.to_bytes(2, "big"))
_KEY_SHARE = ExtensionType.KEY_SHARE.to_bytes(2, "big")
_VERSION = LEGACY_VERSION.to_bytes(2, "big")


def server_hello(random: bytes, suite: int, group: int, share: bytes) -> bytes:
    extensions = _SELECTED_VERSION + _KEY_SHARE + vector16(group.to_bytes(2, "big") + vector16(share))
    body = _VERSION + random + _SERVER_HELLO_MIDDLE + suite.to_bytes(2, "big") + b"\0" + vector16(extensions)
    return message(MessageType.SERVER_HELLO, body)


def parse_server_share(data: bytes) -> tuple[int, bytes]:
    """The key_share extension of a ServerHello."""
    reader = Reader(data, "key_share")
    group = reader.u16()
    share = reader.vector16(1)
    reader.finish()
    return group, share


def parse_encrypted_extensions(data: bytes) -> dict[int, bytes]:
    """RFC 8446 §4.3.1."""
    return parse_extensions(whole_vector16(data[_HEAD:], "EncryptedExtensions"), "EncryptedExtensions")


# ---- CertificateRequest, Certificate, CertificateVerify


def parse_certificate_request(data: bytes) -> tuple[bytes, dict[int, bytes]]:
    """RFC 8446 §4.3.2: (context, extensions)."""
    reader = Reader(data, "CertificateRequest", _HEAD)
    context = reader.vector8()
    extensions = parse_extensions(reader.vector16(2), "CertificateRequest")
    reader.finish()
    return context, extensions


def certificate(credentials: Credentials | None) -> bytes:
    """A Certificate message with an empty context, encoded once per Credentials; None means no certificate."""
    if credentials is None:
        return message(MessageType.CERTIFICATE, b"\0" + vector24(b""))
    encoded = credentials.encoded
    if encoded is None:
        entries = b"".join(vector24(der) + b"\0\0" for der in credentials.certificates)
        encoded = credentials.encoded = message(MessageType.CERTIFICATE, b"\0" + vector24(entries))
    return encoded


def parse_certificate(data: bytes, offered: frozenset[int]) -> PeerChain:
    """RFC 8446 §4.4.2. `offered`: extensions of our ClientHello (none of them is allowed in here)."""
    if len(data) <= CHAIN_CACHE_MESSAGE_MAX:
        return _parse_certificate(data, offered)
    return _parse_certificate.__wrapped__(data, offered)


@lru_cache(CHAIN_CACHE_ENTRIES)
def _parse_certificate(data: bytes, offered: frozenset[int]) -> PeerChain:
    # Cached by the exact bytes: servers send the same message to every client, and parsing costs 10 us or more.
    reader = Reader(data, "Certificate", _HEAD)
    if reader.vector8():
        raise TlsAlert(AlertDescription.ILLEGAL_PARAMETER, "Certificate has a context outside a request")
    entries = Reader(reader.vector24(), "the certificate list")
    reader.finish()
    certificates = []
    while entries.more():
        certificates.append(entries.vector24(1))
        for code in parse_extensions(entries.vector16(), "Certificate"):
            if code in offered:
                raise TlsAlert(AlertDescription.ILLEGAL_PARAMETER, f"extension {code} is not allowed in Certificate")
            raise TlsAlert(AlertDescription.UNSUPPORTED_EXTENSION, f"Certificate has extension {code}, not asked for")
    if not certificates:
        # §4.4.2.4
        decode_error("the server sent no certificate")
    try:
        return PeerChain(certificates)
    except ChainError as error:
        raise chain_alert(error) from None


_CERTIFICATE_VERIFY = MessageType.CERTIFICATE_VERIFY


def certificate_verify(scheme: int, signature: bytes) -> bytes:
    return message(_CERTIFICATE_VERIFY, scheme.to_bytes(2, "big") + vector16(signature))


def parse_certificate_verify(data: bytes) -> tuple[int, bytes]:
    """RFC 8446 §4.4.3: (scheme, signature)."""
    reader = Reader(data, "CertificateVerify", _HEAD)
    scheme = reader.u16()
    signature = reader.vector16()
    reader.finish()
    return scheme, signature


def finished(verify_data: bytes) -> bytes:
    return message(MessageType.FINISHED, verify_data)
