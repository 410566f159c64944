"""Variable-length integers: the examples of RFC 9000 appendix A.1, every edge, every truncation."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoq.wire.varint import decode_varint, encode_varint

VARINTS = st.one_of(
    st.integers(0, 2**6), st.integers(2**6, 2**14), st.integers(2**14, 2**30), st.integers(2**30, 2**62 - 1)
)


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        ("c2197c5eff14e88c", 151288809941952652),
        ("9d7f3e7d", 494878333),
        ("7bbd", 15293),
        ("25", 37),
    ],
)
def test_examples_of_appendix_a_1(encoded: str, value: int) -> None:
    data = bytes.fromhex(encoded)
    assert decode_varint(data) == (value, len(data))
    assert encode_varint(value) == data


def test_a_longer_encoding_than_needed_is_accepted() -> None:
    assert decode_varint(bytes.fromhex("4025")) == (37, 2)  # appendix A.1, the last example
    assert decode_varint(bytes.fromhex("c000000000000025")) == (37, 8)


@pytest.mark.parametrize(
    ("value", "size"),
    [(0, 1), (2**6 - 1, 1), (2**6, 2), (2**14 - 1, 2), (2**14, 4), (2**30 - 1, 4), (2**30, 8), (2**62 - 1, 8)],
)
def test_sizes_at_the_edges(value: int, size: int) -> None:
    assert len(encode_varint(value)) == size
    assert decode_varint(encode_varint(value)) == (value, size)


@pytest.mark.parametrize("value", [-1, 2**62, 2**64, 2**200])
def test_values_that_no_varint_holds(value: int) -> None:
    with pytest.raises(ValueError, match="varint"):
        encode_varint(value)


@settings(max_examples=200, deadline=None)
@given(VARINTS, st.binary(max_size=9))
def test_round_trip_at_any_offset(value: int, before: bytes) -> None:
    encoded = encode_varint(value)
    assert decode_varint(before + encoded, len(before)) == (value, len(before) + len(encoded))
    for cut in range(len(encoded)):
        with pytest.raises(ValueError, match="truncated"):
            decode_varint(before + encoded[:cut], len(before))


def test_an_offset_past_the_end_reads_nothing() -> None:
    for at in (1, 2, 2**40):
        with pytest.raises(ValueError, match="truncated"):
            decode_varint(b"\x25", at)
