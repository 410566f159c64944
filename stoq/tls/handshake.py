"""`Handshake`: CRYPTO bytes in, CRYPTO bytes and secrets out."""

from __future__ import annotations

from stoq.tls import client, server
from stoq.tls.alerts import AlertDescription, TlsAlert
from stoq.tls.codes import (
    CLIENT_HELLO_MAX,
    HANDSHAKE_MESSAGE_MAX,
    NEW_SESSION_TICKET_MAX,
    Epoch,
    MessageType,
    message_name,
)
from stoq.tls.session import Secret, Session, State, Step, logger, unexpected, unexpected_message

# The whole state machine: (state) -> (epoch, message type -> handler).
STEPS: dict[State, Step] = {**client.STEPS, **server.STEPS}

_SIZE_MAX: dict[int, int] = {
    MessageType.CLIENT_HELLO: CLIENT_HELLO_MAX,
    MessageType.NEW_SESSION_TICKET: NEW_SESSION_TICKET_MAX,
}


class Handshake(Session):
    """One TLS 1.3 handshake for one QUIC connection, either role, without I/O.

    Arguments: `configuration` (ConfigurationError when it cannot work), our encoded `transport_parameters`,
    `random(n)` giving n unpredictable bytes, `now()` giving the time for certificate checks.

    transport_parameters: may be assigned until start() (client) or until the ClientHello is complete (server).
    complete: Finished was exchanged. At a server this also confirms the handshake (RFC 9001 §4.1.2).
    peer_transport_parameters: the peer's, still encoded; authenticated only once `complete`.
    alpn, cipher_suite, group, signature_scheme: as negotiated, None before.
    server_name: client: as configured; server: the host name of the client's SNI.
    peer_certificates: DER, leaf first (client).

    Not there yet: HelloRetryRequest, resumption and 0-RTT, client authentication at the server.
    """

    __slots__ = ()

    def start(self) -> None:
        """Client: queue the ClientHello. Once, before anything is received (RuntimeError otherwise)."""
        if self.state is not State.CLIENT_START:
            raise RuntimeError("start() is for a client that has not started")
        client.send_client_hello(self)

    def take_output(self) -> list[tuple[Epoch, bytes]]:
        """CRYPTO bytes to send, in order, each with its epoch; they are forgotten here."""
        output = self.output
        self.output = []
        return output

    def take_secrets(self) -> list[Secret]:
        """Traffic secrets that became available, in order; they are forgotten here."""
        secrets = self.secrets
        self.secrets = []
        return secrets

    def export(self, label: bytes, context: bytes, length: int) -> bytes:
        """Keying material for the application (RFC 8446 §7.5), from the moment 1-RTT secrets exist.

        RuntimeError before that; ValueError when label or length are out of range.
        """
        if self.schedule is None or not self.schedule.exporter_secret:
            raise RuntimeError("the exporter exists only once 1-RTT secrets do")
        return self.schedule.export(label, context, length)

    def receive(self, epoch: Epoch, data: bytes) -> None:
        """The next CRYPTO bytes of an epoch, in order, cut anywhere.

        Raises TlsAlert when the handshake fails; afterwards every call raises the same alert again. An error of our own
        (or of a callable that we were given) is logged and becomes internal_error, so that a step that was cut off is
        never entered again. Output that was
        not taken is dropped then; secrets can still be taken, to close the connection in packets the peer can read.
        """
        if self._failure is not None:
            failure = self._failure
            raise TlsAlert(failure.description, failure.message, failure.error_code)
        try:
            self._receive(epoch, data)
        except TlsAlert as alert:
            self._fail(alert)
            raise
        except Exception as error:
            logger.exception("TLS handshake: internal error")
            failure = TlsAlert(AlertDescription.INTERNAL_ERROR, f"internal error: {type(error).__name__}")
            self._fail(failure)
            raise failure from error

    def _fail(self, alert: TlsAlert) -> None:
        self._failure = TlsAlert(alert.description, alert.message, alert.error_code)
        self._partial = bytearray()
        self.output = []

    def _receive(self, epoch: Epoch, data: bytes) -> None:
        if not data:
            return
        if type(data) is not bytes:
            data = bytes(data)
        step = STEPS[self.state]
        if epoch != step.epoch:
            raise unexpected(f"TLS data in epoch {Epoch(epoch).name}, not expected in state {self.state.name}")
        if self._partial:
            # Bytes are appended and looked at again only when the head, then the message, is complete: linear in all.
            self._partial += data
            if len(self._partial) < self._needed:
                return
            data = bytes(self._partial)
            self._partial = bytearray()
        position, end = 0, len(data)
        while position < end:
            code = data[position]
            handler = step.handlers.get(code)
            if handler is None:
                raise unexpected_message(code, self.state)
            body = position + 4
            if body > end:
                self._keep(data, position, 4)
                return
            size = int.from_bytes(data[position + 1 : body], "big")
            if size > _SIZE_MAX.get(code, HANDSHAKE_MESSAGE_MAX):
                # RFC 8446 sets no limit below 16 MiB; refused from the head, before anything is kept.
                raise TlsAlert(AlertDescription.ILLEGAL_PARAMETER, f"{message_name(code)} of {size} bytes is too long")
            stop = body + size
            if stop > end:
                self._keep(data, position, 4 + size)
                return
            handler(self, data if stop - position == end else data[position:stop])
            position = stop
            step = STEPS[self.state]
            if step.epoch != epoch and position != end:
                # RFC 8446 §5.1: a message that changes keys ends its flight.
                raise unexpected(f"{end - position} bytes behind the last message of epoch {Epoch(epoch).name}")

    def _keep(self, data: bytes, position: int, needed: int) -> None:
        self._partial += data[position:] if position else data
        self._needed = needed
