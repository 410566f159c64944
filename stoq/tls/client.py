"""The client's side of the handshake: one function per message, and the table that says when each may come."""

from __future__ import annotations

from stoq.crypto.chain import ChainError
from stoq.crypto.groups import KeyExchangeError
from stoq.crypto.keys import constant_time_equal
from stoq.crypto.signatures import SignatureError
from stoq.errors import TransportErrorCode
from stoq.tls import messages
from stoq.tls.alerts import AlertDescription, TlsAlert
from stoq.tls.codes import (
    DOWNGRADE_MARKS,
    HELLO_RETRY_REQUEST,
    LEGACY_VERSION,
    TLS_1_3,
    Epoch,
    ExtensionType,
    MessageType,
    extension_name,
)
from stoq.tls.configuration import HELLO_VERSION
from stoq.tls.key_schedule import KeySchedule
from stoq.tls.reader import (
    Reader,
    decode_error,
    extension,
    message,
    parse_extensions,
    u16_list,
    vector16,
    whole_vector16,
)
from stoq.tls.session import Session, State, Step, refuse

_IN_SERVER_HELLO = frozenset((ExtensionType.SUPPORTED_VERSIONS, ExtensionType.KEY_SHARE))
_IN_ENCRYPTED_EXTENSIONS = frozenset(
    (
        ExtensionType.SERVER_NAME,
        ExtensionType.SUPPORTED_GROUPS,
        ExtensionType.ALPN,
        ExtensionType.QUIC_TRANSPORT_PARAMETERS,
    )
)
# RFC 9001 §4.6.1: the only value that QUIC knows for max_early_data_size.
_EARLY_DATA = 0xFFFFFFFF


def send_client_hello(session: Session) -> None:
    """Queue the ClientHello (RFC 8446 §4.1.2)."""
    prepared = session.prepared
    random = session.random(33)
    session.client_random = random[:32]
    head, fixed = prepared.client_hello_parts(random[32] & 15)
    shares = b""
    for group in prepared.shared_groups:
        session.privates[group.code], share = group.generate(session.random)
        shares += group.code.to_bytes(2, "big") + vector16(share)
    extensions = (
        fixed
        + extension(ExtensionType.KEY_SHARE, vector16(shares))
        + extension(ExtensionType.QUIC_TRANSPORT_PARAMETERS, session.transport_parameters)
    )
    body = HELLO_VERSION + session.client_random + head + vector16(extensions)
    session.client_hello = message(MessageType.CLIENT_HELLO, body)
    session.output.append((Epoch.INITIAL, session.client_hello))
    session.state = State.CLIENT_WAIT_SERVER_HELLO


def _check_answers(found: dict[int, bytes], allowed: frozenset[ExtensionType], session: Session, where: str) -> None:
    """RFC 8446 §4.2: what we did not ask for is unsupported_extension, what we did but elsewhere illegal_parameter."""
    for code in found:
        if code not in allowed or code not in session.prepared.offered:
            if code in session.prepared.offered:
                raise refuse(AlertDescription.ILLEGAL_PARAMETER, f"{extension_name(code)} is not allowed in {where}")
            raise refuse(
                AlertDescription.UNSUPPORTED_EXTENSION, f"{where} has {extension_name(code)}, which we did not offer"
            )


def on_server_hello(session: Session, data: bytes) -> None:
    """RFC 8446 §4.1.3."""
    hello = messages.parse_server_hello(data)
    illegal = AlertDescription.ILLEGAL_PARAMETER
    selected = hello.extensions.get(ExtensionType.SUPPORTED_VERSIONS)
    if selected is None:
        if hello.random[-8:] in DOWNGRADE_MARKS:
            raise refuse(illegal, "the server was made to fall back to an older version of TLS")
        raise refuse(AlertDescription.PROTOCOL_VERSION, "the server does not speak TLS 1.3")
    if len(selected) != 2:
        decode_error("supported_versions of the server is malformed")
    if int.from_bytes(selected, "big") != TLS_1_3:
        raise refuse(illegal, "the server selected a version that we did not offer")
    if hello.version != LEGACY_VERSION:
        raise refuse(illegal, f"legacy_version is 0x{hello.version:04x}")
    if hello.session_id:
        raise refuse(illegal, "the server echoes a session id that we did not send")
    if hello.compression:
        raise refuse(illegal, "the server selected compression")
    suite = session.prepared.suites.get(hello.suite)
    if suite is None:
        raise refuse(illegal, f"the server selected cipher suite 0x{hello.suite:04x}, which we did not offer")
    if hello.random == HELLO_RETRY_REQUEST:
        raise refuse(
            AlertDescription.HANDSHAKE_FAILURE,
            "the server wants another key share (HelloRetryRequest): not supported yet",
        )
    _check_answers(hello.extensions, _IN_SERVER_HELLO, session, "ServerHello")
    key_share = hello.extensions.get(ExtensionType.KEY_SHARE)
    if key_share is None:
        raise refuse(AlertDescription.MISSING_EXTENSION, "ServerHello has no key_share")
    code, share = messages.parse_server_share(key_share)
    private = session.privates.get(code)
    if private is None:
        raise refuse(illegal, f"the server answers with group 0x{code:04x}, for which we sent no share")
    try:
        shared = session.prepared.groups[code].finish(private, share)
    except KeyExchangeError as error:
        raise refuse(illegal, str(error)) from None
    session.privates = {}
    session.cipher_suite = suite.code
    session.group = code
    schedule = session.schedule = KeySchedule(suite, session.client_hello + data)
    session.client_hello = b""
    client, server = session.client_secret, session.server_secret = schedule.handshake_secrets(shared)
    session.install(Epoch.HANDSHAKE, False, server)
    session.install(Epoch.HANDSHAKE, True, client)
    session.log_secrets(("CLIENT_HANDSHAKE_TRAFFIC_SECRET", client), ("SERVER_HANDSHAKE_TRAFFIC_SECRET", server))
    session.state = State.CLIENT_WAIT_ENCRYPTED_EXTENSIONS


def on_encrypted_extensions(session: Session, data: bytes) -> None:
    """RFC 8446 §4.3.1, RFC 9001 §8.1 and §8.2."""
    found = messages.parse_encrypted_extensions(data)
    _check_answers(found, _IN_ENCRYPTED_EXTENSIONS, session, "EncryptedExtensions")
    if found.get(ExtensionType.SERVER_NAME):
        decode_error("the server's server_name is not empty")
    prepared = session.prepared
    answer = found.get(ExtensionType.ALPN)
    if answer is not None:
        names = messages.parse_alpn(answer)
        if len(names) != 1:
            decode_error("the server selected more than one application protocol")
        name = prepared.alpn.get(names[0])
        if name is None:
            raise refuse(
                AlertDescription.ILLEGAL_PARAMETER, "the server selected an application protocol that we did not offer"
            )
        session.alpn = name
    elif prepared.alpn:
        raise refuse(AlertDescription.NO_APPLICATION_PROTOCOL, "the server selected no application protocol")
    parameters = found.get(ExtensionType.QUIC_TRANSPORT_PARAMETERS)
    if parameters is None:
        raise refuse(AlertDescription.MISSING_EXTENSION, "the server sent no QUIC transport parameters")
    session.peer_transport_parameters = parameters
    session.keys().transcript.update(data)
    session.state = State.CLIENT_WAIT_CERTIFICATE_OR_REQUEST


def on_certificate_request(session: Session, data: bytes) -> None:
    """RFC 8446 §4.3.2."""
    context, extensions = messages.parse_certificate_request(data)
    if context:
        raise refuse(AlertDescription.ILLEGAL_PARAMETER, "CertificateRequest has a context during the handshake")
    schemes = extensions.get(ExtensionType.SIGNATURE_ALGORITHMS)
    if schemes is None:
        raise refuse(AlertDescription.MISSING_EXTENSION, "CertificateRequest has no signature_algorithms")
    session.requested_schemes = u16_list(whole_vector16(schemes, "signature_algorithms"), "signature_algorithms")
    session.keys().transcript.update(data)
    session.state = State.CLIENT_WAIT_CERTIFICATE


def on_certificate(session: Session, data: bytes) -> None:
    """RFC 8446 §4.4.2. The chain is judged after CertificateVerify."""
    chain = messages.parse_certificate(data, session.prepared.offered)
    session.peer_chain = chain
    session.peer_certificates = chain.certificates
    session.keys().transcript.update(data)
    session.state = State.CLIENT_WAIT_CERTIFICATE_VERIFY


def on_certificate_verify(session: Session, data: bytes) -> None:
    """RFC 8446 §4.4.3, then the chain: issuer, validity and name."""
    code, signature = messages.parse_certificate_verify(data)
    chain = session.peer_chain
    assert chain is not None
    configuration = session.prepared
    scheme = session.prepared.schemes.get(code)
    if scheme is None or not scheme.handshake:
        raise refuse(
            AlertDescription.ILLEGAL_PARAMETER, f"the server signed with scheme 0x{code:04x}, which we did not offer"
        )
    if not scheme.accepts(chain.public_key):
        raise refuse(AlertDescription.ILLEGAL_PARAMETER, f"{scheme.name} does not fit the key of the certificate")
    schedule = session.keys()
    try:
        scheme.verify(chain.public_key, signature, schedule.signed_by_server())
    except SignatureError as error:
        raise refuse(AlertDescription.DECRYPT_ERROR, f"CertificateVerify: {error}") from None
    if configuration.verify:
        assert configuration.trust is not None
        assert configuration.server_name is not None
        try:
            configuration.trust.verify(chain, configuration.server_name, session.now())
        except ChainError as error:
            raise messages.chain_alert(error) from None
    session.signature_scheme = code
    schedule.transcript.update(data)
    session.state = State.CLIENT_WAIT_FINISHED


def on_finished(session: Session, data: bytes) -> None:
    """RFC 8446 §4.4.4: check the server's, answer with ours, hand out 1-RTT secrets."""
    schedule = session.keys()
    check_finished(schedule, session.server_secret, data)
    transcript = schedule.transcript
    transcript.update(data)
    client, server = schedule.application_secrets()
    reply = b""
    if session.requested_schemes is not None:
        reply = _client_certificate(session, schedule)
    finished = messages.finished(schedule.verify_data(session.client_secret))
    session.output.append((Epoch.HANDSHAKE, reply + finished))
    session.install(Epoch.ONE_RTT, False, server)
    session.install(Epoch.ONE_RTT, True, client)
    if session.prepared.keylog is not None:
        session.log_secrets(
            ("CLIENT_TRAFFIC_SECRET_0", client),
            ("SERVER_TRAFFIC_SECRET_0", server),
            ("EXPORTER_SECRET", schedule.exporter_secret),
        )
    session.settle(State.CLIENT_CONNECTED)


def check_finished(schedule: KeySchedule, secret: bytes, data: bytes) -> None:
    """Compare a Finished message with what the transcript says."""
    if len(data) != 4 + schedule.suite.hash_length:
        decode_error("Finished has a wrong length")
    if not constant_time_equal(data[4:], schedule.verify_data(secret)):
        raise TlsAlert(AlertDescription.DECRYPT_ERROR, "Finished does not match the handshake")


def _client_certificate(session: Session, schedule: KeySchedule) -> bytes:
    """Certificate and, when we have one that the server can check, CertificateVerify (RFC 8446 §4.4.2, §4.4.3)."""
    configuration = session.prepared
    wanted = session.requested_schemes or ()
    scheme = next((row for row in session.prepared.signing if row.code in wanted), None)
    credentials = configuration.credentials if scheme is not None else None
    certificate = messages.certificate(credentials)
    schedule.transcript.update(certificate)
    if scheme is None or credentials is None:
        return certificate
    signature = scheme.sign(credentials.private_key, schedule.signed_by_client())
    verify = messages.certificate_verify(scheme.code, signature)
    schedule.transcript.update(verify)
    return certificate + verify


def on_new_session_ticket(session: Session, data: bytes) -> None:
    """RFC 8446 §4.6.1: checked and dropped; resumption is not there yet. Nothing is kept, so many cost nothing."""
    reader = Reader(data, "NewSessionTicket", 4)
    reader.take(8)  # lifetime, age_add
    reader.vector8()
    reader.vector16(1)
    extensions = parse_extensions(reader.vector16(), "NewSessionTicket")
    reader.finish()
    early_data = extensions.get(ExtensionType.EARLY_DATA)
    if early_data is not None and early_data != _EARLY_DATA.to_bytes(4, "big"):
        raise TlsAlert(
            AlertDescription.ILLEGAL_PARAMETER,
            "NewSessionTicket allows an amount of early data that QUIC does not know",
            TransportErrorCode.PROTOCOL_VIOLATION,
        )


def on_late_certificate_request(session: Session, data: bytes) -> None:
    # RFC 9001 §4.4: no client authentication after the handshake.
    raise TlsAlert(
        AlertDescription.UNEXPECTED_MESSAGE,
        "CertificateRequest after the handshake is not allowed in QUIC",
        TransportErrorCode.PROTOCOL_VIOLATION,
    )


STEPS: dict[State, Step] = {
    State.CLIENT_START: Step(Epoch.INITIAL, {}),
    State.CLIENT_WAIT_SERVER_HELLO: Step(Epoch.INITIAL, {MessageType.SERVER_HELLO: on_server_hello}),
    State.CLIENT_WAIT_ENCRYPTED_EXTENSIONS: Step(
        Epoch.HANDSHAKE, {MessageType.ENCRYPTED_EXTENSIONS: on_encrypted_extensions}
    ),
    State.CLIENT_WAIT_CERTIFICATE_OR_REQUEST: Step(
        Epoch.HANDSHAKE,
        {MessageType.CERTIFICATE_REQUEST: on_certificate_request, MessageType.CERTIFICATE: on_certificate},
    ),
    State.CLIENT_WAIT_CERTIFICATE: Step(Epoch.HANDSHAKE, {MessageType.CERTIFICATE: on_certificate}),
    State.CLIENT_WAIT_CERTIFICATE_VERIFY: Step(
        Epoch.HANDSHAKE, {MessageType.CERTIFICATE_VERIFY: on_certificate_verify}
    ),
    State.CLIENT_WAIT_FINISHED: Step(Epoch.HANDSHAKE, {MessageType.FINISHED: on_finished}),
    State.CLIENT_CONNECTED: Step(
        Epoch.ONE_RTT,
        {
            MessageType.NEW_SESSION_TICKET: on_new_session_ticket,
            MessageType.CERTIFICATE_REQUEST: on_late_certificate_request,
        },
    ),
}
