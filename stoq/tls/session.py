"""The state that both roles of a handshake share: what was negotiated, what waits to be sent, which secrets exist."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from enum import IntEnum, auto
from typing import Any, NamedTuple

from stoq.crypto.chain import PeerChain
from stoq.errors import StoqError, TransportErrorCode
from stoq.tls.alerts import AlertDescription, TlsAlert
from stoq.tls.codes import Epoch, MessageType, message_name
from stoq.tls.configuration import TlsConfiguration
from stoq.tls.key_schedule import KeySchedule

logger = logging.getLogger("stoq")


class State(IntEnum):
    """RFC 8446 Appendix A, without what QUIC or this version leaves out. The tables are in client.py and server.py."""

    CLIENT_START = auto()
    CLIENT_WAIT_SERVER_HELLO = auto()
    CLIENT_WAIT_ENCRYPTED_EXTENSIONS = auto()
    CLIENT_WAIT_CERTIFICATE_OR_REQUEST = auto()
    CLIENT_WAIT_CERTIFICATE = auto()
    CLIENT_WAIT_CERTIFICATE_VERIFY = auto()
    CLIENT_WAIT_FINISHED = auto()
    CLIENT_CONNECTED = auto()
    SERVER_WAIT_CLIENT_HELLO = auto()
    SERVER_WAIT_FINISHED = auto()
    SERVER_CONNECTED = auto()


class Secret(NamedTuple):
    """A traffic secret for QUIC's packet protection. `sending`: for our packets; else for the peer's."""

    epoch: Epoch
    sending: bool
    suite: int
    secret: bytes

    def __repr__(self) -> str:
        # Shown by failing assertions and in logs.
        return f"Secret(epoch={self.epoch!r}, sending={self.sending}, suite=0x{self.suite:04x}, secret=...)"


class Session:
    """Attributes named without underscore in `Handshake`'s docstring are public; the rest belongs to the roles."""

    __slots__ = (
        "_failure",
        "_needed",
        "_partial",
        "alpn",
        "cipher_suite",
        "client_hello",
        "client_random",
        "client_secret",
        "complete",
        "group",
        "now",
        "output",
        "peer_certificates",
        "peer_chain",
        "peer_transport_parameters",
        "prepared",
        "privates",
        "random",
        "requested_schemes",
        "schedule",
        "secrets",
        "server_name",
        "server_secret",
        "signature_scheme",
        "state",
        "transport_parameters",
    )

    def __init__(
        self,
        configuration: TlsConfiguration,
        *,
        transport_parameters: bytes,
        random: Callable[[int], bytes],
        now: Callable[[], datetime],
    ) -> None:
        self.prepared = configuration.prepared()
        self.transport_parameters = transport_parameters
        self.random = random
        self.now = now
        self.state = State.CLIENT_START if configuration.is_client else State.SERVER_WAIT_CLIENT_HELLO
        self.complete = False
        self.peer_transport_parameters: bytes | None = None
        self.alpn: str | None = None
        self.cipher_suite: int | None = None
        self.group: int | None = None
        self.signature_scheme: int | None = None
        self.server_name: str | None = self.prepared.server_name if self.prepared.is_client else None
        # DER, leaf first; what a client got from the server.
        self.peer_certificates: tuple[bytes, ...] = ()
        self.peer_chain: PeerChain | None = None
        self.output: list[tuple[Epoch, bytes]] = []
        self.secrets: list[Secret] = []
        self.client_hello = b""
        self.client_random = b""
        # Traffic secrets of the handshake epoch, kept for the Finished messages.
        self.client_secret = b""
        self.server_secret = b""
        # Client: group -> private key of the shares sent.
        self.privates: dict[int, Any] = {}
        # Client: schemes of the server's CertificateRequest; None when it sent none.
        self.requested_schemes: tuple[int, ...] | None = None
        self.schedule: KeySchedule | None = None
        self._partial = bytearray()
        self._needed = 0
        self._failure: TlsAlert | None = None

    def keys(self) -> KeySchedule:
        """The key schedule, which exists from ServerHello on."""
        assert self.schedule is not None
        return self.schedule

    def install(self, epoch: Epoch, sending: bool, secret: bytes) -> None:
        """Hand a traffic secret to QUIC."""
        self.secrets.append(Secret(epoch, sending, self.keys().suite.code, secret))

    def log_secrets(self, *pairs: tuple[str, bytes]) -> None:
        """Write lines of the key log. One that fails is an aid to debugging lost, not a reason to end a handshake."""
        prepared = self.prepared
        if prepared.keylog is None:
            return
        try:
            for label, secret in pairs:
                prepared.keylog(f"{label} {self.client_random.hex()} {secret.hex()}")
        except Exception as error:  # a callable of the application's, or a full disk
            # Peers decide how often this happens, so it is said once for a configuration. Only our own errors are shown
            # in full: the text of another may hold the line, which is a secret.
            if not prepared.keylog_failed:
                prepared.keylog_failed = True
                text = str(error) if isinstance(error, StoqError) else type(error).__name__
                logger.error("the key log failed, handshakes go on without it: %s", text)

    def settle(self, state: State) -> None:
        """The handshake is complete: drop what only the handshake needed."""
        self.state = state
        self.complete = True
        self.keys().forget_transcript()
        self.client_secret = self.server_secret = self.client_hello = b""
        self.privates = {}
        self.peer_chain = None
        self.requested_schemes = None


Handler = Callable[[Session, bytes], None]


class Step(NamedTuple):
    """One row of a role's table: in this state, only these messages, only in this epoch."""

    epoch: Epoch
    handlers: dict[int, Handler]


def refuse(alert: AlertDescription, text: str) -> TlsAlert:
    return TlsAlert(alert, text)


def unexpected(text: str) -> TlsAlert:
    """RFC 8446 §5.1 with RFC 9001 §4.1.3: data at the wrong encryption level, closed as PROTOCOL_VIOLATION."""
    return TlsAlert(AlertDescription.UNEXPECTED_MESSAGE, text, TransportErrorCode.PROTOCOL_VIOLATION)


def unexpected_message(code: int, state: State) -> TlsAlert:
    if code == MessageType.KEY_UPDATE:
        text = "TLS KeyUpdate is not allowed in QUIC (RFC 9001 §6)"
    else:
        text = f"{message_name(code)} is not expected in state {state.name}"
    return TlsAlert(AlertDescription.UNEXPECTED_MESSAGE, text)
