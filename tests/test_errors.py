"""Exceptions: codes, one printable line each, and pickling (exceptions cross process borders)."""

from __future__ import annotations

import builtins
import inspect
import pickle

import pytest

from stoq import errors
from stoq.errors import (
    ApplicationClosed,
    BufferLimit,
    ConfigurationError,
    ConnectionClosedError,
    FrameError,
    HandshakeFailed,
    HeaderError,
    IdleTimeout,
    NotSupported,
    QuicError,
    StatelessReset,
    StoqError,
    StreamLimitError,
    StreamReset,
    StreamStopped,
    TransportClosed,
    TransportErrorCode,
    TransportParameterError,
    VersionNegotiationFailed,
    alert_of,
    crypto_error,
    error_name,
)

EXAMPLES: list[tuple[StoqError, str]] = [
    (QuicError(0x0A, "two of them", 0x1E), "PROTOCOL_VIOLATION in frame 0x1e: two of them"),
    (QuicError(0x0B), "INVALID_TOKEN"),
    (FrameError("malformed", 0), "FRAME_ENCODING_ERROR in frame 0x00: malformed"),
    (TransportParameterError("0x4 occurs twice"), "TRANSPORT_PARAMETER_ERROR: 0x4 occurs twice"),
    (HeaderError("fixed bit is zero"), "fixed bit is zero"),
    (TransportClosed(0x0A, 0x08, "no", True), "connection closed by the peer: PROTOCOL_VIOLATION in frame 0x08: no"),
    (TransportClosed(0x3000), "connection closed by us: 0x3000"),
    (ApplicationClosed(5, None, "bye", True), "connection closed by the peer: application code 0x5: bye"),
    (
        HandshakeFailed(0x178, 0x06, "", True),
        "handshake failed: the peer reports TLS alert 120 no_application_protocol",
    ),
    (
        HandshakeFailed(0x12A, None, "certificate expired", False),
        "handshake failed: we report TLS alert 42 bad_certificate: certificate expired",
    ),
    (HandshakeFailed(reason="no answer for 10 s"), "handshake failed: no answer for 10 s"),
    (IdleTimeout(), "connection timed out"),
    (StatelessReset(), "the peer lost the connection (stateless reset)"),
    (VersionNegotiationFailed([1, 0x6B3343CF]), "no common QUIC version: the server offers 0x00000001, 0x6b3343cf"),
    (StreamReset(9, 4), "stream 4 was reset: application code 0x9"),
    (StreamStopped(9, 4), "stream 4 is no longer read: application code 0x9"),
    (ConfigurationError("no certificate"), "no certificate"),
    (NotSupported("no UDP_GRO"), "no UDP_GRO"),
    (BufferLimit("256 datagrams wait"), "256 datagrams wait"),
    (StreamLimitError("100 streams are open"), "100 streams are open"),
]


@pytest.mark.parametrize(
    ("error", "text"), EXAMPLES, ids=lambda e: type(e).__name__ if isinstance(e, StoqError) else ""
)
def test_one_line_and_pickling(error: StoqError, text: str) -> None:
    assert str(error) == text
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == text
    assert vars(again) == vars(error)


def test_every_class_has_an_example_and_shadows_no_builtin() -> None:
    classes = {c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, Exception)}
    shown = {type(error) for error, _ in EXAMPLES}
    bases = {base for c in classes for base in c.__mro__[1:]}
    assert classes - shown <= bases
    assert all(issubclass(c, StoqError) for c in classes)
    assert not {c.__name__ for c in classes} & set(dir(builtins))


def test_reason_phrases_cannot_break_a_line() -> None:
    text = str(ApplicationClosed(0, None, "a\r\nb\x1b[2Jc\u202ed", True))
    assert text.isprintable()
    assert text.endswith("c\ufffdd")
    assert str(QuicError(1, "a\nb")).isprintable()
    assert str(HandshakeFailed(reason="a\nb")).isprintable()


def test_codes_of_rfc_9000() -> None:
    # §20.1, table 7
    assert [code.value for code in TransportErrorCode] == list(range(0x11))
    assert TransportErrorCode(0x08).name == "TRANSPORT_PARAMETER_ERROR"
    assert TransportErrorCode(0x0D).name == "CRYPTO_BUFFER_EXCEEDED"
    assert TransportErrorCode(0x10).name == "NO_VIABLE_PATH"


def test_alerts() -> None:
    assert crypto_error(40) == 0x128
    assert alert_of(0x128) == 40
    assert [alert_of(code) for code in (0xFF, 0x100, 0x1FF, 0x200)] == [None, 0, 255, None]
    assert error_name(0x128) == "TLS alert 40 handshake_failure"
    assert error_name(0x1C8) == "TLS alert 200 unknown"
    assert HandshakeFailed(0x128).alert == 40
    assert HandshakeFailed(2).alert is None
    for alert in (-1, 256):
        with pytest.raises(ValueError, match="byte"):
            crypto_error(alert)


def test_who_is_caught_by_what() -> None:
    for error in (HandshakeFailed(), IdleTimeout(), StatelessReset(), VersionNegotiationFailed(), TransportClosed()):
        assert isinstance(error, ConnectionClosedError)
    assert StatelessReset().by_peer
    assert not IdleTimeout().by_peer
    assert isinstance(ConfigurationError("x"), ValueError)
