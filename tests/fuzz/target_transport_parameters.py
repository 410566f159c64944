"""Fuzz target: transport parameters. The first byte chooses who sent them."""

from __future__ import annotations

from collections.abc import Iterator

from stoq.errors import TransportParameterError
from stoq.wire.transport_parameters import (
    UNKNOWN_MAX,
    PreferredAddress,
    TransportParameters,
    reserved_parameter,
)

TOKEN = bytes(range(16))
EXAMPLES = [
    TransportParameters(),
    TransportParameters(initial_source_connection_id=b"", max_idle_timeout=30_000),
    TransportParameters(original_destination_connection_id=b"original", retry_source_connection_id=bytes(20)),
    TransportParameters(stateless_reset_token=TOKEN, disable_active_migration=True),
    TransportParameters(max_udp_payload_size=1200, ack_delay_exponent=20, max_ack_delay=2**14 - 1),
    TransportParameters(initial_max_data=2**62 - 1, initial_max_streams_bidi=2**60, initial_max_streams_uni=2**60),
    TransportParameters(
        initial_max_stream_data_bidi_local=2**20,
        initial_max_stream_data_bidi_remote=2**14,
        initial_max_stream_data_uni=63,
        active_connection_id_limit=8,
    ),
    TransportParameters(preferred_address=PreferredAddress(("192.0.2.1", 443), ("2001:db8::1", 443), b"cid", TOKEN)),
    TransportParameters(preferred_address=PreferredAddress(None, None, bytes(20), TOKEN)),
    TransportParameters(unknown={0x20: b"\x44\xb0", 0x11: b"\x00\x00\x00\x01", 0x3129: b"value"}),
]


def fuzz_one(data: bytes) -> None:
    """Must not raise. What is read can be written and reads back alike."""
    from_client = bool(data) and bool(data[0] & 1)
    try:
        params = TransportParameters.decode(data[1:], from_client)
    except TransportParameterError:
        return
    assert len(params.unknown) <= UNKNOWN_MAX
    assert TransportParameters.decode(params.encode(), from_client) == params


def seeds() -> Iterator[bytes]:
    """Every parameter, as a client and as a server, with and without grease."""
    for params in EXAMPLES:
        yield b"\x00" + params.encode()
        yield b"\x01" + params.encode((reserved_parameter(7), b"grease"))
    yield b"\x00" + b"".join(params.encode() for params in EXAMPLES[1:5])
    yield b"\x01" + b"".join(bytes([0x40, 0x80 + i, 1, i]) for i in range(40))
