"""Transport parameters: every row there and back, each range, role, layout and size rule of RFC 9000 §18."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stoq.errors import ConfigurationError, TransportErrorCode, TransportParameterError
from stoq.wire.transport_parameters import (
    ROWS,
    SIZE_MAX,
    UNKNOWN_MAX,
    Kind,
    ParameterRow,
    PreferredAddress,
    TransportParameters,
    reserved_parameter,
)
from stoq.wire.varint import encode_varint

TOKEN = b"0123456789abcdef"
ADDRESS = PreferredAddress(("192.0.2.1", 443), ("2001:db8::1", 4433), b"cid", TOKEN)
FULL = TransportParameters(
    original_destination_connection_id=b"original",
    max_idle_timeout=30_000,
    stateless_reset_token=TOKEN,
    max_udp_payload_size=1472,
    initial_max_data=1 << 24,
    initial_max_stream_data_bidi_local=1 << 20,
    initial_max_stream_data_bidi_remote=1 << 21,
    initial_max_stream_data_uni=1 << 22,
    initial_max_streams_bidi=100,
    initial_max_streams_uni=3,
    ack_delay_exponent=10,
    max_ack_delay=20,
    disable_active_migration=True,
    preferred_address=ADDRESS,
    active_connection_id_limit=8,
    initial_source_connection_id=b"source",
    retry_source_connection_id=b"",
)


def one(identifier: int, value: bytes) -> bytes:
    return encode_varint(identifier) + encode_varint(len(value)) + value


def refusal(data: bytes, from_client: bool = False) -> str:
    with pytest.raises(TransportParameterError) as caught:
        TransportParameters.decode(data, from_client)
    assert caught.value.error_code == TransportErrorCode.TRANSPORT_PARAMETER_ERROR
    return str(caught.value)


def test_every_parameter() -> None:
    encoded = FULL.encode()
    assert TransportParameters.decode(encoded, from_client=False) == FULL
    # Bytes by hand, from the figures of §18: identifier, length, value.
    assert one(0x00, b"original") in encoded
    assert bytes.fromhex("0104 80007530") in encoded
    assert one(0x02, TOKEN) in encoded
    assert bytes.fromhex("0302 45c0") in encoded
    assert bytes.fromhex("0404 81000000") in encoded
    assert bytes.fromhex("0a01 0a") in encoded
    assert bytes.fromhex("0c00") in encoded
    assert (
        one(0x0D, bytes.fromhex("c0000201 01bb 20010db8000000000000000000000001 1151 03") + b"cid" + TOKEN) in encoded
    )
    assert encoded.endswith(bytes.fromhex("0e0108") + one(0x0F, b"source") + bytes.fromhex("1000"))


def test_absence_means_the_default() -> None:
    assert TransportParameters().encode() == b""
    params = TransportParameters.decode(b"", from_client=True)
    assert params == TransportParameters()
    # §18.2, parameter by parameter.
    assert (params.max_idle_timeout, params.max_udp_payload_size, params.initial_max_data) == (0, 65527, 0)
    assert (params.ack_delay_exponent, params.max_ack_delay, params.active_connection_id_limit) == (3, 25, 2)
    assert params.disable_active_migration is False
    assert params.initial_source_connection_id is None


def test_an_empty_connection_id_is_not_an_absent_one() -> None:
    encoded = TransportParameters(initial_source_connection_id=b"").encode()
    assert encoded == b"\x0f\x00"
    assert TransportParameters.decode(encoded, from_client=True).initial_source_connection_id == b""


def values(row: ParameterRow) -> st.SearchStrategy[Any]:
    return {
        Kind.INTEGER: st.integers(row.minimum, row.maximum),
        Kind.FLAG: st.booleans(),
        Kind.CID: st.none() | st.binary(max_size=20),
        Kind.TOKEN: st.none() | st.binary(min_size=16, max_size=16),
        Kind.PREFERRED_ADDRESS: st.none() | st.just(ADDRESS),
    }[row.kind]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.fixed_dictionaries({row.name: values(row) for row in ROWS.values()}))
def test_round_trip(fields: dict[str, Any]) -> None:
    params = TransportParameters(**fields)
    assert TransportParameters.decode(params.encode(), from_client=False) == params


@pytest.mark.parametrize("row", [r for r in ROWS.values() if r.kind is Kind.INTEGER], ids=lambda r: r.name)
def test_ranges(row: ParameterRow) -> None:
    for value in (row.minimum, row.maximum):
        params = TransportParameters(**{row.name: value})
        assert TransportParameters.decode(params.encode(), from_client=True) == params
    outside = [v for v in (row.minimum - 1, row.maximum + 1) if 0 <= v < 2**62]
    for value in outside:
        assert row.name in refusal(one(row.id, encode_varint(value)))
    for value in (*outside, -1, 2**62, b"1"):
        with pytest.raises(ConfigurationError, match=row.name):
            TransportParameters(**{row.name: value}).encode()


@pytest.mark.parametrize(
    ("name", "minimum", "maximum"),
    [
        ("max_udp_payload_size", 1200, 2**62 - 1),
        ("initial_max_streams_bidi", 0, 2**60),
        ("initial_max_streams_uni", 0, 2**60),
        ("ack_delay_exponent", 0, 20),
        ("max_ack_delay", 0, 2**14 - 1),
        ("active_connection_id_limit", 2, 2**62 - 1),
    ],
)
def test_ranges_are_those_of_the_rfc(name: str, minimum: int, maximum: int) -> None:
    (row,) = (r for r in ROWS.values() if r.name == name)
    assert (row.minimum, row.maximum) == (minimum, maximum)


@pytest.mark.parametrize("row", [r for r in ROWS.values() if r.kind is Kind.INTEGER], ids=lambda r: r.name)
@pytest.mark.parametrize("value", [b"", b"\x40", b"\x04\x04", b"\x80\x00\x04"])
def test_an_integer_is_one_varint(row: ParameterRow, value: bytes) -> None:
    assert "variable-length integer" in refusal(one(row.id, value))


def test_an_integer_may_be_longer_than_needed() -> None:
    assert TransportParameters.decode(one(0x0B, b"\x40\x19"), True).max_ack_delay == 25


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda r: r.name)
def test_repeated(row: ParameterRow) -> None:
    value = getattr(FULL, row.name)
    once = TransportParameters(**{row.name: value}).encode()
    TransportParameters.decode(once, from_client=False)
    assert f"0x{row.id:x} occurs twice" in refusal(once + FULL.encode())


def test_repeated_without_a_row() -> None:
    assert "occurs twice" in refusal(one(0x7777, b"a") + one(0x7777, b"a"))
    # Also beyond those that are kept.
    many = b"".join(one(0x1000 + i, b"") for i in range(UNKNOWN_MAX + 10))
    assert "occurs twice" in refusal(many + one(0x1000 + UNKNOWN_MAX + 5, b""))


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda r: r.name)
def test_who_may_send_it(row: ParameterRow) -> None:
    encoded = TransportParameters(**{row.name: getattr(FULL, row.name)}).encode()
    # §18.2: "A client MUST NOT include any server-only transport parameter: original_destination_connection_id,
    # preferred_address, retry_source_connection_id, or stateless_reset_token."
    if row.id in {0x00, 0x02, 0x0D, 0x10}:
        assert row.name in refusal(encoded, from_client=True)
    else:
        TransportParameters.decode(encoded, from_client=True)


def test_cut_at_each_byte() -> None:
    whole = one(0x0C, b"") + one(0x1234, b"abc") + one(0x0F, b"source") + one(0x04, b"\x81\x00\x00\x00")
    boundaries = {0, 2, 8, 16, len(whole)}
    for cut in range(len(whole) + 1):
        if cut in boundaries:
            TransportParameters.decode(whole[:cut], from_client=True)
        else:
            assert "truncated" in refusal(whole[:cut])


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (one(0x0C, b"\x00"), "has a value"),
        (one(0x00, bytes(21)), "more than 20"),
        (one(0x0F, bytes(21)), "more than 20"),
        (one(0x10, bytes(300)), "more than 20"),
        (one(0x02, TOKEN[1:]), "not 16"),
        (one(0x02, TOKEN + b"x"), "not 16"),
        (b"\x04" + encode_varint(2**62 - 1), "truncated"),
    ],
)
def test_malformed(data: bytes, why: str) -> None:
    assert why in refusal(data)


def address(cid_length: int, cid: bytes, token: bytes = TOKEN) -> bytes:
    return bytes(24) + bytes([cid_length]) + cid + token


@pytest.mark.parametrize(
    "value",
    [
        b"",
        bytes(24),
        bytes(40),
        address(0, b""),
        address(21, bytes(21)),
        address(255, bytes(255)),
        address(4, b"abc"),
        address(3, b"abcd"),
        address(3, b"abc", TOKEN[1:]),
        address(3, b"abc", TOKEN + b"x"),
    ],
)
def test_layout_of_preferred_address(value: bytes) -> None:
    assert "preferred_address" in refusal(one(0x0D, value))


@pytest.mark.parametrize(
    "value",
    [
        ADDRESS,
        replace(ADDRESS, ipv4=None),
        replace(ADDRESS, ipv6=None),
        replace(ADDRESS, ipv4=None, ipv6=None, connection_id=bytes(20)),
    ],
)
def test_families_of_preferred_address(value: PreferredAddress) -> None:
    params = TransportParameters(preferred_address=value)
    assert TransportParameters.decode(params.encode(), from_client=False) == params


@pytest.mark.parametrize(
    "changes",
    [
        {"connection_id": b""},
        {"connection_id": bytes(21)},
        {"stateless_reset_token": b"short"},
        {"ipv4": ("example.org", 1)},
        {"ipv4": ("192.0.2.1", 65536)},
        {"ipv6": ("192.0.2.1", 1)},
    ],
)
def test_a_preferred_address_of_ours_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="preferred_address"):
        TransportParameters(preferred_address=replace(ADDRESS, **changes)).encode()


@pytest.mark.parametrize(
    "fields",
    [
        {"initial_source_connection_id": bytes(21)},
        {"initial_source_connection_id": "text"},
        {"stateless_reset_token": b"short"},
        {"disable_active_migration": 1},
        {"max_ack_delay": True},
        {"preferred_address": b"raw"},
        {"unknown": {0x04: b"\x01"}},
        {"unknown": {0x7777: bytes(SIZE_MAX)}},
    ],
)
def test_values_of_ours_that_cannot_be(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        TransportParameters(**fields).encode()


def test_size_cap() -> None:
    head = len(one(0x7777, bytes(SIZE_MAX - 6))) - (SIZE_MAX - 6)
    fits = one(0x7777, bytes(SIZE_MAX - head))
    assert len(fits) == SIZE_MAX
    TransportParameters.decode(fits, from_client=True)
    assert str(SIZE_MAX) in refusal(fits + b"\x0c\x00")


def test_unknown_parameters_are_kept_up_to_a_cap() -> None:
    params = TransportParameters.decode(one(0x7777, b"abc") + one(0x0C, b"") + one(2**62 - 1, b""), True)
    assert params.unknown == {0x7777: b"abc", 2**62 - 1: b""}
    assert params.disable_active_migration is True
    assert TransportParameters.decode(params.encode(), True) == params
    many = b"".join(one(0x1000 + i, b"x") for i in range(500))
    assert list(TransportParameters.decode(many, True).unknown) == [0x1000 + i for i in range(UNKNOWN_MAX)]


@pytest.mark.parametrize("n", [0, 1, 5, (2**62 - 1 - 27) // 31])
def test_reserved_parameters_are_tolerated(n: int) -> None:
    identifier = reserved_parameter(n)
    assert identifier % 31 == 27
    encoded = FULL.encode((identifier, b"anything"))
    decoded = TransportParameters.decode(encoded, from_client=False)
    assert decoded.unknown == {identifier: b"anything"}
    assert replace(decoded, unknown={}) == FULL


@pytest.mark.parametrize("n", [-1, (2**62 - 1 - 27) // 31 + 1])
def test_reserved_parameters_end(n: int) -> None:
    with pytest.raises(ValueError, match="range"):
        reserved_parameter(n)


def test_grease_must_be_reserved_and_free() -> None:
    for identifier in (0x04, 0x7777):
        with pytest.raises(ConfigurationError, match="31"):
            FULL.encode((identifier, b""))
    with pytest.raises(ConfigurationError, match="31"):
        TransportParameters(unknown={27: b""}).encode((27, b""))


def test_an_extension_adds_a_row() -> None:
    rows = {
        **ROWS,
        0x20: ParameterRow(0x20, "max_datagram_frame_size", Kind.INTEGER, 0, maximum=65535),
        0x11: ParameterRow(0x11, "version_information", Kind.OPAQUE),
    }
    extensions: dict[str, Any] = {"max_datagram_frame_size": 1200, "version_information": b"\x00\x00\x00\x01"}
    params = TransportParameters(max_idle_timeout=1000, extensions=extensions)
    encoded = params.encode(rows=rows)
    assert TransportParameters.decode(encoded, True, rows=rows) == params
    # Without the rows the values are still there, raw.
    assert TransportParameters.decode(encoded, True).unknown == {0x20: b"\x44\xb0", 0x11: b"\x00\x00\x00\x01"}
    with pytest.raises(TransportParameterError, match="max_datagram_frame_size"):
        TransportParameters.decode(one(0x20, encode_varint(65536)), True, rows=rows)
    with pytest.raises(ConfigurationError, match="row"):
        TransportParameters(unknown={0x20: b""}).encode(rows=rows)


def test_secrets_stay_out_of_the_repr() -> None:
    assert repr(TOKEN) not in repr(FULL)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.booleans())
def test_bytes_of_no_meaning(data: bytes, from_client: bool) -> None:
    try:
        params = TransportParameters.decode(data, from_client)
    except TransportParameterError:
        return
    assert TransportParameters.decode(params.encode(), from_client) == params
