"""Packet-number coding: the examples of RFC 9000 appendices A.2 and A.3, and that decoding inverts encoding."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoq.wire.packet_number import decode_packet_number, encode_packet_number


def test_examples_of_appendix_a_2() -> None:
    assert encode_packet_number(0xAC5C02, 0xABE8B3) == bytes.fromhex("5c02")
    assert encode_packet_number(0xACE8FE, 0xABE8B3) == bytes.fromhex("ace8fe")


def test_example_of_appendix_a_3() -> None:
    assert decode_packet_number(bytes.fromhex("9b32"), 0xA82F30EA + 1) == 0xA82F9B32


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**62 - 2**25), st.integers(1, 2**24), st.data())
def test_a_receiver_decodes_whatever_it_may_have_received_meanwhile(
    acked: int, ahead: int, data: st.DataObject
) -> None:
    sent = acked + ahead
    encoded = encode_packet_number(sent, acked)
    # It has at least seen what it acknowledged, and nothing beyond what was sent before.
    largest_received = data.draw(st.integers(acked, sent - 1))
    assert decode_packet_number(encoded, largest_received + 1) == sent


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**23))
def test_before_the_first_acknowledgement(sent: int) -> None:
    encoded = encode_packet_number(sent)
    assert decode_packet_number(encoded, 0) == sent


@pytest.mark.parametrize("ahead", [2**7 - 1, 2**7, 2**15 - 1, 2**15, 2**23 - 1, 2**23])
def test_length_leaves_half_a_window(ahead: int) -> None:
    encoded = encode_packet_number(2**40 + ahead, 2**40)
    assert 2 * ahead <= 256 ** len(encoded)


def test_ends_of_the_number_space() -> None:
    assert decode_packet_number(b"\xff", 0) == 0xFF
    assert decode_packet_number(b"\xff", 2**62 - 1) == 2**62 - 1
    assert decode_packet_number(b"\x00", 2**62 - 1) == 2**62 - 256  # not 2**62: that number does not exist


@pytest.mark.parametrize(("packet_number", "acked"), [(2**62, None), (5, 5), (5, 6)])
def test_numbers_that_cannot_be_sent(packet_number: int, acked: int | None) -> None:
    with pytest.raises(ValueError, match="packet number"):
        encode_packet_number(packet_number, acked)


@pytest.mark.parametrize("truncated", [b"", b"12345"])
def test_lengths_that_do_not_exist(truncated: bytes) -> None:
    with pytest.raises(ValueError, match="1 to 4"):
        decode_packet_number(truncated, 0)
