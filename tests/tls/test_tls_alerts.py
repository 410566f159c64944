"""Every malformed or misleading message leads to the alert that RFC 8446 and RFC 9001 name, and to nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tls_pair import (
    Hello,
    ServerFlight,
    cheap_client,
    cheap_server,
    client_configuration,
    client_hello,
    extension_block,
    make,
    run,
    server_configuration,
    split,
)

from stoq.crypto.certificates import CERTIFICATE_CHAIN_MAX
from stoq.crypto.groups import SECP256R1, X25519
from stoq.errors import TransportErrorCode
from stoq.tls import AlertDescription, Epoch, TlsAlert
from stoq.tls.codes import DOWNGRADE_MARKS, EXTENSIONS_MAX, HELLO_RETRY_REQUEST, KEY_SHARES_MAX
from stoq.tls.reader import message, vector8, vector16, vector24

A = AlertDescription
Change = Callable[[Hello], object]


def put(code: int, data: bytes) -> Change:
    return lambda hello: hello.__setitem__(code, data)


def drop(code: int) -> Change:
    return lambda hello: hello.__delitem__(code)


def field(name: str, value: bytes) -> Change:
    return lambda hello: setattr(hello, name, value)


def twice(code: int) -> Change:
    return lambda hello: hello.extensions.append((code, hello[code]))


def both(*changes: Change) -> Change:
    return lambda hello: [change(hello) for change in changes]


X_SHARE = b"\x00\x1d\x00\x20" + bytes(range(32))


def shares(data: bytes) -> Change:
    return put(51, vector16(data))


def many_extensions(hello: Hello) -> None:
    hello.extensions += [(0x7000 + i, b"") for i in range(EXTENSIONS_MAX)]


def many_shares(hello: Hello) -> None:
    groups = [0x7000 + i for i in range(KEY_SHARES_MAX + 1)]
    hello[10] = vector16(b"".join(g.to_bytes(2, "big") for g in groups))
    hello[51] = vector16(b"".join(g.to_bytes(2, "big") + b"\0\1x" for g in groups))


# what is changed in a good ClientHello -> the server's alert
CLIENT_HELLO_CASES: dict[str, tuple[Change, AlertDescription]] = {
    "SSL 3.0": (field("version", b"\x03\x00"), A.PROTOCOL_VERSION),
    "no supported_versions": (drop(43), A.PROTOCOL_VERSION),
    "only TLS 1.2": (put(43, b"\x02\x03\x03"), A.PROTOCOL_VERSION),
    "only a reserved version": (put(43, b"\x02\x0a\x0a"), A.PROTOCOL_VERSION),
    "versions of odd length": (put(43, b"\x03\x03\x04\x03"), A.DECODE_ERROR),
    "versions cut": (put(43, b"\x04\x03\x04"), A.DECODE_ERROR),
    "compression offered": (field("compressions", b"\0\1"), A.ILLEGAL_PARAMETER),
    "no null compression": (field("compressions", b"\1"), A.ILLEGAL_PARAMETER),
    "empty compressions": (field("compressions", b""), A.DECODE_ERROR),
    "session id": (field("session_id", bytes(32)), A.ILLEGAL_PARAMETER),
    "session id too long": (field("session_id", bytes(33)), A.DECODE_ERROR),
    "no suites": (field("suites", b""), A.DECODE_ERROR),
    "suites of odd length": (field("suites", b"\x13\x01\x13"), A.DECODE_ERROR),
    "unknown suites": (field("suites", b"\x13\x99\x00\x2f\x0a\x0a"), A.HANDSHAKE_FAILURE),
    "no transport parameters": (drop(57), A.MISSING_EXTENSION),
    "no signature_algorithms": (drop(13), A.MISSING_EXTENSION),
    "no supported_groups": (drop(10), A.MISSING_EXTENSION),
    "no key_share": (drop(51), A.MISSING_EXTENSION),
    "no ALPN": (drop(16), A.NO_APPLICATION_PROTOCOL),
    "foreign ALPN": (put(16, vector16(b"\x03foo")), A.NO_APPLICATION_PROTOCOL),
    "empty ALPN list": (put(16, b"\0\0"), A.DECODE_ERROR),
    "empty ALPN name": (put(16, vector16(b"\0")), A.DECODE_ERROR),
    "ALPN name cut": (put(16, vector16(b"\x09h3")), A.DECODE_ERROR),
    "ALPN with a tail": (put(16, vector16(b"\x02h3") + b"x"), A.DECODE_ERROR),
    "repeated key_share": (twice(51), A.ILLEGAL_PARAMETER),
    "repeated unknown extension": (both(put(0x1234, b""), twice(0x1234)), A.ILLEGAL_PARAMETER),
    "foreign schemes": (put(13, vector16(b"\x08\x07\x04\x01")), A.HANDSHAKE_FAILURE),
    "empty schemes": (put(13, b"\0\0"), A.DECODE_ERROR),
    "foreign groups": (both(put(10, b"\0\2\0\x19"), shares(b"\0\x19\0\1x")), A.HANDSHAKE_FAILURE),
    "no share of a common group": (shares(b""), A.HANDSHAKE_FAILURE),
    "only a foreign share": (
        both(put(10, b"\0\4\0\x19\0\x1d"), shares(b"\0\x19\0\1x")),
        A.HANDSHAKE_FAILURE,
    ),
    "two shares of a group": (shares(X_SHARE + X_SHARE), A.ILLEGAL_PARAMETER),
    "share of a group not offered": (put(10, b"\0\2\0\x17"), A.ILLEGAL_PARAMETER),
    "empty share": (shares(b"\0\x1d\0\0"), A.DECODE_ERROR),
    "X25519 share too short": (shares(b"\0\x1d\0\x1f" + bytes(31)), A.ILLEGAL_PARAMETER),
    "X25519 share of small order": (shares(b"\0\x1d\0\x20" + bytes(32)), A.ILLEGAL_PARAMETER),
    "P-256 share off the curve": (shares(b"\0\x17\0\x41\4" + b"\1" * 64), A.ILLEGAL_PARAMETER),
    "P-256 share compressed": (shares(b"\0\x17\0\x21\2" + b"\1" * 32), A.ILLEGAL_PARAMETER),
    "too many shares": (many_shares, A.DECODE_ERROR),
    "too many extensions": (many_extensions, A.DECODE_ERROR),
    "SNI list empty": (put(0, b"\0\0"), A.DECODE_ERROR),
    "SNI twice": (put(0, vector16(b"\0\0\1a\0\0\1b")), A.ILLEGAL_PARAMETER),
    "SNI not ASCII": (put(0, vector16(b"\0\0\2\xc3\xa9")), A.ILLEGAL_PARAMETER),
    "SNI with a NUL": (put(0, vector16(b"\0\0\2a\0")), A.ILLEGAL_PARAMETER),
    "SNI cut": (put(0, b"\0\5\0\0\5a"), A.DECODE_ERROR),
    "pre_shared_key not last": (both(put(45, b"\1\1"), put(41, b"x"), put(0x1234, b"")), A.ILLEGAL_PARAMETER),
    "pre_shared_key without modes": (put(41, b"x"), A.MISSING_EXTENSION),
}


def refused_by_server(data: bytes) -> TlsAlert:
    server = make(server_configuration())
    with pytest.raises(TlsAlert) as caught:
        server.receive(Epoch.INITIAL, data)
    assert server.take_output() == []
    return caught.value


@pytest.mark.parametrize("case", CLIENT_HELLO_CASES)
def test_client_hello(case: str) -> None:
    change, expected = CLIENT_HELLO_CASES[case]
    hello = Hello(client_hello())
    change(hello)
    server = make(server_configuration())
    with pytest.raises(TlsAlert) as caught:
        server.receive(Epoch.INITIAL, hello.encode())
    assert server.take_output() == []
    assert server.take_secrets() == []
    alert = caught.value
    assert (alert.description, case) == (expected, case)
    assert alert.message
    assert "\n" not in str(alert)


def test_client_hello_of_another_shape() -> None:
    good = client_hello()
    hello = Hello(good)
    assert refused_by_server(hello.encode(tail=b"x")).description is A.DECODE_ERROR
    assert refused_by_server(message(1, good[4:41])).description is A.DECODE_ERROR
    without_extensions = message(1, hello.version + hello.random + b"\0" + vector16(hello.suites) + b"\1\0")
    assert refused_by_server(without_extensions).description is A.PROTOCOL_VERSION
    assert refused_by_server(b"\x02" + good[1:]).description is A.UNEXPECTED_MESSAGE
    assert refused_by_server(b"\x18\0\0\1\0").description is A.UNEXPECTED_MESSAGE
    behind = refused_by_server(good + b"\x01")
    assert (behind.description, behind.error_code) == (A.UNEXPECTED_MESSAGE, TransportErrorCode.PROTOCOL_VIOLATION)


def test_session_id_is_a_protocol_violation() -> None:
    """RFC 9001 §8.4 names the QUIC error, not an alert."""
    hello = Hello(client_hello())
    hello.session_id = bytes(32)
    assert refused_by_server(hello.encode()).error_code == TransportErrorCode.PROTOCOL_VIOLATION


def test_error_codes_of_alerts() -> None:
    hello = Hello(client_hello())
    del hello[16]
    alert = refused_by_server(hello.encode())
    assert alert.error_code == 0x178
    assert str(alert) == "TLS alert 120 no_application_protocol: the client offers no ALPN"
    assert alert.reason == alert.message


SERVER_HELLO_CASES: dict[str, tuple[Change, AlertDescription]] = {
    "TLS 1.2": (drop(43), A.PROTOCOL_VERSION),
    "TLS 1.2, marked as downgrade": (
        both(drop(43), field("random", bytes(24) + DOWNGRADE_MARKS[0])),
        A.ILLEGAL_PARAMETER,
    ),
    "TLS 1.1, marked as downgrade": (
        both(drop(43), field("random", bytes(24) + DOWNGRADE_MARKS[1])),
        A.ILLEGAL_PARAMETER,
    ),
    "version not offered": (put(43, b"\3\3"), A.ILLEGAL_PARAMETER),
    "version of three bytes": (put(43, b"\3\4\0"), A.DECODE_ERROR),
    "legacy_version": (field("version", b"\3\4"), A.ILLEGAL_PARAMETER),
    "session id": (field("session_id", b"x"), A.ILLEGAL_PARAMETER),
    "compression": (field("compressions", b"\1"), A.ILLEGAL_PARAMETER),
    "suite not offered": (field("suites", b"\x13\3"), A.ILLEGAL_PARAMETER),
    "reserved suite": (field("suites", b"\x0a\x0a"), A.ILLEGAL_PARAMETER),
    "HelloRetryRequest": (
        both(field("random", HELLO_RETRY_REQUEST), put(51, b"\0\x17")),
        A.HANDSHAKE_FAILURE,
    ),
    "no key_share": (drop(51), A.MISSING_EXTENSION),
    "share of another group": (put(51, b"\0\x17" + vector16(b"\4" + bytes(64))), A.ILLEGAL_PARAMETER),
    "share of small order": (put(51, b"\0\x1d" + vector16(bytes(32))), A.ILLEGAL_PARAMETER),
    "share cut": (put(51, b"\0\x1d\0\x20" + bytes(31)), A.DECODE_ERROR),
    "repeated extension": (twice(43), A.ILLEGAL_PARAMETER),
    "extension not offered": (put(0x1234, b""), A.UNSUPPORTED_EXTENSION),
    "pre_shared_key not offered": (put(41, b"\0\0"), A.UNSUPPORTED_EXTENSION),
    "ALPN in the wrong message": (put(16, b"\0\3\2h3"), A.ILLEGAL_PARAMETER),
}


def refused_by_client(flight: ServerFlight, *handshake: bytes, hello: bytes | None = None) -> TlsAlert:
    with pytest.raises(TlsAlert) as caught:
        flight.play(*handshake, hello=hello)
    assert not flight.client.complete
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("case", SERVER_HELLO_CASES)
def test_server_hello(case: str) -> None:
    change, expected = SERVER_HELLO_CASES[case]
    flight = ServerFlight()
    hello = Hello(flight.hello)
    change(hello)
    assert (refused_by_client(flight, hello=hello.encode()).description, case) == (expected, case)
    assert flight.client.take_secrets() == []


def test_hello_retry_request_says_so() -> None:
    flight = ServerFlight()
    hello = Hello(flight.hello)
    hello.random = HELLO_RETRY_REQUEST
    assert "HelloRetryRequest" in refused_by_client(flight, hello=hello.encode()).message


GOOD_EE = ((16, b"\0\x0b\x0ahq-interop"), (57, b"\1\2"))
ENCRYPTED_EXTENSIONS_CASES: dict[str, tuple[bytes, AlertDescription]] = {
    "no transport parameters": (extension_block(GOOD_EE[:1]), A.MISSING_EXTENSION),
    "no ALPN": (extension_block(GOOD_EE[1:]), A.NO_APPLICATION_PROTOCOL),
    "ALPN not offered": (extension_block(((16, b"\0\3\2h3"), GOOD_EE[1])), A.ILLEGAL_PARAMETER),
    "two protocols": (
        extension_block(((16, b"\0\x16" + b"\x0ahq-interop" * 2), GOOD_EE[1])),
        A.DECODE_ERROR,
    ),
    "empty ALPN": (extension_block(((16, b"\0\0"), GOOD_EE[1])), A.DECODE_ERROR),
    "SNI with content": (extension_block(((0, b"x"), *GOOD_EE)), A.DECODE_ERROR),
    "not offered": (extension_block(((42, b""), *GOOD_EE)), A.UNSUPPORTED_EXTENSION),
    "reserved value sent back": (extension_block(((0x0A0A, b""), *GOOD_EE)), A.UNSUPPORTED_EXTENSION),
    "key_share here": (extension_block(((51, b""), *GOOD_EE)), A.ILLEGAL_PARAMETER),
    "versions here": (extension_block(((43, b"\3\4"), *GOOD_EE)), A.ILLEGAL_PARAMETER),
    "repeated": (extension_block((GOOD_EE[1], *GOOD_EE)), A.ILLEGAL_PARAMETER),
    "block cut": (extension_block(GOOD_EE)[:-1], A.DECODE_ERROR),
    "half an extension": (extension_block(GOOD_EE) + b"\0\0\0", A.DECODE_ERROR),
}


@pytest.mark.parametrize("case", ENCRYPTED_EXTENSIONS_CASES)
def test_encrypted_extensions(case: str) -> None:
    block, expected = ENCRYPTED_EXTENSIONS_CASES[case]
    flight = ServerFlight()
    assert (refused_by_client(flight, message(8, vector16(block))).description, case) == (expected, case)


def test_encrypted_extensions_of_another_shape() -> None:
    block = extension_block(GOOD_EE)
    assert refused_by_client(ServerFlight(), message(8, vector16(block) + b"x")).description is A.DECODE_ERROR
    assert refused_by_client(ServerFlight(), message(8, b"\0")).description is A.DECODE_ERROR
    assert refused_by_client(ServerFlight(), message(8, b"")).description is A.DECODE_ERROR


def certificate_cases() -> dict[str, tuple[bytes, AlertDescription]]:
    der = ServerFlight().server.prepared.credentials.certificates[0]  # type: ignore[union-attr]
    entry = vector24(der) + b"\0\0"

    def body(entries: bytes, context: bytes = b"\0") -> bytes:
        return message(11, context + vector24(entries))

    # The key's algorithm identifier made unknown: ecPublicKey 1.2.840.10045.2.1 -> .2.7
    other_key = der.replace(bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce3d0207"), 1)
    return {
        "none": (body(b""), A.DECODE_ERROR),
        "empty": (body(b"\0\0\0\0\0"), A.DECODE_ERROR),
        "context": (body(entry, b"\1x"), A.ILLEGAL_PARAMETER),
        "tail": (message(11, b"\0" + vector24(entry) + b"x"), A.DECODE_ERROR),
        "list cut": (body(entry[:-1]), A.DECODE_ERROR),
        "garbage": (body(vector24(b"not DER") + b"\0\0"), A.BAD_CERTIFICATE),
        "DER cut": (body(vector24(der[:-1]) + b"\0\0"), A.BAD_CERTIFICATE),
        "key unknown": (body(vector24(other_key) + b"\0\0"), A.UNSUPPORTED_CERTIFICATE),
        "too many": (body(entry * (CERTIFICATE_CHAIN_MAX + 1)), A.BAD_CERTIFICATE),
        "extension not asked for": (body(vector24(der) + vector16(b"\0\5\0\0")), A.UNSUPPORTED_EXTENSION),
        "extension of another message": (body(vector24(der) + vector16(b"\0\x10\0\0")), A.ILLEGAL_PARAMETER),
    }


@pytest.mark.parametrize("case", certificate_cases())
def test_certificate(case: str) -> None:
    data, expected = certificate_cases()[case]
    flight = ServerFlight()
    assert (refused_by_client(flight, flight.encrypted_extensions, data).description, case) == (expected, case)


def test_certificate_verify() -> None:
    def refused(change: Callable[[bytes], bytes], **fields: object) -> AlertDescription:
        flight = ServerFlight(client_configuration(**fields))
        sent = flight.encrypted_extensions, flight.certificate, message(15, change(flight.verify[4:]))
        return refused_by_client(flight, *sent).description

    assert refused(lambda v: v[:-1] + bytes([v[-1] ^ 1])) is A.DECRYPT_ERROR
    assert refused(lambda v: v[:2] + vector16(b"")) is A.DECRYPT_ERROR
    assert refused(lambda v: v[:2] + vector16(bytes(72))) is A.DECRYPT_ERROR
    assert refused(lambda v: b"\x08\x07" + v[2:]) is A.ILLEGAL_PARAMETER  # does not fit the key
    assert refused(lambda v: b"\x05\x03" + v[2:]) is A.ILLEGAL_PARAMETER  # P-384 over a P-256 key
    assert refused(lambda v: b"\x04\x01" + v[2:]) is A.ILLEGAL_PARAMETER  # certificates only
    assert refused(lambda v: b"\x99\x99" + v[2:]) is A.ILLEGAL_PARAMETER
    assert refused(lambda v: v + b"x") is A.DECODE_ERROR
    assert refused(lambda v: v[:-1]) is A.DECODE_ERROR
    assert refused(lambda v: b"") is A.DECODE_ERROR
    # Without verification of the chain the signature still counts.
    assert refused(lambda v: v[:-1] + bytes([v[-1] ^ 1]), verify=False) is A.DECRYPT_ERROR


def test_certificate_of_somebody_else() -> None:
    """A right chain, signed for by another key."""
    mine, other = ServerFlight(), ServerFlight()
    sent = mine.encrypted_extensions, mine.certificate, other.verify
    assert refused_by_client(mine, *sent).description is A.DECRYPT_ERROR


def test_finished_of_the_server() -> None:
    def refused(change: Callable[[bytes], bytes]) -> AlertDescription:
        flight = ServerFlight(cheap_client(), cheap_server())
        sent = flight.encrypted_extensions, flight.certificate, flight.verify, message(20, change(flight.finished[4:]))
        alert = refused_by_client(flight, *sent)
        assert {s.epoch for s in flight.client.take_secrets()} == {Epoch.HANDSHAKE}
        return alert.description

    assert refused(lambda f: f[:-1] + bytes([f[-1] ^ 0x80])) is A.DECRYPT_ERROR
    assert refused(lambda f: f[:-1]) is A.DECODE_ERROR
    assert refused(lambda f: f + b"\0") is A.DECODE_ERROR
    assert refused(lambda f: b"") is A.DECODE_ERROR


def test_finished_of_the_client() -> None:
    client, server = make(cheap_client()), make(cheap_server())
    client.start()
    server.receive(*client.take_output()[0])
    for epoch, data in server.take_output():
        client.receive(epoch, data)
    ((_, finished),) = client.take_output()
    server.take_secrets()
    with pytest.raises(TlsAlert) as caught:
        server.receive(Epoch.HANDSHAKE, finished[:-1] + bytes([finished[-1] ^ 1]))
    assert caught.value.description is A.DECRYPT_ERROR
    assert server.take_secrets() == []
    assert not server.complete


def test_messages_out_of_order() -> None:
    def refused(*names: str) -> AlertDescription:
        flight = ServerFlight(cheap_client(), cheap_server())
        return refused_by_client(flight, *(getattr(flight, name) for name in names)).description

    ee, certificate, verify = "encrypted_extensions", "certificate", "verify"
    assert refused("certificate") is A.UNEXPECTED_MESSAGE
    assert refused("finished") is A.UNEXPECTED_MESSAGE
    assert refused(ee, ee) is A.UNEXPECTED_MESSAGE
    assert refused(ee, verify) is A.UNEXPECTED_MESSAGE
    # A server that leaves its certificate out (the flaw of CVE-2020-24613 and others).
    assert refused(ee, "finished") is A.UNEXPECTED_MESSAGE
    assert refused(ee, certificate, "finished") is A.UNEXPECTED_MESSAGE
    assert refused(ee, certificate, certificate) is A.UNEXPECTED_MESSAGE
    assert refused("hello") is A.UNEXPECTED_MESSAGE


def test_data_in_the_wrong_epoch() -> None:
    flight = ServerFlight(cheap_client(), cheap_server())
    for epoch in (Epoch.HANDSHAKE, Epoch.ONE_RTT, Epoch.ZERO_RTT):
        server = make(cheap_server())
        with pytest.raises(TlsAlert) as caught:
            server.receive(epoch, client_hello(cheap_client()))
        assert caught.value.description is A.UNEXPECTED_MESSAGE
        assert caught.value.error_code == TransportErrorCode.PROTOCOL_VIOLATION
    flight.play()
    flight.client.receive(Epoch.INITIAL, b"")  # nothing is no message
    with pytest.raises(TlsAlert, match="epoch INITIAL"):
        flight.client.receive(Epoch.INITIAL, flight.encrypted_extensions)


def test_bytes_behind_a_change_of_keys() -> None:
    """RFC 8446 §5.1, RFC 9001 §4.1.3"""
    for tail in (b"\x08", b"\x18\0\0\1\0"):
        flight = ServerFlight(cheap_client(), cheap_server())
        alert = refused_by_client(flight, hello=flight.hello + tail)
        assert alert.description is A.UNEXPECTED_MESSAGE
        assert alert.error_code == TransportErrorCode.PROTOCOL_VIOLATION
    flight = ServerFlight(cheap_client(), cheap_server())
    everything = flight.encrypted_extensions + flight.certificate + flight.verify + flight.finished
    with pytest.raises(TlsAlert, match="behind the last message"):
        flight.play(everything + b"\x04")


def test_after_the_handshake() -> None:
    def connected() -> ServerFlight:
        flight = ServerFlight(cheap_client(), cheap_server())
        flight.play(flight.encrypted_extensions, flight.certificate, flight.verify, flight.finished)
        assert flight.client.complete
        return flight

    def ticket(extensions: bytes = b"", ticket: bytes = b"t") -> bytes:
        return message(4, bytes(8) + vector8(b"n") + vector16(ticket) + vector16(extensions))

    def refused(data: bytes) -> TlsAlert:
        with pytest.raises(TlsAlert) as caught:
            connected().client.receive(Epoch.ONE_RTT, data)
        return caught.value

    client = connected().client
    for _ in range(3):
        client.receive(Epoch.ONE_RTT, ticket(extension_block([(42, b"\xff" * 4), (0x1234, b"x")])) + ticket())
    assert refused(ticket(extension_block([(42, b"\0\0\x40\0")]))).error_code == TransportErrorCode.PROTOCOL_VIOLATION
    assert refused(ticket(ticket=b"")).description is A.DECODE_ERROR
    assert refused(ticket() [:-2] + b"\0\1").description is A.DECODE_ERROR  # fmt: skip
    assert refused(message(13, b"\0\0\0")).error_code == TransportErrorCode.PROTOCOL_VIOLATION
    key_update = refused(message(24, b"\0"))
    assert key_update.description is A.UNEXPECTED_MESSAGE
    assert key_update.error_code == 0x10A  # RFC 9001 §6
    assert "KeyUpdate" in key_update.message

    client, server = make(cheap_client()), make(cheap_server())
    run(client, server)
    for kind in (24, 5, 4, 11, 1):
        other_client, other = make(cheap_client()), make(cheap_server())
        run(other_client, other)
        with pytest.raises(TlsAlert) as caught:
            other.receive(Epoch.ONE_RTT, message(kind, b"\0"))
        assert caught.value.error_code == 0x10A
    with pytest.raises(TlsAlert, match="epoch HANDSHAKE"):
        server.receive(Epoch.HANDSHAKE, message(20, bytes(32)))


def test_end_of_early_data_is_not_used() -> None:
    """RFC 9001 §8.3"""
    client, server = make(cheap_client()), make(cheap_server())
    client.start()
    server.receive(*client.take_output()[0])
    with pytest.raises(TlsAlert) as caught:
        server.receive(Epoch.HANDSHAKE, message(5, b""))
    assert caught.value.description is A.UNEXPECTED_MESSAGE


def certificate_request(extensions: bytes, context: bytes = b"") -> bytes:
    return message(13, vector8(context) + vector16(extensions))


def test_certificate_request() -> None:
    schemes = extension_block([(13, vector16(b"\4\3"))])

    def refused(data: bytes) -> AlertDescription:
        flight = ServerFlight(cheap_client(), cheap_server())
        return refused_by_client(flight, flight.encrypted_extensions, data).description

    assert refused(certificate_request(schemes, b"x")) is A.ILLEGAL_PARAMETER
    assert refused(certificate_request(extension_block([(0x1234, b"")]))) is A.MISSING_EXTENSION
    assert refused(certificate_request(b"")) is A.DECODE_ERROR
    assert refused(certificate_request(schemes + schemes)) is A.ILLEGAL_PARAMETER
    flight = ServerFlight(cheap_client(), cheap_server())
    again = certificate_request(schemes)
    assert refused_by_client(flight, flight.encrypted_extensions, again, again).description is A.UNEXPECTED_MESSAGE


def test_a_failed_handshake_stays_failed() -> None:
    server = make(server_configuration())
    with pytest.raises(TlsAlert) as first:
        server.receive(Epoch.INITIAL, b"\x02\0\0\0")
    with pytest.raises(TlsAlert) as second:
        server.receive(Epoch.INITIAL, client_hello())
    assert first.value.args == second.value.args
    assert first.value is not second.value


def test_flight_of_another_suite() -> None:
    """Suites that the client offers are still checked one by one."""
    server = make(server_configuration(cipher_suites=[0x1302], groups=[SECP256R1, X25519]))
    client = make(client_configuration(key_shares=2))
    run(client, server)
    assert (client.cipher_suite, client.group) == (0x1302, SECP256R1)
    assert [m[0] for m in split(client_hello())] == [1]
