"""stoq.endpoint.endpoint over the simulator: strangers' datagrams, limits, fairness, timers."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

import pytest

from stoq.connection.configuration import Configuration
from stoq.connection.factory import client_connection
from stoq.endpoint.admission import HALF_OPEN_RETRY, Admission, DefaultAdmission
from stoq.endpoint.endpoint import Endpoint
from stoq.endpoint.session import Session
from stoq.errors import ApplicationClosed, HandshakeFailed, StatelessReset, StoqError, TransportErrorCode
from stoq.io.sim import LinkConfig
from stoq.testing.inspect import memory
from stoq.testing.pair import CLIENT_ADDRESS, KEY, SERVER_ADDRESS, SimulatedPair, tls_configuration
from stoq.wire.header import PacketType, encode_long_header, parse_header

MS = 1_000_000
STRANGER = ("203.0.113.5", 6000)


class Logged(Session):
    """Remembers why it ended."""

    def __init__(self) -> None:
        self.reason: Exception | None = None
        self.over = False

    def closed(self, connection: Any) -> None:
        super().closed(connection)
        self.reason = connection.close_reason

    def terminated(self, connection: Any) -> None:
        self.over = True


def pair_of(**options: Any) -> SimulatedPair:
    options = {"client_link": LinkConfig(delay_ns=MS), "server_link": LinkConfig(delay_ns=MS)} | options
    return SimulatedPair(5, client_session=Logged, server_session=Logged, **options)


def connected(pair: SimulatedPair) -> Logged:
    session = pair.connect()
    assert pair.run_until(lambda: session.connection.handshake_confirmed)
    assert isinstance(session, Logged)
    return session


def first_flight(pair: SimulatedPair, number: int, alpn: str = "sim") -> list[bytes]:
    """The first datagrams of a client that is not there to go on."""
    configuration = Configuration(tls_configuration(True, alpn))
    rng = random.Random(number)
    connection = client_connection(
        configuration,
        SERVER_ADDRESS,
        now_ns=pair.now,
        random=rng.randbytes,
        cid=b"c" * 8,
        original_dcid=rng.randbytes(8),
    )
    return [data for data, _ in connection.datagrams_to_send(pair.now)]


class Stranger:
    """Sends datagrams of its own making to the server and keeps the answers."""

    def __init__(self, pair: SimulatedPair) -> None:
        self.pair = pair
        self.transport = pair.network.transport(STRANGER)

    def ask(self, *datagrams: bytes) -> list[bytes]:
        for data in datagrams:
            self.transport.send_datagrams([(data, SERVER_ADDRESS)])
        self.pair.run_for(10 * MS)
        return [data for data, _, _ in self.transport.receive_datagrams()]


def initial(dcid: bytes = b"\x01" * 8, token: bytes = b"", version: int = 1, size: int = 1200) -> bytes:
    room = size - len(encode_long_header(PacketType.INITIAL, version, dcid, b"scid", token=token)) - 0
    head = encode_long_header(PacketType.INITIAL, version, dcid, b"scid", token=token, payload_length=room)
    return head + bytes(room)


def test_connects_and_closes() -> None:
    pair = pair_of()
    session = connected(pair)
    assert pair.server.endpoint.counters()["accepted"] == 1
    assert pair.server.endpoint.half_open == 0
    session.connection.close(3)
    assert pair.run_until(lambda: not pair.client.endpoint.sessions and not pair.server.endpoint.sessions)
    assert isinstance(session.reason, ApplicationClosed)
    assert session.over


def test_version_negotiation() -> None:
    pair = pair_of()
    stranger = Stranger(pair)
    answers = stranger.ask(initial(version=0x1A2A3A4A))
    assert len(answers) == 1
    header = parse_header(answers[0])
    assert header.type == PacketType.VERSION_NEGOTIATION
    assert 1 in header.versions
    assert (header.dcid, header.scid) == (b"scid", b"\x01" * 8)
    # Too small to open a connection; Version Negotiation itself: silence.
    assert stranger.ask(initial(version=0x1A2A3A4A, size=1199)) == []
    assert stranger.ask(answers[0].ljust(1200, b"\0")) == []
    # Limited for one address.
    assert len(stranger.ask(*[initial(version=0x1A2A3A4A)] * 50)) <= 4


def test_junk_is_silent_and_leaves_nothing() -> None:
    pair = pair_of()
    stranger = Stranger(pair)
    rng = random.Random(2)
    junk = [rng.randbytes(rng.randint(0, 1400)) for _ in range(300)]
    junk += [bytes([0x80 | rng.getrandbits(7)]) + rng.randbytes(1300) for _ in range(300)]
    answers = stranger.ask(*junk)
    assert all(len(answer) < 60 for answer in answers)
    assert not pair.server.endpoint.sessions
    assert pair.server.endpoint.counters()["unknown"] >= 500


def test_initials_that_open_nothing() -> None:
    pair = pair_of()
    stranger = Stranger(pair)
    assert stranger.ask(initial(size=1199)) == []
    assert stranger.ask(initial(dcid=b"\x01" * 7)) == []
    assert not pair.server.endpoint.sessions
    # A well-formed one with nothing authentic in it takes no place either; nor does a short DCID with some token.
    assert stranger.ask(initial()) == []
    assert stranger.ask(initial(dcid=b"", token=b"n" * 30)) == []
    assert not pair.server.endpoint.sessions
    assert pair.server.endpoint.counters()["accepted"] == 0


def test_a_half_open_connection_ends() -> None:
    pair = pair_of()
    stranger = Stranger(pair)
    assert stranger.ask(*first_flight(pair, 1))
    assert pair.server.endpoint.half_open == 1
    pair.run_for(11_000 * MS)
    assert not pair.server.endpoint.sessions
    assert pair.server.endpoint.half_open == 0


def test_a_client_that_fails_at_once_leaves_nothing() -> None:
    """Who has not proved an address gets no three seconds of memory for a ClientHello that is refused."""
    pair = pair_of()
    stranger = Stranger(pair)
    answers = stranger.ask(*[first_flight(pair, i, alpn="other")[0] for i in range(50)])
    assert len(answers) >= 50
    assert not pair.server.endpoint.sessions
    assert pair.server.endpoint.half_open == 0


def test_stateless_reset_of_a_lost_connection() -> None:
    pair = pair_of()
    session = connected(pair)
    old = pair.server.endpoint
    # The server restarts on the same address with the same key.
    pair.server.transport.close()
    server = SimulatedPair(6)
    transport = pair.network.transport(SERVER_ADDRESS)
    pair.server.transport = transport
    pair.server.endpoint = Endpoint(
        transport,
        configuration=server.server.endpoint.configuration,
        scheme=old.scheme,
        clock=lambda: pair.network.now,
    )
    pair.server.endpoint.receive_batches = 1
    session.connection.ping()
    assert pair.run_until(lambda: session.reason is not None)
    assert isinstance(session.reason, StatelessReset)
    assert pair.server.endpoint.counters()["resets"] >= 1
    assert pair.run_until(lambda: not pair.client.endpoint.sessions)


def test_resets_are_smaller_and_few() -> None:
    pair = pair_of()
    stranger = Stranger(pair)
    for size in (1200, 100, 43, 30, 22):
        pair.run_for(1000 * MS)
        answers = stranger.ask(b"\x40" + bytes(size - 1))
        assert [len(answer) for answer in answers] == [min(43, size - 1)]
        assert answers[0][0] & 0xC0 == 0x40
    pair.run_for(1000 * MS)
    assert stranger.ask(b"\x40" + bytes(20)) == []
    assert len(stranger.ask(*[b"\x40" + bytes(99)] * 50)) <= 4


def test_two_endpoints_wired_together_fall_silent() -> None:
    """SECURITY row 16: an echo between two stoq servers ends within five packets."""
    pair = pair_of()
    other = pair.network.transport(STRANGER)
    sent = 0
    other.send_datagrams([(b"\x40" + bytes(1199), SERVER_ADDRESS)])
    for _ in range(50):
        pair.run_for(10 * MS)
        for data, _, _ in other.receive_datagrams():
            sent += 1
            other.send_datagrams([(data, SERVER_ADDRESS)])
    assert sent <= 5


@pytest.mark.parametrize("policy", ["drop", "hand over"])
def test_policies_for_unknown_ids(policy: str) -> None:
    handed: list[tuple[bytes, Any, Any]] = []

    def hand_over(data: bytes, peer: Any, route: Any) -> None:
        handed.append((data, peer, route))
        raise RuntimeError("a failing hand-over does no harm")

    pair = pair_of()
    pair.server.endpoint.unknown = "drop" if policy == "drop" else hand_over
    stranger = Stranger(pair)
    logging.disable(logging.CRITICAL)
    try:
        assert stranger.ask(b"\x40" + bytes(99)) == []
    finally:
        logging.disable(logging.NOTSET)
    assert handed == ([] if policy == "drop" else [(b"\x40" + bytes(99), STRANGER, None)])


def test_refused_beyond_max_connections() -> None:
    pair = pair_of(admission=DefaultAdmission(KEY, max_connections=1))
    connected(pair)
    second = pair.connect()
    assert pair.run_until(lambda: second.reason is not None)
    assert isinstance(second.reason, HandshakeFailed)
    assert second.reason.error_code == TransportErrorCode.CONNECTION_REFUSED
    assert len(pair.server.endpoint.sessions) == 1
    assert pair.server.endpoint.counters()["refused"] >= 1


def test_a_stale_retry_token_is_refused_at_once() -> None:
    pair = pair_of(retry=True)
    token = pair.server.endpoint.admission.mint_retry(CLIENT_ADDRESS, b"original", b"retryscd", 1, 1)
    pair.run_for(20_000 * MS)
    session = Logged()
    pair.client.endpoint.connect(
        pair.client_configuration, SERVER_ADDRESS, session, token=token, original_dcid=b"retryscd"
    )
    assert pair.run_until(lambda: session.reason is not None)
    assert isinstance(session.reason, HandshakeFailed)
    assert session.reason.error_code == TransportErrorCode.INVALID_TOKEN


def test_retry_keeps_nothing() -> None:
    pair = pair_of(retry=True)
    stranger = Stranger(pair)
    answers = stranger.ask(*[initial(dcid=i.to_bytes(8, "big")) for i in range(100)])
    assert len(answers) == 100
    assert {parse_header(answer).type for answer in answers} == {PacketType.RETRY}
    assert max(map(len, answers)) < 200
    assert not pair.server.endpoint.sessions
    connected(pair)
    assert pair.server.endpoint.counters()["retries"] == 101


def test_a_flood_of_first_packets() -> None:
    """SECURITY row 12: above the threshold strangers cost a Retry and no memory; real clients are still served."""
    pair = pair_of(watch=False)
    stranger = Stranger(pair)
    for round_ in range(10):
        stranger.ask(*[first_flight(pair, 100 * round_ + i)[0] for i in range(100)])
    counters = pair.server.endpoint.counters()
    assert pair.server.endpoint.half_open == HALF_OPEN_RETRY
    assert counters["accepted"] == HALF_OPEN_RETRY
    assert counters["retries"] == 1000 - HALF_OPEN_RETRY
    held = [sum(memory(session).values()) for session in pair.server.endpoint.sessions]
    assert max(held) < 16 << 10
    session = connected(pair)
    assert session.connection.handshake_confirmed
    pair.run_for(15_000 * MS)
    assert len(pair.server.endpoint.sessions) == 1


def test_a_new_token_saves_the_retry() -> None:
    pair = pair_of(admission=DefaultAdmission(KEY, half_open_retry=0))
    token = pair.server.endpoint.admission.mint_new_token(CLIENT_ADDRESS, 1, pair.now)
    session = pair.connect(token=token)
    assert pair.run_until(lambda: session.connection.handshake_complete)
    assert pair.server.endpoint.counters()["retries"] == 0


def test_a_python_admission_provider() -> None:
    class Choosy(Admission):
        def decide(self, token: bytes, dcid: bytes, scid: bytes, address: Any, now: int, half_open: int, n: int) -> Any:
            if address == STRANGER:
                return {"verdict": "drop"}
            return {"traffic_class": 4, "validated": True}

    pair = pair_of(admission=Choosy())
    Stranger(pair).ask(initial())
    assert not pair.server.endpoint.sessions
    connected(pair)
    assert [session.traffic_class for session in pair.server.endpoint.sessions] == [4]


def test_draining_takes_no_new_connections() -> None:
    pair = pair_of()
    first = connected(pair)
    pair.server.endpoint.drain()
    second = pair.connect()
    assert pair.run_until(lambda: second.reason is not None, 500 * MS)
    assert isinstance(second.reason, HandshakeFailed)
    assert second.reason.error_code == TransportErrorCode.CONNECTION_REFUSED
    assert first.reason is None


def test_close_ends_everything() -> None:
    empty: list[bool] = []
    pair = pair_of()
    sessions = [connected(pair) for _ in range(3)]
    pair.server.endpoint.when_empty = lambda: empty.append(True)
    pair.server.endpoint.close(7, "over")
    assert pair.run_until(lambda: bool(empty))
    assert all(isinstance(s.reason, ApplicationClosed) and s.reason.error_code == 7 for s in sessions)
    with pytest.raises(StoqError):
        pair.server.endpoint.connect(pair.client_configuration, CLIENT_ADDRESS, Session())
    with pytest.raises(StoqError):
        pair.client.endpoint.connect(pair.client_configuration, SERVER_ADDRESS, sessions[0])


def test_a_failing_handler_closes_its_own_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Logged):
        def stream_opened(self, connection: Any, stream: Any) -> None:
            raise RuntimeError("broken handler")

    served: list[Logged] = []

    def server_session() -> Logged:
        served.append(Logged() if served else Broken())
        return served[-1]

    pair = SimulatedPair(9, client_session=Logged, server_session=server_session)
    first, second = connected(pair), connected(pair)
    with caplog.at_level(logging.CRITICAL + 1, "stoq"):
        stream = first.connection.open_stream()
        stream.write(b"x")
        assert pair.run_until(lambda: first.reason is not None)
    assert getattr(first.reason, "error_code", None) == TransportErrorCode.INTERNAL_ERROR
    assert second.reason is None


@pytest.mark.parametrize("error", [asyncio.CancelledError, RuntimeError, KeyboardInterrupt])
def test_a_failing_handler_harms_no_other_connection(error: type[BaseException]) -> None:
    """The datagrams of a batch belong to several connections: each gets its own bytes, whatever one handler raises."""
    got: dict[int, bytes] = {}

    class Reading(Logged):
        def stream_data(self, stream: Any) -> None:
            number = int(stream.take(1))
            if number == 2:
                raise error("handler")
            got[number] = stream.take(1 << 20)

    pair = SimulatedPair(4, client_session=Logged, server_session=Reading, watch=False)
    sessions = [connected(pair) for _ in range(6)]
    for number, session in enumerate(sessions):
        session.connection.open_stream().write(b"%d" % number + bytes([65 + number]) * 3000)
    logging.disable(logging.CRITICAL)
    try:
        if error is KeyboardInterrupt:
            with pytest.raises(KeyboardInterrupt):
                pair.run_for(100 * MS)
        pair.run_for(1000 * MS)
    finally:
        logging.disable(logging.NOTSET)
    assert sorted(got) == [0, 1, 3, 4, 5]
    assert all(data == bytes([65 + number]) * len(data) for number, data in got.items())
    assert [session.reason is None for session in sessions] == [True, True, False, True, True, True]


def test_failing_providers_drop_the_datagram() -> None:
    class Failing(Admission):
        def decide(self, *arguments: Any) -> Any:
            raise RuntimeError("provider")

    pair = pair_of(admission=Failing())
    logging.disable(logging.CRITICAL)
    try:
        session = pair.connect()
        pair.run_for(100 * MS)
    finally:
        logging.disable(logging.NOTSET)
    assert session.reason is None
    assert not pair.server.endpoint.sessions


def test_senders_take_turns() -> None:
    """Two bulk senders of one endpoint move at the same pace."""
    pair = pair_of(
        client_link=LinkConfig(delay_ns=5 * MS, bit_rate=100_000_000, queue_bytes=200_000),
        transport_options={"send_buffer": 50_000},
    )
    sessions = [connected(pair) for _ in range(4)]
    for session in sessions:
        session.connection.open_stream().write(bytes(2_000_000))
    pair.run_for(150 * MS)
    sent = sorted(session.connection.stats()["stream_bytes_sent"] for session in sessions)
    assert sent[0] > 100_000
    assert sent[-1] < 4 * sent[0]


def test_a_transport_that_is_not_writable_loses_nothing() -> None:
    got: list[int] = []

    class Counting(Logged):
        def stream_data(self, stream: Any) -> None:
            while piece := stream.take(1 << 20):
                got.append(len(piece))

    link = LinkConfig(delay_ns=MS, bit_rate=20_000_000, queue_bytes=10_000_000)
    pair = SimulatedPair(
        3, client_link=link, client_session=Logged, server_session=Counting, transport_options={"send_buffer": 3_000}
    )
    session = connected(pair)
    session.connection.open_stream().write(bytes(500_000))
    assert pair.run_until(lambda: sum(got) == 500_000)
    assert pair.client.transport.counters.not_writable > 10
    assert session.connection.stats()["packets_lost"] == 0


def test_many_idle_connections_share_the_timers() -> None:
    pair = pair_of(client_options={"idle_timeout": 2}, watch=False)
    sessions = [pair.connect() for _ in range(50)]
    assert pair.run_until(lambda: all(s.connection.handshake_confirmed for s in sessions))
    pair.run_for(200 * MS)
    steps = pair.steps
    pair.run_for(1_000 * MS)
    assert pair.steps - steps < 10
    pair.run_for(10_000 * MS)
    assert not pair.client.endpoint.sessions
    assert not pair.server.endpoint.sessions
    assert len(pair.server.endpoint.timers) == 0


def test_an_extension_timer_runs() -> None:
    pair = pair_of()
    called: list[int] = []
    timers = pair.client.endpoint.timers
    slot = timers.register(called.append)
    pair.client.endpoint.schedule_timer(slot, pair.now + 5 * MS)
    due = pair.now + 5 * MS
    pair.run_for(20 * MS)
    assert called == [due]
