"""What a chain may cost and which keys and usages a trust store believes, whatever a peer sends."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from stoq.crypto.certificates import (
    CertificateError,
    ChainError,
    ChainProblem,
    Credentials,
    Issued,
    PeerChain,
    TrustStore,
    make_leaf,
    make_test_ca,
    subject_of,
)
from stoq.crypto.signatures import RSA_MODULUS_MAX, schemes_for
from stoq.errors import ConfigurationError

NOW = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
AUTHORITY = make_test_ca(NOW)
LEAF = make_leaf(AUTHORITY, ["localhost"], NOW)
USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def chain_of(*certificates: x509.Certificate) -> PeerChain:
    return PeerChain([c.public_bytes(Encoding.DER) for c in certificates])


def refused(store: TrustStore, chain: PeerChain, host: str = "localhost") -> ChainError:
    with pytest.raises(ChainError) as caught:
        store.verify(chain, host, NOW)
    return caught.value


def leaf_with(usages: tuple[str, ...] | None, issuer: Issued | None = AUTHORITY) -> x509.Certificate:
    """A leaf for localhost with this key usage; self-signed without an issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    above = issuer.certificate.subject if issuer else name
    builder = x509.CertificateBuilder(above, name, key.public_key(), 7, NOW - DAY, NOW + DAY)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    if usages is not None:
        builder = builder.add_extension(x509.KeyUsage(**{usage: usage in usages for usage in USAGES}), critical=True)
    return builder.sign(issuer.private_key if issuer else key, hashes.SHA256())


# ---- cost


def crossed(curve: ec.EllipticCurve, count: int) -> PeerChain:
    """Two authorities that have signed each other several times: each step of a path has several continuations."""
    key = ec.generate_private_key(curve)
    first, second = (make_test_ca(NOW, name=name, private_key=key) for name in "AB")
    links = [make_test_ca(NOW, name="A", private_key=key, issuer=second) for _ in range((count + 1) // 2)]
    links += [make_test_ca(NOW, name="B", private_key=key, issuer=first) for _ in range(count // 2)]
    leaf = make_leaf(first, ["localhost"], NOW)
    return chain_of(leaf.certificate, *(link.certificate for link in links))


def test_crossed_authorities_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the verifier: older ones build every path, which takes minutes."""
    store = TrustStore([AUTHORITY.certificate])
    chain = crossed(ec.SECP256R1(), 9)
    monkeypatch.setattr(TrustStore, "_check", lambda *_: pytest.fail("the verifier saw the chain"))
    began = time.process_time()
    error = refused(store, chain)
    assert time.process_time() - began < 0.1
    assert error.problem is ChainProblem.INVALID
    assert "too many paths" in error.message


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_no_crossed_chain_is_slow(count: int) -> None:
    store = TrustStore([AUTHORITY.certificate])
    chain = crossed(ec.SECP521R1(), count)
    began = time.process_time()
    refused(store, chain)
    assert time.process_time() - began < 0.1


def test_chains_that_occur_are_not_too_many_paths() -> None:
    """The root, an old root, both roots signed by an older one, junk, and everything twice."""
    key = ec.generate_private_key(ec.SECP256R1())
    older = make_test_ca(NOW, name="older")
    root = make_test_ca(NOW, name="root", private_key=key)
    crossed_root = make_test_ca(NOW, name="root", private_key=key, issuer=older)
    middle = make_test_ca(NOW, name="middle", issuer=root)
    leaf = make_leaf(middle, ["localhost"], NOW)
    sent = [middle, root, crossed_root, older, make_test_ca(NOW, name="junk")]
    chain = chain_of(leaf.certificate, *(item.certificate for item in sent))
    twice = chain_of(
        leaf.certificate, *(item.certificate for item in (middle, middle, root, root, crossed_root, older))
    )
    for anchor in (root, older, middle):
        TrustStore([anchor.certificate]).verify(chain, "localhost", NOW)
        TrustStore([anchor.certificate]).verify(twice, "localhost", NOW)


def test_a_refused_chain_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """To say why, no signature is checked again."""
    checks = 0
    original = TrustStore._check

    def counting(self: TrustStore, *args: Any) -> list[x509.Certificate]:
        nonlocal checks
        checks += 1
        return original(self, *args)

    monkeypatch.setattr(TrustStore, "_check", counting)
    store = TrustStore([AUTHORITY.certificate])
    twin = make_leaf(make_test_ca(NOW), ["localhost"], NOW)
    wildcard = make_leaf(AUTHORITY, ["*.example", "1.2.3.4"], NOW)
    assert refused(store, chain_of(twin.certificate)).problem is ChainProblem.INVALID
    assert refused(store, chain_of(LEAF.certificate), "other").problem is ChainProblem.WRONG_NAME
    for host in ("a.b.example", "example", "1.2.3.5", "::1"):
        assert refused(store, chain_of(wildcard.certificate), host).problem is ChainProblem.WRONG_NAME
    assert checks == 6


def test_a_huge_key_of_an_intermediate() -> None:
    huge = rsa.RSAPublicNumbers(65537, (1 << RSA_MODULUS_MAX) | 1).public_key()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "huge")])
    builder = x509.CertificateBuilder(AUTHORITY.certificate.subject, name, huge, 7, NOW - DAY, NOW + DAY)
    certificate = builder.sign(AUTHORITY.private_key, hashes.SHA256())
    error = refused(TrustStore([AUTHORITY.certificate]), chain_of(LEAF.certificate, certificate))
    assert error.problem is ChainProblem.UNSUPPORTED_KEY
    assert "8193 bits" in error.message


# ---- keys and usages


def test_a_short_rsa_key() -> None:
    key = rsa.generate_private_key(65537, 1024)
    assert schemes_for(key.public_key()) == ()
    issued = make_leaf(AUTHORITY, ["localhost"], NOW, private_key=key)
    with pytest.raises(CertificateError):
        issued.credentials()


def test_a_key_for_pss_only_is_no_rsae_key(tmp_path: Path) -> None:
    """RFC 8446 §4.2.3: id-RSASSA-PSS keys have schemes of their own. `cryptography` cannot make such a certificate."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048", "-nodes"]
    command += ["-subj", "/CN=localhost", "-keyout", "key", "-out", "leaf"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=20, check=True)
    leaf, key = (tmp_path / "leaf").read_bytes(), (tmp_path / "key").read_bytes()
    with pytest.raises(ChainError) as caught:
        chain_of(x509.load_pem_x509_certificate(leaf))
    assert caught.value.problem is ChainProblem.UNSUPPORTED_KEY
    with pytest.raises(CertificateError, match="id-RSASSA-PSS"):
        Credentials.from_pem(leaf, key)


@pytest.mark.parametrize("pinned", [False, True])
def test_key_usage_of_a_leaf(pinned: bool) -> None:
    """RFC 8446 §4.4.2.2: digitalSignature, when the extension is there."""
    issuer = None if pinned else AUTHORITY

    def judge(*usages: str) -> None:
        certificate = leaf_with(usages or None, issuer)
        TrustStore([certificate if pinned else AUTHORITY.certificate]).verify(chain_of(certificate), "localhost", NOW)

    judge()
    judge("digital_signature")
    judge("digital_signature", "key_encipherment")
    for wrong in (("key_encipherment",), ("key_agreement",), ("content_commitment",)):
        with pytest.raises(ChainError) as caught:
            judge(*wrong)
        assert caught.value.problem is ChainProblem.INVALID
    if pinned:
        judge("digital_signature", "key_cert_sign")  # a self-signed certificate may be an authority's
    else:
        with pytest.raises(ChainError):
            judge("digital_signature", "key_cert_sign")


# ---- memory


def test_a_date_that_does_not_exist_in_a_certificate_of_no_use() -> None:
    junk = make_test_ca(NOW, name="junk", days=365 * 40).certificate.public_bytes(Encoding.DER)
    assert junk.count(b"2066") == 1
    chain = PeerChain([LEAF.certificate.public_bytes(Encoding.DER), junk.replace(b"2066", b"0000")])
    TrustStore([AUTHORITY.certificate]).verify(chain, "localhost", NOW)


def test_success_is_not_remembered_past_the_anchor() -> None:
    anchor = make_test_ca(NOW, days=10 / 86400)
    store = TrustStore([anchor.certificate])
    chain = chain_of(make_leaf(anchor, ["localhost"], NOW).certificate)
    store.verify(chain, "localhost", NOW)
    with pytest.raises(ChainError):
        store.verify(chain, "localhost", NOW + dt.timedelta(seconds=20))


def test_an_expired_certificate_of_no_use_does_not_keep_a_chain_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    old = make_test_ca(NOW - 30 * DAY, name="old", days=1)
    store = TrustStore([AUTHORITY.certificate])
    chain = chain_of(LEAF.certificate, old.certificate)
    store.verify(chain, "localhost", NOW)
    monkeypatch.setattr(TrustStore, "_check", lambda *_: pytest.fail("verified again"))
    store.verify(chain, "localhost", NOW)


def test_memory_that_another_thread_empties(monkeypatch: pytest.MonkeyPatch) -> None:
    store = TrustStore([AUTHORITY.certificate])
    chain = chain_of(LEAF.certificate)

    class Racing(type(store._verified)):  # type: ignore[misc]
        """The entry is gone right after it was looked at."""

        def get(self, key: Any, default: Any = None) -> Any:
            found = super().get(key, default)
            self.clear()
            return found

    store._verified = Racing()
    for _ in range(3):
        store.verify(chain, "localhost", NOW)
    assert len(store._verified) == 1


# ---- names


@pytest.mark.parametrize(
    "host", ["1.2.3.4.", "127.1", "2130706433", "0x7f.0.0.1", "0x7f000001", "010.0.0.1", "a.0x", "a.1"]
)
def test_numbers_that_the_resolver_takes_for_addresses(host: str) -> None:
    with pytest.raises(ConfigurationError, match="neither a host name"):
        subject_of(host)


@pytest.mark.parametrize("host", ["1.example", "a1", "0xg", "127.1.example."])
def test_names_with_digits(host: str) -> None:
    assert subject_of(host).value == host.removesuffix(".")


def test_oddities_of_a_peer_are_not_written_to_standard_error() -> None:
    """In a process of its own: pytest has filters of its own."""
    program = """
import sys
from stoq.crypto.chain import PeerChain
der = bytearray(sys.stdin.buffer.read())
der[der.index(bytes.fromhex("020107")) + 2] = 0  # a serial number of 0
PeerChain([bytes(der)])
"""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", program],
        input=leaf_with(None).public_bytes(Encoding.DER),
        capture_output=True,
        timeout=20,
        check=True,
    )
    assert done.stderr == b""
