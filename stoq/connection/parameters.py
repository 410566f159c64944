"""Transport parameters of a connection: ours from the configuration, the peer's checked against the handshake."""

from __future__ import annotations

from stoq.connection.configuration import Configuration
from stoq.errors import TransportParameterError
from stoq.wire.transport_parameters import TransportParameters


def own_parameters(
    configuration: Configuration, source_cid: bytes, receive_window: int, stream_window: int, max_ack_delay_ns: int
) -> TransportParameters:
    """What we declare; windows in bytes as the core will enforce them."""
    c = configuration
    return TransportParameters(
        max_idle_timeout=int(c.idle_timeout * 1000),
        initial_max_data=receive_window,
        initial_max_stream_data_bidi_local=stream_window,
        initial_max_stream_data_bidi_remote=stream_window,
        initial_max_stream_data_uni=stream_window,
        initial_max_streams_bidi=c.max_streams_bidi,
        initial_max_streams_uni=c.max_streams_uni,
        max_ack_delay=max_ack_delay_ns // 1_000_000,
        active_connection_id_limit=c.active_connection_id_limit,
        initial_source_connection_id=source_cid,
    )


def read_peer_parameters(
    encoded: bytes, we_are_client: bool, peer_scid: bytes, original_dcid: bytes, retry_scid: bytes | None
) -> TransportParameters:
    """The peer's parameters. TransportParameterError when malformed, or when the connection IDs that they repeat are
    not those of the handshake (RFC 9000 §7.3): then somebody between rewrote packets.
    """
    params = TransportParameters.decode(encoded, from_client=not we_are_client)
    if params.initial_source_connection_id != peer_scid:
        raise TransportParameterError("initial_source_connection_id does not match")
    if we_are_client:
        if params.original_destination_connection_id != original_dcid:
            raise TransportParameterError("original_destination_connection_id does not match")
        if params.retry_source_connection_id != retry_scid:
            raise TransportParameterError("retry_source_connection_id does not match")
    return params
