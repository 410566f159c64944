"""stoq.endpoint.cidmap."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoq.endpoint.cidmap import CidMap

KEY = bytes(range(56))


def test_insert_lookup_remove() -> None:
    table = CidMap(KEY)
    assert table.lookup(b"12345678") is None
    table.insert(b"12345678", 7)
    table.insert(b"12345678", 7)
    assert table.lookup(b"12345678") == 7
    assert len(table) == 1
    assert table.remove(b"12345678") == 7
    assert table.remove(b"12345678") is None
    assert len(table) == 0


def test_length_belongs_to_the_id() -> None:
    table = CidMap(KEY)
    table.insert(b"abcd", 1)
    table.insert(b"abcd\0", 2)
    table.insert(b"", 3)
    assert (table.lookup(b"abcd"), table.lookup(b"abcd\0"), table.lookup(b"")) == (1, 2, 3)
    assert table.lookup(b"abcd\0\0") is None


def test_refusals() -> None:
    table = CidMap(KEY)
    table.insert(b"x" * 20, 1)
    with pytest.raises(ValueError, match="in use"):
        table.insert(b"x" * 20, 2)
    with pytest.raises(ValueError, match="20 bytes"):
        table.insert(b"x" * 21, 1)
    with pytest.raises(ValueError, match="56 bytes"):
        CidMap(b"short")
    assert table.lookup(b"x" * 21) is None


def test_fifty_thousand() -> None:
    rng = random.Random(1)
    table = CidMap(KEY)
    ids = {rng.randbytes(8): i + 1 for i in range(50_000)}
    for cid, value in ids.items():
        table.insert(cid, value)
    assert all(table.lookup(cid) == value for cid, value in ids.items())
    # 32 bytes an entry, at most a power of two above 1.5 entries for each ID.
    assert table.memory <= 32 * 131_072
    assert table.longest_probe() < 64
    for cid in list(ids)[::2]:
        assert table.remove(cid) == ids.pop(cid)
    assert all(table.lookup(cid) == value for cid, value in ids.items())


def test_chosen_ids_do_not_pile_up() -> None:
    """IDs that differ in single bits, as an attacker would choose them, spread under any key."""
    for seed in range(5):
        table = CidMap(random.Random(seed).randbytes(56))
        for i in range(4096):
            table.insert((i << 40).to_bytes(8, "big"), i + 1)
            table.insert((i << 52).to_bytes(20, "little"), i + 1)
        assert table.longest_probe() < 64


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ird"), st.binary(max_size=2), st.integers(1, 9)), max_size=200))
def test_behaves_like_a_dict(steps: list[tuple[str, bytes, int]]) -> None:
    table, model = CidMap(KEY), {}
    for what, cid, value in steps:
        if what == "i" and model.get(cid, value) == value:
            table.insert(cid, value)
            model[cid] = value
        elif what == "r":
            assert table.remove(cid) == model.pop(cid, None)
        assert table.lookup(cid) == model.get(cid)
        assert len(table) == len(model)
