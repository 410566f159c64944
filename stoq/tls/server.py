"""The server's side of the handshake: answer a ClientHello with the whole flight, then wait for Finished."""

from __future__ import annotations

from stoq.crypto.groups import KeyExchangeError
from stoq.errors import TransportErrorCode
from stoq.tls import messages
from stoq.tls.alerts import AlertDescription, TlsAlert
from stoq.tls.client import check_finished
from stoq.tls.codes import Epoch, ExtensionType, MessageType
from stoq.tls.key_schedule import KeySchedule
from stoq.tls.messages import ClientHello
from stoq.tls.reader import extension, message, u16_list, vector8, vector16, whole_vector16
from stoq.tls.session import Session, State, Step, refuse


def _required(hello: ClientHello, code: ExtensionType) -> bytes:
    data = hello.extensions.get(code)
    if data is None:
        raise refuse(AlertDescription.MISSING_EXTENSION, f"the ClientHello has no {code.name.lower()}")
    return data


def on_client_hello(session: Session, data: bytes) -> None:
    """RFC 8446 §4.1.2 in, §4.1.3 to §4.4.4 out. Our order of preference decides, among what the client offers."""
    hello = messages.parse_client_hello(data)
    if hello.session_id:
        # RFC 9001 §8.4: QUIC has no middlebox compatibility mode.
        raise TlsAlert(
            AlertDescription.ILLEGAL_PARAMETER,
            "the ClientHello has a legacy_session_id",
            TransportErrorCode.PROTOCOL_VIOLATION,
        )
    prepared = session.prepared
    credentials = session.prepared.credentials
    assert credentials is not None
    failure = AlertDescription.HANDSHAKE_FAILURE

    # QUIC transport parameters and ALPN (RFC 9001 §8.1, §8.2).
    peer_parameters = _required(hello, ExtensionType.QUIC_TRANSPORT_PARAMETERS)
    alpn, alpn_reply = _select_alpn(session, hello)

    # Suite, group, signature scheme.
    suite = next((row for code, row in prepared.suites.items() if code in hello.suites), None)
    if suite is None:
        raise refuse(failure, "no cipher suite in common with the client")
    name = "signature_algorithms"
    offered_schemes = u16_list(whole_vector16(_required(hello, ExtensionType.SIGNATURE_ALGORITHMS), name), name)
    name = "supported_groups"
    offered_groups = u16_list(whole_vector16(_required(hello, ExtensionType.SUPPORTED_GROUPS), name), name)
    shares = messages.parse_client_shares(_required(hello, ExtensionType.KEY_SHARE), offered_groups)
    group = next((row for code, row in prepared.groups.items() if code in shares), None)
    if group is None:
        if any(code in offered_groups for code in prepared.groups):
            raise refuse(failure, "no usable key share from the client, and HelloRetryRequest is not supported yet")
        raise refuse(failure, "no key-exchange group in common with the client")
    scheme = next((row for row in prepared.signing if row.code in offered_schemes), None)
    if scheme is None:
        raise refuse(failure, "the client accepts no signature scheme that fits our certificate")
    server_name = hello.extensions.get(ExtensionType.SERVER_NAME)
    if server_name is not None:
        session.server_name = messages.parse_server_name(server_name)
    try:
        share, shared = group.respond(shares[group.code], session.random)
    except KeyExchangeError as error:
        raise refuse(AlertDescription.ILLEGAL_PARAMETER, str(error)) from None

    session.peer_transport_parameters = peer_parameters
    session.alpn = alpn
    session.client_random = hello.random
    session.cipher_suite = suite.code
    session.group = group.code
    session.signature_scheme = scheme.code

    # ServerHello and the keys of the handshake epoch.
    reply = messages.server_hello(session.random(32), suite.code, group.code, share)
    session.output.append((Epoch.INITIAL, reply))
    schedule = session.schedule = KeySchedule(suite, data + reply)
    client, server = session.client_secret, session.server_secret = schedule.handshake_secrets(shared)
    session.install(Epoch.HANDSHAKE, True, server)
    session.install(Epoch.HANDSHAKE, False, client)
    session.log_secrets(("CLIENT_HANDSHAKE_TRAFFIC_SECRET", client), ("SERVER_HANDSHAKE_TRAFFIC_SECRET", server))

    # EncryptedExtensions to Finished, one flight.
    transcript = schedule.transcript
    parameters = extension(ExtensionType.QUIC_TRANSPORT_PARAMETERS, session.transport_parameters)
    flight = message(MessageType.ENCRYPTED_EXTENSIONS, vector16(alpn_reply + parameters)) + messages.certificate(
        credentials
    )
    transcript.update(flight)
    signature = scheme.sign(credentials.private_key, schedule.signed_by_server())
    verify = messages.certificate_verify(scheme.code, signature)
    transcript.update(verify)
    finished = messages.finished(schedule.verify_data(server))
    transcript.update(finished)
    session.output.append((Epoch.HANDSHAKE, flight + verify + finished))

    # 1-RTT: sending now; receiving waits for the client's Finished (RFC 9001 §5.7).
    client, server = schedule.application_secrets()
    session.install(Epoch.ONE_RTT, True, server)
    if session.prepared.keylog is not None:
        session.log_secrets(
            ("CLIENT_TRAFFIC_SECRET_0", client),
            ("SERVER_TRAFFIC_SECRET_0", server),
            ("EXPORTER_SECRET", schedule.exporter_secret),
        )
    # The handshake-epoch secret is needed once more, for the client's Finished; the 1-RTT one is handed out after it.
    session.server_secret = client
    session.state = State.SERVER_WAIT_FINISHED


def _select_alpn(session: Session, hello: ClientHello) -> tuple[str | None, bytes]:
    """(protocol, extension for the reply). Without protocols of our own, ALPN is not used (RFC 9001 §8.1)."""
    prepared = session.prepared
    offer = hello.extensions.get(ExtensionType.ALPN)
    names = messages.parse_alpn(offer) if offer is not None else []
    if not prepared.alpn:
        return None, b""
    for encoded, name in prepared.alpn.items():
        if encoded in names:
            return name, extension(ExtensionType.ALPN, vector16(vector8(encoded)))
    reason = "no application protocol in common with the client" if names else "the client offers no ALPN"
    raise refuse(AlertDescription.NO_APPLICATION_PROTOCOL, reason)


def on_finished(session: Session, data: bytes) -> None:
    """RFC 8446 §4.4.4: the client's Finished completes (and, in QUIC, confirms) the handshake."""
    check_finished(session.keys(), session.client_secret, data)
    session.install(Epoch.ONE_RTT, False, session.server_secret)
    session.settle(State.SERVER_CONNECTED)


STEPS: dict[State, Step] = {
    State.SERVER_WAIT_CLIENT_HELLO: Step(Epoch.INITIAL, {MessageType.CLIENT_HELLO: on_client_hello}),
    State.SERVER_WAIT_FINISHED: Step(Epoch.HANDSHAKE, {MessageType.FINISHED: on_finished}),
    # A client has nothing to say after the handshake: KeyUpdate is forbidden, the rest does not exist.
    State.SERVER_CONNECTED: Step(Epoch.ONE_RTT, {}),
}
