"""TLS 1.3 code points and the sizes that we bound."""

from __future__ import annotations

from enum import IntEnum


class Epoch(IntEnum):
    """QUIC's encryption levels (RFC 9001 §4.1.3)."""

    INITIAL = 0
    ZERO_RTT = 1
    HANDSHAKE = 2
    ONE_RTT = 3


class MessageType(IntEnum):
    """RFC 8446 §4."""

    CLIENT_HELLO = 1
    SERVER_HELLO = 2
    NEW_SESSION_TICKET = 4
    END_OF_EARLY_DATA = 5
    ENCRYPTED_EXTENSIONS = 8
    CERTIFICATE = 11
    CERTIFICATE_REQUEST = 13
    CERTIFICATE_VERIFY = 15
    FINISHED = 20
    KEY_UPDATE = 24
    MESSAGE_HASH = 254


class ExtensionType(IntEnum):
    """RFC 8446 §4.2; quic_transport_parameters: RFC 9001 §8.2."""

    SERVER_NAME = 0
    SUPPORTED_GROUPS = 10
    SIGNATURE_ALGORITHMS = 13
    ALPN = 16
    PRE_SHARED_KEY = 41
    EARLY_DATA = 42
    SUPPORTED_VERSIONS = 43
    COOKIE = 44
    PSK_KEY_EXCHANGE_MODES = 45
    KEY_SHARE = 51
    QUIC_TRANSPORT_PARAMETERS = 57


TLS_1_3 = 0x0304
LEGACY_VERSION = 0x0303  # RFC 8446 §4.1.2, §4.1.3
SSL_3 = 0x0300

# RFC 8446 §4.1.3: this "random" makes a ServerHello a HelloRetryRequest.
HELLO_RETRY_REQUEST = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
# RFC 8446 §4.1.3: the end of the random of a TLS 1.3 server that was talked into TLS 1.2 or older.
DOWNGRADE_MARKS = (b"DOWNGRD\x01", b"DOWNGRD\x00")

# RFC 8701 §2: sixteen values reserved in each registry of two bytes, to be ignored.
GREASE = tuple(0x0A0A + 0x1010 * i for i in range(16))

# Largest message accepted, known from its 4-byte head before anything is buffered (SECURITY row 14).
HANDSHAKE_MESSAGE_MAX = 65536
# Smaller where the content is bounded: browsers send about 1.8 kB with ML-KEM shares.
CLIENT_HELLO_MAX = 16384
# Row 5: after the handshake at most 16 kB of CRYPTO data are held.
NEW_SESSION_TICKET_MAX = 16384
# Extensions in one block; browsers send about 18.
EXTENSIONS_MAX = 64
# Key shares in a ClientHello; each may cost memory, none costs a computation until it is chosen.
KEY_SHARES_MAX = 16


def message_name(code: int) -> str:
    """Name of a handshake message for texts."""
    try:
        return MessageType(code).name.replace("_", " ").title().replace(" ", "")
    except ValueError:
        return f"message of type {code}"


def extension_name(code: int) -> str:
    """Name of an extension for texts."""
    try:
        return ExtensionType(code).name.lower()
    except ValueError:
        return f"extension {code}"
