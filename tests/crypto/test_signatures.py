"""One suite over every registered signature scheme."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa, x25519
from hypothesis import given, settings
from hypothesis import strategies as st

from stoq.crypto import signatures
from stoq.crypto.signatures import DEFAULT_SCHEMES, SCHEMES, SignatureError, schemes_for
from stoq.crypto.simulated import SIMULATED_SCHEME, register_simulated

register_simulated()
P256 = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
KEYS: dict[int, Any] = {
    0x0403: P256,
    0x0503: ec.generate_private_key(ec.SECP384R1()),
    0x0603: ec.generate_private_key(ec.SECP521R1()),
    0x0807: ed25519.Ed25519PrivateKey.generate(),
    0x0804: RSA,
    0x0805: RSA,
    0x0806: RSA,
    0x0401: RSA,
    0x0501: RSA,
    0x0601: RSA,
    SIMULATED_SCHEME: P256,
}
EVERY = sorted(SCHEMES)


def test_every_row_has_a_key_here() -> None:
    assert set(EVERY) == set(KEYS)


@pytest.mark.parametrize("code", EVERY)
def test_sign_and_verify(code: int) -> None:
    row, key = SCHEMES[code], KEYS[code]
    public = key.public_key()
    assert row.code == code
    assert row.accepts(public)
    signature = row.sign(key, b"data")
    row.verify(public, signature, b"data")
    for bad_signature, data in (
        (signature, b"Data"),
        (signature, b""),
        (signature[:-1] + bytes([signature[-1] ^ 1]), b"data"),
        (signature[:-1], b"data"),
        (signature + b"\0", b"data"),
        (b"", b"data"),
        (bytes(len(signature)), b"data"),
    ):
        with pytest.raises(SignatureError):
            row.verify(public, bad_signature, data)


@pytest.mark.parametrize("code", EVERY)
def test_a_key_of_another_kind_is_refused(code: int) -> None:
    row = SCHEMES[code]
    signature = row.sign(KEYS[code], b"data")
    for other in KEYS.values():
        public = other.public_key()
        if not row.accepts(public):
            with pytest.raises(SignatureError, match=r"cannot be used with|wrong simulated"):
                row.verify(public, signature, b"data")
    assert not row.accepts(x25519.X25519PrivateKey.generate().public_key())


@pytest.mark.parametrize("code", EVERY)
@settings(max_examples=40, deadline=None)
@given(signature=st.binary(max_size=300))
def test_noise_is_an_error(code: int, signature: bytes) -> None:
    with pytest.raises(SignatureError):
        SCHEMES[code].verify(KEYS[code].public_key(), signature, b"data")


def test_schemes_do_not_mix() -> None:
    """PSS is not PKCS #1, SHA-256 not SHA-384, though the key is the same."""
    rows = [code for code in EVERY if KEYS[code] is RSA]
    for made in rows:
        signature = SCHEMES[made].sign(RSA, b"data")
        for checked in rows:
            if checked != made:
                with pytest.raises(SignatureError):
                    SCHEMES[checked].verify(RSA.public_key(), signature, b"data")


def test_schemes_for_a_key() -> None:
    assert set(schemes_for(RSA.public_key())) == {0x0804, 0x0805, 0x0806}  # not PKCS #1 (RFC 8446 §4.4.3)
    assert set(schemes_for(P256.public_key())) == {0x0403, SIMULATED_SCHEME}
    assert schemes_for(dsa.generate_private_key(1024).public_key()) == ()
    small = rsa.RSAPublicNumbers(65537, (1 << 2046) | 1).public_key()
    assert schemes_for(small) == ()
    huge = rsa.RSAPublicNumbers(65537, (1 << 16383) | 1).public_key()
    assert schemes_for(huge) == ()


def test_registry() -> None:
    assert set(DEFAULT_SCHEMES) <= set(SCHEMES)
    assert SIMULATED_SCHEME not in DEFAULT_SCHEMES

    class Other:
        code = 0x0403

    with pytest.raises(ValueError, match="0x0403 is registered already"):
        signatures.register(Other())  # type: ignore[arg-type]
    signatures.register(SCHEMES[0x0403])


def test_the_simulated_signature_has_a_fixed_length() -> None:
    row = SCHEMES[SIMULATED_SCHEME]
    assert {len(row.sign(P256, bytes(n))) for n in range(50)} == {72}
    assert row.sign(P256, b"x") == row.sign(P256, b"x")
