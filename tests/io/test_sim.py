"""The simulated network: what its links do to datagrams, in virtual time. The contract is in tests/contract."""

from __future__ import annotations

import gc
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoq.errors import ConfigurationError
from stoq.io.links import LinkCounters
from stoq.io.sim import LinkConfig, SimNetwork, SimTransport
from stoq.io.transport import TransportError

MS = 1_000_000
A = ("192.0.2.1", 1000)
B = ("192.0.2.2", 2000)


def pair(
    config: LinkConfig | None = None, seed: int = 7, **options: Any
) -> tuple[SimNetwork, SimTransport, SimTransport]:
    network = SimNetwork(seed)
    a = network.transport(A, remote=B, **options)
    b = network.transport(B, remote=A, **options)
    if config is not None:
        network.link(a, b, config)
    return network, a, b


def drain(b: SimTransport) -> list[bytes]:
    """All that waits to be received (one receive call fills a limited number of buffers)."""
    got: list[bytes] = []
    while b.readable:
        got += [data for data, _, _ in b.receive_datagrams()]
    return got


def run(network: SimNetwork, b: SimTransport) -> list[tuple[int, bytes]]:
    """Everything that is under way, as (arrival time, data)."""
    got: list[tuple[int, bytes]] = []
    while (due := network.next_event_time()) is not None:
        network.advance(due)
        got += [(network.now, data) for data in drain(b)]
    return got


def numbered(a: SimTransport, count: int, size: int = 100) -> list[bytes]:
    sent = [i.to_bytes(4, "big") * (size // 4) for i in range(count)]
    assert a.send_datagrams([(data, None) for data in sent]) == count
    return sent


def numbers(got: list[tuple[int, bytes]]) -> list[int]:
    return [int.from_bytes(data[:4], "big") for _, data in got]


def within(count: int, trials: int, p: float) -> bool:
    """Five standard deviations of a binomial distribution (the seeds are fixed: this never flickers)."""
    return abs(count - trials * p) <= 5 * math.sqrt(trials * p * (1 - p)) + 1


# ---- time


def test_delay_and_event_times() -> None:
    network, a, b = pair(LinkConfig(delay_ns=5 * MS))
    assert network.next_event_time() is None
    network.advance(3)
    a.send_datagrams([(b"x", None)])
    assert network.next_event_time() == 5 * MS + 3
    assert network.advance(5 * MS + 2) == 0
    assert not b.readable
    assert network.advance(5 * MS + 3) == 1
    assert b.readable
    assert network.next_event_time() is None
    network.advance(9 * MS)
    assert network.now == 9 * MS
    with pytest.raises(ConfigurationError, match="backwards"):
        network.advance(9 * MS - 1)


def test_each_direction_has_its_own_link() -> None:
    network, a, b = pair(LinkConfig(delay_ns=5))
    network.link(b, a, LinkConfig(delay_ns=9))
    a.send_datagrams([(b"x", None)])
    b.send_datagrams([(b"y", None)])
    network.advance(5)
    assert b.readable
    assert not a.readable
    network.advance(9)
    assert a.readable
    assert network.link(A, B).counters.delivered == network.link(b, a).counters.delivered == 1


def test_wait_moves_time() -> None:
    network, a, b = pair(LinkConfig(delay_ns=5 * MS))
    a.send_datagrams([(b"x", None)])
    assert not b.wait(4 * MS)
    assert network.now == 4 * MS
    assert b.wait(4 * MS)
    assert network.now == 5 * MS
    assert a.wait(-1) is False  # nothing is under way: it cannot become readable
    assert network.now == 5 * MS


def test_start_time() -> None:
    network = SimNetwork(start_ns=10**18)
    a, b = network.transport(A), network.transport(B)
    a.send_datagrams([(b"x", B)])
    assert network.next_event_time() == 10**18
    assert b.wait(0)


def test_rate_spaces_datagrams_exactly() -> None:
    # 972 + 28 bytes of headers = 8000 bits: 8 us at 1 Gbit/s.
    network, a, b = pair(LinkConfig(bit_rate=10**9, delay_ns=1000))
    numbered(a, 10, 972)
    assert [at for at, _ in run(network, b)] == [1000 + 8000 * (i + 1) for i in range(10)]
    # A rate that does not divide: 1000 datagrams take 8000 / 3 s to the nanosecond, no rounding adds up.
    network, a, b = pair(LinkConfig(bit_rate=3000))
    numbered(a, 1000, 972)
    assert run(network, b)[-1][0] == 8000 * 10**12 // 3000


def test_ipv6_headers_count() -> None:
    network = SimNetwork()
    a, b = network.transport(("2001:db8::1", 1)), network.transport(("2001:db8::2", 2))
    network.link(a, b, LinkConfig(bit_rate=8 * 10**9, mtu=1500))
    a.send_datagrams([(bytes(1452), b.local_address), (bytes(1453), b.local_address)])
    assert network.next_event_time() == 1500
    assert network.link(a, b).counters.dropped_mtu == 1


def test_an_idle_wire_sends_at_once_and_the_queue_drains() -> None:
    network, a, b = pair(LinkConfig(bit_rate=8 * 10**9, queue_bytes=3000))
    numbered(a, 5, 972)
    assert network.link(a, b).counters.dropped_queue == 2
    assert network.link(a, b).counters.queued_bytes_max == 3000
    network.advance(1000)  # one has left
    numbered(a, 2, 972)
    assert network.link(a, b).counters.dropped_queue == 3
    network.advance(MS)
    a.send_datagrams([(bytes(972), None)])
    assert network.next_event_time() == MS + 1000
    assert network.link(a, b).counters.offered == 8
    run(network, b)
    assert network.link(a, b).counters.delivered == 5


def test_a_queue_bound_in_packets() -> None:
    network, a, b = pair(LinkConfig(bit_rate=10**6, queue_packets=4))
    numbered(a, 10)
    assert numbers(run(network, b)) == [0, 1, 2, 3]
    assert network.link(a, b).counters.dropped_queue == 6


def test_a_rate_limited_sender_is_put_off_until_an_event() -> None:
    network, a, b = pair(LinkConfig(bit_rate=8 * 10**9), send_buffer=2500)
    datagrams = [(bytes(972), None)] * 5
    assert a.send_datagrams(datagrams) == 3
    assert not a.writable
    network.advance(1000)
    assert a.writable
    assert a.send_datagrams(datagrams[3:]) == 1
    assert a.wait(1000, writable=True)
    assert network.now == 2000
    assert a.send_datagrams(datagrams[4:]) == 1
    run(network, b)
    assert b.counters.datagrams_in == 5
    assert a.counters.not_writable == 2


# ---- loss and order


def test_loss_has_its_rate() -> None:
    network, a, b = pair(LinkConfig(loss=0.1))
    numbered(a, 20_000)
    counters = network.link(a, b).counters
    assert within(counters.lost, 20_000, 0.1)
    assert len(run(network, b)) == 20_000 - counters.lost


@pytest.mark.parametrize(("p", "left"), [(0.0, 100), (1.0, 0)])
def test_certain_and_impossible_loss(p: float, left: int) -> None:
    network, a, b = pair(LinkConfig(loss=p))
    numbered(a, 100)
    assert len(run(network, b)) == left


def bursts(sent: int, arrived: list[int]) -> list[int]:
    """Lengths of the runs of missing numbers."""
    gaps = []
    expected = 0
    for n in [*arrived, sent]:
        if n > expected:
            gaps.append(n - expected)
        expected = n + 1
    return gaps


def test_burst_loss_comes_in_bursts() -> None:
    network, a, b = pair(LinkConfig(burst_enter=0.01, burst_leave=0.25), receive_queue=1 << 30)
    numbered(a, 20_000)
    gaps = bursts(20_000, numbers(run(network, b)))
    assert 3.3 < sum(gaps) / len(gaps) < 4.7  # 1 / burst_leave
    assert 0.03 < sum(gaps) / 20_000 < 0.05  # enter / (enter + leave)


def test_max_burst_bounds_every_run() -> None:
    network, a, b = pair(LinkConfig(loss=0.9, max_burst=3))
    numbered(a, 5000)
    gaps = bursts(5000, numbers(run(network, b)))
    assert max(gaps) == 3
    assert gaps.count(3) > 500


def test_reordered_datagrams_are_overtaken() -> None:
    network, a, b = pair(LinkConfig(delay_ns=MS, reorder=0.1, reorder_delay_ns=2 * MS))
    for i in range(2000):
        a.send_datagrams([(i.to_bytes(4, "big"), None)])
        network.advance(network.now + MS // 10)
    got = run(network, b)
    order = numbers(got)
    assert sorted(order) == list(range(2000))
    late = network.link(a, b).counters.reordered
    assert within(late, 2000, 0.1)
    overtaken = sum(1 for i, n in enumerate(order) if any(m > n for m in order[:i]))
    assert 0.9 * late < overtaken <= late


def test_jitter_varies_delay_and_keeps_order_unless_told() -> None:
    for reorders in (False, True):
        network, a, b = pair(LinkConfig(delay_ns=MS, jitter_ns=MS, jitter_reorders=reorders))
        times = []
        for i in range(500):
            a.send_datagrams([(i.to_bytes(4, "big"), None)])
            times.append(network.now)
            network.advance(network.now + MS // 20)
        got = [*run(network, b)]
        order = numbers(got)
        assert sorted(order) == list(range(500))
        assert (order == sorted(order)) is not reorders
    # Delays lie in [delay, delay + jitter].
    network, a, b = pair(LinkConfig(delay_ns=MS, jitter_ns=MS, jitter_reorders=True))
    numbered(a, 1000)
    times = [at for at, _ in run(network, b)]
    assert min(times) >= MS
    assert max(times) <= 2 * MS
    assert max(times) - min(times) > 0.95 * MS


def test_duplicates() -> None:
    network, a, b = pair(LinkConfig(duplicate=0.2))
    sent = numbered(a, 5000)
    got = [data for _, data in run(network, b)]
    extra = network.link(a, b).counters.duplicated
    assert within(extra, 5000, 0.2)
    assert len(got) == 5000 + extra
    assert set(got) == set(sent)


@pytest.mark.parametrize("bits", [1, 3])
def test_corruption_flips_bits(bits: int) -> None:
    network, a, b = pair(LinkConfig(corrupt=0.1, corrupt_bits=bits))
    sent = numbered(a, 3000)
    flipped = [
        sum((x ^ y).bit_count() for x, y in zip(before, after, strict=True))
        for before, (_, after) in zip(sent, run(network, b), strict=True)
    ]
    hit = [n for n in flipped if n]
    assert within(network.link(a, b).counters.corrupted, 3000, 0.1)
    assert 0.95 * network.link(a, b).counters.corrupted <= len(hit) <= network.link(a, b).counters.corrupted
    assert max(hit) == bits


def test_an_empty_datagram_cannot_be_corrupted() -> None:
    network, a, b = pair(LinkConfig(corrupt=1.0))
    a.send_datagrams([(b"", None)])
    assert run(network, b) == [(0, b"")]


def test_larger_than_the_mtu_vanishes_until_the_link_changes() -> None:
    network, a, b = pair(LinkConfig(mtu=1280))
    a.send_datagrams([(bytes(1252), None), (bytes(1253), None)])
    assert [len(data) for _, data in run(network, b)] == [1252]
    network.link(a, b, LinkConfig(mtu=1500))
    a.send_datagrams([(bytes(1472), None), (bytes(1473), None)])
    assert [len(data) for _, data in run(network, b)] == [1472]
    assert network.link(a, b).counters.dropped_mtu == 2


# ---- rules


def test_drops_by_number() -> None:
    network, a, b = pair(LinkConfig(drop=[5, 0, 2, 2]))
    numbered(a, 8)
    assert numbers(run(network, b)) == [1, 3, 4, 6, 7]
    assert network.link(a, b).counters.dropped_rule == 3
    network.link(a, b, LinkConfig(drop=[1, 9]))  # counts from the link's beginning: 1 is long gone
    numbered(a, 3)
    assert numbers(run(network, b)) == [0, 2]


def test_drops_by_a_function() -> None:
    seen: list[tuple[bytes, int, int]] = []

    def rule(data: bytes, number: int, now_ns: int) -> bool:
        seen.append((data, number, now_ns))
        return data == b"drop"

    network, a, b = pair(LinkConfig(drop_if=rule))
    network.advance(77)
    a.send_datagrams([(b"keep", None), (b"drop", None)])
    a.send_train(b"dropkeepdr", 4, None)
    assert [data for _, data in run(network, b)] == [b"keep", b"keep", b"dr"]
    assert [(number, now) for _, number, now in seen] == [(i, 77) for i in range(5)]


def test_a_rule_that_raises_is_heard() -> None:
    def rule(data: bytes, number: int, now_ns: int) -> bool:
        raise RuntimeError("broken rule")

    _, a, _ = pair(LinkConfig(drop_if=rule))
    with pytest.raises(RuntimeError, match="broken rule"):
        a.send_datagrams([(b"x", None)])


def test_blackholes() -> None:
    network, a, b = pair(LinkConfig(blackholes=[(10, 20), (30, 31)]))
    for now in range(40):
        network.advance(now)
        a.send_datagrams([(now.to_bytes(4, "big"), None)])
    network.advance(40)
    got = [int.from_bytes(data, "big") for data in drain(b)]
    assert got == [*range(10), *range(20, 30), *range(31, 40)]
    assert network.link(a, b).counters.dropped_blackhole == 11


# ---- ECN


def test_ecn_marks_by_chance_by_queue_and_bleach() -> None:
    network, a, b = pair(LinkConfig(mark=0.3))
    a.send_datagrams([(b"x", None, 2)] * 3000 + [(b"y", None, 0)] * 100)
    network.advance(1)
    marked = [0, 0]
    while b.readable:
        for data, _, ecn in b.receive_datagrams():
            marked[data == b"y"] += ecn == 3
    assert within(marked[0], 3000, 0.3)
    assert marked[1] == 0
    assert network.link(a, b).counters.marked == marked[0]

    network, a, b = pair(LinkConfig(bit_rate=8 * 10**9, mark_above_bytes=2500))
    a.send_datagrams([(bytes(972), None, 1)] * 5)
    network.advance(MS)
    assert [ecn for _, _, ecn in b.receive_datagrams()] == [1, 1, 1, 3, 3]

    network, a, b = pair(LinkConfig(bleach_ecn=True, mark=1.0))
    a.send_datagrams([(b"x", None, 2)])
    network.advance(MS)
    assert [ecn for _, _, ecn in b.receive_datagrams()] == [0]


# ---- replay


WILD = LinkConfig(
    delay_ns=5 * MS, jitter_ns=MS, bit_rate=50_000_000, queue_bytes=60_000, loss=0.02, burst_enter=0.005,
    burst_leave=0.3, reorder=0.02, duplicate=0.01, corrupt=0.01, mark=0.05,
)  # fmt: skip


def history(seed: int, other_link_first: bool = False) -> list[tuple[int, bytes]]:
    network = SimNetwork(seed)
    a, b = network.transport(A), network.transport(B)
    if other_link_first:
        c = network.transport(("192.0.2.3", 3))
        network.link(c, b, WILD)
        c.send_datagrams([(b"noise", A)] * 10)
    network.link(a, b, WILD)
    got = []
    for i in range(300):
        a.send_train(i.to_bytes(4, "big") * 900, 1200, B, 2)
        network.advance(network.now + MS // 2)
        got += [(network.now, data) for data, _, _ in b.receive_datagrams()]
    return got + run(network, b)


def test_a_seed_replays_exactly_and_another_differs() -> None:
    assert history(1) == history(1)
    assert history(1) != history(2)


def test_other_links_do_not_change_a_link() -> None:
    assert history(1) == history(1, other_link_first=True)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    p=st.lists(st.floats(0, 1), min_size=8, max_size=8),
    rate=st.sampled_from([0, 10**6, 10**9]),
    queue=st.sampled_from([0, 500, 5000]),
    jitter=st.integers(0, MS),
    mtu=st.integers(29, 1500),
    sizes=st.lists(st.integers(0, 1472), min_size=1, max_size=30),
)
def test_every_datagram_is_accounted_for(
    seed: int, p: list[float], rate: int, queue: int, jitter: int, mtu: int, sizes: list[int]
) -> None:
    config = LinkConfig(
        loss=p[0], burst_enter=p[1], burst_leave=p[2], burst_loss=p[3], reorder=p[4], duplicate=p[5], corrupt=p[6],
        mark=p[7], bit_rate=rate, queue_bytes=queue, jitter_ns=jitter, mtu=mtu, blackholes=[(3, 5)], drop=[2],
    )  # fmt: skip
    network, a, b = pair(config, seed)
    for i, size in enumerate(sizes):
        network.advance(i)
        a.send_datagrams([(bytes(size), None, i % 4)])
    drain(b)
    got = len(run(network, b))
    n: LinkCounters = network.link(a, b).counters
    dropped = n.dropped_rule + n.dropped_blackhole + n.dropped_mtu + n.dropped_queue + n.lost
    assert n.offered == len(sizes)
    assert n.delivered == n.offered - dropped + n.duplicated
    assert got <= n.delivered
    assert b.counters.datagrams_in == n.delivered
    assert b.counters.bytes_in == n.bytes_delivered


# ---- addresses


def test_rebinding_changes_what_others_see() -> None:
    network, a, b = pair(LinkConfig(delay_ns=10))
    network.link(b, a, LinkConfig(delay_ns=10))
    other = ("203.0.113.9", 7)
    network.rebind(a, other, at_ns=100)
    a.send_datagrams([(b"1", None)])
    network.advance(95)
    b.send_datagrams([(b"to the old mapping", A)])  # arrives at 105: too late
    network.advance(100)
    a.send_datagrams([(b"2", None)])
    network.advance(110)
    assert [(data, peer) for data, peer, _ in b.receive_datagrams()] == [(b"1", A), (b"2", other)]
    assert a.local_address == A
    assert a.visible_address == other
    assert not a.readable
    assert network.link(b, a).counters.dropped_receiver == 1
    b.send_datagrams([(b"old", A), (b"new", other)])
    network.advance(120)
    assert [data for data, _, _ in a.receive_datagrams()] == [b"new"]
    assert network.unreachable == 1
    assert network.link(a, b).counters.offered == 2  # the link stayed, with its state


def test_rebinding_can_keep_the_old_mapping() -> None:
    network, a, b = pair()
    network.rebind(a, ("203.0.113.9", 7), keep_old=True)
    b.send_datagrams([(b"old", A), (b"new", ("203.0.113.9", 7))])
    assert [data for _, data in run(network, a)] == [b"old", b"new"]


def test_rebinding_to_a_taken_address_is_refused() -> None:
    network, a, _ = pair()
    with pytest.raises(TransportError, match="another transport has"):
        network.rebind(a, B)


def test_addresses_are_unique_and_port_0_is_any() -> None:
    network, _, _ = pair()
    with pytest.raises(TransportError, match="in use"):
        network.transport(A)
    ports = {network.transport(("192.0.2.9", 0)).local_address[1] for _ in range(100)}
    assert len(ports) == 100


def test_links_need_known_ends() -> None:
    network, a, _ = pair()
    with pytest.raises(ConfigurationError, match="no transport has the address"):
        network.link(a, ("192.0.2.3", 3))
    with pytest.raises(ConfigurationError, match="another network"):
        network.link(a, pair()[1])


def test_what_is_under_way_to_a_closed_transport_is_lost() -> None:
    network, a, b = pair(LinkConfig(delay_ns=10))
    a.send_datagrams([(b"x", None)])
    b.close()
    assert network.advance(10) == 0
    assert network.link(a, A).counters.offered == 0


def test_a_network_with_datagrams_under_way_can_be_dropped() -> None:
    network, a, b = pair(LinkConfig(delay_ns=10))
    numbered(a, 100, 3000 // 4 * 4)
    numbered(b, 100)
    network.advance(5)
    del network, a, b
    gc.collect()


# ---- configuration


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": 1.1}, {"loss": -0.1}, {"loss": float("nan")}, {"burst_enter": 2}, {"delay_ns": -1}, {"bit_rate": -1},
        {"mtu": 28}, {"mtu": 65576}, {"corrupt_bits": 0}, {"max_burst": -1}, {"drop": [-1]}, {"blackholes": [(5, 4)]},
        {"jitter_ns": 10**16},
    ],
)  # fmt: skip
def test_a_wrong_link_configuration_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        LinkConfig(**wrong)


@pytest.mark.parametrize("wrong", [{"max_segments": 0}, {"receive_slots": 0}, {"send_buffer": -1}, {"buffer_size": 0}])
def test_wrong_transport_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        SimNetwork().transport(A, **wrong)


def test_train_coalescing_needs_equal_sizes_sources_and_ecn() -> None:
    network, a, b = pair()
    c = network.transport(("192.0.2.3", 3), remote=B)
    a.send_datagrams([(b"aaaa", None), (b"bbbb", None), (b"cc", None), (b"dddd", None)])
    c.send_datagrams([(b"eeee", None)])
    a.send_datagrams([(b"ffff", None, 1), (b"ggggg", None, 1), (b"", None), (b"", None)])
    network.advance(0)
    got = [(bytes(entry), entry.segment, entry.peer[1]) for entry in b.receive_entries()]
    assert got == [
        (b"aaaabbbbcc", 4, 1000),
        (b"dddd", 0, 1000),
        (b"eeee", 0, 3),
        (b"ffff", 0, 1000),
        (b"ggggg", 0, 1000),
        (b"", 0, 1000),
        (b"", 0, 1000),
    ]
