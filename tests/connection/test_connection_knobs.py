"""Knobs of a running connection, the live datagram size, stats, and how a driver is told of things."""

from __future__ import annotations

import random
from typing import Any

import pytest
from connection_pair import MS, SECOND, Forge, Pair

from stoq.connection import factory
from stoq.connection.connection import Connection
from stoq.connection.stream import StreamHandle
from stoq.core.knobs import KNOB_ROWS, STAT_ROWS
from stoq.testing.seams import facts


def sizes(pair: Pair, client: bool) -> list[int]:
    """Lengths of the datagrams that one side sends from now on."""
    seen: list[int] = []

    def note(to_server: bool, number: int, datagram: bytes) -> None:
        if to_server == client:
            seen.append(len(datagram))

    pair.filter = note
    return seen


# ---- knobs


def test_knobs_wait_for_the_next_batch() -> None:
    """Double-buffered: a change shows at the next receive or send, not in the middle of one."""
    pair = Pair().handshake()
    pair.settle()
    for act in (
        lambda: pair.client.datagrams_to_send(pair.now),
        lambda: pair.give(pair.client, Forge(pair, client=False).seal(b"\x00")),
    ):
        value = pair.client.knobs()["ack_frequency"] + 5
        pair.client.set_knob("ack_frequency", value)
        assert pair.client.knobs()["ack_frequency"] == value - 5
        act()
        assert pair.client.knobs()["ack_frequency"] == value


@pytest.mark.parametrize("row", KNOB_ROWS, ids=lambda row: row[0])
def test_each_knob_has_a_range(row: tuple[Any, ...]) -> None:
    name, _, default, lowest, highest, *_ = row
    pair = Pair(both={"max_datagram_size": 1200}).handshake()
    assert lowest <= default <= highest
    assert pair.client.knobs()[name] == default
    for value in (lowest, highest):
        pair.client.set_knob(name, value)
        pair.client.datagrams_to_send(pair.now)
        assert pair.client.knobs()[name] == value
    for wrong in (lowest - 1, highest + 1):
        with pytest.raises(ValueError, match=name):
            pair.client.set_knob(name, wrong)
    with pytest.raises(ValueError, match="no such knob"):
        pair.client.set_knob("nothing", 1)
    assert pair.client.knobs()[name] == highest


@pytest.mark.parametrize("frequency", [1, 2, 10, 50])
def test_ack_frequency(frequency: int) -> None:
    pair = Pair(server={"knobs": {"ack_frequency": frequency}}, both={"max_datagram_size": 1200}).handshake()
    pair.settle()
    forge, back = Forge(pair, client=True), Forge(pair, client=False)
    acks = 0
    for i in range(1, 101):
        pair.give(pair.server, forge.seal(b"\x01"))
        sent = back.sent()
        acks += len(sent)
        assert bool(sent) == (i % frequency == 0), i
    assert acks == 100 // frequency


@pytest.mark.parametrize("delay", [0, 5 * MS, 25 * MS])
def test_an_ack_is_never_later_than_max_ack_delay(delay: int) -> None:
    pair = Pair(server={"knobs": {"max_ack_delay_ns": delay, "ack_frequency": 10}}, both={"max_datagram_size": 1200})
    pair.handshake().settle()
    forge, back = Forge(pair, client=True), Forge(pair, client=False)
    pair.give(pair.server, forge.seal(b"\x01"))
    start = pair.now
    sent = back.sent()
    if delay:
        assert sent == []
        assert pair.server.next_timeout() == start + delay
        pair.now = start + delay
        pair.server.handle_timeout(pair.now)
        sent = back.sent()
    (ack,) = [f for p in sent for f in p.fields(0x02)]
    # In units of 8 microseconds: the default ack_delay_exponent of 3 (RFC 9000 §18.2).
    assert ack["ack_delay"] == delay // 8000


def test_disorder_is_acknowledged_at_once() -> None:
    """RFC 9000 §13.2.1: a gap, and what fills it."""
    pair = Pair(server={"knobs": {"ack_frequency": 10}}, both={"max_datagram_size": 1200}).handshake()
    pair.settle()
    forge, back = Forge(pair, client=True), Forge(pair, client=False)
    first = facts(pair.client)["spaces"][2]["next"]
    answered = []
    for number in (first, first + 1, first + 3, first + 2, first + 4):
        pair.give(pair.server, forge.seal(b"\x01", number=number))
        answered.append(bool(back.sent()))
    assert answered == [False, False, True, True, False]


def test_pacing_spreads_a_window_and_can_be_turned_off() -> None:
    spread = {}
    for pacing in (0, 1):
        pair = Pair(delay=50 * MS, both={"max_datagram_size": 1200}, client={"knobs": {"pacing": pacing}}).handshake()
        pair.settle()
        stream = pair.client.open_stream(True)
        stream.write(bytes(2_000_000))
        times = []

        def note(to_server: bool, number: int, datagram: bytes, pair: Pair = pair, times: list[int] = times) -> None:
            if to_server:
                times.append(pair.now)

        pair.filter = note
        pair.wait(400 * MS)
        spread[pacing] = len(set(times)) / len(times)
    assert spread[1] > 3 * spread[0]


# ---- the datagram size


@pytest.mark.parametrize("size", [1200, 1280, 1452, 9000])
def test_the_configured_size_is_used_once_a_probe_got_through(size: int) -> None:
    pair = Pair(both={"max_datagram_size": size})
    lengths = sizes(pair, True)
    pair.handshake()
    assert max(lengths) == 1200
    pair.settle()
    assert facts(pair.client)["path"]["mtu"] == facts(pair.server)["path"]["mtu"] == size
    data = bytes(300_000)
    assert pair.transfer(pair.client, data) == data
    assert max(lengths) == size
    assert pair.client.stats()["max_datagram_size"] == size


def test_a_path_that_carries_less_stays_at_the_minimum() -> None:
    pair = Pair(filter=lambda to_server, number, datagram: [] if len(datagram) > 1300 else None)
    pair.handshake()
    start = pair.now
    pair.wait(10 * SECOND)
    for end in (pair.client, pair.server):
        assert facts(end)["path"]["mtu"] == 1200
        # RFC 9002 §7.5, RFC 9000 §14.4: the loss of a probe is no congestion.
        assert end.stats()["congestion_events"] == 0
        assert end.stats()["packets_lost"] <= 3
    data = bytes(200_000)
    assert pair.transfer(pair.client, data) == data
    assert start < pair.now


def test_the_size_changes_while_data_flows() -> None:
    """DESIGN §4: the datagram size of a connection is a live value."""
    pair = Pair(client={"max_datagram_size": 1400}).handshake()
    pair.settle()
    assert facts(pair.client)["path"]["mtu"] == 1400
    lengths = sizes(pair, True)
    stream = pair.client.open_stream(True)
    stream.write(b"first")
    pair.settle()
    sink = pair.sinks[stream.id]
    data = b"first"
    for size in (1250, 1472, 1200, 8000, 1452):
        for change in (True, False):
            lengths.clear()
            more = random.Random(size).randbytes(400_000)
            stream.write(more)
            data += more
            pair.wait(1 * MS)  # in the middle of it
            if change:
                pair.client.set_knob("max_datagram_size", size)
                pair.flush()
            while len(sink.data) < len(data):
                assert pair.step()
            pair.settle()  # the answer to the probe comes
        assert max(lengths) == size
        assert facts(pair.client)["path"]["mtu"] == size
    assert bytes(pair.sinks[stream.id].data) == data
    assert pair.client.stats()["packets_lost"] == 0


def test_the_peers_maximum_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    real = factory.own_parameters

    def smaller(*args: Any) -> Any:
        params = real(*args)
        params.max_udp_payload_size = 1300
        return params

    monkeypatch.setattr(factory, "own_parameters", smaller)
    pair = Pair().handshake()
    lengths = sizes(pair, True)
    data = bytes(100_000)
    assert pair.transfer(pair.client, data) == data
    assert max(lengths) == 1300


def test_a_path_that_shrinks_is_noticed() -> None:
    """Full packets vanish from one moment on: after probe timeouts the connection goes on with small ones."""
    pair = Pair().handshake()
    pair.settle()
    assert facts(pair.client)["path"]["mtu"] == 1452
    pair.filter = lambda to_server, number, datagram: [] if len(datagram) > 1250 else None
    data = bytes(50_000)
    assert pair.transfer(pair.client, data, limit=25 * SECOND) == data
    assert facts(pair.client)["path"]["mtu"] == 1200


# ---- stats


def test_stats_have_their_rows_and_add_up() -> None:
    pair = Pair().handshake()
    data = bytes(500_000)
    assert pair.transfer(pair.client, data) == data
    assert pair.transfer(pair.server, data) == data
    pair.settle()
    a, b = pair.client.stats(), pair.server.stats()
    assert list(a) == [row[0] for row in STAT_ROWS]
    for one, other in ((a, b), (b, a)):
        assert one["datagrams_sent"] == other["datagrams_received"]
        assert one["bytes_sent"] == other["bytes_received"]
        assert one["packets_sent"] == other["packets_received"] + other["packets_dropped"] + other["packets_duplicate"]
        assert one["packets_lost"] == one["bytes_lost"] == one["auth_failures"] == one["ptos"] == 0
        assert one["stream_bytes_sent"] == other["stream_bytes_received"] == 500_000
        assert one["stream_bytes_resent"] == one["bytes_in_flight"] == 0
        assert one["streams_opened"] == other["streams_accepted"] == 1
        assert one["acks_sent"] >= other["acks_received"] > 0
        assert 10 * MS <= one["min_rtt_ns"] <= one["srtt_ns"] <= 40 * MS
        assert one["latest_rtt_ns"] >= one["min_rtt_ns"]
        assert one["cwnd"] > 14_720
        assert one["delivered"] <= one["bytes_sent"]
        assert one["delivery_rate"] > 0
        assert one["pacing_rate"] > 1_000_000
        assert one["limited_window_ns"] + one["limited_pacing_ns"] + one["limited_app_ns"] > 0
        assert one["limited_flow_ns"] == 0
        assert one["handshake_ns"] > 0
    assert pair.now - SECOND >= a["limited_window_ns"] + a["limited_pacing_ns"] + a["limited_app_ns"]


def test_what_limited_sending_is_told_apart() -> None:
    idle = Pair().handshake()
    idle.wait(1 * SECOND)
    idle.client.ping()
    idle.settle()
    stats = idle.client.stats()
    assert stats["limited_app_ns"] > 900 * MS
    window = Pair(delay=100 * MS, client={"knobs": {"pacing": 0}}).handshake()
    stream = window.client.open_stream(True)
    stream.write(bytes(2_000_000))
    window.wait(1 * SECOND)
    stats = window.client.stats()
    assert stats["limited_window_ns"] > 700 * MS
    assert stats["limited_pacing_ns"] == 0


# ---- how drivers and applications are told


def test_ping_is_acknowledged_with_its_cookie() -> None:
    pair = Pair(filter=None).handshake()
    pair.settle()
    pair.client.ping(0xFEED)
    pair.settle()
    assert [v for n, v in pair.events[True] if n == "ping_acked"] == [0xFEED]
    seen = []

    def once(to_server: bool, number: int, datagram: bytes) -> list[bytes] | None:
        seen.append(to_server)
        return [] if len(seen) == 1 else None

    pair.filter = once
    pair.client.ping(0xBEEF)
    pair.settle()
    pair.wait(1 * SECOND)
    assert [v for n, v in pair.events[True] if n == "ping_acked"] == [0xFEED, 0xBEEF]


def test_wake_is_called_once_until_the_next_send() -> None:
    pair = Pair().handshake()
    pair.settle()
    calls: list[Connection] = []
    pair.client.wake = calls.append
    stream = pair.client.open_stream()
    stream.write(b"a")
    stream.write(b"b")
    stream.finish()
    pair.client.ping()
    assert calls == [pair.client]
    pair.flush()
    pair.client.close(1)
    assert calls == [pair.client] * 2


class Listener:
    """Notes callbacks; raises from the ones that are told to."""

    def __init__(self, failing: str = "") -> None:
        self.calls: list[str] = []
        self.streams: list[StreamHandle] = []
        self.failing = failing

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def callback(connection: Connection, value: Any = None) -> None:
            self.calls.append(name)
            if name == "stream_opened":
                self.streams.append(value)
            if name == self.failing:
                self.failing = ""
                raise RuntimeError("application bug")

        return callback


def test_a_listener_hears_everything_in_order() -> None:
    pair = Pair().handshake()
    listener = Listener()
    pair.server.listener = listener
    stream = pair.client.open_stream()
    stream.write(b"x")
    pair.settle()
    pair.client.close(0)
    pair.run(lambda: pair.server.terminated)
    assert listener.calls == ["stream_opened", "closed", "terminated"]
    assert [s.take(10) for s in listener.streams] == [b"x"]
    assert pair.events[False] == [("handshake_completed", None), ("handshake_confirmed", None)]


def test_a_callback_that_raises_corrupts_nothing() -> None:
    """The exception reaches the driver; bytes that were in the datagram's memory by then are safe."""
    pair = Pair().handshake()
    pair.server.listener = listener = Listener("stream_opened")
    forge = Forge(pair, client=True)
    data = random.Random(5).randbytes(1000)
    first = forge.frames((0x08, {"stream_id": 0, "offset": 0, "data": data, "fin": False}))
    second = forge.frames((0x08, {"stream_id": 0, "offset": 1000, "data": data, "fin": True}))
    with pytest.raises(RuntimeError, match="application bug"):
        pair.server.receive_datagram(first, ("192.0.2.1", 50000), pair.now)
    churn = [bytes([i]) * len(first) for i in range(200)]  # whatever the memory is used for next
    pair.server.receive_datagram(second, ("192.0.2.1", 50000), pair.now)
    assert len(churn) == 200
    (stream,) = listener.streams
    got = b""
    while piece := stream.take(10_000):
        got += piece
    assert got == data + data
    assert stream.ended


def test_calls_from_within_callbacks() -> None:
    """Writing, opening, resetting and closing while a batch is being handed over."""
    pair = Pair().handshake()

    class Busy(Listener):
        def stream_opened(self, connection: Connection, stream: StreamHandle) -> None:
            self.streams.append(stream)
            stream.write(b"answer")
            stream.finish()
            connection.open_stream(True).write(b"pushed")
            if stream.id == 8:
                stream.stop(1)
            if stream.id == 12:
                connection.close(5, "enough")

    pair.server.listener = Busy()
    handles = [pair.client.open_stream() for _ in range(4)]
    for handle in handles[:3]:
        handle.write(b"q" * 100)
    pair.settle()
    assert [h.take(100) for h in handles[:3]] == [b"answer"] * 3
    assert sum(bytes(s.data) == b"pushed" for s in pair.sinks.values()) == 3
    handles[3].write(b"q")
    pair.settle()
    assert pair.client.close_reason is not None
    assert pair.client.close_reason.error_code == 5
