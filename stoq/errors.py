"""Every exception that stoq raises, and the error codes of QUIC version 1.

Three families. `QuicError`: a peer broke the protocol; the connection closes with that code. `ConnectionClosedError`:
what an application sees once its connection is gone, and why. `StreamError`: one stream ended early, the connection
lives on. Messages are one printable line, whatever a peer put into its reason phrase.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class TransportErrorCode(IntEnum):
    """Codes of CONNECTION_CLOSE frames of type 0x1c (RFC 9000 §20.1)."""

    NO_ERROR = 0x00
    INTERNAL_ERROR = 0x01
    CONNECTION_REFUSED = 0x02
    FLOW_CONTROL_ERROR = 0x03
    STREAM_LIMIT_ERROR = 0x04
    STREAM_STATE_ERROR = 0x05
    FINAL_SIZE_ERROR = 0x06
    FRAME_ENCODING_ERROR = 0x07
    TRANSPORT_PARAMETER_ERROR = 0x08
    CONNECTION_ID_LIMIT_ERROR = 0x09
    PROTOCOL_VIOLATION = 0x0A
    INVALID_TOKEN = 0x0B
    APPLICATION_ERROR = 0x0C
    CRYPTO_BUFFER_EXCEEDED = 0x0D
    KEY_UPDATE_ERROR = 0x0E
    AEAD_LIMIT_REACHED = 0x0F
    NO_VIABLE_PATH = 0x10


# CRYPTO_ERROR (RFC 9000 §20.1): 0x0100 plus a TLS alert.
CRYPTO_ERROR_FIRST = 0x0100
CRYPTO_ERROR_LAST = 0x01FF

# RFC 8446 §6, RFC 7301 §3.2 (120), RFC 9001 §8.2 (109).
TLS_ALERT_NAMES = {
    0: "close_notify",
    10: "unexpected_message",
    20: "bad_record_mac",
    22: "record_overflow",
    40: "handshake_failure",
    42: "bad_certificate",
    43: "unsupported_certificate",
    44: "certificate_revoked",
    45: "certificate_expired",
    46: "certificate_unknown",
    47: "illegal_parameter",
    48: "unknown_ca",
    49: "access_denied",
    50: "decode_error",
    51: "decrypt_error",
    70: "protocol_version",
    71: "insufficient_security",
    80: "internal_error",
    86: "inappropriate_fallback",
    90: "user_canceled",
    109: "missing_extension",
    110: "unsupported_extension",
    112: "unrecognized_name",
    113: "bad_certificate_status_response",
    115: "unknown_psk_identity",
    116: "certificate_required",
    120: "no_application_protocol",
}


def crypto_error(alert: int) -> int:
    """Transport error code that carries a TLS alert (0 to 255); ValueError outside."""
    if not 0 <= alert <= 0xFF:
        raise ValueError("a TLS alert is one byte")
    return CRYPTO_ERROR_FIRST + alert


def alert_of(error_code: int) -> int | None:
    """TLS alert inside a transport error code, None when the code is not in the CRYPTO_ERROR range."""
    if CRYPTO_ERROR_FIRST <= error_code <= CRYPTO_ERROR_LAST:
        return error_code - CRYPTO_ERROR_FIRST
    return None


def error_name(error_code: int) -> str:
    """Readable name of a transport error code; unknown codes in hexadecimal."""
    alert = alert_of(error_code)
    if alert is not None:
        return f"TLS alert {alert} {TLS_ALERT_NAMES.get(alert, 'unknown')}"
    try:
        return TransportErrorCode(error_code).name
    except ValueError:
        return f"0x{error_code:x}"


def one_line(text: str) -> str:
    """Text from a peer with everything that could move a cursor or break a log line replaced."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


class StoqError(Exception):
    """Base of all of stoq's exceptions."""


class ConfigurationError(StoqError, ValueError):
    """An option or argument of ours cannot work."""


class NotSupported(StoqError):
    """This build, kernel or peer cannot do what was asked."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BufferLimit(StoqError):
    """A bound on buffered bytes or entries was reached."""


class StreamLimitError(StoqError):
    """The peer permits no further stream of this kind now (RFC 9000 §4.6)."""


# ---- a peer broke the protocol


class HeaderError(StoqError, ValueError):
    """Bytes that are not a packet of ours: drop them, answer nothing (RFC 9000 §5.2)."""


class QuicError(StoqError):
    """A violation by the peer that closes the connection with `error_code`."""

    def __init__(self, error_code: int, reason: str = "", frame_type: int | None = None) -> None:
        super().__init__(error_code, reason, frame_type)
        self.error_code = error_code
        self.reason = reason
        self.frame_type = frame_type

    def __str__(self) -> str:
        text = error_name(self.error_code)
        if self.frame_type is not None:
            text += f" in frame 0x{self.frame_type:02x}"
        return f"{text}: {one_line(self.reason)}" if self.reason else text


class FrameError(QuicError):
    """A frame that cannot be parsed (FRAME_ENCODING_ERROR)."""

    def __init__(self, reason: str, frame_type: int | None = None) -> None:
        super().__init__(TransportErrorCode.FRAME_ENCODING_ERROR, reason, frame_type)
        self.args = (reason, frame_type)


class TransportParameterError(QuicError):
    """Transport parameters that cannot be parsed or are out of range (RFC 9000 §7.4)."""

    def __init__(self, reason: str) -> None:
        super().__init__(TransportErrorCode.TRANSPORT_PARAMETER_ERROR, reason)
        self.args = (reason,)


# ---- the connection is gone


class ConnectionClosedError(StoqError):
    """The connection is closed.

    error_code: of the transport or of the application, as the subclass says. frame_type: the frame that caused a
    transport error, None when unknown. by_peer: the peer closed, not we.
    """

    def __init__(
        self, error_code: int = 0, frame_type: int | None = None, reason: str = "", by_peer: bool = False
    ) -> None:
        super().__init__(error_code, frame_type, reason, by_peer)
        self.error_code = error_code
        self.frame_type = frame_type
        self.reason = reason
        self.by_peer = by_peer

    def code_text(self) -> str:
        return error_name(self.error_code)

    def __str__(self) -> str:
        text = f"connection closed {'by the peer' if self.by_peer else 'by us'}: {self.code_text()}"
        if self.frame_type:  # 0 means unknown (RFC 9000 §19.19)
            text += f" in frame 0x{self.frame_type:02x}"
        return f"{text}: {one_line(self.reason)}" if self.reason else text


class TransportClosed(ConnectionClosedError):
    """Closed with CONNECTION_CLOSE 0x1c: `error_code` is a TransportErrorCode or a CRYPTO_ERROR."""


class ApplicationClosed(ConnectionClosedError):
    """Closed with CONNECTION_CLOSE 0x1d: `error_code` belongs to the application protocol."""

    def code_text(self) -> str:
        return f"application code 0x{self.error_code:x}"


class HandshakeFailed(ConnectionClosedError):
    """The handshake did not complete. `alert`: the TLS alert, None when TLS was not the cause."""

    @property
    def alert(self) -> int | None:
        return alert_of(self.error_code)

    def __str__(self) -> str:
        parts = ["handshake failed"]
        if self.error_code:
            parts.append(f"{'the peer reports' if self.by_peer else 'we report'} {self.code_text()}")
        if self.reason:
            parts.append(one_line(self.reason))
        return ": ".join(parts)


class IdleTimeout(ConnectionClosedError):
    """Nothing was heard for the idle timeout (RFC 9000 §10.1)."""

    def __str__(self) -> str:
        return f"connection timed out: {one_line(self.reason)}" if self.reason else "connection timed out"


class StatelessReset(ConnectionClosedError):
    """The peer no longer knows the connection (RFC 9000 §10.3)."""

    def __init__(
        self, error_code: int = 0, frame_type: int | None = None, reason: str = "", by_peer: bool = True
    ) -> None:
        super().__init__(error_code, frame_type, reason, by_peer)

    def __str__(self) -> str:
        return "the peer lost the connection (stateless reset)"


class VersionNegotiationFailed(ConnectionClosedError):
    """The server speaks none of our versions (RFC 9000 §6.2). `offered`: the versions it listed."""

    def __init__(self, offered: Sequence[int] = ()) -> None:
        super().__init__(by_peer=True)
        self.offered = tuple(offered)
        self.args = (self.offered,)

    def __str__(self) -> str:
        listed = ", ".join(f"0x{v:08x}" for v in self.offered[:8]) or "none"
        return f"no common QUIC version: the server offers {listed}"


# ---- one stream ended early


class StreamError(StoqError):
    """A stream ended before its end. `error_code` belongs to the application protocol."""

    verb = "ended"

    def __init__(self, error_code: int, stream_id: int) -> None:
        super().__init__(error_code, stream_id)
        self.error_code = error_code
        self.stream_id = stream_id

    def __str__(self) -> str:
        return f"stream {self.stream_id} {self.verb}: application code 0x{self.error_code:x}"


class StreamReset(StreamError):
    """The sending side was reset (RESET_STREAM): data may be missing."""

    verb = "was reset"


class StreamStopped(StreamError):
    """The receiving side asked to stop (STOP_SENDING): writing is pointless."""

    verb = "is no longer read"
