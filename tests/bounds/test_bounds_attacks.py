"""SECURITY section 7, rows 1 to 6: what a confirmed peer can make a connection hold or do, each with its number."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from attack import GENEROUS, KB, Attack, Ignore, confirmed, crypto, packed, stream, total
from connection_pair import CLIENT, HANDSHAKE, INITIAL, MS, SECOND, Forge, Pair, first_flight

from stoq.connection.connection import Connection
from stoq.testing.seams import core_memory, facts, outstanding, receive_train
from stoq.wire.frame_codec import encode_frame

# ---- row 1: ACK ranges


def ack_state(end: Connection) -> int:
    """All but the books of what was sent, which this peer never acknowledges (see the test of that)."""
    memory = core_memory(end)
    return memory["total"] - memory["sent_log"]


def test_100k_gapped_packets() -> None:
    """64 ranges kept, 32 sent; state < 16 kB; the ACK frame fits a packet."""
    pair = confirmed()
    forge, back = Forge(pair, client=True), Forge(pair, client=False)
    first = facts(pair.client)["spaces"][2]["next"]
    before = ack_state(pair.server)
    peak = most = 0
    for start in range(0, 100_000, 64):
        train = b"".join(
            forge.seal(b"\x01", number=first + 2 * n, size=60) for n in range(start, min(start + 64, 100_000))
        )
        receive_train(pair.server, train, 60, CLIENT, pair.now)
        peak = max(peak, ack_state(pair.server))
        known = facts(pair.server)["spaces"][2]
        most = max(most, known["ranges"])
        for datagram, _ in pair.server.datagrams_to_send(pair.now):
            assert len(datagram) <= 1200
            for packet in back.open(datagram):
                for ack in packet.fields(0x02):
                    assert len(ack["ranges"]) <= 32
                    assert ack["ranges"][0][1] == known["largest_received"]
    assert most == 64
    assert peak - before < 16 * KB
    assert pair.server.close_reason is None
    assert facts(pair.server)["spaces"][2]["largest_received"] == first + 2 * 99_999
    # What fell out of the set is a duplicate from now on, not data to be processed a second time.
    pair.give(pair.server, forge.seal(b"\x01" * 5, number=first + 1))
    assert pair.server.stats()["packets_duplicate"] == 1


def test_an_ack_with_as_many_ranges_as_a_packet_holds() -> None:
    """A malicious ACK: 500 ranges over numbers that were never all sent costs nothing and breaks nothing."""
    pair = confirmed()
    attack = Attack(pair)
    ranges = [(2 * n, 2 * n) for n in range(500, -1, -1)]
    payload = encode_frame(0x02, ranges=ranges, ack_delay=0)
    assert not attack.feed(payload)
    assert attack.code == 0x0A


# ---- row 2: optimistic ACKs


def test_an_ack_of_what_was_never_sent_closes_within_one_packet() -> None:
    for ahead in (0, 1, 1 << 20, (1 << 62) - 100):
        pair = confirmed()
        largest = min(facts(pair.server)["spaces"][2]["next"] + ahead, (1 << 62) - 1)
        attack = Attack(pair)
        assert not attack.feed(encode_frame(0x02, ranges=[(largest, largest)], ack_delay=0))
        assert (attack.code, attack.packets) == (0x0A, 1)
        assert facts(pair.server)["close"]["frame_type"] == 0x02


@pytest.mark.parametrize("beyond", [0, 1])
def test_an_ack_of_a_skipped_number_closes(beyond: int) -> None:
    """At the end of a range or inside it."""
    pair = confirmed()
    while not facts(pair.server)["spaces"][2]["skipped"]:
        pair.server.ping()
        pair.settle()
    pair.server.ping()
    pair.settle()
    (skipped, *_) = facts(pair.server)["spaces"][2]["skipped"]
    attack = Attack(pair)
    low = skipped - 2
    # The numbers around it may be acknowledged, again and again …
    assert attack.feed(encode_frame(0x02, ranges=[(low, skipped - 1)], ack_delay=0))
    # … and a range over it gives the liar away, as the number alone does.
    assert not attack.feed(encode_frame(0x02, ranges=[(low, skipped + beyond)], ack_delay=0))
    assert attack.code == 0x0A


def test_a_number_is_skipped_within_each_window() -> None:
    """Whoever acknowledges blindly hits one within a congestion window (of at least 32 packets)."""
    pair = Pair(both={"max_datagram_size": 1200}).handshake()
    forge = Forge(pair, client=True)
    gaps: list[tuple[int, int]] = []  # (number left out, window in packets then)
    last = -1

    def note(to_server: bool, number: int, datagram: bytes) -> None:
        nonlocal last
        if not to_server:
            return
        for packet in forge.open(datagram):
            if packet.space == 2:
                gaps.extend((n, facts(pair.client)["path"]["cwnd"] // 1200) for n in range(last + 1, packet.number))
                last = packet.number

    pair.filter = note
    data = bytes(6_000_000)
    assert pair.transfer(pair.client, data) == data
    assert len(gaps) > 10
    previous = 0
    for number, window in gaps:
        assert number - previous <= max(33, window + 1)
        previous = number
    assert pair.client.stats()["packets_lost"] == 0, "a number that was left out was taken for a loss"
    assert len(facts(pair.client)["spaces"][2]["skipped"]) == 4


# ---- row 3: PATH_CHALLENGE


def test_100k_path_challenges() -> None:
    """One answer pending per path: < 64 kB, and the newest challenge is the one that is answered."""
    pair = confirmed()
    attack = Attack(pair)
    back = Forge(pair, client=False)
    for payload in packed(encode_frame(0x1A, data=n.to_bytes(8, "big")) for n in range(100_000)):
        assert attack.feed(payload)
    assert attack.grown < 64 * KB
    pair.now += 1 * SECOND
    acks = merged([(n, n) for n, *_ in reversed(outstanding(pair.server))])
    assert attack.feed(encode_frame(0x02, ranges=acks, ack_delay=0))
    assert attack.feed(encode_frame(0x1A, data=b"the last"))
    answers = [f["data"] for p in back.sent() for f in p.fields(0x1B)]
    assert answers == [b"the last"]
    assert attack.cpu < GENEROUS * 0.2


def test_a_peer_that_never_acknowledges() -> None:
    """It sends and sends: our ACKs are sent packets too, and their books must not grow with each of them."""
    pair = confirmed()
    forge = Forge(pair, client=True)
    base = total(pair.server)
    first = facts(pair.client)["spaces"][2]["next"]
    for start in range(0, 40_000, 2):
        for n in (start, start + 1):
            pair.server.receive_datagram(forge.seal(b"\x01", number=first + n), CLIENT, pair.now)
        pair.server.datagrams_to_send(pair.now)
        pair.now += 1 * MS // 10
        deadline = pair.server.next_timeout()
        if deadline is not None and deadline <= pair.now:
            pair.server.handle_timeout(pair.now)
    assert pair.server.stats()["acks_sent"] >= 20_000
    assert total(pair.server) - base < 256 * KB
    assert pair.server.close_reason is None


# ---- row 4: connection IDs


def new_cid(n: int, retire: int = 0) -> bytes:
    return encode_frame(
        0x18,
        sequence_number=n,
        retire_prior_to=retire,
        connection_id=b"cid-%08d" % n,
        stateless_reset_token=b"token %010d" % n,
    )


def test_new_connection_ids_beyond_the_limit() -> None:
    pair = confirmed()
    attack = Attack(pair)
    for payload in packed(new_cid(n) for n in range(1, 100_000)):
        if not attack.feed(payload):
            break
    assert attack.code == 0x09
    assert attack.packets == 1
    assert attack.grown < 16 * KB


def test_retirements_that_are_never_acknowledged() -> None:
    """Each frame retires what the one before gave; the answers are not acknowledged: 24 pending, then 0x09."""
    pair = confirmed()
    attack = Attack(pair)
    accepted = 0
    for n in range(1, 1000):
        if not attack.feed(new_cid(n, n)):
            break
        accepted += 1
        known = facts(pair.server)
        assert known["retire_due"] + known["retire_unacked"] <= 24
        assert len(known["remote_cids"]) <= 8
    assert accepted == 24
    assert attack.code == 0x09
    assert attack.grown < 16 * KB


def test_20k_retirements_of_ours() -> None:
    """RETIRE_CONNECTION_ID of all that we give: the endpoint replaces them, nothing piles up."""
    pair = confirmed()
    attack = Attack(pair)
    pair.server.listener = Ignore()
    retired = issued = 0
    for _ in range(5000):
        for _ in range(pair.server.connection_ids_wanted()):
            issued += 1
            pair.server.add_connection_id(b"%08d" % issued, b"%016d" % issued)
        frames = [encode_frame(0x19, sequence_number=n) for n in range(retired, issued)]
        retired = issued
        assert attack.feed(b"".join(frames) or b"\x01")
        if attack.packets % 16 == 0:
            sent = facts(pair.server)["spaces"][2]
            numbers = [n for n in range(sent["base"], sent["next"]) if n not in sent["skipped"]]
            if numbers:
                acks = [(n, n) for n in reversed(numbers[-30:])]
                attack.feed(encode_frame(0x02, ranges=merged(acks), ack_delay=0))
    assert issued > 10_000
    assert len(pair.server.local_cids()) <= 8
    assert attack.grown < 64 * KB
    assert pair.server.close_reason is None


def merged(singles: list[tuple[int, int]]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for low, high in singles:
        if out and out[-1][0] == high + 1:
            out[-1] = (low, out[-1][1])
        else:
            out.append((low, high))
    return out


# ---- row 5: CRYPTO


def test_two_megabytes_of_crypto_gaps_after_the_handshake() -> None:
    """One byte at each odd offset: closes with CRYPTO_BUFFER_EXCEEDED at 16 kB, CPU < 50 ms."""
    pair = confirmed()
    attack = Attack(pair)
    for payload in packed(crypto(2 * n + 1, b"x") for n in range(1_000_000)):
        if not attack.feed(payload):
            break
    assert attack.code == 0x0D
    assert attack.packets < 60
    assert attack.cpu < GENEROUS * 0.05
    assert attack.grown < 2 * 16_384 + 16 * KB


@pytest.mark.parametrize("space", [INITIAL, HANDSHAKE])
def test_crypto_gaps_during_the_handshake(space: int) -> None:
    """64 kB before the handshake is complete, in each space of its own."""
    pair = Pair()
    pair.deliver(True, first_flight(pair))
    if space == HANDSHAKE:
        for datagram, _ in pair.server.datagrams_to_send(pair.now):
            pair.give(pair.client, datagram)
    attack = Attack(pair, answers=False)
    for payload in packed(crypto(5000 + 2 * n + 1, b"x") for n in range(1_000_000)):
        if not attack.feed(payload, space=space, size=1200):
            break
    assert attack.code == 0x0D
    assert attack.packets > 100
    assert attack.packets < 300
    assert attack.cpu < GENEROUS * 0.05
    assert attack.grown < 2 * 65_536 + 16 * KB


def test_crypto_exactly_at_the_cap_and_one_byte_beyond() -> None:
    for last, code in ((16_383, 0), (16_384, 0x0D)):
        pair = confirmed()
        attack = Attack(pair)
        assert attack.feed(crypto(last, b"x")) == (code == 0)
        assert attack.code == code


def test_post_handshake_crypto_from_a_client_is_unexpected() -> None:
    """QUIC has no TLS messages from a client after Finished (RFC 9001 §4.4, §6)."""
    pair = confirmed()
    attack = Attack(pair)
    assert not attack.feed(crypto(0, b"\x18\x00\x00\x01\x00"))
    assert attack.code == 0x100 + 10


# ---- row 6: stream fragments


@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
def test_100k_one_byte_gaps_in_a_stream(order: str) -> None:
    """< 0.2 s CPU, < 4 MB, at most twice the window + 64 kB; nothing that was acknowledged is lost."""
    pair = confirmed()
    attack = Attack(pair)
    offsets = [2 * n + 1 for n in range(100_000)]
    if order == "descending":
        offsets.reverse()
    elif order == "random":
        random.Random(1).shuffle(offsets)
    data = random.Random(2).randbytes(200_001)
    for payload in packed(stream(n, data[n : n + 1]) for n in offsets):
        assert attack.feed(payload)
    assert attack.grown < 4_000 * KB
    assert attack.grown < 2 * (1 << 20) + 64 * KB
    assert attack.grown < 3 * 200_000, "a gap should not cost more than a few bytes"
    assert attack.cpu < GENEROUS * 0.2
    # The other bytes in one go: everything is there, in order, and the memory goes.
    for at in range(0, len(data), 1000):
        assert attack.feed(stream(at, data[at : at + 1000], fin=at + 1000 >= len(data)))
    pair.collect(pair.server)
    assert bytes(pair.sinks[2].data) == data
    assert pair.sinks[2].stream.ended
    assert core_memory(pair.server)["stream_buffers"] == 0


def test_one_byte_far_ahead_on_many_streams() -> None:
    """Inside flow control and cheap to send: 100 streams must not cost 12 kB each."""
    pair = confirmed()
    attack = Attack(pair)
    for payload in packed(stream(10_000, b"x", 4 * n + 2) for n in range(100)):
        assert attack.feed(payload)
    assert attack.grown < 100 * 2 * KB


def test_100k_one_byte_frames_in_order_without_a_reader() -> None:
    """Unread data is joined: about its own size, not one object a frame."""
    pair = confirmed()
    pair.auto_read = False
    attack = Attack(pair)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for payload in packed(stream(n, b"x") for n in range(100_000)):
        assert attack.feed(payload)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert attack.grown < 64 * KB
    assert after - before < 400 * KB
    pair.collect(pair.server)
    assert pair.sinks[2].stream.unread == 100_000


def test_overlapping_frames_cost_no_more_than_the_window() -> None:
    pair = confirmed()
    attack = Attack(pair)
    rng = random.Random(3)
    data = rng.randbytes(1 << 20)
    for _ in range(3000):
        at = rng.randrange(1, (1 << 20) - 1000)
        assert attack.feed(stream(at, data[at : at + rng.randrange(1, 1000)]))
    assert attack.grown < 1.25 * (1 << 20) + 64 * KB
