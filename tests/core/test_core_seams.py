"""The seams of the core (DESIGN §4), one by one: sources, extension frames, side streams, digest hook, stats rows."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from connection_pair import CLIENT, MS, SECOND, SERVER, Forge, Pair

from stoq.core.knobs import KNOB_ROWS, STAT_ROWS
from stoq.testing.hooks import Channel, CookieSource, DigestMeter, FrameTap
from stoq.testing.seams import Controller, core_memory, exchange_controller, facts, receive_train, send_trains
from stoq.wire.varint import encode_varint

ROOT = Path(__file__).parent.parent.parent
VALUE, DATA = 0x2F01, 0x2F02  # extension frame types
FRAME = encode_varint(VALUE) + encode_varint(7)


def quiet(**changes: object) -> Pair:
    pair = Pair(both={"max_datagram_size": 1200}, **changes).handshake()  # type: ignore[arg-type]
    pair.settle()
    return pair


def exchange(pair: Pair, tap: FrameTap, times: int = 4) -> None:
    """Let both sides talk; what the server gets goes through the tap."""
    for _ in range(times):
        for datagram, _ in pair.client.datagrams_to_send(pair.now):
            pair.sent[1] += 1
            if pair.rng.random() >= pair.loss:
                tap.receive(datagram, CLIENT, pair.now)
        pair.now += pair.delay
        for datagram, _ in pair.server.datagrams_to_send(pair.now):
            if pair.rng.random() >= pair.loss:
                pair.give(pair.client, datagram)
        pair.now += pair.delay
        for end in (pair.client, pair.server):
            deadline = end.next_timeout()
            if deadline is not None and deadline <= pair.now:
                end.handle_timeout(pair.now)


# ---- send sources


def test_a_source_of_ones_own_sends_and_hears_of_its_frames() -> None:
    """A row in a copy of the table: its frames travel, and each comes back as one notice with its 64-bit cookie."""
    pair = quiet()
    tap = FrameTap(pair.server, VALUE, DATA, negotiated=1)
    source = CookieSource(pair.client, FRAME)
    cookies = [0, 1, 0xDEADBEEF, (1 << 63) + 5, (1 << 64) - 1]
    for cookie in cookies:
        source.queue(cookie)
    exchange(pair, tap)
    assert source.acked == cookies
    assert source.lost == []
    assert source.forgotten == len(cookies)
    assert [(f[0], f[1]) for f in tap.frames] == [(VALUE, 7)] * 5
    assert pair.server.close_reason is None


def test_lost_frames_of_a_source_are_told_once_each() -> None:
    pair = quiet()
    source = CookieSource(pair.client, FRAME)
    tap = FrameTap(pair.server, VALUE, DATA, negotiated=1)
    for cookie in range(10):
        source.queue(cookie)
    pair.client.datagrams_to_send(pair.now)  # and gone
    for _ in range(3):
        pair.now += 1 * MS
        pair.client.ping()
        exchange(pair, tap, 1)
    pair.now += 20 * MS
    pair.client.ping()
    exchange(pair, tap, 1)
    assert sorted(source.lost) == list(range(10))
    assert source.acked == []
    assert source.forgotten == 10
    assert core_memory(pair.client)["frame_records"] > 0
    assert facts(pair.client)["records"] <= 1


def test_a_probe_tells_a_source_to_send_again() -> None:
    """RFC 9002 §6.2.4: what a probe repeats is told as lost while the record stays; then the ACK still counts."""
    pair = quiet()
    source = CookieSource(pair.client, FRAME)
    source.queue(77)
    (kept, _), *_ = pair.client.datagrams_to_send(pair.now)
    deadline = pair.client.next_timeout()
    assert deadline is not None
    pair.now = deadline
    pair.client.handle_timeout(pair.now)
    assert source.lost == [77]
    assert source.forgotten == 0
    tap = FrameTap(pair.server, VALUE, DATA, negotiated=1)
    tap.receive(kept, CLIENT, pair.now)
    exchange(pair, tap)
    assert source.acked == [77]
    assert source.forgotten == 1


def test_a_source_goes_after_acks_and_the_packets_stay_full() -> None:
    pair = quiet()
    tap = FrameTap(pair.server, VALUE, DATA, negotiated=1)
    source = CookieSource(pair.client, FRAME * 20)
    for cookie in range(40):
        source.queue(cookie)
    stream = pair.client.open_stream(True)
    stream.write(bytes(3000))
    sizes = [len(d) for d, _ in pair.client.datagrams_to_send(pair.now)]
    assert sizes[0] == 1200
    assert max(sizes) <= 1200
    assert source.row >= 6
    del tap


def test_a_source_outlives_neither_the_connection_nor_its_records() -> None:
    """Rows and records go away in any order."""
    pair = quiet()
    source = CookieSource(pair.client, FRAME)
    for cookie in range(50):
        source.queue(cookie)
    pair.client.datagrams_to_send(pair.now)
    del source
    pair.now += 2 * SECOND
    pair.client.handle_timeout(pair.now)
    pair.client.datagrams_to_send(pair.now)
    with pytest.raises(ValueError, match="extra source"):
        _keep, _second = CookieSource(pair.client, FRAME), CookieSource(pair.client, FRAME)


# ---- extension frames


@pytest.mark.parametrize("space", [0, 1, 2])
def test_an_extension_frame_that_was_not_negotiated_is_refused(space: int) -> None:
    """SECURITY row 24: FRAME_ENCODING_ERROR (0x07) with its type, also when the other row is negotiated."""
    if space < 2:
        pair = Pair()
        pair.run(lambda: pair.has_server)
        tap = FrameTap(pair.server, VALUE, DATA, negotiated=3)
        if space == 1:
            pair.run(lambda: facts(pair.client)["spaces"][1]["has_tx"])
        frame = FRAME
    else:
        pair = quiet()
        tap = FrameTap(pair.server, VALUE, DATA, negotiated=2)
        frame = FRAME
    datagram = Forge(pair, client=True).seal(frame, space=space, size=1200)
    tap.receive(datagram, CLIENT, pair.now)
    close = facts(pair.server)["close"]
    assert (close["code"], close["frame_type"]) == (0x07, VALUE)
    assert tap.frames == []


def test_negotiated_frames_are_queued_with_their_facts() -> None:
    pair = quiet()
    tap = FrameTap(pair.server, VALUE, DATA, negotiated=3)
    forge = Forge(pair, client=True)
    number = facts(pair.client)["spaces"][2]["next"] + 3
    data = encode_varint(DATA) + encode_varint(11) + encode_varint(5) + b"hello"
    payload = FRAME + b"\x01" + data + encode_varint(VALUE) + encode_varint((1 << 62) - 1)
    tap.receive(forge.seal(payload, number=number), CLIENT, pair.now, 3)
    assert tap.frames == [
        (VALUE, 7, b"", number, pair.now, 3),
        (DATA, 11, b"hello", number, pair.now, 3),
        (VALUE, (1 << 62) - 1, b"", number, pair.now, 3),
    ]
    # The queue lives for one batch.
    assert facts(pair.server)["ext_in"] == 0


@pytest.mark.parametrize("eliciting", [True, False])
def test_an_extension_says_whether_it_is_ack_eliciting(eliciting: bool) -> None:
    pair = quiet()
    tap = FrameTap(pair.server, VALUE, DATA, negotiated=1, eliciting=eliciting)
    forge = Forge(pair, client=True)
    for _ in range(2):
        tap.receive(forge.seal(FRAME), CLIENT, pair.now)
    assert bool(pair.server.datagrams_to_send(pair.now)) == eliciting


@pytest.mark.parametrize(
    "frame",
    [
        encode_varint(VALUE),  # no value
        encode_varint(DATA) + b"\x00\x05abc",  # longer than the packet
        encode_varint(DATA) + encode_varint((1 << 62) - 2) + b"\x02ab",
    ],
)
def test_malformed_extension_frames_close(frame: bytes) -> None:
    pair = quiet()
    tap = FrameTap(pair.server, VALUE, DATA, negotiated=3)
    tap.receive(Forge(pair, client=True).seal(b"\x01\x01\x01" + frame), CLIENT, pair.now)
    assert facts(pair.server)["close"]["code"] == 0x07


def test_the_queue_of_extension_frames_is_bounded() -> None:
    pair = quiet()
    tap = FrameTap(pair.server, VALUE, DATA, negotiated=1)
    before = core_memory(pair.server)["total"]
    tap.receive(Forge(pair, client=True).seal(FRAME * 380), CLIENT, pair.now)
    assert len(tap.frames) == 256  # EXT_QUEUE_MAX
    assert pair.server.stats()["ext_dropped"] == 380 - 256
    assert core_memory(pair.server)["total"] - before < 64 * 1024
    assert pair.server.close_reason is None


def test_frames_sent_by_the_cores_own_extension_source() -> None:
    pair = quiet()
    sender, receiver = FrameTap(pair.client, VALUE, DATA, 1), FrameTap(pair.server, VALUE, DATA, 1)
    for i in range(200):
        sender.send(encode_varint(VALUE) + encode_varint(i), 1000 + i)
    for datagram, _ in pair.client.datagrams_to_send(pair.now):
        receiver.receive(datagram, CLIENT, pair.now)
    assert [f[1] for f in receiver.frames] == list(range(200))
    pair.now += 30 * MS  # beyond the ACK delay
    pair.server.handle_timeout(pair.now)
    for datagram, _ in pair.server.datagrams_to_send(pair.now):
        sender.receive(datagram, SERVER, pair.now)
    assert sorted(sender.notices) == [(1000 + i, True) for i in range(200)]


# ---- a side stream of an extension


@pytest.mark.parametrize("loss", [0.0, 0.25])
def test_a_side_stream_is_a_reliable_ordered_channel(loss: float) -> None:
    pair = quiet(seed=4)
    pair.loss = loss
    tap = FrameTap(pair.client, VALUE, DATA, 3)
    sender = Channel(tap)
    back = FrameTap(pair.server, VALUE, DATA, 3)
    receiver = Channel(back)
    data = random.Random(1).randbytes(40_000)
    for at in range(0, len(data), 5000):
        sender.write(data[at : at + 5000])
        exchange(pair, back)
    for _ in range(400):
        if sender.unacknowledged == 0:
            break
        exchange(pair, back)
    assert receiver.received == data
    assert sender.unacknowledged == 0
    assert not receiver.overflow
    # Streams go on beside it.
    stream = pair.client.open_stream(True)
    stream.write(b"beside")
    pair.loss = 0
    exchange(pair, back)
    pair.collect(pair.server)
    assert bytes(pair.sinks[stream.id].data) == b"beside"


def test_a_side_stream_holds_at_most_its_cap_behind_a_gap() -> None:
    pair = quiet()
    tap = FrameTap(pair.server, VALUE, DATA, 3)
    channel = Channel(tap)
    forge = Forge(pair, client=True)

    def piece(offset: int, data: bytes) -> bytes:
        return forge.seal(encode_varint(DATA) + encode_varint(offset) + encode_varint(len(data)) + data)

    tap.receive(piece(8192 - 100, bytes(100)), CLIENT, pair.now)
    assert not channel.overflow
    tap.receive(piece(8192, b"x"), CLIENT, pair.now)
    assert channel.overflow
    assert channel.received == b""


# ---- the digest hook


def test_the_digest_hook_sees_the_same_plaintext_on_both_sides() -> None:
    pair = quiet()
    sender, receiver = DigestMeter(pair.client), DigestMeter(pair.server)
    data = random.Random(1).randbytes(1_000_000)
    assert pair.transfer(pair.client, data) == data
    assert pair.transfer(pair.server, data) == data
    pair.settle()
    for out, into in ((sender.sealed, receiver.opened), (receiver.sealed, sender.opened)):
        assert out["digest"] == into["digest"] != 0
        assert out["packets"] == into["packets"] > 800
        assert out["bytes"] == into["bytes"] > 1_000_000


def test_the_digest_hook_works_on_batches() -> None:
    """At least 16 packets in a call for a bulk train (DESIGN §4)."""
    pair = Pair(both={"max_datagram_size": 1200}, client={"knobs": {"pacing": 0}}).handshake()
    pair.settle()
    stream = pair.client.open_stream(True)
    sender, receiver = DigestMeter(pair.client), DigestMeter(pair.server)
    stream.write(bytes(2_000_000))
    for _ in range(12):  # until the window lets whole trains go
        for buffer, segment in send_trains(pair.client, pair.now):
            receive_train(pair.server, buffer, segment, CLIENT, pair.now)
        pair.now += 10 * MS
        for datagram, _ in pair.server.datagrams_to_send(pair.now):
            pair.give(pair.client, datagram)
    assert sender.sealed["largest"] >= 16
    assert receiver.opened["largest"] >= 16
    assert sender.sealed["packets"] / sender.sealed["calls"] > 16
    assert sender.sealed["digest"] == receiver.opened["digest"]


def test_a_forged_packet_in_a_train_does_not_hide_the_others_from_the_hook() -> None:
    pair = quiet()
    meter = DigestMeter(pair.server)
    forge = Forge(pair, client=True)
    packets = [forge.seal(b"\x01" + bytes(i), number=100 + i, size=100) for i in range(8)]
    spoiled = packets[3][:-1] + bytes([packets[3][-1] ^ 1])
    receive_train(pair.server, b"".join([*packets[:3], spoiled, *packets[4:]]), 100, CLIENT, pair.now)
    assert meter.opened["packets"] == 7
    assert pair.server.stats()["auth_failures"] == 1


def test_without_a_hook_nothing_is_called() -> None:
    pair = quiet()
    meter = DigestMeter(pair.client)
    del meter
    data = bytes(10_000)
    assert pair.transfer(pair.client, data) == data


# ---- stats and knobs: rows and structs say the same


def struct_fields(name: str) -> list[str]:
    text = (ROOT / "stoq/core/knobs.pxd").read_text()
    body = re.search(rf"cdef struct {name}:\n((?:    .*\n)+)", text)
    assert body is not None
    return re.findall(r"^    uint64_t (\w+)", body[1], re.MULTILINE)


@pytest.mark.parametrize(("name", "rows"), [("Knobs", KNOB_ROWS), ("Stats", STAT_ROWS)])
def test_rows_are_the_fields_of_the_struct_in_order(name: str, rows: tuple[tuple[object, ...], ...]) -> None:
    assert struct_fields(name) == [row[0] for row in rows]
    assert len({row[0] for row in rows}) == len(rows)
    assert all(row[1] for row in rows)


# ---- congestion control is exchanged on a running connection


def test_a_controller_hands_its_state_over() -> None:
    old = Controller("reno", 1200)
    old.acked(now=10, size=12_000, sent=5)
    old.lost(now=20, size=1200, sent=15)
    state = old.export()
    assert (state["cwnd"], state["ssthresh"]) == (old.cwnd, old.ssthresh) == (12_000, 12_000)
    new = Controller("reno", 1200)
    new.enter(state["cwnd"], state["ssthresh"])
    assert (new.cwnd, new.ssthresh, new.mtu) == (12_000, 12_000, 1200)
    new.enter(0, 5000)
    assert new.cwnd == 2400  # never below two packets


def test_exchanging_the_controller_of_a_running_transfer() -> None:
    pair = quiet()
    data = random.Random(1).randbytes(2_000_000)
    stream = pair.client.open_stream(True)
    stream.write(data)
    stream.finish()
    pair.run(lambda: stream.id in pair.sinks and len(pair.sinks[stream.id].data) > 300_000)
    before = facts(pair.client)["path"]
    exchange_controller(pair.client)
    after = facts(pair.client)["path"]
    assert (after["cwnd"], after["ssthresh"]) == (before["cwnd"], before["ssthresh"])
    assert before["cwnd"] > 12_000
    # What was lost before the exchange is not answered a second time, later losses are.
    pair.loss = 0.02
    pair.run(lambda: pair.sinks[stream.id].stream.ended)
    assert bytes(pair.sinks[stream.id].data) == data
    assert pair.client.stats()["congestion_events"] > 0
    assert pair.now < 20 * SECOND
