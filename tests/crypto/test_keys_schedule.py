"""stoq.crypto.keys: HMAC and HKDF against the standard library and `cryptography`, key update, bad arguments."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

import pytest
from aioquic.quic.packet import get_retry_integrity_tag
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from hypothesis import given, settings
from hypothesis import strategies as st

from stoq.crypto import aead, keys

V1 = 0x00000001
V2 = 0x6B3343CF
HASHES = {"sha256": SHA256(), "sha384": SHA384()}
ALGORITHMS = st.sampled_from(sorted(HASHES))
BYTES = st.binary(max_size=300)


@settings(max_examples=100, deadline=None)
@given(ALGORITHMS, BYTES, BYTES)
def test_hmac_equals_the_standard_library(algorithm: str, key: bytes, data: bytes) -> None:
    expected = hmac.new(key, data, getattr(hashlib, algorithm)).digest()
    assert keys.hmac_digest(algorithm, key, data) == expected
    assert keys.hkdf_extract(algorithm, key, data) == expected


@settings(max_examples=100, deadline=None)
@given(ALGORITHMS, st.binary(min_size=1, max_size=64), BYTES, st.integers(1, 700))
def test_hkdf_expand_equals_cryptography(algorithm: str, secret: bytes, info: bytes, length: int) -> None:
    expected = HKDFExpand(HASHES[algorithm], length, info).derive(secret)
    assert keys.hkdf_expand(algorithm, secret, info, length) == expected


@settings(max_examples=50, deadline=None)
@given(ALGORITHMS, BYTES, st.binary(min_size=1, max_size=64), BYTES)
def test_hkdf_as_a_whole_equals_cryptography(algorithm: str, salt: bytes, ikm: bytes, info: bytes) -> None:
    expected = HKDF(HASHES[algorithm], 48, salt, info).derive(ikm)
    assert keys.hkdf_expand(algorithm, keys.hkdf_extract(algorithm, salt, ikm), info, 48) == expected


@settings(max_examples=100, deadline=None)
@given(
    ALGORITHMS,
    st.binary(min_size=32, max_size=48),
    st.binary(max_size=249),
    st.binary(max_size=255),
    st.integers(1, 200),
)
def test_hkdf_expand_label_is_the_structure_of_rfc_8446(
    algorithm: str, secret: bytes, label: bytes, context: bytes, length: int
) -> None:
    info = length.to_bytes(2, "big") + bytes([6 + len(label)]) + b"tls13 " + label + bytes([len(context)]) + context
    assert keys.hkdf_expand_label(algorithm, secret, label, context, length) == keys.hkdf_expand(
        algorithm, secret, info, length
    )


def test_hkdf_expand_reaches_its_limit() -> None:
    for algorithm, size in (("sha256", 32), ("sha384", 48)):
        longest = keys.hkdf_expand(algorithm, b"k" * size, b"", 255 * size)
        assert longest == HKDFExpand(HASHES[algorithm], 255 * size, b"").derive(b"k" * size)


@pytest.mark.parametrize("length", [0, -1, 255 * 32 + 1, 1 << 40])
def test_hkdf_refuses_other_lengths(length: int) -> None:
    with pytest.raises(ValueError, match="255 hashes"):
        keys.hkdf_expand("sha256", b"k", b"", length)
    with pytest.raises(ValueError, match="255 hashes"):
        keys.hkdf_expand_label("sha256", b"k", b"label", b"", length)


def test_one_byte_is_an_object_of_its_own() -> None:
    """CPython shares the objects of one byte: writing into one would change every other."""
    for secret in (b"a", b"b", b"c"):
        assert keys.hkdf_expand("sha256", secret, b"", 1) == HKDFExpand(SHA256(), 1, b"").derive(secret)
    assert [bytes([i])[0] for i in range(256)] == list(range(256))


BAD_CALLS: dict[str, Callable[[], object]] = {
    "algorithm": lambda: keys.hmac_digest("md5", b"", b""),
    "algorithm case": lambda: keys.hkdf_extract("SHA256", b"", b""),
    "label": lambda: keys.hkdf_expand_label("sha256", b"k", bytes(250), b"", 32),
    "context": lambda: keys.hkdf_expand_label("sha256", b"k", b"", bytes(256), 32),
    "initial version": lambda: keys.initial_secrets(0xFF00001D, bytes(8)),
    "initial version 0": lambda: keys.initial_secrets(0, bytes(8)),
    "initial dcid": lambda: keys.initial_secrets(V1, bytes(21)),
    "retry version": lambda: keys.retry_integrity_tag(2, bytes(8), bytes(30)),
    "retry odcid": lambda: keys.retry_integrity_tag(V1, bytes(21), bytes(30)),
    "retry empty": lambda: keys.retry_integrity_tag(V1, bytes(8), b""),
    "retry long": lambda: keys.retry_integrity_tag(V1, bytes(8), bytes(65536)),
    "key version": lambda: keys.packet_key(2, aead.AES_128_GCM, bytes(32)),
    "key suite": lambda: keys.packet_key(V1, 0x1304, bytes(32)),
    "key secret": lambda: keys.packet_key(V1, aead.AES_128_GCM, bytes(48)),
    "key secret 384": lambda: keys.packet_key(V1, aead.AES_256_GCM, bytes(32)),
    "key backend": lambda: keys.packet_key(V1, aead.AES_128_GCM, bytes(32), "none"),
    "next secret": lambda: keys.next_secret(V1, aead.AES_128_GCM, b""),
}


@pytest.mark.parametrize("call", BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_arguments_are_value_errors(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError):
        call()


def test_only_bytes_are_taken() -> None:
    with pytest.raises(TypeError):
        keys.hmac_digest("sha256", bytearray(4), b"")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        keys.hkdf_extract("sha256", None, b"")  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [0, 1, 8, 20])
def test_initial_secrets_of_every_id_length(length: int) -> None:
    dcid = bytes(range(length))
    salt = bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a")
    initial = hmac.new(salt, dcid, hashlib.sha256).digest()
    client, server = keys.initial_secrets(V1, dcid)
    assert client == keys.hkdf_expand_label("sha256", initial, b"client in", b"", 32)
    assert server == keys.hkdf_expand_label("sha256", initial, b"server in", b"", 32)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([V1, V2]), st.binary(max_size=20), st.binary(min_size=1, max_size=1200))
def test_retry_tag_equals_aioquic(version: int, odcid: bytes, packet: bytes) -> None:
    assert keys.retry_integrity_tag(version, odcid, packet) == get_retry_integrity_tag(packet, odcid, version)


@pytest.mark.parametrize("suite", [aead.AES_128_GCM, aead.AES_256_GCM, aead.CHACHA20_POLY1305])
@pytest.mark.parametrize("version", [V1, V2])
def test_key_update_changes_keys_and_keeps_header_protection(version: int, suite: int) -> None:
    size = 48 if suite == aead.AES_256_GCM else 32
    secret = bytes(range(size))
    following = keys.next_secret(version, suite, secret)
    assert len(following) == size
    assert following != secret
    key = keys.packet_key(version, suite, secret)
    mask = key.header_mask(bytes(range(16)))
    sealed = key.seal(7, b"header", b"payload")
    keys.update_packet_key(version, key, following)
    assert key.header_mask(bytes(range(16))) == mask
    other = keys.packet_key(version, suite, following)
    assert other.header_mask(bytes(range(16))) != mask
    # Both directions follow, although both contexts had been made for the old key.
    updated = key.seal(7, b"header", b"payload")
    assert updated == other.seal(7, b"header", b"payload") != sealed
    assert key.open(7, b"header", updated) == b"payload"
    with pytest.raises(aead.AeadError):
        key.open(7, b"header", sealed)


def test_constant_time_equal() -> None:
    assert keys.constant_time_equal(b"", b"")
    assert keys.constant_time_equal(b"abc" * 20, b"abc" * 20)
    assert not keys.constant_time_equal(b"abc", b"abd")
    assert not keys.constant_time_equal(b"abc", b"abcd")
    assert not keys.constant_time_equal(b"xbc", b"abc")
