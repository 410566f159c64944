"""Trains: a GRO buffer means what its datagrams mean one by one, and GSO buffers are equal segments."""

from __future__ import annotations

import random
from typing import Any

import pytest
from connection_pair import CLIENT, SERVER, Forge, Pair, first_flight

from stoq.connection.connection import Connection
from stoq.testing.seams import facts, receive_train, send_trains
from stoq.wire.frame_codec import encode_frame

COUNTERS = (
    "packets_received",
    "packets_dropped",
    "packets_duplicate",
    "auth_failures",
    "datagrams_received",
    "bytes_received",
    "stream_bytes_received",
    "streams_accepted",
    "acks_received",
)


def outcome(pair: Pair, end: Connection) -> dict[str, Any]:
    """What a receiver made of its input. Not how often it will acknowledge: that is by batch."""
    stats, known = end.stats(), facts(end)
    space = known["spaces"][2]
    return {
        **{name: stats[name] for name in COUNTERS},
        "spaces": [(s["largest_received"], s["ranges"], s["largest_acked"]) for s in known["spaces"]],
        "ecn": (space["ect0"], space["ect1"], space["ce"]),
        "flow": (known["recv_total"], known["recv_consumed"], known["send_limit"]),
        "kinds": known["kinds"],
        "close": (known["close"]["state"], known["close"]["code"], known["close"]["frame_type"]),
        "data": {i: (bytes(s.data), s.stream.ended) for i, s in pair.sinks.items()},
        "received": known["path"]["received"],
    }


def compare(datagrams: list[bytes], segment: int, make: Any, ecn: int = 0) -> dict[str, Any]:
    """The same datagrams one by one and as a train into two equal connections; the common outcome."""
    single, train = make(), make()
    for datagram in datagrams:
        single.give(single.server, datagram, ecn)
    receive_train(train.server, b"".join(datagrams), segment, CLIENT, train.now, ecn)
    train.collect(train.server)
    first, second = outcome(single, single.server), outcome(train, train.server)
    if first["close"][0]:
        # Behind the packet that closed nothing counts, also not how many datagrams there were.
        for name in ("datagrams_received", "bytes_received", "received", "flow"):
            del first[name], second[name]
    assert first == second
    return first


def ready() -> Pair:
    return Pair(seed=11, both={"max_datagram_size": 1200}).handshake()


def stream_packets(forge: Forge, count: int, size: int, fin: bool = True) -> list[bytes]:
    room = size - 1 - 8 - 4 - 16 - 8
    data = random.Random(3).randbytes(room * count)
    packets = []
    for i in range(count):
        frame = encode_frame(
            0x08, stream_id=0, offset=i * room, data=data[i * room : (i + 1) * room], fin=fin and i == count - 1
        )
        packets.append(forge.seal(frame, number=100 + i, size=size))
    return packets


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 54, 63, 64, 65, 130])
@pytest.mark.parametrize("size", [60, 500])
def test_a_train_of_stream_data(count: int, size: int) -> None:
    result = compare(stream_packets(Forge(ready(), client=True), count, size), size, ready, ecn=2)
    assert result["data"][0][1]
    assert result["packets_received"] >= count
    assert result["ecn"] == (count, 0, 0)


def test_a_shorter_last_datagram() -> None:
    forge = Forge(ready(), client=True)
    packets = [*stream_packets(forge, 5, 300, fin=False), forge.seal(b"\x01", number=105)]
    assert len(packets[-1]) < 300
    compare(packets, 300, ready)


@pytest.mark.parametrize("seed", range(6))
def test_trains_with_damage_duplicates_and_disorder(seed: int) -> None:
    rng = random.Random(seed)
    packets = stream_packets(Forge(ready(), client=True), 40, 200)
    packets += rng.sample(packets, 10)
    rng.shuffle(packets)
    for i in rng.sample(range(50), 5):
        at = rng.randrange(200)
        packets[i] = packets[i][:at] + bytes([packets[i][at] ^ 1 << rng.randrange(8)]) + packets[i][at + 1 :]
    result = compare(packets, 200, ready)
    assert result["auth_failures"] + result["packets_dropped"] >= 1


def test_packets_of_many_streams_and_control_frames() -> None:
    forge = Forge(ready(), client=True)
    packets = []
    for i in range(30):
        frames = encode_frame(0x08, stream_id=4 * i, offset=0, data=b"stream %d" % i, fin=i % 2 == 0)
        frames += encode_frame(0x10, maximum=(1 << 20) + i) + encode_frame(0x12, maximum=200 + i)
        packets.append(forge.seal(frames, number=50 + i, size=150))
    result = compare(packets, 150, ready)
    assert len(result["data"]) == 30


def test_a_packet_that_closes_in_the_middle_of_a_train() -> None:
    forge = Forge(ready(), client=True)
    packets = stream_packets(forge, 8, 200)
    packets[4] = forge.seal(encode_frame(0x1E), number=104, size=200)
    result = compare(packets, 200, ready)
    assert result["close"][:2] == (1, 0x0A)
    assert not result["data"][0][1]


def test_a_peers_close_in_the_middle_of_a_train() -> None:
    forge = Forge(ready(), client=True)
    packets = stream_packets(forge, 8, 200)
    packets[4] = forge.seal(encode_frame(0x1D, error_code=9, reason=b""), number=104, size=200)
    result = compare(packets, 200, ready)
    assert result["close"][:2] == (2, 9)


def test_long_headers_before_short_ones_in_a_train() -> None:
    """The client's whole side of the handshake in one buffer: Handshake packets that need TLS, then 1-RTT data."""

    def flights() -> list[bytes]:
        pair = Pair(seed=7, both={"max_datagram_size": 1200})
        pair.deliver(True, first_flight(pair))
        for datagram, _ in pair.server.datagrams_to_send(pair.now):
            pair.give(pair.client, datagram)
        stream = pair.client.open_stream()
        stream.write(b"with the handshake" * 100)
        stream.finish()
        out = []
        for _ in range(4):
            out += [d for d, _ in pair.client.datagrams_to_send(pair.now)]
        return out

    def waiting() -> Pair:
        pair = Pair(seed=7, both={"max_datagram_size": 1200})
        pair.deliver(True, first_flight(pair))
        pair.server.datagrams_to_send(pair.now)
        return pair

    datagrams = flights()
    assert len(datagrams) >= 2
    size = max(len(d) for d in datagrams)
    whole = [d for d in datagrams if len(d) == size]
    last = [d for d in datagrams if len(d) < size][:1]
    result = compare(whole + last, size, waiting)
    assert result["data"]


def test_a_segment_size_of_zero_or_beyond_is_one_datagram() -> None:
    forge = Forge(ready(), client=True)
    datagram = forge.seal(b"\x01", number=90, size=100)
    for segment in (0, 100, 5000):
        pair = ready()
        before = pair.server.stats()["datagrams_received"]
        receive_train(pair.server, datagram, segment, CLIENT, pair.now)
        assert pair.server.stats()["datagrams_received"] == before + 1
        assert facts(pair.server)["spaces"][2]["largest_received"] == 90


# ---- sending


def test_sent_trains_are_equal_segments_with_a_shorter_last_one() -> None:
    pair = Pair(both={"max_datagram_size": 1200}, client={"knobs": {"pacing": 0}}).handshake()
    pair.settle()
    stream = pair.client.open_stream(True)
    data = random.Random(1).randbytes(200_000)
    stream.write(data)
    stream.finish()
    received = 0
    for _ in range(200):
        entries = send_trains(pair.client, pair.now, segments=8)
        for buffer, segment in entries:
            assert len(buffer) <= 8 * 1200
            if segment:
                assert segment == 1200
                assert len(buffer) > segment
            receive_train(pair.server, buffer, segment, CLIENT, pair.now + 1)
            received += 1
        pair.collect(pair.server)
        pair.now += 5_000_000
        for datagram, _ in pair.server.datagrams_to_send(pair.now):
            pair.give(pair.client, datagram)
        if pair.sinks[stream.id].stream.ended:
            break
    assert bytes(pair.sinks[stream.id].data) == data
    assert received < 60


def test_small_buffers_and_few_segments_are_respected() -> None:
    pair = ready()
    stream = pair.client.open_stream(True)
    stream.write(bytes(100_000))
    for capacity, segments in ((1200, 64), (2399, 64), (2400, 64), (65507, 1)):
        entries = send_trains(pair.client, pair.now, segments=segments, slots=1, capacity=capacity)
        assert len(entries) == 1
        buffer, segment = entries[0]
        assert len(buffer) <= capacity
        assert (segment == 0) == (capacity < 2400 or segments == 1)


def test_the_server_sends_to_where_the_client_is() -> None:
    pair = ready()
    pair.server.ping()
    (_, peer), *_ = pair.server.datagrams_to_send(pair.now)
    assert peer == CLIENT
    pair.client.ping()
    (_, peer), *_ = pair.client.datagrams_to_send(pair.now)
    assert peer == SERVER
