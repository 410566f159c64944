"""RFC 9002 through whole connections: RTT, thresholds, probe timeouts, persistent congestion, anti-amplification."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from connection_pair import HANDSHAKE, INITIAL, MS, SECOND, Forge, Pair, authority, first_flight
from hypothesis import given, settings
from hypothesis import strategies as st

from stoq.crypto.certificates import make_leaf, make_test_ca
from stoq.testing.seams import facts, outstanding
from stoq.wire.header import PacketType, parse_datagram

GRANULARITY = 1 * MS  # kGranularity
APP = 2
PLAIN: dict[str, Any] = {"max_datagram_size": 1200}


class Sender:
    """A confirmed client whose packets are acknowledged by forged ACK frames, when and how a test likes."""

    def __init__(self, **changes: Any) -> None:
        self.pair = Pair(both=PLAIN, **changes).handshake()
        self.pair.settle()
        self.pair.filter = lambda to_server, number, datagram: []
        self.client = self.pair.client
        self.forge = Forge(self.pair, client=False)

    @property
    def now(self) -> int:
        return self.pair.now

    @property
    def path(self) -> dict[str, Any]:
        return facts(self.client)["path"]  # type: ignore[no-any-return]

    @property
    def space(self) -> dict[str, Any]:
        return facts(self.client)["spaces"][APP]  # type: ignore[no-any-return]

    def ping(self) -> int:
        """Send one ack-eliciting packet now; its number."""
        before = {n for n, *_ in outstanding(self.client)}
        self.client.ping()
        self.client.datagrams_to_send(self.now)
        (number,) = {n for n, *_ in outstanding(self.client)} - before
        return number

    def pings(self, count: int, gap: int = 0) -> list[int]:
        numbers = []
        for _ in range(count):
            numbers.append(self.ping())
            self.pair.now += gap
        return numbers

    def ack(self, *numbers: int, delay: int = 0) -> None:
        """ACK of single numbers; delay in microseconds as the frame says it (already divided by 8)."""
        ranges: list[list[int]] = []
        for number in sorted(numbers):
            if ranges and ranges[-1][1] == number - 1:
                ranges[-1][1] = number
            else:
                ranges.append([number, number])
        frame = {"ranges": [(low, high) for low, high in reversed(ranges)], "ack_delay": delay}
        self.pair.give(self.client, self.forge.frames((0x02, frame)))

    def timer(self) -> int:
        """Go to the next deadline and handle it; how long that took."""
        deadline = self.client.next_timeout()
        assert deadline is not None
        passed = deadline - self.now
        self.pair.now = deadline
        self.client.handle_timeout(self.now)
        again = self.client.next_timeout()
        assert again is None or again > self.now
        return passed


# ---- round-trip time (RFC 9002 §5)


class Model:
    """RFC 9002 §5.3 in plain integers."""

    def __init__(self, path: dict[str, Any], max_ack_delay: int) -> None:
        self.srtt, self.rttvar, self.min_rtt = path["srtt"], path["rttvar"], path["min_rtt"]
        self.max_ack_delay = max_ack_delay

    def sample(self, latest: int, ack_delay: int) -> None:
        self.min_rtt = min(self.min_rtt, latest)
        ack_delay = min(ack_delay, self.max_ack_delay)
        adjusted = latest - ack_delay if latest >= self.min_rtt + ack_delay else latest
        self.rttvar = (3 * self.rttvar + abs(self.srtt - adjusted)) // 4
        self.srtt = (7 * self.srtt + adjusted) // 8


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 400 * MS), st.integers(0, 60_000)), min_size=1, max_size=25),
    st.sampled_from([0, 5 * MS, 25 * MS]),
)
def test_the_estimator_follows_the_model(samples: list[tuple[int, int]], max_ack_delay: int) -> None:
    sender = Sender(server={"knobs": {"max_ack_delay_ns": max_ack_delay}})
    model = Model(sender.path, max_ack_delay)
    for rtt, delay in samples:
        number = sender.ping()
        sender.pair.now += rtt
        sender.ack(number, delay=delay // 8)
        model.sample(rtt, delay // 8 * 8 * 1000)
        path = sender.path
        assert (path["srtt"], path["rttvar"], path["min_rtt"]) == (model.srtt, model.rttvar, model.min_rtt)
        assert path["latest_rtt"] == rtt


def test_the_first_sample_sets_all() -> None:
    """RFC 9002 §5.2, §5.3; the ACK delay of Initial packets is not believed."""
    pair = Pair(delay=35 * MS)
    pair.run(lambda: facts(pair.client)["path"]["srtt"] != 0)
    path = facts(pair.client)["path"]
    assert path["srtt"] == path["min_rtt"] == path["latest_rtt"] == 70 * MS
    assert path["rttvar"] == 35 * MS


def test_only_an_ack_of_the_largest_gives_a_sample() -> None:
    """RFC 9002 §5.1: newly acknowledged largest, and at least one ack-eliciting packet among them."""
    sender = Sender()
    first, second = sender.ping(), sender.ping()
    sender.pair.now += 30 * MS
    sender.ack(second)
    srtt = sender.path["srtt"]
    sender.pair.now += 300 * MS
    sender.ack(first, second)  # the largest is not new
    assert sender.path["srtt"] == srtt
    sender.ack(second)
    assert sender.path["srtt"] == srtt


def test_the_peers_exponent_scales_the_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    from stoq.connection import factory  # noqa: PLC0415

    real = factory.own_parameters

    def coarse(*args: Any) -> Any:
        params = real(*args)
        params.ack_delay_exponent = 10
        params.max_ack_delay = 1000
        return params

    monkeypatch.setattr(factory, "own_parameters", coarse)
    sender = Sender()
    model = Model(sender.path, 1000 * MS)
    number = sender.ping()
    sender.pair.now += 200 * MS
    sender.ack(number, delay=100)
    model.sample(200 * MS, 100 * 1024 * 1000)
    assert (sender.path["srtt"], sender.path["rttvar"]) == (model.srtt, model.rttvar)


def test_a_huge_ack_delay_does_no_harm() -> None:
    sender = Sender()
    for delay in ((1 << 62) - 1, 1 << 40, 1 << 31):
        number = sender.ping()
        sender.pair.now += 20 * MS
        sender.ack(number, delay=delay)
        assert 5 * MS <= sender.path["srtt"] <= 30 * MS
        assert 0 <= sender.path["rttvar"] < SECOND


# ---- loss detection (RFC 9002 §6.1)


def test_three_packets_later_is_lost() -> None:
    sender = Sender()
    a, b, c, d = sender.pings(4)
    sender.pair.now += 1 * MS
    sender.ack(b)
    assert sender.client.stats()["packets_lost"] == 0
    sender.ack(b, c)
    assert sender.client.stats()["packets_lost"] == 0
    sender.ack(b, c, d)
    assert sender.client.stats()["packets_lost"] == 1
    assert a not in {n for n, *_ in outstanding(sender.client)}


def test_nine_eighths_of_a_round_trip_later_is_lost() -> None:
    sender = Sender()
    for _ in range(10):
        number = sender.ping()
        sender.pair.now += 40 * MS
        sender.ack(number)
    sender.pair.now += 1 * SECOND
    first = sender.ping()
    sent = sender.now
    sender.pair.now += 1 * MS
    second = sender.ping()
    sender.pair.now += 40 * MS
    sender.ack(second)
    path = sender.path
    threshold = max(path["srtt"], path["latest_rtt"]) * 9 // 8
    assert sender.space["loss_time"] == sent + threshold
    assert sender.client.stats()["packets_lost"] == 0
    assert sender.client.next_timeout() == sent + threshold
    sender.timer()
    assert sender.client.stats()["packets_lost"] == 1
    assert sender.client.stats()["ptos"] == 0
    assert first not in {n for n, *_ in outstanding(sender.client)}


def test_the_time_threshold_is_at_least_a_millisecond() -> None:
    sender = Sender(delay=1)
    number = sender.ping()
    sender.pair.now += 1000
    sender.ack(number)
    for _ in range(60):
        number = sender.ping()
        sender.pair.now += 1000
        sender.ack(number)
    assert max(sender.path["srtt"], sender.path["latest_rtt"]) < GRANULARITY // 2
    sender.ping()
    sent = sender.now
    second = sender.ping()
    sender.pair.now += 1000
    sender.ack(second)
    assert sender.space["loss_time"] == sent + GRANULARITY


def test_a_late_ack_of_a_lost_packet_is_ignored() -> None:
    sender = Sender()
    numbers = sender.pings(5)
    sender.pair.now += 20 * MS
    sender.ack(*numbers[3:])
    assert sender.client.stats()["packets_lost"] == 2
    before = sender.path
    sender.ack(*numbers)
    assert sender.client.stats()["packets_lost"] == 2
    assert sender.path["in_flight"] == 0
    assert sender.path["cwnd"] == before["cwnd"]


# ---- probe timeouts (RFC 9002 §6.2)


def pto(path: dict[str, Any], max_ack_delay: int = 25 * MS) -> int:
    return int(path["srtt"] + max(4 * path["rttvar"], GRANULARITY) + max_ack_delay)


def test_probe_timeouts_double_and_restart() -> None:
    sender = Sender()
    sender.pair.now += 1 * SECOND
    base = pto(sender.path)
    sender.ping()
    gaps = []
    for i in range(6):
        gaps.append(sender.timer())
        sent = len(sender.client.datagrams_to_send(sender.now))
        assert 1 <= sent <= 2  # RFC 9002 §6.2.4
        assert sender.client.stats()["ptos"] == i + 1
    assert gaps == [base << i for i in range(6)]
    number = max(n for n, *_ in outstanding(sender.client))
    sender.pair.now += 10 * MS
    sender.ack(number)
    assert facts(sender.client)["pto_count"] == 0


def test_a_pto_declares_nothing_lost_and_leaves_the_window() -> None:
    """RFC 9002 §6.2: a PTO is a probe; only an acknowledgement reveals loss."""
    sender = Sender()
    sender.pings(3)
    cwnd, flying = sender.path["cwnd"], sender.path["in_flight"]
    sender.timer()
    assert sender.client.stats()["packets_lost"] == 0
    assert (sender.path["cwnd"], sender.path["in_flight"]) == (cwnd, flying)
    sender.client.datagrams_to_send(sender.now)
    assert sender.path["in_flight"] > flying


def test_probes_carry_the_oldest_data() -> None:
    sender = Sender()
    stream = sender.client.open_stream(True)
    stream.write(b"important")
    sender.client.datagrams_to_send(sender.now)
    sender.timer()
    data = [f["data"] for p in Forge(sender.pair, client=True).sent(sender.now) for f in p.fields(0x08)]
    assert b"important" in data


def test_probes_ignore_the_congestion_window() -> None:
    sender = Sender(client={"knobs": {"pacing": 0}})
    stream = sender.client.open_stream(True)
    stream.write(bytes(1_000_000))
    while sender.client.datagrams_to_send(sender.now):
        pass
    path = sender.path
    assert path["in_flight"] > path["cwnd"] - 1200
    sender.timer()
    assert 1 <= len(sender.client.datagrams_to_send(sender.now)) <= 2
    assert sender.path["in_flight"] > path["in_flight"]


def test_the_timer_of_an_idle_sender_is_off() -> None:
    sender = Sender()
    assert facts(sender.client)["loss_deadline"] == 0
    number = sender.ping()
    assert facts(sender.client)["loss_deadline"] == sender.now + pto(sender.path)
    sender.pair.now += 10 * MS
    sender.ack(number)
    assert facts(sender.client)["loss_deadline"] == 0


def test_before_the_first_sample_a_pto_is_999_milliseconds() -> None:
    """RFC 9002 §6.2.2: kInitialRtt = 333 ms; 333 + 4 * 166.5."""
    pair = Pair()
    first_flight(pair)
    assert facts(pair.client)["loss_deadline"] - pair.now == 999 * MS


def test_one_rtt_packets_wait_for_the_handshake_with_their_pto() -> None:
    """RFC 9002 §6.2.1: no PTO for the application space before the handshake is complete, and only from its packets."""
    pair = Pair()
    pair.filter = lambda to_server, number, datagram: (
        [] if to_server and any(h.type == PacketType.HANDSHAKE for _, h in parse_datagram(datagram, 8)) else None
    )
    pair.run(lambda: facts(pair.server)["spaces"][APP]["has_tx"] if pair.has_server else False)
    pair.wait(3 * SECOND)
    assert not pair.server.handshake_complete
    assert pair.server.stats()["ptos"] > 0
    assert facts(pair.server)["spaces"][APP]["probes"] == 0


def test_discarded_keys_take_their_packets_along() -> None:
    """RFC 9002 §6.4: in flight is reduced, nothing is declared lost, the back-off starts again."""
    pair = Pair().handshake()
    pair.settle()
    for end in (pair.client, pair.server):
        assert facts(end)["path"]["in_flight"] == 0
        assert end.stats()["packets_lost"] == 0
        assert facts(end)["pto_count"] == 0
        for space in (INITIAL, HANDSHAKE):
            known = facts(end)["spaces"][space]
            assert known["discarded"]
            assert known["eliciting"] == 0


# ---- persistent congestion (RFC 9002 §7.6)


def lost_run(sender: Sender, span: int, *, gap: int = 20 * MS, ack_inside: bool = False) -> list[int]:
    """Packets over `span`, all lost but the last one, which is acknowledged a round trip later."""
    start = sender.now
    numbers = [sender.ping()]
    while sender.now < start + span:
        sender.pair.now = min(sender.now + gap, start + span)
        numbers.append(sender.ping())
    sender.pair.now += 1 * MS
    last = sender.pings(4)
    sender.pair.now += 10 * MS
    if ack_inside:
        sender.ack(numbers[len(numbers) // 2], *last)
    else:
        sender.ack(*last)
    return numbers


@pytest.mark.parametrize("skipped", [False, True])
def test_persistent_congestion_collapses_the_window(skipped: bool) -> None:
    """A packet number that was left out on purpose lies inside the run or not: nobody acknowledged it either."""
    sender = Sender()
    span = 3 * pto(sender.path) + 30 * MS
    numbers = lost_run(sender, span, gap=span // 40 if skipped else 40 * MS)
    assert any(numbers[0] < n < numbers[-1] for n in sender.space["skipped"]) == skipped
    assert sender.client.stats()["persistent_congestions"] == 1
    # Two packets, and what this very ACK adds in slow start.
    assert 2400 <= sender.path["cwnd"] < 2400 + 5 * 40


def test_a_shorter_run_is_ordinary_loss() -> None:
    sender = Sender()
    lost_run(sender, 3 * pto(sender.path) - 20 * MS)
    assert sender.client.stats()["persistent_congestions"] == 0
    assert sender.client.stats()["congestion_events"] == 1
    assert sender.path["cwnd"] > 2400


def test_an_acknowledged_packet_inside_the_run_saves_the_window() -> None:
    sender = Sender()
    lost_run(sender, 3 * pto(sender.path) + 30 * MS, ack_inside=True)
    assert sender.client.stats()["persistent_congestions"] == 0


# ---- the congestion window of a connection


def test_one_reduction_per_round_trip() -> None:
    sender = Sender(client={"knobs": {"pacing": 0}})
    numbers = sender.pings(40)
    sender.pair.now += 10 * MS
    sender.ack(*numbers[10:20])
    assert sender.client.stats()["congestion_events"] == 1
    half = sender.path["cwnd"]
    sender.ack(*numbers[10:20], *numbers[30:])  # more losses of the same flight
    assert sender.client.stats()["congestion_events"] == 1
    assert sender.path["cwnd"] == half
    sender.pair.now += 1 * MS
    more = sender.pings(10)
    sender.pair.now += 10 * MS
    sender.ack(*more[4:])
    assert sender.client.stats()["congestion_events"] == 2


def test_in_flight_stays_within_the_window() -> None:
    """Except for probes; checked after every single datagram of a lossy transfer."""
    pair = Pair(2, both=PLAIN).handshake()
    pair.settle()
    pair.loss = 0.05
    stream = pair.client.open_stream(True)
    stream.write(bytes(600_000))
    stream.finish()
    while not (stream.id in pair.sinks and pair.sinks[stream.id].stream.ended):
        before = facts(pair.client)
        assert pair.step(pair.now + 20 * MS) or pair.now < 60 * SECOND
        known = facts(pair.client)
        path = known["path"]
        probes = 2 * 1200 * (1 + pair.client.stats()["ptos"])
        assert path["in_flight"] <= max(path["cwnd"], before["path"]["in_flight"]) + probes
        assert path["in_flight"] == sum(size for _, size, _, _ in outstanding(pair.client))
        assert path["cwnd"] >= 2400


# ---- anti-amplification (RFC 9000 §8.1)


def big_chain() -> Any:
    issuer = authority()
    for i in range(4):
        issuer = make_test_ca(issuer.certificate.not_valid_before_utc, name=f"level {i}", issuer=issuer)
    names = ["localhost", *(f"host-{i:03}.department-of-long-names.example" for i in range(200))]
    return make_leaf(issuer, names, issuer.certificate.not_valid_before_utc).credentials()


@pytest.mark.parametrize("answer", [False, True])
def test_never_more_than_three_times_what_came_in(answer: bool) -> None:
    """At every step until the address is validated, timers included, with a certificate chain of many datagrams."""
    pair = Pair(real=True, tls_server={"credentials": big_chain()}, client={"handshake_timeout": 0.0})
    received = sent = 0
    worst = 0.0

    def note(to_server: bool, number: int, datagram: bytes) -> list[bytes] | None:
        nonlocal sent, worst
        if to_server:
            return None if answer or number == 0 else []
        if not facts(pair.server)["path"]["validated"]:
            sent += len(datagram)
            worst = max(worst, sent / received)
        return None

    pair.filter = note
    original = pair.give

    def give(connection: Any, datagram: bytes, ecn: int = 0) -> None:
        nonlocal received
        if connection is not pair.client:
            received += len(datagram)
        original(connection, datagram, ecn)

    pair.give = give  # type: ignore[method-assign]
    pair.run(lambda: pair.client.handshake_confirmed, limit=8 * SECOND)
    assert 2 < worst <= 3
    assert pair.client.handshake_confirmed == answer
    if not answer:
        path = facts(pair.server)["path"]
        assert path["received"] == 1200
        assert path["sent"] == 3600
        # RFC 9002 §6.2.2.1: at the limit no timer is armed but those that end the connection.
        assert facts(pair.server)["loss_deadline"] == 0


def test_undecryptable_bytes_count_for_the_limit_too() -> None:
    """RFC 9000 §8.1: all of a datagram counts. (The endpoint has matched it to the connection already.)"""
    pair = Pair()
    pair.deliver(True, first_flight(pair))
    before = facts(pair.server)["path"]["received"]
    pair.give(pair.server, bytes([0x40]) + bytes(99))
    assert facts(pair.server)["path"]["received"] == before + 100


def test_a_client_keeps_probing_while_the_server_may_be_blocked() -> None:
    """RFC 9002 §6.2.2.1: all is acknowledged, nothing is in flight, and still the client sends, 1200 bytes each."""
    pair = Pair()
    pair.deliver(True, first_flight(pair))
    flight = [d for d, _ in pair.server.datagrams_to_send(pair.now)]
    forge = Forge(pair, client=False)
    (initial, *_) = forge.open(flight[0])
    # Only the ACK of the ClientHello arrives.
    ack = forge.frames((0x02, initial.fields(0x02)[0]), space=INITIAL, number=0, size=1200)
    pair.now += 10 * MS
    pair.give(pair.client, ack)
    assert facts(pair.client)["spaces"][INITIAL]["eliciting"] == 0
    times = []
    for _ in range(3):
        deadline = pair.client.next_timeout()
        assert deadline is not None
        times.append(deadline - pair.now)
        pair.now = deadline
        pair.client.handle_timeout(pair.now)
        sizes = [len(d) for d, _ in pair.client.datagrams_to_send(pair.now)]
        assert sizes
        assert min(sizes) >= 1200
    assert times == sorted(times)
    assert times[2] > 1.9 * times[1]


# ---- timers


def test_no_timer_is_armed_at_or_before_now() -> None:
    """After every call that does work, on a link that loses, repeats and reorders (a float clock livelocks here)."""
    pair = Pair(9, loss=0.2, reorder=0.4, duplicate=0.2, delay=5 * MS + 1)
    pair.handshake()
    stream = pair.client.open_stream()
    stream.write(bytes(200_000))
    stream.finish()
    steps = itertools.count()
    while not (stream.id in pair.sinks and pair.sinks[stream.id].stream.ended):
        assert pair.step()  # checks it after each timeout
        for end in (pair.client, pair.server):
            pair.send(end)
            deadline = end.next_timeout()
            assert deadline is None or deadline > pair.now
        assert next(steps) < 20_000
