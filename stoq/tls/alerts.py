"""TLS alerts (RFC 8446 §6) as one exception type."""

from __future__ import annotations

from enum import IntEnum

from stoq.errors import QuicError, crypto_error


class AlertDescription(IntEnum):
    """RFC 8446 §6, RFC 7301 §3.2."""

    CLOSE_NOTIFY = 0
    UNEXPECTED_MESSAGE = 10
    BAD_RECORD_MAC = 20
    RECORD_OVERFLOW = 22
    HANDSHAKE_FAILURE = 40
    BAD_CERTIFICATE = 42
    UNSUPPORTED_CERTIFICATE = 43
    CERTIFICATE_REVOKED = 44
    CERTIFICATE_EXPIRED = 45
    CERTIFICATE_UNKNOWN = 46
    ILLEGAL_PARAMETER = 47
    UNKNOWN_CA = 48
    ACCESS_DENIED = 49
    DECODE_ERROR = 50
    DECRYPT_ERROR = 51
    PROTOCOL_VERSION = 70
    INSUFFICIENT_SECURITY = 71
    INTERNAL_ERROR = 80
    INAPPROPRIATE_FALLBACK = 86
    USER_CANCELED = 90
    MISSING_EXTENSION = 109
    UNSUPPORTED_EXTENSION = 110
    UNRECOGNIZED_NAME = 112
    BAD_CERTIFICATE_STATUS_RESPONSE = 113
    UNKNOWN_PSK_IDENTITY = 115
    CERTIFICATE_REQUIRED = 116
    NO_APPLICATION_PROTOCOL = 120


class TlsAlert(QuicError):
    """The handshake cannot go on. Always fatal in QUIC (RFC 9001 §4.8).

    description: the alert. message: one line. error_code: what CONNECTION_CLOSE carries, 0x0100 + description, or
    a transport error code where RFC 9001 asks for one instead (PROTOCOL_VIOLATION).
    """

    def __init__(self, description: AlertDescription, message: str, error_code: int | None = None) -> None:
        super().__init__(crypto_error(description) if error_code is None else error_code, message)
        self.args = (description, message, self.error_code)
        self.description = description
        self.message = message
