"""One suite over every registered key-exchange group."""

from __future__ import annotations

import os
import random
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from hypothesis import given, settings
from hypothesis import strategies as st

from stoq.crypto import groups
from stoq.crypto.groups import DEFAULT_GROUPS, GROUPS, SECP256R1, X25519, KeyExchangeError
from stoq.crypto.simulated import SIMULATED_GROUP, register_simulated

register_simulated()
EVERY = sorted(GROUPS)
SIZES = {X25519: (32, 32, 32), SECP256R1: (65, 65, 32), SIMULATED_GROUP: (32, 32, 32)}


@pytest.mark.parametrize("code", EVERY)
def test_both_sides_agree(code: int) -> None:
    row = GROUPS[code]
    assert row.code == code
    seen = set()
    for _ in range(3):
        private, client_share = row.generate(os.urandom)
        server_share, secret = row.respond(client_share, os.urandom)
        assert row.finish(private, server_share) == secret
        assert (len(client_share), len(server_share), len(secret)) == SIZES[code]
        seen.add(secret)
    assert len(seen) == 3


@pytest.mark.parametrize("code", EVERY)
def test_a_seed_replays(code: int) -> None:
    row = GROUPS[code]

    def once(seed: int) -> tuple[bytes, tuple[bytes, bytes]]:
        source = random.Random(seed)
        _, share = row.generate(source.randbytes)
        return share, row.respond(share, source.randbytes)

    assert once(1) == once(1)
    assert once(1) != once(2)


@pytest.mark.parametrize("code", EVERY)
@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=80), whole=st.booleans())
def test_any_share_gives_a_secret_or_an_error(code: int, data: bytes, whole: bool) -> None:
    row = GROUPS[code]
    share = (b"\x04" * (code == SECP256R1) + data).ljust(SIZES[code][0], b"\x07")[: SIZES[code][0]] if whole else data
    private, _ = row.generate(os.urandom)
    for attempt in (lambda: row.finish(private, share), lambda: row.respond(share, os.urandom)[1]):
        with suppress(KeyExchangeError):
            assert len(attempt()) == SIZES[code][2]


@pytest.mark.parametrize(
    "share",
    [bytes(32), b"\x01" + bytes(31), bytes.fromhex("ec" + "ff" * 30 + "7f"), bytes(31), bytes(33), b""],
    ids=["zero", "one", "minus one", "short", "long", "empty"],
)
def test_x25519_refuses(share: bytes) -> None:
    """RFC 7748 §6.1: points of small order give an all-zero secret."""
    private, _ = GROUPS[X25519].generate(os.urandom)
    with pytest.raises(KeyExchangeError):
        GROUPS[X25519].finish(private, share)


def test_p256_refuses_other_forms() -> None:
    row = GROUPS[SECP256R1]
    private, share = row.generate(os.urandom)
    compressed = bytes([2 + (share[64] & 1)]) + share[1:33]
    hybrid = bytes([6 + (share[64] & 1)]) + share[1:]
    for bad in (compressed, hybrid, b"\0", b"", share[:-1], share + b"\0", share[:64] + bytes([share[64] ^ 1])):
        with pytest.raises(KeyExchangeError):
            row.finish(private, bad)


def test_against_the_library_directly() -> None:
    x_private = x25519.X25519PrivateKey.generate()
    share, secret = GROUPS[X25519].respond(x_private.public_key().public_bytes_raw(), os.urandom)
    assert x_private.exchange(x25519.X25519PublicKey.from_public_bytes(share)) == secret
    private, share = GROUPS[SECP256R1].generate(lambda n: b"\xff" * n)
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), share)
    assert private.public_key() == point
    zero, _ = GROUPS[SECP256R1].generate(bytes)
    assert zero.private_numbers().private_value == 1


def test_registry() -> None:
    assert set(DEFAULT_GROUPS) <= set(GROUPS)
    assert SIMULATED_GROUP not in DEFAULT_GROUPS
    groups.register(GROUPS[X25519])

    class Other:
        code = X25519
        name = "other"

    with pytest.raises(ValueError, match="0x001d is registered already"):
        groups.register(Other())  # type: ignore[arg-type]
