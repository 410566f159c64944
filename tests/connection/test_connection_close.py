"""The end of a connection: codes both ways, closing and draining, idle, stateless reset (RFC 9000 §10)."""

from __future__ import annotations

import gc
import itertools
import os

import pytest
from connection_pair import MS, RESET_TOKEN, SECOND, Forge, Pair

from stoq.connection.connection import Connection
from stoq.errors import (
    ApplicationClosed,
    ConfigurationError,
    HandshakeFailed,
    IdleTimeout,
    StatelessReset,
    TransportClosed,
)
from stoq.testing.seams import core_memory, facts, heap_in_use


def ends(pair: Pair, by_client: bool) -> tuple[Connection, Connection]:
    return (pair.client, pair.server) if by_client else (pair.server, pair.client)


def pto_of(connection: Connection) -> int:
    path = facts(connection)["path"]
    return int(path["srtt"] + max(4 * path["rttvar"], 1 * MS) + 25 * MS)


@pytest.mark.parametrize("by_client", [True, False])
@pytest.mark.parametrize("application", [True, False])
@pytest.mark.parametrize("code", [0, 0x1234, (1 << 62) - 1])
def test_codes_and_reasons_reach_the_peer(by_client: bool, application: bool, code: int) -> None:
    pair = Pair().handshake()
    closer, other = ends(pair, by_client)
    closer.close(code, "because é", application)
    closer.close(99, "again")  # the first one counts
    pair.settle()
    kind = ApplicationClosed if application else TransportClosed
    for end, by_peer in ((closer, False), (other, True)):
        reason = end.close_reason
        assert type(reason) is kind
        assert (reason.error_code, reason.reason, reason.by_peer) == (code, "because é", by_peer)
        assert pair.names(end).count("closed") == 1


def test_the_frame_type_of_a_transport_error_travels() -> None:
    pair = Pair().handshake()
    pair.client.close(0x0A, "", application=False, frame_type=0x1E)
    pair.settle()
    assert isinstance(pair.server.close_reason, TransportClosed)
    assert pair.server.close_reason.frame_type == 0x1E


def test_long_and_dirty_reasons() -> None:
    pair = Pair().handshake()
    pair.client.close(1, "x" * 5000)
    pair.settle()
    assert isinstance(pair.server.close_reason, ApplicationClosed)
    assert pair.server.close_reason.reason == "x" * 256
    pair = Pair().handshake()
    frame = (0x1D, {"error_code": 1, "reason": b"\x1b[2J\xff\n" * 200})
    pair.give(pair.server, Forge(pair, client=True).frames(frame))
    assert isinstance(pair.server.close_reason, ApplicationClosed)
    assert len(pair.server.close_reason.reason.encode()) <= 3 * 256
    assert str(pair.server.close_reason).isprintable()


def test_a_code_beyond_62_bits_is_refused() -> None:
    pair = Pair().handshake()
    with pytest.raises(ConfigurationError):
        pair.client.close(1 << 62)
    assert pair.client.close_reason is None


@pytest.mark.parametrize("stage", ["nothing arrived", "keys", "complete"])
def test_an_application_close_during_the_handshake(stage: str) -> None:
    """RFC 9000 §10.2.3: before 1-RTT the peer learns APPLICATION_ERROR and no reason."""
    pair = Pair()
    if stage == "keys":
        pair.step()
    elif stage == "complete":
        pair.run(lambda: pair.client.handshake_complete)
    pair.client.close(0x55, "secret")
    assert isinstance(pair.client.close_reason, ApplicationClosed)
    pair.run(lambda: pair.client.terminated)
    if stage != "nothing arrived":
        reason = pair.server.close_reason
        assert reason is not None
        assert reason.error_code in (0x0C, 0x55)
        if reason.error_code == 0x0C:
            assert "secret" not in str(reason)
        else:
            assert pair.server.handshake_complete


def test_a_server_that_closes_during_the_handshake() -> None:
    pair = Pair()
    pair.run(lambda: pair.has_server)
    pair.server.close(0x55, "no room")
    pair.run(lambda: pair.client.close_reason is not None)
    assert isinstance(pair.client.close_reason, HandshakeFailed)
    assert pair.client.close_reason.by_peer
    assert pair.client.close_reason.error_code == 0x0C


# ---- closing and draining


def test_both_sides_are_gone_within_three_ptos() -> None:
    pair = Pair().handshake()
    pair.wait(1 * SECOND)
    start = pair.now
    limits = [3 * pto_of(end) for end in (pair.client, pair.server)]
    pair.client.close(1)
    gone: dict[Connection, int] = {}
    while len(gone) < 2:
        assert pair.step()
        for end in (pair.client, pair.server):
            if end.terminated:
                gone.setdefault(end, pair.now - start)
    assert gone[pair.client] == limits[0]
    assert gone[pair.server] == limits[1] + pair.delay
    for end in (pair.client, pair.server):
        assert pair.names(end)[-2:] == ["closed", "terminated"]
        assert end.next_timeout() is None
        assert end.datagrams_to_send(pair.now) == []
        assert isinstance(end.stats(), dict)
        memory = core_memory(end)
        assert memory["streams"] == memory["stream_buffers"] == memory["crypto_buffers"] == 0
        end.close(5)
        end.ping()
        end.receive_datagram(b"\x40" * 100, ("192.0.2.1", 1), pair.now)
        end.handle_timeout(pair.now)


def test_a_draining_end_is_silent() -> None:
    pair = Pair().handshake()
    pair.client.close(1)
    pair.settle()
    assert facts(pair.server)["close"]["state"] == 2
    packet = Forge(pair, client=True).seal(b"\x01")
    pair.give(pair.server, packet)
    pair.server.ping()
    assert pair.server.datagrams_to_send(pair.now) == []


def test_a_closing_end_answers_ever_more_rarely() -> None:
    """RFC 9000 §10.2.1: CONNECTION_CLOSE again for packets that still arrive, at a falling rate."""
    pair = Pair().handshake()
    forge = Forge(pair, client=False)
    pair.client.close(0x31, "over")
    assert len(pair.client.datagrams_to_send(pair.now)) == 1
    answers = []
    for i in range(1, 65):
        pair.give(pair.client, forge.seal(b"\x01"))
        sent = pair.client.datagrams_to_send(pair.now)
        if sent:
            answers.append(i)
            packets = Forge(pair, client=True).open(sent[0][0])
            assert [f["error_code"] for p in packets for f in p.fields(0x1D)] == [0x31]
    assert answers[0] == 1
    assert len(answers) <= 7
    assert facts(pair.client)["close"]["heard"] == 64


def test_a_lost_close_is_learned_from_the_answer() -> None:
    pair = Pair().handshake()
    pair.filter = lambda to_server, number, datagram: []
    pair.server.close(3)
    pair.flush()
    pair.filter = None
    pair.client.ping()
    pair.run(lambda: pair.client.close_reason is not None, limit=5 * SECOND)
    assert isinstance(pair.client.close_reason, ApplicationClosed)
    assert pair.client.close_reason.error_code == 3


def test_both_close_at_the_same_time() -> None:
    pair = Pair().handshake()
    pair.client.close(1)
    pair.server.close(2)
    pair.run(lambda: pair.client.terminated and pair.server.terminated, limit=5 * SECOND)
    for end, code in ((pair.client, 1), (pair.server, 2)):
        assert isinstance(end.close_reason, ApplicationClosed)
        assert (end.close_reason.error_code, end.close_reason.by_peer) == (code, False)
    # They answer each other only a few times.
    assert pair.client.stats()["datagrams_sent"] < 12


def test_data_before_the_close_in_the_same_packet_is_read() -> None:
    pair = Pair().handshake()
    forge = Forge(pair, client=True)
    pair.give(
        pair.server,
        forge.frames(
            (0x08, {"stream_id": 0, "offset": 0, "data": b"last words", "fin": True}),
            (0x1D, {"error_code": 0, "reason": b""}),
        ),
    )
    assert bytes(pair.sinks[0].data) == b"last words"
    assert pair.sinks[0].stream.ended
    assert pair.server.close_reason is not None


def test_frames_behind_a_close_are_not_read() -> None:
    pair = Pair().handshake()
    forge = Forge(pair, client=True)
    frames = ((0x1D, {"error_code": 0, "reason": b""}), (0x12, {"maximum": 1 << 59}))
    before = facts(pair.server)["kinds"][1]["limit"]
    pair.give(pair.server, forge.frames(*frames))
    assert facts(pair.server)["kinds"][1]["limit"] == before


# ---- idle


@pytest.mark.parametrize(
    ("client", "server", "expected"), [(3.0, 8.0, 3.0), (8.0, 3.0, 3.0), (0.0, 2.0, 2.0), (2.0, 0.0, 2.0)]
)
def test_the_smaller_idle_timeout_counts(client: float, server: float, expected: float) -> None:
    pair = Pair(client={"idle_timeout": client}, server={"idle_timeout": server}).handshake()
    pair.settle()
    last = {end: facts(end)["idle_deadline"] for end in (pair.client, pair.server)}
    start = pair.now
    pair.run(lambda: pair.client.terminated and pair.server.terminated, limit=20 * SECOND)
    assert pair.now == max(last.values())
    assert start < pair.now <= start + expected * SECOND
    for end in (pair.client, pair.server):
        assert type(end.close_reason) is IdleTimeout
        assert facts(end)["idle_timeout"] == expected * SECOND
        assert end.stats()["ptos"] == 0, "an idle connection sends nothing"


def test_without_idle_timeouts_a_connection_lives_for_ever() -> None:
    pair = Pair(both={"idle_timeout": 0.0}).handshake()
    pair.wait(100_000 * SECOND)
    assert pair.client.close_reason is None
    assert pair.client.next_timeout() is None
    assert pair.transfer(pair.server, b"still there") == b"still there"


def test_what_restarts_the_idle_timer() -> None:
    """RFC 9000 §10.1: every packet that arrives; of those that leave, the first ack-eliciting one since."""
    pair = Pair(both={"idle_timeout": 10.0, "max_datagram_size": 1200}).handshake()
    pair.settle()
    pair.wait(2 * SECOND)
    pair.filter = lambda to_server, number, datagram: []  # from here on nothing arrives
    pair.client.ping()
    pair.flush()
    assert facts(pair.client)["idle_deadline"] == pair.now + 10 * SECOND
    deadline = facts(pair.client)["idle_deadline"]
    pair.wait(3 * SECOND)  # probes leave meanwhile
    assert pair.client.stats()["ptos"] > 0
    assert facts(pair.client)["idle_deadline"] == deadline
    pair.give(pair.client, Forge(pair, client=False).seal(b"\x01"))
    assert facts(pair.client)["idle_deadline"] == pair.now + 10 * SECOND


def test_the_idle_timeout_is_at_least_three_ptos() -> None:
    """RFC 9000 §10.1: on a slow path a short timeout would end connections whose packets are only under way."""
    pair = Pair(delay=600 * MS, both={"idle_timeout": 2.0}).handshake()
    pair.settle()
    data = bytes(100_000)
    assert pair.transfer(pair.client, data) == data
    assert pair.client.close_reason is None


def test_keep_alive_prevents_the_idle_end() -> None:
    pair = Pair(both={"idle_timeout": 3.0}, client={"knobs": {"keep_alive_ns": 1 * SECOND}}).handshake()
    pair.wait(60 * SECOND)
    assert pair.client.close_reason is None
    assert pair.server.close_reason is None
    sent = pair.client.stats()["packets_sent"]
    assert 50 < sent < 150
    pair.client.set_knob("keep_alive_ns", 0)
    pair.run(lambda: pair.client.terminated, limit=20 * SECOND)
    assert isinstance(pair.client.close_reason, IdleTimeout)


def test_a_peer_that_vanishes_while_data_is_under_way() -> None:
    pair = Pair(both={"idle_timeout": 5.0}).handshake()
    stream = pair.client.open_stream()
    stream.write(bytes(100_000))
    pair.filter = lambda to_server, number, datagram: []
    start = pair.now
    pair.run(lambda: pair.client.terminated, limit=60 * SECOND)
    assert isinstance(pair.client.close_reason, IdleTimeout)
    assert pair.now - start == 5 * SECOND
    assert 3 < pair.client.stats()["ptos"] < 10


# ---- stateless reset (RFC 9000 §10.3)


def reset(token: bytes, size: int = 60) -> bytes:
    return bytes([0x40 | os.urandom(1)[0] & 0x3F]) + os.urandom(size - 17) + token


@pytest.mark.parametrize("size", [21, 22, 38, 43, 200, 1200])
def test_a_stateless_reset_ends_the_client(size: int) -> None:
    pair = Pair().handshake()
    pair.give(pair.client, reset(RESET_TOKEN, size))
    assert isinstance(pair.client.close_reason, StatelessReset)
    assert pair.client.close_reason.by_peer
    assert pair.client.terminated
    assert pair.client.datagrams_to_send(pair.now) == []
    assert pair.names(pair.client)[-2:] == ["closed", "terminated"]


@pytest.mark.parametrize("case", ["wrong token", "too short", "no token known", "a server"])
def test_what_is_no_stateless_reset(case: str) -> None:
    pair = Pair(reset_token=None if case == "no token known" else RESET_TOKEN).handshake()
    datagram = reset(RESET_TOKEN)
    end = pair.client
    if case == "wrong token":
        datagram = reset(RESET_TOKEN[:-1] + b"\xff")
    elif case == "too short":
        datagram = reset(RESET_TOKEN, 20)
    elif case == "a server":
        end = pair.server
    pair.give(end, datagram)
    if case == "no token known":
        pair.give(end, reset(bytes(16)))
    assert end.close_reason is None
    assert pair.transfer(pair.client, b"on") == b"on"


def test_a_reset_in_a_gro_train_is_seen() -> None:
    from stoq.testing.seams import receive_train  # noqa: PLC0415

    pair = Pair().handshake()
    forge = Forge(pair, client=False)
    train = b"".join(forge.seal(b"\x01", size=60) for _ in range(5)) + reset(RESET_TOKEN)
    receive_train(pair.client, train, 60, ("198.51.100.1", 4433), pair.now)
    pair.collect(pair.client)
    assert isinstance(pair.client.close_reason, StatelessReset)


# ---- nothing is left behind


def session(seed: int) -> None:
    pair = Pair(seed, loss=0.1, reorder=0.3)
    pair.run(lambda: pair.client.handshake_confirmed, limit=5 * SECOND)
    if pair.has_server and pair.client.handshake_complete:
        for i in range(12):
            stream = pair.client.open_stream(bool(i % 2))
            stream.write(bytes(3000 * (i + 1)))
            if i % 3 == 0:
                stream.reset(1)
            elif i % 3 == 1:
                stream.finish()
        pair.run(limit=200 * MS)
        if seed % 2:
            for sink in pair.sinks.values():
                sink.stream.stop(1)
        pair.run(limit=(seed % 5) * 40 * MS)
        if seed % 3:
            pair.client.close(0)
            pair.run(lambda: pair.client.terminated and pair.server.terminated, limit=5 * SECOND)


@pytest.mark.plain_build  # the sanitizer brings its own malloc
def test_a_hundred_connections_leave_no_heap_behind() -> None:
    """Ended in every way, in the middle of things: what malloc has given out does not grow."""
    used = []
    for _ in range(6):
        for seed in range(24):
            session(seed)
        gc.collect()
        used.append(heap_in_use())
    # malloc's own caches fill for a while. One Stream struct (424 bytes) lost in each session would be 10 kB a round.
    assert min(b - a for a, b in itertools.pairwise(used)) < 8 * 1024, used


@pytest.mark.plain_build
def test_a_stream_that_only_a_frame_record_holds_is_freed_with_the_connection() -> None:
    """Both sides of the stream are over while a MAX_STREAM_DATA of it is not acknowledged."""

    def one(seed: int) -> None:
        knobs = {"stream_window": 4096}
        pair = Pair(seed, server={"knobs": knobs}, both={"max_datagram_size": 1200}).handshake()
        pair.settle()
        forge, back = Forge(pair, client=True), Forge(pair, client=False)
        for at in (0, 1100):
            frame = {"stream_id": 0, "offset": at, "data": bytes(1100), "fin": False}
            pair.give(pair.server, forge.frames((0x08, frame)))
        assert any(p.fields(0x11) for p in back.sent())
        pair.give(pair.server, forge.frames((0x08, {"stream_id": 0, "offset": 2200, "data": b"", "fin": True})))
        pair.sinks[0].stream.finish()
        last = [p.number for p in back.sent() if p.fields(0x08)][-1]
        pair.give(pair.server, forge.frames((0x02, {"ranges": [(last, last)], "ack_delay": 0})))
        assert facts(pair.server)["streams"] == 0
        assert facts(pair.server)["records"] > 0

    used = []
    for _ in range(4):
        for seed in range(40):
            one(seed)
        gc.collect()
        used.append(heap_in_use())
    assert min(b - a for a, b in itertools.pairwise(used)) < 8 * 1024, used  # 40 lost Streams would be 17 kB
