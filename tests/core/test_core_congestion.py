"""NewReno's window (RFC 9002 §7) and the pacer (§7.7) by themselves."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoq.core.cc import controller_names
from stoq.testing.seams import Controller, PacerBox

MS = 1_000_000
SECOND = 1_000 * MS


def test_reno_is_there() -> None:
    assert "reno" in controller_names()
    with pytest.raises(ValueError, match="no such"):
        Controller("no such controller")


@pytest.mark.parametrize(
    ("mtu", "window"),
    [(1200, 12_000), (1452, 14_520), (1472, 14_720), (1500, 14_720), (8000, 16_000), (65_527, 131_054)],
)
def test_the_initial_window(mtu: int, window: int) -> None:
    """RFC 9002 §7.2: min(10 * mtu, max(14720, 2 * mtu))."""
    cc = Controller("reno", mtu)
    assert cc.cwnd == window
    assert cc.ssthresh is None
    assert cc.recovery_start == -1


def test_slow_start_grows_by_what_was_acknowledged() -> None:
    cc = Controller("reno", 1200)
    for i in range(5):
        before = cc.cwnd
        cc.acked(now=100 + i, size=before, sent=50 + i)
        assert cc.cwnd == 2 * before


def test_a_loss_halves_once_per_round_trip() -> None:
    cc = Controller("reno", 1200)
    cc.acked(now=10, size=100_000, sent=5)
    assert cc.cwnd == 112_000
    cc.lost(now=100, size=1200, sent=50)
    assert (cc.cwnd, cc.ssthresh, cc.recovery_start) == (56_000, 56_000, 100)
    # Sent before the reduction: the same loss event (§7.3.2), also at the very moment of it.
    for sent in (60, 99, 100):
        cc.lost(now=110, size=1200, sent=sent)
        assert cc.cwnd == 56_000
    # And what it acknowledges does not make the window grow.
    cc.acked(now=120, size=50_000, sent=100)
    assert cc.cwnd == 56_000
    cc.lost(now=200, size=1200, sent=150)
    assert (cc.cwnd, cc.ssthresh) == (28_000, 28_000)


def test_congestion_avoidance_adds_one_packet_per_window() -> None:
    cc = Controller("reno", 1200)
    cc.acked(now=10, size=108_000, sent=5)
    cc.lost(now=20, size=1200, sent=15)
    assert cc.cwnd == 60_000
    for i in range(49):
        cc.acked(now=100, size=1200, sent=50)
        assert cc.cwnd == 60_000, i
    cc.acked(now=100, size=1200, sent=50)
    assert cc.cwnd == 61_200
    # A window of ACKs in one batch counts as much.
    cc.acked(now=200, size=61_200, sent=150)
    assert cc.cwnd == 62_400


def test_one_ack_cannot_add_more_than_a_packet_a_window() -> None:
    cc = Controller("reno", 1200)
    cc.lost(now=20, size=1200, sent=15)
    assert cc.cwnd == 6000
    for i in range(1, 11):
        cc.acked(now=100 + i, size=6000, sent=50)
    # 10 x 6000 bytes: at least four windows and at most ten.
    assert 6000 + 4 * 1200 <= cc.cwnd <= 6000 + 10 * 1200


def test_the_window_never_falls_below_two_packets() -> None:
    cc = Controller("reno", 1200)
    for i in range(20):
        cc.lost(now=100 * (i + 1), size=1200, sent=100 * i + 50)
    assert (cc.cwnd, cc.ssthresh) == (2400, 2400)


def test_persistent_congestion_begins_slow_start_again() -> None:
    cc = Controller("reno", 1200)
    cc.acked(now=10, size=100_000, sent=5)
    cc.lost(now=100, size=50_000, sent=90, persistent=True)
    assert cc.cwnd == 2400
    assert cc.ssthresh == 56_000
    cc.acked(now=200, size=2400, sent=95)  # no recovery period any more
    assert cc.cwnd == 4800


def test_an_unused_window_does_not_grow() -> None:
    """RFC 9002 §7.8."""
    cc = Controller("reno", 1200)
    cc.acked(now=10, size=100_000, sent=5, limited=False)
    assert cc.cwnd == 12_000


def test_a_new_packet_size_keeps_the_floor() -> None:
    cc = Controller("reno", 1200)
    cc.lost(now=10, size=1, sent=5)
    cc.lost(now=30, size=1, sent=20)
    cc.lost(now=50, size=1, sent=40)
    assert cc.cwnd == 2400
    cc.set_mtu(8000)
    assert (cc.cwnd, cc.mtu) == (16_000, 8000)
    cc.set_mtu(1200)
    assert cc.cwnd == 16_000


def test_the_pacing_rate() -> None:
    """RFC 9002 §7.7: N * cwnd / srtt, N = 2 in slow start and 1.25 after it."""
    cc = Controller("reno", 1200)
    assert cc.pacing_rate(0) == 0
    assert cc.pacing_rate(100 * MS) == 2 * 120_000
    cc.lost(now=10, size=1, sent=5)
    assert cc.pacing_rate(100 * MS) == 60_000 * 5 // 4
    # No overflow at either end.
    assert cc.pacing_rate(1) > 0
    cc.enter(1 << 34, 1 << 34)
    assert cc.pacing_rate(1000) < 1 << 64


# ---- the pacer


@settings(max_examples=150, deadline=None)
@given(
    st.integers(20_000, 1 << 37),
    st.integers(0, 20 * MS),
    st.sampled_from([1200, 1452, 9000]),
    st.lists(st.integers(0, 40 * MS), min_size=1, max_size=60),
)
def test_never_more_than_the_rate_and_a_burst(rate: int, burst_ns: int, mtu: int, gaps: list[int]) -> None:
    """Over any prefix of time: bytes <= rate * t + burst + one packet, however eager the sender is."""
    box = PacerBox()
    now = 5 * SECOND
    box.set(rate, burst_ns, mtu, now)
    start, spent = now, 0
    burst = max(10 * mtu, int(rate * burst_ns * (1 + 1e-6)) // SECOND + 1)  # the core divides by 976562, not .5
    assert box.burst <= burst
    for gap in gaps:
        now += gap
        box.refill(now)
        sent = 0
        while box.credit > 0 and sent < 64 * mtu:
            box.spend(mtu)
            sent += mtu
        spent += sent
        assert spent <= rate * (now - start) * (1 + 1e-6) // SECOND + burst + mtu


@settings(max_examples=100, deadline=None)
@given(st.integers(20_000, 1 << 37), st.integers(0, 20 * MS), st.sampled_from([1200, 9000]))
def test_a_sender_that_waits_as_told_uses_most_of_the_rate(rate: int, burst_ns: int, mtu: int) -> None:
    box = PacerBox()
    now = 5 * SECOND
    box.set(rate, burst_ns, mtu, now)
    start, spent, wakes = now, 0, 0
    while wakes < 200:
        box.refill(now)
        while box.credit > 0:
            box.spend(mtu)
            spent += mtu
        at = box.when(now)
        assert at > now, "a timer at or before now"
        now = at
        wakes += 1
        box.refill(now)
        assert box.credit > 0, "woken up too early"
    assert spent >= 0.95 * rate * (now - start) / SECOND - 2 * box.burst


@settings(max_examples=100, deadline=None)
@given(st.integers(300, 20_000), st.sampled_from([1200, 1452]))
def test_slow_rates_are_kept_too(rate: int, mtu: int) -> None:
    """A window of two packets on a path of seconds: no full bucket every second."""
    box = PacerBox()
    now = 5 * SECOND
    box.set(rate, 2 * MS, mtu, now)
    start, spent = now, 0
    for _ in range(60):
        box.refill(now)
        while box.credit > 0:
            box.spend(mtu)
            spent += mtu
        now = box.when(now)
        assert spent <= rate * (now - start) // SECOND + box.burst + mtu


def test_a_changed_rate_keeps_the_debt() -> None:
    box = PacerBox()
    box.set(1_000_000, 2 * MS, 1200, SECOND)
    while box.credit > 0:
        box.spend(1200)
    debt = box.credit
    box.set(2_000_000, 2 * MS, 1200, SECOND)
    assert box.credit == debt
    assert box.refill(SECOND + 1 * MS) - debt in range(1990, 2001)
    box.set(2_000_000, 2 * MS, 1200, 10 * SECOND)
    assert box.credit == box.burst == 12_000


def test_a_smaller_bucket_keeps_no_more_than_it_holds() -> None:
    box = PacerBox()
    box.set(1 << 30, 2 * MS, 1200, SECOND)
    box.set(1 << 30, 2 * MS, 1200, 3 * SECOND)
    assert box.credit == box.burst > 2_000_000
    box.set(1_000_000, 2 * MS, 1200, 3 * SECOND)
    assert box.credit == box.burst == 12_000


def test_without_a_rate_nothing_is_held_back() -> None:
    box = PacerBox()
    assert box.when(7) == 7
    box.spend(1 << 40)
    assert box.when(7) == 7


def test_time_that_does_not_move_gives_nothing() -> None:
    box = PacerBox()
    box.set(1 << 30, 0, 1200, SECOND)
    box.spend(50_000)
    before = box.credit
    for now in (SECOND, SECOND - 5, 0):
        assert box.refill(now) == before
