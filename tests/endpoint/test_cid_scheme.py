"""stoq.endpoint.cid_scheme."""

from __future__ import annotations

import random

import pytest

from stoq.endpoint.cid_scheme import CidScheme, RandomCids
from stoq.errors import ConfigurationError

KEY = b"k" * 32


@pytest.mark.parametrize("length", [4, 8, 20])
def test_ids_have_the_length_and_differ(length: int) -> None:
    scheme = RandomCids(length, KEY)
    made = [scheme.make() for _ in range(1000)]
    assert {len(cid) for cid in made} == {length}
    assert len(set(made)) == 1000
    assert scheme.recognise(made[0]) is None


def test_randomness_is_an_argument() -> None:
    def ids() -> list[bytes]:
        scheme = RandomCids(8, KEY, random.Random(5).randbytes)
        return [scheme.make() for _ in range(300)]

    assert ids() == ids()


def test_reset_tokens_depend_on_key_and_id_only() -> None:
    one, same, other = RandomCids(8, KEY), RandomCids(8, KEY), RandomCids(8, b"o" * 32)
    token = one.reset_token(b"12345678")
    assert len(token) == 16
    assert token == same.reset_token(b"12345678")
    assert token != one.reset_token(b"12345679")
    assert token != other.reset_token(b"12345678")
    assert RandomCids(8).reset_token(b"x" * 8) != RandomCids(8).reset_token(b"x" * 8)


@pytest.mark.parametrize("length", [0, 3, 21])
def test_lengths_that_cannot_work(length: int) -> None:
    with pytest.raises(ConfigurationError):
        RandomCids(length)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="16 bytes"):
        RandomCids(8, b"short")


def test_a_scheme_of_ones_own() -> None:
    class Numbered(CidScheme):
        def __init__(self) -> None:
            super().__init__(8)
            self.count = 0

        def make(self) -> bytes:
            self.count += 1
            return b"WORKER" + self.count.to_bytes(2, "big")

        def reset_token(self, cid: bytes) -> bytes:
            return cid * 2

        def recognise(self, cid: bytes) -> object:
            return cid[:6].decode()

    scheme = Numbered()
    assert scheme.recognise(scheme.make()) == "WORKER"
