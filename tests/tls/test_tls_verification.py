"""Which server certificates a client accepts, and the alert and the line of text for those it does not."""

from __future__ import annotations

import datetime as dt
import os
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from tls_pair import NOW, authority, client_configuration, leaf, make, pump, run, server_configuration, trust

from stoq.crypto.certificates import Credentials, Issued, TrustStore, make_leaf, make_test_ca
from stoq.tls import AlertDescription, Handshake, TlsAlert, TlsConfiguration

A = AlertDescription


def shake(credentials: Credentials, when: dt.datetime = NOW, **changes: Any) -> Handshake:
    """A handshake against a server with these credentials; TlsAlert comes from the client."""
    client = Handshake(client_configuration(**changes), transport_parameters=b"", random=os.urandom, now=lambda: when)
    server = make(server_configuration(credentials=credentials))
    run(client, server)
    assert client.complete
    assert server.complete
    return client


def refused(credentials: Credentials, when: dt.datetime = NOW, **changes: Any) -> TlsAlert:
    with pytest.raises(TlsAlert) as caught:
        shake(credentials, when, **changes)
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "localhost.", "quic.example", "127.0.0.1", "::1"])
def test_names_and_addresses(name: str) -> None:
    shake(leaf().credentials(), server_name=name)


@pytest.mark.parametrize("name", ["other.example", "sub.quic.example", "example", "127.0.0.2", "::2"])
def test_wrong_name(name: str) -> None:
    alert = refused(leaf().credentials(), server_name=name)
    assert alert.description is A.BAD_CERTIFICATE
    assert alert.message == f"the certificate is for localhost, quic.example, 127.0.0.1, ::1, not for {name}"


def test_wildcards() -> None:
    credentials = make_leaf(authority(), ["*.example.net"], NOW).credentials()
    shake(credentials, server_name="a.example.net")
    for name in ("example.net", "a.b.example.net"):
        alert = refused(credentials, server_name=name)
        assert alert.description is A.BAD_CERTIFICATE
        assert "is for *.example.net, not for" in alert.message


def test_outside_its_validity() -> None:
    short = make_leaf(authority(), ["localhost"], NOW, days=1).credentials()
    shake(short)
    late = refused(short, NOW + dt.timedelta(days=2))
    assert late.description is A.CERTIFICATE_EXPIRED
    assert late.message == "the certificate CN=localhost expired at 2026-03-02 12:00+00:00"
    early = refused(short, NOW - dt.timedelta(days=2))
    assert early.description is A.CERTIFICATE_EXPIRED
    assert "is not valid before 2026-03-01 11:55" in early.message


def test_a_clock_without_a_zone_is_utc() -> None:
    short = make_leaf(authority(), ["localhost"], NOW, days=1).credentials()
    naive = NOW.replace(tzinfo=None)
    shake(short, naive)
    assert refused(short, naive + dt.timedelta(days=2)).description is A.CERTIFICATE_EXPIRED


def test_unknown_issuer() -> None:
    stranger = make_leaf(make_test_ca(NOW, name="stranger"), ["localhost"], NOW).credentials()
    alert = refused(stranger)
    assert alert.description is A.UNKNOWN_CA
    assert alert.message == "the issuer CN=stranger is not known, or an intermediate certificate is missing"
    impostor = make_leaf(make_test_ca(NOW), ["localhost"], NOW).credentials()  # same name, another key
    assert refused(impostor).description is A.BAD_CERTIFICATE
    assert shake(stranger, verify=False).peer_certificates == stranger.certificates


def test_intermediates() -> None:
    middle = make_test_ca(NOW, name="middle", issuer=authority())
    low = make_test_ca(NOW, name="low", issuer=middle)
    issued = make_leaf(low, ["localhost"], NOW)
    credentials = issued.credentials()
    assert len(credentials.certificates) == 3
    shake(credentials)
    alone = Credentials([issued.certificate], issued.private_key)
    alert = refused(alone)
    assert alert.description is A.UNKNOWN_CA
    assert "CN=low is not known, or an intermediate certificate is missing" in alert.message
    gap = Credentials([issued.certificate, low.certificate], issued.private_key)
    assert "CN=middle is not known" in refused(gap).message
    # The order of the others does not matter, and ones that do not belong are ignored (RFC 8446 §4.4.2).
    other = make_test_ca(NOW, name="other")
    shaken = [issued.certificate, other.certificate, middle.certificate, low.certificate]
    shake(Credentials(shaken, issued.private_key))
    # An intermediate may itself be the anchor.
    shake(alone, trust=TrustStore([low.certificate]))


def test_expired_intermediate() -> None:
    middle = make_test_ca(NOW, name="middle", issuer=authority(), days=1)
    credentials = make_leaf(middle, ["localhost"], NOW).credentials()
    alert = refused(credentials, NOW + dt.timedelta(days=2))
    assert alert.description is A.CERTIFICATE_EXPIRED
    assert "CN=middle" in alert.message


def test_leaf_that_signs_leaves() -> None:
    """A server certificate must not serve as an authority."""
    fake = make_leaf(leaf(), ["quic.example"], NOW)
    credentials = Credentials([fake.certificate, leaf().certificate], fake.private_key)
    alert = refused(credentials, server_name="quic.example")
    assert alert.description is A.BAD_CERTIFICATE
    assert "invalid" in alert.message


def test_self_signed_leaf_as_anchor() -> None:
    for credentials in self_signed():
        pinned = TrustStore([credentials.leaf])
        shake(credentials, trust=pinned)
        alert = refused(credentials, trust=pinned, server_name="quic.example")
        assert alert.description is A.BAD_CERTIFICATE
        assert "is for localhost" in alert.message
        assert refused(credentials, NOW + dt.timedelta(days=9999), trust=pinned).description is A.CERTIFICATE_EXPIRED
        unknown = refused(credentials)
        assert unknown.description is A.UNKNOWN_CA
        assert "self-signed and not trusted" in unknown.message


def self_signed() -> list[Credentials]:
    """As `openssl req -x509` makes them: with and without the mark of an authority."""
    found = []
    for authority_mark in (None, False, True):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "self")])
        builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(NOW).not_valid_after(NOW + dt.timedelta(days=30))
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        if authority_mark is not None:
            builder = builder.add_extension(x509.BasicConstraints(authority_mark, None), critical=True)
        found.append(Credentials([builder.sign(key, hashes.SHA256())], key))
    return found


def test_leaf_with_an_issuer_as_anchor() -> None:
    shake(leaf().credentials(), trust=TrustStore([leaf().certificate]))


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-384", "P-521", "RSA-2048"],
)
def test_keys_of_servers(key: Any) -> None:
    issued = make_leaf(authority(), ["localhost"], NOW, private_key=key)
    client = shake(issued.credentials())
    assert client.signature_scheme in (0x0503, 0x0603, 0x0804)


def test_ed25519() -> None:
    issued = make_leaf(authority(), ["localhost"], NOW, private_key=ed25519.Ed25519PrivateKey.generate())
    assert shake(issued.credentials()).signature_scheme == 0x0807
    # The verifier follows the web PKI's profile, in which no authority has such a key.
    root = make_test_ca(NOW, private_key=ed25519.Ed25519PrivateKey.generate())
    credentials = make_leaf(root, ["localhost"], NOW).credentials()
    alert = refused(credentials, trust=TrustStore([root.certificate]))
    assert alert.description is A.BAD_CERTIFICATE
    assert "algorithm" in alert.message
    shake(credentials, verify=False)


def test_authority_with_an_rsa_key() -> None:
    root = make_test_ca(NOW, private_key=rsa.generate_private_key(65537, 2048))
    shake(make_leaf(root, ["localhost"], NOW).credentials(), trust=TrustStore([root.certificate]))


def test_a_verified_chain_is_remembered_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    store = TrustStore([authority().certificate])
    checks: list[dt.datetime] = []
    original = TrustStore._check

    def counting(self: TrustStore, *args: Any) -> list[x509.Certificate]:
        checks.append(args[-1])
        return original(self, *args)

    monkeypatch.setattr(TrustStore, "_check", counting)
    issued = make_leaf(authority(), ["localhost", "quic.example"], NOW, days=1)
    credentials = issued.credentials()

    def at(seconds: float, name: str = "localhost") -> int:
        before = len(checks)
        shake(credentials, NOW + dt.timedelta(seconds=seconds), trust=store, server_name=name)
        return len(checks) - before

    assert at(0) == 1
    assert at(0) == at(59) == 0
    assert at(0, "quic.example") == 1  # another name is another question
    assert at(61) == 1
    assert at(30) == 1  # a clock that went back
    assert at(86399) == 1
    with pytest.raises(TlsAlert):  # never past the end of the validity, though 60 s are not over
        at(86401)
    # A store of its own knows nothing of it.
    other = TrustStore([authority().certificate])
    before = len(checks)
    shake(credentials, trust=other)
    assert len(checks) == before + 1


def test_failures_are_not_remembered() -> None:
    store = trust()
    credentials = make_leaf(authority(), ["localhost"], NOW + dt.timedelta(hours=1)).credentials()
    assert refused(credentials, trust=store).description is A.CERTIFICATE_EXPIRED
    shake(credentials, NOW + dt.timedelta(hours=2), trust=store)
    stranger = make_leaf(make_test_ca(NOW, name="stranger"), ["localhost"], NOW)
    for _ in range(2):
        assert refused(stranger.credentials(), trust=store).description is A.UNKNOWN_CA


def test_another_certificate_under_a_known_name_is_checked() -> None:
    store = TrustStore([authority().certificate])
    shake(leaf().credentials(), trust=store)
    twin: Issued = make_leaf(make_test_ca(NOW), ["localhost"], NOW)
    assert refused(twin.credentials(), trust=store).description is A.BAD_CERTIFICATE


def test_an_anonymous_certificate() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    builder = x509.CertificateBuilder(authority().certificate.subject, name, key.public_key(), 77)
    builder = builder.not_valid_before(NOW).not_valid_after(NOW + dt.timedelta(days=1))
    certificate = builder.sign(authority().private_key, hashes.SHA256())
    alert = refused(Credentials([certificate], key))
    assert alert.description is A.BAD_CERTIFICATE
    assert alert.message == "the certificate carries no DNS name and no IP address"


def test_no_1rtt_secret_for_a_refused_server() -> None:
    client = make(client_configuration(server_name="other.example"))
    server = make(server_configuration())
    client.start()
    pump(client, server)
    with pytest.raises(TlsAlert):
        pump(server, client)
    assert all(s.epoch < 3 for s in client.take_secrets())
    assert client.take_output() == []


def test_verify_is_on_unless_switched_off() -> None:
    assert TlsConfiguration(is_client=True).verify is True


def test_a_handshake_keeps_the_identity_it_began_with() -> None:
    """Connections share a configuration: the next one's name, or its trust, is not this one's."""
    configuration = client_configuration(server_name="other.example")
    client, server = make(configuration), make(server_configuration())
    client.start()
    pump(client, server)
    configuration.server_name = "localhost"
    configuration.verify = False
    with pytest.raises(TlsAlert):
        pump(server, client)
    own = server_configuration()
    client, server = make(client_configuration()), make(own)
    client.start()
    own.credentials = make_leaf(make_test_ca(NOW, name="renewed"), ["localhost"], NOW).credentials()
    pump(client, server)
    pump(server, client)
    assert client.complete
