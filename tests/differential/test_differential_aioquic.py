"""stoq against upstream aioquic, sans-IO, in memory and virtual time: both roles, also on bad links."""

from __future__ import annotations

import datetime as dt
import random

import pytest
from aioquic.quic.configuration import QuicConfiguration
from upstream_pair import MS, SECOND, Mixed

from stoq.crypto.certificates import make_test_ca
from stoq.errors import HandshakeFailed, TransportClosed

ROLES = pytest.mark.parametrize("stoq_is_client", [True, False], ids=["stoq-client", "stoq-server"])
BAD = {"loss": 0.08, "reorder": 0.25, "duplicate": 0.08}
LINKS = pytest.mark.parametrize("link", [{}, BAD], ids=["clean", "bad"])


@ROLES
@pytest.mark.parametrize("retry", [False, True])
def test_handshake_facts(stoq_is_client: bool, retry: bool) -> None:
    mixed = Mixed(stoq_is_client, retry=retry, alpn=(["x", "hq"], ["hq", "y"])).handshake()
    assert mixed.client.alpn == mixed.server.alpn == "hq"
    ours, theirs = mixed.ours.connection, mixed.theirs.connection
    assert ours.version == theirs._version == 1
    assert ours.cipher_suite == theirs.tls.key_schedule.cipher_suite
    assert mixed.run(lambda: ours.handshake_confirmed and theirs._handshake_confirmed)
    mixed.wait(2 * SECOND)
    assert mixed.client.closed is None
    assert ours.stats()["packets_lost"] == 0
    assert ours.server_name == "localhost"
    assert len(ours.peer_certificates) == (1 if stoq_is_client else 0)


@ROLES
def test_transport_parameters_are_seen_as_configured(stoq_is_client: bool) -> None:
    mixed = Mixed(
        stoq_is_client,
        idle_timeout=25.0,
        max_streams_bidi=11,
        max_streams_uni=13,
        active_connection_id_limit=5,
        knobs={"receive_window": 300_000, "stream_window": 70_000, "max_ack_delay_ns": 17 * MS},
    ).handshake()
    theirs = mixed.theirs.connection
    assert theirs._remote_max_data == 300_000
    assert theirs._remote_max_stream_data_bidi_local == 70_000
    assert theirs._remote_max_stream_data_bidi_remote == 70_000
    assert theirs._remote_max_stream_data_uni == 70_000
    assert theirs._remote_max_streams_bidi == 11
    assert theirs._remote_max_streams_uni == 13
    assert theirs._remote_max_idle_timeout == 25.0
    assert theirs._remote_active_connection_id_limit == 5
    assert theirs._loss.max_ack_delay == pytest.approx(0.017)
    got = mixed.ours.connection.peer_parameters
    assert got is not None
    defaults = QuicConfiguration()
    assert got.initial_max_data == defaults.max_data
    assert got.initial_max_stream_data_bidi_local == defaults.max_stream_data
    assert got.initial_max_stream_data_uni == defaults.max_stream_data
    assert got.max_idle_timeout == int(defaults.idle_timeout * 1000)
    assert (got.initial_max_streams_bidi, got.initial_max_streams_uni) == (128, 128)
    assert got.active_connection_id_limit == 8


@ROLES
@LINKS
def test_a_megabyte_both_ways(stoq_is_client: bool, link: dict[str, float]) -> None:
    mixed = Mixed(stoq_is_client, seed=3, **link).handshake()
    data = {True: random.Random(1).randbytes(1 << 20), False: random.Random(2).randbytes(1 << 20)}
    up = mixed.client.open(True)
    down = mixed.server.open(True)
    mixed.client.write(up, data[True], True)
    mixed.server.write(down, data[False], True)
    assert mixed.run(lambda: up in mixed.server.ended and down in mixed.client.ended, limit=600 * SECOND)
    assert bytes(mixed.server.data[up]) == data[True]
    assert bytes(mixed.client.data[down]) == data[False]
    if not link:
        assert mixed.ours.connection.stats()["packets_lost"] == 0
    assert mixed.client.closed is None
    assert mixed.server.closed is None


@ROLES
@LINKS
def test_a_hundred_streams(stoq_is_client: bool, link: dict[str, float]) -> None:
    """Requests and answers on bidirectional streams, opened by the client."""
    mixed = Mixed(stoq_is_client, seed=4, **link).handshake()
    ids = []
    for n in range(100):
        stream_id = mixed.client.open()
        ids.append(stream_id)
        mixed.client.write(stream_id, b"request %d " % n * (n + 1), True)
    answered: set[int] = set()

    def serve() -> bool:
        for stream_id in ids:
            if stream_id in mixed.server.ended and stream_id not in answered:
                answered.add(stream_id)
                mixed.server.write(stream_id, bytes(mixed.server.data[stream_id])[::-1], True)
        return all(i in mixed.client.ended for i in ids)

    assert mixed.run(serve, limit=120 * SECOND)
    for n, stream_id in enumerate(ids):
        assert bytes(mixed.client.data[stream_id]) == (b"request %d " % n * (n + 1))[::-1]


@ROLES
@LINKS
@pytest.mark.parametrize("by_client", [True, False])
def test_resets(stoq_is_client: bool, link: dict[str, float], by_client: bool) -> None:
    mixed = Mixed(stoq_is_client, seed=5, **link).handshake()
    one, other = (mixed.client, mixed.server) if by_client else (mixed.server, mixed.client)
    stream_id = one.open()
    one.write(stream_id, bytes(5000))
    assert mixed.run(lambda: len(other.data.get(stream_id, b"")) > 0)
    one.reset(stream_id, 0x5432)
    assert mixed.run(lambda: stream_id in other.resets)
    assert other.resets[stream_id] == 0x5432
    # The other direction still works.
    other.write(stream_id, b"still", True)
    assert mixed.run(lambda: stream_id in one.ended)
    assert bytes(one.data[stream_id]) == b"still"


@ROLES
@LINKS
@pytest.mark.parametrize("by_client", [True, False])
def test_stop_sending(stoq_is_client: bool, link: dict[str, float], by_client: bool) -> None:
    mixed = Mixed(stoq_is_client, seed=6, **link).handshake()
    one, other = (mixed.client, mixed.server) if by_client else (mixed.server, mixed.client)
    stream_id = one.open()
    one.write(stream_id, bytes(300_000))
    assert mixed.run(lambda: len(other.data.get(stream_id, b"")) > 2000)
    other.stop(stream_id, 0x66)
    assert mixed.run(lambda: stream_id in one.stops)
    assert one.stops[stream_id] == 0x66
    assert mixed.run(lambda: stream_id in other.resets)
    assert other.resets[stream_id] == 0x66
    new = one.open(True)
    one.write(new, b"next", True)
    assert mixed.run(lambda: new in other.ended)


@ROLES
@LINKS
@pytest.mark.parametrize("by_client", [True, False])
@pytest.mark.parametrize("code", [0, 0x1234, (1 << 62) - 1])
def test_close_codes(stoq_is_client: bool, link: dict[str, float], by_client: bool, code: int) -> None:
    mixed = Mixed(stoq_is_client, seed=7, **link).handshake()
    mixed.wait(1 * SECOND)
    one, other = (mixed.client, mixed.server) if by_client else (mixed.server, mixed.client)
    one.close(code, "the reason é")
    other.ping(1)  # so that a lost close is answered
    assert mixed.run(lambda: other.closed is not None, limit=20 * SECOND)
    assert other.closed == (True, code, "the reason é")
    assert mixed.run(lambda: one.gone and other.gone, limit=20 * SECOND)


@ROLES
def test_a_transport_error_of_ours_reaches_upstream(stoq_is_client: bool) -> None:
    mixed = Mixed(stoq_is_client).handshake()
    mixed.ours.connection.close(0x0A, "violated", application=False, frame_type=0x1E)
    assert mixed.run(lambda: mixed.theirs.closed is not None)
    assert mixed.theirs.closed == (False, 0x0A, "violated")


@ROLES
def test_an_error_of_ours_is_found_by_upstream_and_named(stoq_is_client: bool) -> None:
    """Upstream closes with its code; the shell makes a TransportClosed of it."""
    mixed = Mixed(stoq_is_client).handshake()
    mixed.theirs.connection.close(error_code=0x03, frame_type=0x08, reason_phrase="over the limit")
    assert mixed.run(lambda: mixed.ours.closed is not None)
    reason = mixed.ours.connection.close_reason
    assert isinstance(reason, TransportClosed)
    assert (reason.error_code, reason.frame_type, reason.reason, reason.by_peer) == (3, 8, "over the limit", True)


@ROLES
def test_refused_alpn(stoq_is_client: bool) -> None:
    mixed = Mixed(stoq_is_client, alpn=(["a"], ["b"]))
    assert mixed.run(lambda: mixed.client.closed is not None)
    if stoq_is_client:
        # Upstream answers handshake_failure (40) where RFC 7301 §3.2 says no_application_protocol (120).
        assert isinstance(mixed.ours.connection.close_reason, HandshakeFailed)
        assert mixed.client.closed[1] in (0x100 + 120, 0x100 + 40)
    else:
        assert mixed.client.closed[1] == 0x100 + 120


@ROLES
def test_a_certificate_of_an_unknown_authority(stoq_is_client: bool) -> None:
    stranger = make_test_ca(dt.datetime.now(dt.UTC), name="stranger")
    mixed = Mixed(stoq_is_client, trust=stranger)
    assert mixed.run(lambda: mixed.server is not None and mixed.server.closed is not None)
    assert 0x100 <= mixed.server.closed[1] <= 0x1FF
    assert not mixed.client.completed


@ROLES
@pytest.mark.parametrize("seed", range(4))
def test_handshakes_on_a_terrible_link(stoq_is_client: bool, seed: int) -> None:
    mixed = Mixed(stoq_is_client, seed=seed, loss=0.25, reorder=0.4, duplicate=0.2, handshake_timeout=0.0)
    assert mixed.run(lambda: mixed.server is not None and mixed.client.completed and mixed.server.completed)
    stream_id = mixed.client.open()
    mixed.client.write(stream_id, b"through", True)
    assert mixed.run(lambda: mixed.server.data.get(stream_id) == b"through", limit=120 * SECOND)


@ROLES
def test_pings(stoq_is_client: bool) -> None:
    mixed = Mixed(stoq_is_client).handshake()
    mixed.client.ping(77)
    mixed.server.ping(88)
    assert mixed.run(lambda: bool(mixed.client.pings and mixed.server.pings), limit=5 * SECOND)
    assert (mixed.client.pings, mixed.server.pings) == ([77], [88])


@ROLES
def test_connection_ids_change(stoq_is_client: bool) -> None:
    """Upstream gives us IDs, and moves to each of those that we give it."""
    mixed = Mixed(stoq_is_client).handshake()
    ours, theirs = mixed.ours.connection, mixed.theirs.connection
    issued = 0
    for _ in range(6):
        for _ in range(ours.connection_ids_wanted()):
            issued += 1
            ours.add_connection_id(b"ours%04d" % issued, b"%016d" % issued)
        stream_id = mixed.client.open()
        mixed.client.write(stream_id, b"x" * 3000, True)
        assert mixed.run(lambda stream_id=stream_id: stream_id in mixed.server.ended)
        before = theirs._peer_cid.cid
        theirs.change_connection_id()
        assert theirs._peer_cid.cid != before
        assert mixed.run(lambda before=before: before not in ours.local_cids(), limit=5 * SECOND)
    assert issued > 8
    assert mixed.client.closed is None


@ROLES
def test_an_idle_connection_ends_on_both_sides(stoq_is_client: bool) -> None:
    mixed = Mixed(stoq_is_client, idle_timeout=4.0).handshake()
    start = mixed.now
    assert mixed.run(lambda: mixed.client.gone and mixed.server.gone, limit=20 * SECOND)
    assert 3.5 * SECOND < mixed.now - start < 5 * SECOND


@ROLES
def test_the_same_client_hello_is_accepted_by_both(stoq_is_client: bool) -> None:
    """One first flight, fed to a server of each kind: both answer with a flight that is no close."""
    flight = Mixed(stoq_is_client).client.send(1000 * SECOND)
    answers = []
    for server_is_stoq in (False, True):
        mixed = Mixed(not server_is_stoq)
        assert mixed.accept(flight[0])
        for datagram in flight:
            mixed.server.receive(datagram, mixed.now)
        answer = mixed.server.send(mixed.now)
        assert mixed.server.closed is None
        answers.append(sum(map(len, answer)))
    assert all(1200 <= size <= 3600 for size in answers)


@ROLES
def test_flow_control_stalls_and_goes_on(stoq_is_client: bool) -> None:
    """Small windows of ours, large ones of upstream: each obeys the other's."""
    knobs = {"receive_window": 20_000, "receive_window_max": 20_000, "stream_window": 5000, "stream_window_max": 5000}
    mixed = Mixed(stoq_is_client, knobs=knobs).handshake()
    ids = [mixed.theirs.open(True) for _ in range(8)]
    for stream_id in ids:
        mixed.theirs.write(stream_id, bytes([stream_id]) * 30_000, True)
    assert mixed.run(lambda: all(i in mixed.ours.ended for i in ids), limit=60 * SECOND)
    for stream_id in ids:
        assert bytes(mixed.ours.data[stream_id]) == bytes([stream_id]) * 30_000
    assert mixed.theirs.closed is None


@ROLES
@LINKS
def test_upstream_updates_its_keys(stoq_is_client: bool, link: dict[str, float]) -> None:
    mixed = Mixed(stoq_is_client, seed=8, **link).handshake()
    mixed.wait(1 * SECOND)
    for n in range(5):
        mixed.theirs.connection.request_key_update()
        stream_id = mixed.theirs.open(True)
        mixed.theirs.write(stream_id, bytes([n]) * 20_000, True)
        assert mixed.run(lambda stream_id=stream_id: stream_id in mixed.ours.ended)
        assert bytes(mixed.ours.data[stream_id]) == bytes([n]) * 20_000
        mixed.wait(1 * SECOND)
    assert mixed.ours.connection.stats()["key_updates"] == 5
    assert mixed.ours.connection.stats()["auth_failures"] == 0


@ROLES
def test_our_key_updates_are_followed_by_upstream(stoq_is_client: bool) -> None:
    mixed = Mixed(stoq_is_client, seed=9, knobs={"key_update_packets": 200}).handshake()
    for _ in range(4):
        stream_id = mixed.ours.open(True)
        mixed.ours.write(stream_id, bytes(300_000), True)
        assert mixed.run(lambda stream_id=stream_id: stream_id in mixed.theirs.ended)
        assert bytes(mixed.theirs.data[stream_id]) == bytes(300_000)
        mixed.wait(1 * SECOND)
    assert mixed.ours.connection.stats()["key_updates"] >= 3
    assert mixed.theirs.closed is None
