"""TLS 1.3 for QUIC (RFC 8446, RFC 9001), client and server, without I/O."""

from stoq.tls.alerts import AlertDescription, TlsAlert
from stoq.tls.codes import (
    CLIENT_HELLO_MAX,
    HANDSHAKE_MESSAGE_MAX,
    NEW_SESSION_TICKET_MAX,
    Epoch,
    ExtensionType,
    MessageType,
)
from stoq.tls.configuration import TlsConfiguration
from stoq.tls.handshake import Handshake
from stoq.tls.session import Secret, State
from stoq.tls.suites import SUITES, Suite

__all__ = [
    "CLIENT_HELLO_MAX",
    "HANDSHAKE_MESSAGE_MAX",
    "NEW_SESSION_TICKET_MAX",
    "SUITES",
    "AlertDescription",
    "Epoch",
    "ExtensionType",
    "Handshake",
    "MessageType",
    "Secret",
    "State",
    "Suite",
    "TlsAlert",
    "TlsConfiguration",
]
