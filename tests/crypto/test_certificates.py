"""Credentials, trust stores and the test authority: good input works, every wrong input gives one clear line."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from stoq.crypto.certificates import (
    CERTIFICATE_CHAIN_MAX,
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
from stoq.crypto.simulated import simulated_authority, simulated_leaf
from stoq.crypto.trust import VERIFIED_MAX
from stoq.errors import ConfigurationError

NOW = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)
AUTHORITY = make_test_ca(NOW)
LEAF = make_leaf(AUTHORITY, ["localhost", "127.0.0.1"], NOW)
CHAIN = PeerChain(LEAF.credentials().certificates)
STORE = TrustStore([AUTHORITY.certificate])


# ---- credentials


def test_from_pem() -> None:
    middle = make_test_ca(NOW, name="middle", issuer=AUTHORITY)
    issued = make_leaf(middle, ["localhost"], NOW)
    credentials = Credentials.from_pem(issued.chain_pem, issued.key_pem)
    assert credentials.certificates == issued.credentials().certificates
    assert len(credentials.certificates) == 2
    assert credentials.supports(0x0403)
    assert not credentials.supports(0x0503)
    assert not credentials.supports(0x9999)
    # One file may hold both, as some servers like it.
    both = issued.key_pem + issued.chain_pem
    assert Credentials.from_pem(both, both).certificates == credentials.certificates


def test_from_files(tmp_path: Path) -> None:
    (tmp_path / "chain.pem").write_bytes(LEAF.chain_pem)
    (tmp_path / "key.pem").write_bytes(LEAF.key_pem)
    assert Credentials.from_files(tmp_path / "chain.pem", str(tmp_path / "key.pem")).leaf == LEAF.certificate
    with pytest.raises(CertificateError, match=r"missing.pem: No such file"):
        Credentials.from_files(tmp_path / "chain.pem", tmp_path / "missing.pem")


def key_pem(key: Any, password: bytes | None = None, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    pem: bytes = key.private_bytes(Encoding.PEM, form, encryption)
    return pem


def test_forms_of_keys() -> None:
    for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
        assert Credentials.from_pem(LEAF.chain_pem, key_pem(LEAF.private_key, None, form)).leaf == LEAF.certificate
    locked = key_pem(LEAF.private_key, b"secret")
    for password in (b"secret", "secret"):
        assert Credentials.from_pem(LEAF.chain_pem, locked, password).leaf == LEAF.certificate
    # A password that is not needed does no harm.
    assert Credentials.from_pem(LEAF.chain_pem, LEAF.key_pem, "secret").leaf == LEAF.certificate


def self_made(key: Any, signer: Any = None) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 5, NOW, NOW + dt.timedelta(days=1))
    return builder.sign(signer or key, hashes.SHA256())


DSA = dsa.generate_private_key(1024)
LOCKED = key_pem(LEAF.private_key, b"secret")
WRONG: dict[str, tuple[bytes, bytes, str | None, str]] = {
    "certificate not PEM": (b"not PEM", LEAF.key_pem, None, "certificate is not PEM"),
    "certificate empty": (b"", LEAF.key_pem, None, "certificate is not PEM"),
    "certificate is DER": (LEAF.certificate.public_bytes(Encoding.DER), LEAF.key_pem, None, "certificate is not PEM"),
    "certificate cut": (LEAF.chain_pem[:200] + LEAF.chain_pem[260:], LEAF.key_pem, None, "certificate is malformed"),
    "no end line": (LEAF.chain_pem[:300], LEAF.key_pem, None, "certificate is malformed"),
    "key not PEM": (LEAF.chain_pem, b"not PEM", None, "private key is not PEM"),
    "a certificate as key": (LEAF.chain_pem, LEAF.chain_pem, None, "private key is not PEM"),
    "key cut": (LEAF.chain_pem, LEAF.key_pem[:60] + LEAF.key_pem[100:], None, "private key is malformed"),
    "key of another": (LEAF.chain_pem, AUTHORITY.key_pem, None, "does not belong"),
    "key of another kind": (
        LEAF.chain_pem,
        key_pem(rsa.generate_private_key(65537, 2048)),
        None,
        "does not belong",
    ),
    "authority first": (AUTHORITY.certificate_pem + LEAF.chain_pem, LEAF.key_pem, None, "does not belong"),
    "key locked": (LEAF.chain_pem, LOCKED, None, "a password is needed"),
    "wrong password": (LEAF.chain_pem, LOCKED, "guess", "wrong password"),
    "DSA": (
        self_made(DSA).public_bytes(Encoding.PEM),
        key_pem(DSA),
        None,
        "key of this kind cannot be used: DSA",
    ),
    "P-224": (
        self_made(k224 := ec.generate_private_key(ec.SECP224R1())).public_bytes(Encoding.PEM),
        key_pem(k224),
        None,
        "cannot be used",
    ),
    "too many": (LEAF.chain_pem * (CERTIFICATE_CHAIN_MAX + 1), LEAF.key_pem, None, "more than 10"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input(case: str) -> None:
    chain, key, password, text = WRONG[case]
    with pytest.raises(CertificateError, match=text) as caught:
        Credentials.from_pem(chain, key, password)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


# ---- trust


def test_trust_from_every_source(tmp_path: Path) -> None:
    other = make_test_ca(NOW, name="other")
    pem = b"comment\n" + AUTHORITY.certificate_pem + b"\n" + other.certificate_pem
    (tmp_path / "bundle.pem").write_bytes(pem)
    (tmp_path / "0a1b2c3d.0").write_bytes(AUTHORITY.certificate_pem)
    (tmp_path / "notes.txt").write_text("nothing here")
    (tmp_path / "key.pem").write_bytes(AUTHORITY.key_pem)
    stores = [
        TrustStore.from_pem(pem),
        TrustStore.from_file(tmp_path / "bundle.pem"),
        TrustStore.from_directory(tmp_path),
        TrustStore.system([str(tmp_path / "missing"), str(tmp_path / "bundle.pem")]),
    ]
    for store in stores:
        assert {a.subject for a in store.anchors} == {AUTHORITY.certificate.subject, other.certificate.subject}
        store.verify(CHAIN, "localhost", NOW)


def test_trust_from_wrong_sources(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.pem").write_bytes(AUTHORITY.certificate_pem.replace(b"MII", b"AAA"))
    attempts: dict[str, Any] = {
        "no PEM certificate": lambda: TrustStore.from_pem(b"x"),
        "malformed certificate": lambda: TrustStore.from_file(tmp_path / "bad.pem"),
        "No such file": lambda: TrustStore.from_file(tmp_path / "missing"),
        "Is a directory": lambda: TrustStore.from_file(tmp_path),
        "not a directory": lambda: TrustStore.from_directory(tmp_path / "bad.pem"),
        "no certificate in this directory": lambda: TrustStore.from_directory(tmp_path / "empty"),
        "no system certificate bundle": lambda: TrustStore.system([]),
        "at least one certificate": lambda: TrustStore([]),
    }
    for text, attempt in attempts.items():
        with pytest.raises(ConfigurationError, match=text) as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_a_directory_with_one_bad_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_bytes(AUTHORITY.certificate_pem.replace(b"MII", b"AAA"))
    with pytest.raises(ConfigurationError, match=r"bad\.pem: malformed"):
        TrustStore.from_directory(tmp_path)


@pytest.mark.parametrize("host", ["localhost", "a-b.example", "_x.example", "1.2.3.4", "::1", "xn--bcher-kva.example"])
def test_hosts(host: str) -> None:
    assert str(subject_of(host).value) == host


@pytest.mark.parametrize("host", ["", ".", "a..b", "-a", "a-", "bücher.example", "a b", "x" * 64, "a." * 130, "[::1]"])
def test_no_hosts(host: str) -> None:
    with pytest.raises(ConfigurationError, match="neither a host name"):
        subject_of(host)


def test_public_chain_of_unknown_origin() -> None:
    with pytest.raises(ChainError) as caught:
        TrustStore([make_test_ca(NOW, name="other").certificate]).verify(CHAIN, "localhost", NOW)
    assert caught.value.problem is ChainProblem.UNKNOWN_ISSUER


def test_memory_of_verified_chains_is_bounded() -> None:
    store = TrustStore([AUTHORITY.certificate])
    leaf = make_leaf(AUTHORITY, ["*.example"], NOW)
    chain = PeerChain(leaf.credentials().certificates)
    for i in range(VERIFIED_MAX + 5):
        store.verify(chain, f"h{i}.example", NOW)
    assert len(store._verified) == VERIFIED_MAX
    assert (chain.digest, "h0.example") not in store._verified


@settings(max_examples=150, deadline=None)
@given(
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=3),
    host=st.sampled_from(["localhost", "127.0.0.1"]),
)
def test_mutated_certificates_are_refused_quietly(edits: list[tuple[float, int]], host: str) -> None:
    der = bytearray(CHAIN.certificates[0])
    for where, value in edits:
        der[int(where * len(der))] = value
    if bytes(der) == CHAIN.certificates[0]:
        return
    with pytest.raises(ChainError) as caught:
        STORE.verify(PeerChain([bytes(der)]), host, NOW)
    assert "\n" not in str(caught.value)


def test_a_version_that_does_not_exist() -> None:
    der = CHAIN.certificates[0]
    assert der.count(bytes.fromhex("a003020102")) == 1
    with pytest.raises(ChainError) as caught:
        PeerChain([der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a00302014b"))])
    assert caught.value.problem is ChainProblem.MALFORMED


def test_malformed_intermediates() -> None:
    chain = PeerChain([CHAIN.certificates[0], b"junk"])
    with pytest.raises(ChainError) as caught:
        STORE.verify(chain, "localhost", NOW)
    assert caught.value.problem is ChainProblem.MALFORMED


# ---- the test authority


def test_authority_and_leaf() -> None:
    constraints = AUTHORITY.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.value.ca
    assert constraints.critical
    names = LEAF.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert isinstance(LEAF.private_key.curve, ec.SECP256R1)
    assert LEAF.certificate.not_valid_before_utc == NOW - dt.timedelta(minutes=5)
    assert LEAF.certificate.not_valid_after_utc == NOW + dt.timedelta(days=90)
    assert LEAF.chain_pem == LEAF.certificate_pem
    for names_given in ([], ["bücher.example"]):
        with pytest.raises(ConfigurationError):
            make_leaf(AUTHORITY, names_given, NOW)


def test_openssl_believes_them(tmp_path: Path) -> None:
    middle = make_test_ca(NOW, name="middle", issuer=AUTHORITY)
    issued = make_leaf(middle, ["localhost", "::1"], NOW)
    files: dict[str, Issued] = {"root": AUTHORITY, "middle": middle, "leaf": issued}
    for name, item in files.items():
        (tmp_path / name).write_bytes(item.certificate_pem)
    command = ["openssl", "verify", "-attime", str(int(NOW.timestamp())), "-x509_strict", "-purpose", "sslserver"]
    command += ["-CAfile", "root", "-untrusted", "middle", "-verify_hostname", "localhost", "leaf"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False)
    assert done.stdout.strip() == "leaf: OK", done.stdout + done.stderr


def test_simulated_certificates_are_the_same_in_every_process() -> None:
    code = (
        "from stoq.crypto.simulated import simulated_leaf, simulated_authority as a;"
        "import sys; sys.stdout.buffer.write(simulated_leaf().chain_pem + a().certificate_pem)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=20, check=True)
    assert done.stdout == simulated_leaf().chain_pem + simulated_authority().certificate_pem
    TrustStore([simulated_authority().certificate]).verify(
        PeerChain(simulated_leaf().credentials().certificates), "localhost", NOW
    )
