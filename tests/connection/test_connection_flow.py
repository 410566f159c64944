"""Flow control: stalls at the limits, resumption, auto-tuning, and what is never exceeded (RFC 9000 §4)."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from connection_pair import MS, SECOND, Forge, Opened, Pair

from stoq.testing.seams import core_memory, facts

KIB = 1024
SMALL: dict[str, Any] = {
    "knobs": {
        "receive_window": 16 * KIB,
        "receive_window_max": 16 * KIB,
        "stream_window": 4 * KIB,
        "stream_window_max": 4 * KIB,
    }
}


def watch(pair: Pair, client: bool) -> list[Opened]:
    """Every packet that one side sends from now on."""
    forge = Forge(pair, client=client)
    seen: list[Opened] = []

    def note(to_server: bool, number: int, datagram: bytes) -> None:
        if to_server == client:
            seen.extend(forge.open(datagram))

    pair.filter = note
    return seen


def test_a_stream_stalls_at_its_window_and_resumes() -> None:
    pair = Pair(server=SMALL).handshake()
    pair.auto_read = False
    sent = watch(pair, True)
    stream = pair.client.open_stream(True)
    data = random.Random(1).randbytes(20 * KIB)
    stream.write(data)
    stream.finish()
    pair.settle()
    handle = pair.sinks[stream.id].stream
    assert handle.unread == 4 * KIB
    blocked = [f for p in sent for f in p.fields(0x15)]
    assert blocked == [{"stream_id": stream.id, "maximum": 4 * KIB}]
    # Less than half of the window is no reason for an update.
    pair.sinks[stream.id].pull(1 * KIB)
    pair.settle()
    assert handle.unread == 3 * KIB
    pair.sinks[stream.id].pull(1 * KIB)
    pair.settle()
    assert handle.unread == 4 * KIB
    pair.auto_read = True
    pair.run(lambda: handle.ended)
    assert bytes(pair.sinks[stream.id].data) == data
    assert pair.client.stats()["limited_flow_ns"] > 0


def test_the_connection_window_is_shared_by_its_streams() -> None:
    pair = Pair(server=SMALL).handshake()
    pair.auto_read = False
    sent = watch(pair, True)
    streams = [pair.client.open_stream(True) for _ in range(8)]
    for stream in streams:
        stream.write(bytes(4 * KIB))
        stream.finish()
    pair.settle()
    assert sum(s.stream.unread for s in pair.sinks.values()) == 16 * KIB
    assert [f for p in sent for f in p.fields(0x14)] == [{"maximum": 16 * KIB}]
    # Reading one stream lets any other go on.
    taken = sum(pair.sinks[stream.id].pull() for stream in streams[:4])
    assert taken > 8 * KIB
    pair.settle()
    assert sum(s.stream.unread + len(s.data) for s in pair.sinks.values()) == 16 * KIB + taken
    pair.auto_read = True
    pair.run(lambda: len(pair.sinks) == 8 and all(s.stream.ended for s in pair.sinks.values()))
    assert all(len(s.data) == 4 * KIB for s in pair.sinks.values())


@pytest.mark.parametrize("seed", range(4))
def test_limits_hold_at_every_step_on_a_bad_link(seed: int) -> None:
    """What the receiver holds never exceeds what it announced, and every byte arrives once updates get through."""
    pair = Pair(seed, server=SMALL).handshake()
    pair.loss, pair.reorder, pair.duplicate = 0.15, 0.3, 0.1
    rng = random.Random(seed)
    data = {}
    for _ in range(6):
        stream = pair.client.open_stream(True)
        data[stream.id] = rng.randbytes(30 * KIB)
        stream.write(data[stream.id])
        stream.finish()
    pair.auto_read = False
    while not (len(pair.sinks) == 6 and all(s.stream.ended for s in pair.sinks.values())):
        pair.step(pair.now + 2 * MS)
        assert pair.now < 200 * SECOND
        known = facts(pair.server)
        held = sum(s.stream.unread for s in pair.sinks.values())
        assert held <= 16 * KIB
        assert all(s.stream.unread <= 4 * KIB for s in pair.sinks.values())
        assert known["recv_total"] <= known["recv_limit"] <= known["recv_consumed"] + 16 * KIB
        assert core_memory(pair.server)["stream_buffers"] < 2 * 16 * KIB + 64 * KIB
        for sink in pair.sinks.values():
            if rng.random() < 0.5:
                sink.pull(rng.randrange(1, 2 * KIB))
    assert {i: bytes(s.data) for i, s in pair.sinks.items()} == data
    known = facts(pair.server)
    assert known["recv_total"] == known["recv_consumed"] == 6 * 30 * KIB


def test_one_byte_beyond_either_window_closes() -> None:
    for stream_id, offset, ok in ((2, 4 * KIB - 1, True), (2, 4 * KIB, False)):
        pair = Pair(server=SMALL).handshake()
        frame = (0x08, {"stream_id": stream_id, "offset": offset, "data": b"x", "fin": False})
        pair.give(pair.server, Forge(pair, client=True).frames(frame))
        assert (pair.server.close_reason is None) == ok
        assert facts(pair.server)["close"]["code"] == (0 if ok else 0x03)
    pair = Pair(server=SMALL).handshake()
    forge = Forge(pair, client=True)
    for i in range(5):
        # The last byte of each stream's window: four fill the connection's, then one more byte is too many.
        frame = (0x08, {"stream_id": 4 * i + 2, "offset": 4 * KIB - 1 if i < 4 else 0, "data": b"x", "fin": False})
        assert pair.server.close_reason is None
        pair.give(pair.server, forge.frames(frame))
    assert facts(pair.server)["close"]["code"] == 0x03


def test_windows_grow_while_the_reader_keeps_up_and_stop_at_their_maximum() -> None:
    knobs = {
        "receive_window": 16 * KIB,
        "receive_window_max": 256 * KIB,
        "stream_window": 8 * KIB,
        "stream_window_max": 128 * KIB,
    }
    pair = Pair(server={"knobs": knobs}).handshake()
    sent = watch(pair, False)
    data = bytes(3_000_000)
    assert pair.transfer(pair.client, data) == data
    known = facts(pair.server)
    assert known["recv_window"] == 256 * KIB
    limits = [f["maximum"] for p in sent for f in p.fields(0x11)]
    assert limits == sorted(limits)
    gains = [b - a for a, b in itertools.pairwise(limits)]
    assert max(gains) <= 128 * KIB
    assert max(gains) > 32 * KIB, "the stream window did not grow"


def test_windows_do_not_grow_for_a_slow_reader() -> None:
    knobs = {"receive_window": 16 * KIB, "stream_window": 8 * KIB}
    pair = Pair(server={"knobs": knobs}).handshake()
    pair.auto_read = False
    stream = pair.client.open_stream(True)
    stream.write(bytes(100 * KIB))
    for _ in range(20):
        pair.wait(300 * MS)  # thirty round trips between two reads
        pair.sinks[stream.id].pull(4 * KIB)
    assert facts(pair.server)["recv_window"] == 16 * KIB
    pair.settle()
    assert pair.sinks[stream.id].stream.unread <= 8 * KIB


def test_lost_updates_are_sent_again_with_the_value_of_then() -> None:
    """RFC 9000 §13.3: MAX_DATA and MAX_STREAM_DATA are repeated when lost, else the sender would wait for ever."""
    pair = Pair(server=SMALL).handshake()
    stream = pair.client.open_stream(True)
    stream.write(bytes(12 * KIB))
    stream.finish()
    pair.run(lambda: stream.id in pair.sinks and len(pair.sinks[stream.id].data) == 4 * KIB)
    # From here on nothing of the server arrives for a while: its updates are lost.
    pair.filter = lambda to_server, number, datagram: None if to_server else []
    pair.wait(120 * MS)
    assert len(pair.sinks[stream.id].data) == 4 * KIB
    pair.filter = None
    pair.run(lambda: pair.sinks[stream.id].stream.ended, limit=10 * SECOND)
    assert len(pair.sinks[stream.id].data) == 12 * KIB


def test_blocked_frames_are_sent_once_per_limit() -> None:
    pair = Pair(server=SMALL).handshake()
    pair.auto_read = False
    sent = watch(pair, True)
    stream = pair.client.open_stream(True)
    for _ in range(50):
        stream.write(bytes(1 * KIB))
        pair.wait(1 * MS)
    pair.settle()
    assert len([f for p in sent for f in p.fields(0x15)]) == 1


def test_streams_blocked_is_said_and_credit_follows() -> None:
    pair = Pair(server={"max_streams_uni": 2}).handshake()
    sent = watch(pair, True)
    for _ in range(2):
        pair.client.open_stream(True).finish()
    assert not pair.client.can_open_stream(True)
    with pytest.raises(Exception, match="no further stream"):
        pair.client.open_stream(True)
    pair.settle()
    assert [f["maximum"] for p in sent for f in p.fields(0x17)] == [2]
    assert pair.client.can_open_stream(True)


def test_a_smaller_stream_window_at_run_time_breaks_no_promise() -> None:
    """The transport parameters promised the first window: lowering the knob later must not punish the peer."""
    pair = Pair(server={"knobs": {"stream_window": 64 * KIB}}).handshake()
    pair.server.set_knob("stream_window", 4 * KIB)
    pair.auto_read = False
    stream = pair.client.open_stream(True)
    stream.write(bytes(64 * KIB))
    stream.finish()
    pair.settle()
    assert pair.server.close_reason is None
    assert pair.sinks[stream.id].stream.unread == 64 * KIB


def test_a_larger_stream_window_at_run_time_serves_new_streams() -> None:
    pair = Pair(server={"knobs": {"stream_window": 16 * KIB}}).handshake()
    pair.server.set_knob("stream_window", 64 * KIB)
    data = bytes(1_000_000)
    assert pair.transfer(pair.client, data) == data
    assert pair.server.close_reason is None


def test_reading_nothing_for_long_and_then_all_of_it() -> None:
    pair = Pair().handshake()
    pair.auto_read = False
    stream = pair.client.open_stream(True)
    data = random.Random(2).randbytes(3 << 20)
    stream.write(data)
    stream.finish()
    pair.wait(5 * SECOND)
    handle = pair.sinks[stream.id].stream
    assert handle.unread == 1 << 20
    assert core_memory(pair.server)["stream_buffers"] == 0, "what waits for the reader is not held twice"
    pair.auto_read = True
    pair.run(lambda: handle.ended)
    assert bytes(pair.sinks[stream.id].data) == data
