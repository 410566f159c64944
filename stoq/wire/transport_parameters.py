"""Transport parameters (RFC 9000 §18): one row each, so that an extension adds a row and edits nothing."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum

from stoq.errors import ConfigurationError, TransportParameterError
from stoq.wire.varint import decode_varint, encode_varint

# A peer's whole extension. The parameters of RFC 9000 take below 400 bytes; the rest is room for extensions.
SIZE_MAX = 4096
# Parameters without a row that are kept for extensions; more are read over.
UNKNOWN_MAX = 32
CID_MAX = 20  # RFC 9000 §17.2
RESET_TOKEN_SIZE = 16  # §18.2
PREFERRED_ADDRESS_FIXED = 4 + 2 + 16 + 2 + 1 + RESET_TOKEN_SIZE  # §18.2, figure 22, without the connection ID
VARINT_MAX = 2**62 - 1


class Kind(Enum):
    """How a value is coded. INTEGER: int. FLAG: bool, no bytes. CID: 0 to 20 bytes. TOKEN: 16 bytes. OPAQUE: bytes."""

    INTEGER = 0
    FLAG = 1
    CID = 2
    TOKEN = 3
    PREFERRED_ADDRESS = 4
    OPAQUE = 5


@dataclass(frozen=True, slots=True)
class ParameterRow:
    """Facts of one parameter. `default` is what its absence means; minimum and maximum bound an INTEGER."""

    id: int
    name: str
    kind: Kind
    default: Value = None
    minimum: int = 0
    maximum: int = VARINT_MAX
    server_only: bool = False


@dataclass(frozen=True, slots=True)
class PreferredAddress:
    """Where a server would rather be reached (§9.6). ipv4, ipv6: (host, port), None when not given."""

    ipv4: tuple[str, int] | None
    ipv6: tuple[str, int] | None
    connection_id: bytes
    stateless_reset_token: bytes = field(repr=False)


Value = int | bool | bytes | PreferredAddress | None


def _rows(*rows: ParameterRow) -> Mapping[int, ParameterRow]:
    return {row.id: row for row in rows}


# §18.2. Pass {**ROWS, own.id: own, …} as `rows` to add to them.
ROWS: Mapping[int, ParameterRow] = _rows(
    ParameterRow(0x00, "original_destination_connection_id", Kind.CID, server_only=True),
    ParameterRow(0x01, "max_idle_timeout", Kind.INTEGER, 0),
    ParameterRow(0x02, "stateless_reset_token", Kind.TOKEN, server_only=True),
    ParameterRow(0x03, "max_udp_payload_size", Kind.INTEGER, 65527, minimum=1200),
    ParameterRow(0x04, "initial_max_data", Kind.INTEGER, 0),
    ParameterRow(0x05, "initial_max_stream_data_bidi_local", Kind.INTEGER, 0),
    ParameterRow(0x06, "initial_max_stream_data_bidi_remote", Kind.INTEGER, 0),
    ParameterRow(0x07, "initial_max_stream_data_uni", Kind.INTEGER, 0),
    ParameterRow(0x08, "initial_max_streams_bidi", Kind.INTEGER, 0, maximum=2**60),  # §4.6
    ParameterRow(0x09, "initial_max_streams_uni", Kind.INTEGER, 0, maximum=2**60),
    ParameterRow(0x0A, "ack_delay_exponent", Kind.INTEGER, 3, maximum=20),
    ParameterRow(0x0B, "max_ack_delay", Kind.INTEGER, 25, maximum=2**14 - 1),
    ParameterRow(0x0C, "disable_active_migration", Kind.FLAG, False),
    ParameterRow(0x0D, "preferred_address", Kind.PREFERRED_ADDRESS, server_only=True),
    ParameterRow(0x0E, "active_connection_id_limit", Kind.INTEGER, 2, minimum=2),
    ParameterRow(0x0F, "initial_source_connection_id", Kind.CID),
    ParameterRow(0x10, "retry_source_connection_id", Kind.CID, server_only=True),
)


def reserved_parameter(n: int) -> int:
    """The n-th of the identifiers 31 * N + 27 that are reserved to be ignored (§18.1); 0 <= n < 148764065110560899."""
    value = 31 * n + 27
    if not 27 <= value <= VARINT_MAX:
        raise ValueError("outside the range of variable-length integers")
    return value


@dataclass(slots=True)
class TransportParameters:
    """What one side declares (§18.2); the defaults are what absence means.

    max_idle_timeout and max_ack_delay are milliseconds (0: no idle timeout), sizes and data limits bytes, connection
    IDs None when absent (which differs from empty). `extensions` holds values of rows that are not attributes here,
    by row name; `unknown` holds raw values without a row. Both are encoded too.
    """

    original_destination_connection_id: bytes | None = None
    max_idle_timeout: int = 0
    stateless_reset_token: bytes | None = field(default=None, repr=False)
    max_udp_payload_size: int = 65527
    initial_max_data: int = 0
    initial_max_stream_data_bidi_local: int = 0
    initial_max_stream_data_bidi_remote: int = 0
    initial_max_stream_data_uni: int = 0
    initial_max_streams_bidi: int = 0
    initial_max_streams_uni: int = 0
    ack_delay_exponent: int = 3
    max_ack_delay: int = 25
    disable_active_migration: bool = False
    preferred_address: PreferredAddress | None = None
    active_connection_id_limit: int = 2
    initial_source_connection_id: bytes | None = None
    retry_source_connection_id: bytes | None = None
    extensions: dict[str, Value] = field(default_factory=dict)
    unknown: dict[int, bytes] = field(default_factory=dict)

    def encode(self, grease: tuple[int, bytes] | None = None, *, rows: Mapping[int, ParameterRow] = ROWS) -> bytes:
        """Bytes for the TLS extension; values equal to their default are left out.

        grease: a reserved identifier (reserved_parameter) and any value. ConfigurationError when a value is out of
        its row's range, of the wrong type or size, when an identifier occurs twice, or beyond SIZE_MAX in total.
        """
        parts: list[bytes] = []
        for row in rows.values():
            value = getattr(self, row.name) if row.name in _NAMES else self.extensions.get(row.name, row.default)
            if value is not None and value != row.default:
                parts += (encode_varint(row.id), *_encode_value(row, value))
        raw = dict(self.unknown)
        if grease is not None:
            if grease[0] % 31 != 27 or grease[0] in raw:
                raise ConfigurationError(
                    "a greased transport parameter needs a free identifier of the form 31 * N + 27"
                )
            raw[grease[0]] = grease[1]
        for identifier, data in raw.items():
            if identifier in rows:
                raise ConfigurationError(f"transport parameter 0x{identifier:x} has a row: set it by name")
            parts += (encode_varint(identifier), encode_varint(len(data)), data)
        encoded = b"".join(parts)
        if len(encoded) > SIZE_MAX:
            raise ConfigurationError(f"transport parameters take {len(encoded)} bytes, more than {SIZE_MAX}")
        return encoded

    @classmethod
    def decode(cls, data: bytes, from_client: bool, *, rows: Mapping[int, ParameterRow] = ROWS) -> TransportParameters:
        """A peer's parameters; TransportParameterError when malformed, repeated, out of range or not its to send."""
        size = len(data)
        if size > SIZE_MAX:
            raise TransportParameterError(f"{size} bytes, more than {SIZE_MAX}")
        params = cls()
        seen: set[int] = set()
        at = 0
        while at < size:
            try:
                identifier, at = decode_varint(data, at)
                length, at = decode_varint(data, at)
            except ValueError:
                raise TransportParameterError("truncated") from None
            end = at + length
            if end > size:
                raise TransportParameterError(f"0x{identifier:x} is truncated")
            value = data[at:end]
            at = end
            if identifier in seen:
                raise TransportParameterError(f"0x{identifier:x} occurs twice")
            seen.add(identifier)
            row = rows.get(identifier)
            if row is None:
                if len(params.unknown) < UNKNOWN_MAX:
                    params.unknown[identifier] = value
                continue
            if from_client and row.server_only:
                raise TransportParameterError(f"a client may not send {row.name}")
            decoded = _decode_value(row, value)
            if row.name in _NAMES:
                setattr(params, row.name, decoded)
            else:
                params.extensions[row.name] = decoded
        return params


_NAMES = frozenset(f.name for f in fields(TransportParameters)) - {"extensions", "unknown"}


def _decode_value(row: ParameterRow, data: bytes) -> Value:
    kind = row.kind
    size = len(data)
    if kind is Kind.INTEGER:
        try:
            value, used = decode_varint(data)
        except ValueError:
            used = -1
        if used != size:
            raise TransportParameterError(f"{row.name} is not one variable-length integer")
        if not row.minimum <= value <= row.maximum:
            raise TransportParameterError(f"{row.name} is {value}, not in {row.minimum} to {row.maximum}")
        return value
    if kind is Kind.FLAG:
        if size:
            raise TransportParameterError(f"{row.name} has a value")
        return True
    if kind is Kind.CID and size > CID_MAX:
        raise TransportParameterError(f"{row.name} has {size} bytes, more than {CID_MAX}")
    if kind is Kind.TOKEN and size != RESET_TOKEN_SIZE:
        raise TransportParameterError(f"{row.name} has {size} bytes, not {RESET_TOKEN_SIZE}")
    if kind is Kind.PREFERRED_ADDRESS:
        return _decode_preferred_address(data)
    return data


def _decode_preferred_address(data: bytes) -> PreferredAddress:
    cid_size = data[24] if len(data) >= PREFERRED_ADDRESS_FIXED else 0
    # A zero-length connection ID cannot be used here (§18.2).
    if not 1 <= cid_size <= CID_MAX or len(data) != PREFERRED_ADDRESS_FIXED + cid_size:
        raise TransportParameterError("preferred_address has a wrong layout")
    ipv4, ipv6 = data[0:4], data[6:22]
    return PreferredAddress(
        (str(ipaddress.IPv4Address(ipv4)), int.from_bytes(data[4:6], "big")) if any(ipv4) else None,
        (str(ipaddress.IPv6Address(ipv6)), int.from_bytes(data[22:24], "big")) if any(ipv6) else None,
        data[25 : 25 + cid_size],
        data[25 + cid_size :],
    )


def _encode_value(row: ParameterRow, value: Value) -> tuple[bytes, bytes]:
    """Length and value."""
    kind = row.kind
    if kind is Kind.INTEGER and type(value) is int and row.minimum <= value <= row.maximum:
        data = encode_varint(value)
    elif kind is Kind.FLAG and value is True:
        data = b""
    elif (
        isinstance(value, bytes)
        and (kind is not Kind.CID or len(value) <= CID_MAX)
        and (kind is not Kind.TOKEN or len(value) == RESET_TOKEN_SIZE)
        and kind in (Kind.CID, Kind.TOKEN, Kind.OPAQUE)
    ):
        data = value
    elif kind is Kind.PREFERRED_ADDRESS and isinstance(value, PreferredAddress):
        data = _encode_preferred_address(value)
    else:
        raise ConfigurationError(f"{row.name} cannot be {value!r}")
    return encode_varint(len(data)), data


def _encode_preferred_address(value: PreferredAddress) -> bytes:
    cid, token = value.connection_id, value.stateless_reset_token
    if not 1 <= len(cid) <= CID_MAX or len(token) != RESET_TOKEN_SIZE:
        raise ConfigurationError("preferred_address needs a connection ID of 1 to 20 bytes and a token of 16")
    host4, port4 = value.ipv4 or ("0.0.0.0", 0)
    host6, port6 = value.ipv6 or ("::", 0)
    try:
        addresses = (
            ipaddress.IPv4Address(host4).packed + port4.to_bytes(2, "big"),
            ipaddress.IPv6Address(host6).packed + port6.to_bytes(2, "big"),
        )
    except (ValueError, OverflowError) as error:
        raise ConfigurationError(f"preferred_address: {error}") from None
    return b"".join((*addresses, bytes([len(cid)]), cid, token))
