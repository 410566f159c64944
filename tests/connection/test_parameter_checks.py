"""Transport parameters that contradict the handshake or are malformed close with 0x08 (RFC 9000 §7.3, §7.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
from connection_pair import CLIENT, NOW, Pair, first_flight, retry_packet

from stoq.connection import factory
from stoq.connection.factory import server_connection
from stoq.errors import HandshakeFailed, TransportErrorCode
from stoq.wire.header import parse_header
from stoq.wire.transport_parameters import TransportParameters

Change = Callable[[TransportParameters], None]
ERROR = TransportErrorCode.TRANSPORT_PARAMETER_ERROR


def changed(monkeypatch: pytest.MonkeyPatch, client: bool, change: Change, tail: bytes = b"") -> Pair:
    """A pair of which one side sends changed parameters, with raw bytes behind them."""
    real = factory.own_parameters
    made = []

    class Changed(TransportParameters):
        def encode(self, *args: Any, **kwargs: Any) -> bytes:
            change(self)
            return super().encode(*args, **kwargs) + tail

    def wrapped(*args: Any) -> TransportParameters:
        params = real(*args)
        made.append(params)
        if (len(made) == 1) != client:  # the client's are made first
            return params
        return Changed(**{f.name: getattr(params, f.name) for f in fields(TransportParameters)})

    monkeypatch.setattr(factory, "own_parameters", wrapped)
    return Pair()


def check(pair: Pair, guilty_is_client: bool) -> None:
    reasons = pair.refused()
    for reason in reasons:
        assert isinstance(reason, HandshakeFailed)
        assert reason.error_code == ERROR
        assert reason.alert is None
    assert reasons[0 if guilty_is_client else 1].by_peer  # type: ignore[union-attr]


def test_unchanged_parameters_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    changed(monkeypatch, True, lambda params: None).handshake()
    changed(monkeypatch, False, lambda params: None, b"\x40\x5b\x02ok").handshake()


@pytest.mark.parametrize(
    ("client", "name", "value"),
    [
        (True, "initial_source_connection_id", b"another1"),
        (True, "initial_source_connection_id", None),
        (True, "stateless_reset_token", bytes(16)),
        (True, "original_destination_connection_id", b"another1"),
        (True, "retry_source_connection_id", b"another1"),
        (False, "initial_source_connection_id", b"another1"),
        (False, "initial_source_connection_id", None),
        (False, "original_destination_connection_id", b"another1"),
        (False, "original_destination_connection_id", None),
        (False, "retry_source_connection_id", b"another1"),
    ],
)
def test_connection_ids_that_do_not_match(
    monkeypatch: pytest.MonkeyPatch, client: bool, name: str, value: bytes | None
) -> None:
    check(changed(monkeypatch, client, lambda params: setattr(params, name, value)), client)


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("max_udp_payload_size", b"\x03\x02\x44\xaf"),  # 1199
        ("ack_delay_exponent", b"\x0a\x01\x15"),  # 21
        ("max_ack_delay", b"\x0b\x04\x80\x00\x40\x00"),  # 2^14
        ("active_connection_id_limit", b"\x0e\x01\x01"),
        ("initial_max_streams_bidi", b"\x08\x08\xd0\x00\x00\x00\x00\x00\x00\x01"),  # 2^60 + 1
        ("max_idle_timeout", b"\x01\x01\x05\x01\x01\x05"),  # twice
        ("max_idle_timeout", b"\x01\x05\x05"),  # truncated
        ("disable_active_migration", b"\x0c\x01\x00"),  # a flag with a value
    ],
)
@pytest.mark.parametrize("client", [True, False])
def test_malformed_values(monkeypatch: pytest.MonkeyPatch, client: bool, name: str, raw: bytes) -> None:
    default = {f.name: f.default for f in fields(TransportParameters)}[name]
    check(changed(monkeypatch, client, lambda params: setattr(params, name, default), raw), client)


def test_a_retry_that_a_server_never_sent_is_noticed() -> None:
    """A server that forgets the Retry in its parameters, and one that claims a Retry there was none."""

    def answer(pair: Pair, **changes: Any) -> None:
        datagram = first_flight(pair)
        pair.key_dcid = parse_header(datagram, 8).dcid
        pair._server = server_connection(
            pair.server_configuration,
            CLIENT,
            None,
            now_ns=pair.now,
            random=pair.rng.randbytes,
            cid=b"servrcid",
            original_dcid=pair.dcid,
            initial_dcid=pair.key_dcid,
            now=lambda: NOW,
            **changes,
        )
        pair.deliver(True, datagram)
        check(pair, False)

    pair = Pair()
    header = parse_header(first_flight(pair), 8)
    pair.give(pair.client, retry_packet(header.scid, header.dcid, b"retryscd"))
    answer(pair, retry_scid=None)
    answer(Pair(), retry_scid=b"retryscd")
