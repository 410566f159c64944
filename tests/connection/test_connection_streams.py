"""Streams between two connections: both kinds, half close, reset, stop, limits, credit."""

from __future__ import annotations

import random

import pytest
from connection_pair import MS, SECOND, Forge, Pair, Sink

from stoq.connection.connection import Connection
from stoq.connection.stream import StreamHandle
from stoq.errors import ApplicationClosed, ConfigurationError, StreamLimitError, StreamReset, StreamStopped
from stoq.testing.seams import core_memory, facts
from stoq.wire.frame_codec import encode_frame

TOTAL = "total"


@pytest.fixture
def pair() -> Pair:
    return Pair().handshake()


def ends(pair: Pair, by_client: bool) -> tuple[Connection, Connection]:
    return (pair.client, pair.server) if by_client else (pair.server, pair.client)


@pytest.mark.parametrize("by_client", [True, False])
@pytest.mark.parametrize("unidirectional", [True, False])
def test_both_kinds_in_both_directions(pair: Pair, by_client: bool, unidirectional: bool) -> None:
    opener, other = ends(pair, by_client)
    ids = []
    for i in range(3):
        stream = opener.open_stream(unidirectional)
        ids.append(stream.id)
        stream.write(b"question %d" % i)
        stream.finish()
    # RFC 9000 §2.1: the two low bits tell initiator and direction.
    assert ids == [4 * i + 2 * unidirectional + (not by_client) for i in range(3)]
    pair.run(lambda: len(pair.sinks) == 3 and all(s.stream.ended for s in pair.sinks.values()))
    assert [bytes(pair.sinks[i].data) for i in ids] == [b"question %d" % i for i in range(3)]
    for i, stream_id in enumerate(ids):
        handle = pair.sinks[stream_id].stream
        if unidirectional:
            with pytest.raises(ConfigurationError):
                handle.write(b"answer")
            continue
        # Half closed: the answer still goes the other way.
        handle.write(b"answer %d" % i)
        handle.finish()
    if not unidirectional:
        handles = [opener.get_stream(i) for i in ids]
        pair.run(lambda: all(h is not None and h.unread for h in handles))
        assert [h.take(100) for h in handles if h] == [b"answer 0", b"answer 1", b"answer 2"]
    pair.settle()
    for end in (opener, other):
        assert facts(end)["streams"] == 0
        assert [end.get_stream(i) for i in ids] == [None] * 3


def test_an_empty_stream_and_a_late_fin(pair: Pair) -> None:
    empty = pair.client.open_stream(True)
    empty.finish()
    late = pair.client.open_stream(True)
    late.write(b"data")
    pair.settle()
    assert pair.sinks[empty.id].stream.ended
    assert not pair.sinks[late.id].stream.ended
    late.finish()
    late.finish()  # repeating it does nothing
    pair.settle()
    assert pair.sinks[late.id].stream.ended
    assert bytes(pair.sinks[late.id].data) == b"data"
    with pytest.raises(ConfigurationError):
        late.write(b"more")


@pytest.mark.parametrize("size", [1, 511, 512, 1400, 70_000, 3_000_000])
@pytest.mark.parametrize("by_client", [True, False])
def test_bytes_are_exact(pair: Pair, size: int, by_client: bool) -> None:
    data = random.Random(size).randbytes(size)
    assert pair.transfer(pair.client if by_client else pair.server, data) == data


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_may_be_written_and_changed_afterwards(pair: Pair, kind: type) -> None:
    stream = pair.client.open_stream(True)
    source = bytearray(b"abc" * 1000)
    data = kind(source)
    assert stream.write(data) == 3000
    if kind is not bytes:
        if kind is memoryview:
            data.release()
        source[:] = b"x" * len(source)
        if kind is bytearray:
            data[:] = b"x" * len(data)
    stream.finish()
    pair.settle()
    assert bytes(pair.sinks[stream.id].data) == b"abc" * 1000


def test_buffered_counts_what_is_not_acknowledged(pair: Pair) -> None:
    stream = pair.client.open_stream()
    assert stream.write(b"a" * 700) == 700
    assert stream.write(b"") == 700
    assert stream.write(b"b" * 300) == 1000
    pair.flush()
    assert stream.buffered() == 1000
    pair.settle()
    assert stream.buffered() == 0


def test_take_gives_pieces_of_at_most_the_limit(pair: Pair) -> None:
    pair.auto_read = False
    stream = pair.client.open_stream(True)
    data = random.Random(1).randbytes(10_000)
    stream.write(data)
    stream.finish()
    pair.settle()
    handle = pair.sinks[stream.id].stream
    assert handle.unread == 10_000
    assert handle.take(0) == b""
    got = b""
    while piece := handle.take(777):
        assert len(piece) <= 777
        got += piece
        assert handle.unread == 10_000 - len(got)
    assert got == data
    assert handle.ended


def test_many_small_writes_are_one_stream(pair: Pair) -> None:
    stream = pair.client.open_stream(True)
    for i in range(5000):
        stream.write(b"%04d" % i)
    stream.finish()
    pair.run(lambda: stream.id in pair.sinks and pair.sinks[stream.id].stream.ended)
    assert bytes(pair.sinks[stream.id].data) == b"".join(b"%04d" % i for i in range(5000))
    assert pair.client.stats()["packets_sent"] < 60


# ---- reset and stop


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_reset_reaches_the_reader(loss: float) -> None:
    pair = Pair(3).handshake()
    pair.loss = loss
    stream = pair.client.open_stream()
    stream.write(b"some" * 1000)
    pair.flush()
    stream.reset(0x1234)
    stream.reset(0x9999)  # the first one counts
    pair.run(lambda: "stream_reset" in pair.names(pair.server), limit=20 * SECOND)
    error = pair.sinks[stream.id].stream.receive_error()
    assert isinstance(error, StreamReset)
    assert (error.error_code, error.stream_id) == (0x1234, stream.id)
    with pytest.raises(ConfigurationError):
        stream.write(b"more")
    stream.finish()  # nothing to finish any more
    # The other direction lives on.
    pair.sinks[stream.id].stream.write(b"still here")
    pair.run(lambda: stream.unread > 0, limit=20 * SECOND)
    assert stream.take(100) == b"still here"


def test_a_reset_forgets_what_was_not_sent(pair: Pair) -> None:
    """RFC 9000 §3.1: no STREAM frame after RESET_STREAM; buffers are freed at once."""
    stream = pair.client.open_stream(True)
    stream.write(bytes(1 << 20))
    pair.flush()
    stream.reset(1)
    assert stream.buffered() == 0
    assert core_memory(pair.client)["stream_buffers"] == 0
    sent = pair.client.stats()["stream_bytes_sent"]
    pair.settle()
    assert pair.client.stats()["stream_bytes_sent"] == sent
    assert pair.client.stats()["stream_bytes_resent"] == 0
    assert facts(pair.client)["streams"] == 0


def test_a_reset_counts_against_flow_control(pair: Pair) -> None:
    """The final size of a reset stream is consumed: the connection's window opens again (RFC 9000 §4.5)."""
    for _ in range(40):
        stream = pair.client.open_stream(True)
        stream.write(bytes(60_000))
        pair.flush()
        stream.reset(1)
        pair.settle()
    known = facts(pair.server)
    assert known["recv_total"] == known["recv_consumed"] == facts(pair.client)["send_total"]
    assert known["recv_total"] > 400_000
    assert pair.transfer(pair.client, bytes(2_000_000)) == bytes(2_000_000)


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_stop_sending_is_answered_with_a_reset(loss: float) -> None:
    pair = Pair(5, both={"max_datagram_size": 1200}).handshake()
    stream = pair.client.open_stream()
    stream.write(bytes(400_000))
    pair.run(lambda: stream.id in pair.sinks and len(pair.sinks[stream.id].data) > 10_000)
    pair.loss = loss
    handle = pair.sinks[stream.id].stream
    handle.stop(0x77)
    pair.run(lambda: "stream_stopped" in pair.names(pair.client), limit=20 * SECOND)
    with pytest.raises(StreamStopped) as caught:
        stream.write(b"more")
    assert caught.value.error_code == 0x77
    pair.run(lambda: "stream_reset" in pair.names(pair.server), limit=20 * SECOND)
    error = handle.receive_error()
    assert error is not None
    assert error.error_code == 0x77  # RFC 9000 §3.5: the same code
    pair.loss = 0
    pair.settle()
    known = facts(pair.server)
    assert known["recv_total"] == known["recv_consumed"]
    assert pair.transfer(pair.client, bytes(2_000_000)) == bytes(2_000_000)


def test_stop_after_everything_arrived_asks_for_nothing(pair: Pair) -> None:
    pair.auto_read = False
    stream = pair.client.open_stream(True)
    stream.write(b"all of it")
    stream.finish()
    pair.settle()
    pair.sinks[stream.id].stream.stop(5)
    pair.settle()
    assert "stream_stopped" not in pair.names(pair.client)
    assert facts(pair.client)["streams"] == facts(pair.server)["streams"] == 0
    assert facts(pair.server)["recv_consumed"] == 9


def test_codes_beyond_62_bits_are_refused(pair: Pair) -> None:
    stream = pair.client.open_stream()
    for act in (stream.reset, stream.stop):
        with pytest.raises(ConfigurationError):
            act(1 << 62)
    stream.reset((1 << 62) - 1)
    pair.settle()
    error = pair.sinks[stream.id].stream.receive_error()
    assert error is not None
    assert error.error_code == (1 << 62) - 1


def test_acts_on_a_stream_that_is_over_do_nothing(pair: Pair) -> None:
    stream = pair.client.open_stream(True)
    stream.write(b"x")
    stream.finish()
    pair.settle()
    assert facts(pair.client)["streams"] == 0
    stream.finish()
    stream.reset(1)
    stream.stop(1)
    assert stream.take(10) == b""
    assert stream.buffered() == 0
    with pytest.raises(ConfigurationError):
        stream.write(b"y")


def lose_next(pair: Pair, of_client: bool) -> None:
    """What one side sends now is lost."""
    pair.filter = lambda to_server, number, datagram: [] if to_server == of_client else None
    pair.flush()
    pair.filter = None


def test_a_lost_reset_is_sent_again(pair: Pair) -> None:
    stream = pair.client.open_stream(True)
    stream.write(b"x")
    pair.settle()
    stream.reset(7)
    lose_next(pair, True)
    pair.run(lambda: "stream_reset" in pair.names(pair.server), limit=2 * SECOND)
    assert "stream_reset" in pair.names(pair.server)


def test_a_lost_stop_is_sent_again(pair: Pair) -> None:
    stream = pair.client.open_stream(True)
    stream.write(b"x")
    pair.settle()
    pair.sinks[stream.id].stream.stop(7)
    lose_next(pair, False)
    pair.run(lambda: "stream_stopped" in pair.names(pair.client), limit=2 * SECOND)
    assert "stream_stopped" in pair.names(pair.client)


def test_lost_stream_credit_is_sent_again() -> None:
    pair = Pair(server={"max_streams_uni": 2}).handshake()
    for _ in range(2):
        pair.client.open_stream(True).finish()
    pair.run(lambda: facts(pair.server)["kinds"][2]["closed"] == 2)
    lose_next(pair, False)
    pair.run(lambda: pair.client.can_open_stream(True), limit=2 * SECOND)
    assert pair.client.can_open_stream(True)


def test_what_a_reset_cuts_off_is_consumed(pair: Pair) -> None:
    """Never received, received behind a gap, or received and not read: none of it may hold back the window."""
    pair.auto_read = False
    forge = Forge(pair, client=True)
    for stream_id, pieces in ((2, []), (6, [(0, 500)]), (10, [(3000, 100)]), (14, [(0, 500), (3000, 100), (700, 5)])):
        frames = [(0x08, {"stream_id": stream_id, "offset": at, "data": bytes(n), "fin": False}) for at, n in pieces]
        before = facts(pair.server)["recv_consumed"]
        for frame in frames:
            pair.give(pair.server, forge.frames(frame))
        pair.give(pair.server, forge.frames((0x04, {"stream_id": stream_id, "error_code": 0, "final_size": 5000})))
        known = facts(pair.server)
        assert known["recv_consumed"] == known["recv_total"] == before + 5000
        assert known["streams"] == 0


def test_what_a_stop_throws_away_is_consumed(pair: Pair) -> None:
    pair.auto_read = False
    forge = Forge(pair, client=True)

    def frame(at: int, size: int, fin: bool = False) -> bytes:
        return forge.frames((0x08, {"stream_id": 0, "offset": at, "data": bytes(size), "fin": fin}))

    for at, size in ((0, 500), (3000, 100)):
        pair.give(pair.server, frame(at, size))
    pair.sinks[0].stream.stop(1)
    assert facts(pair.server)["recv_consumed"] == 3100
    assert core_memory(pair.server)["stream_buffers"] == 0
    for at, size, highest in ((600, 50, 3100), (3050, 100, 3150), (5000, 10, 5010)):
        pair.give(pair.server, frame(at, size))
        known = facts(pair.server)
        assert known["recv_consumed"] == known["recv_total"] == highest
    pair.give(pair.server, frame(6000, 0, True))
    known = facts(pair.server)
    assert known["recv_consumed"] == known["recv_total"] == 6000
    assert core_memory(pair.server)["stream_buffers"] == 0


# ---- limits and credit


@pytest.mark.parametrize("unidirectional", [True, False])
def test_the_stream_limit_and_its_credit(unidirectional: bool) -> None:
    pair = Pair(server={"max_streams_bidi": 4, "max_streams_uni": 4}).handshake()
    streams = [pair.client.open_stream(unidirectional) for _ in range(4)]
    assert not pair.client.can_open_stream(unidirectional)
    with pytest.raises(StreamLimitError):
        pair.client.open_stream(unidirectional)
    pair.settle()
    assert "streams_available" not in pair.names(pair.client)
    for stream in streams[:2]:
        stream.finish()
    pair.settle()
    if not unidirectional:
        # Only one side is over: that is no credit yet.
        assert not pair.client.can_open_stream()
        for stream in streams[:2]:
            pair.sinks[stream.id].stream.finish()
        pair.settle()
    assert ("streams_available", unidirectional) in pair.events[True]
    opened = 0
    while pair.client.can_open_stream(unidirectional):
        pair.client.open_stream(unidirectional)
        opened += 1
    assert opened == 2


def test_a_stream_beyond_the_limit_closes_the_connection() -> None:
    pair = Pair(server={"max_streams_bidi": 4}).handshake()
    forge = Forge(pair, client=True)
    pair.give(pair.server, forge.frames((0x08, {"stream_id": 12, "offset": 0, "data": b"ok", "fin": False})))
    assert pair.server.close_reason is None
    pair.give(pair.server, forge.frames((0x08, {"stream_id": 16, "offset": 0, "data": b"no", "fin": False})))
    assert facts(pair.server)["close"]["code"] == 0x04


def test_a_thousand_streams_one_after_another() -> None:
    pair = Pair(delay=1 * MS).handshake()
    before = core_memory(pair.server)[TOTAL]
    for i in range(1000):
        stream = pair.client.open_stream()
        stream.write(b"request %d" % i)
        stream.finish()
        pair.run(lambda stream=stream: stream.id in pair.sinks and pair.sinks[stream.id].stream.ended)
        sink = pair.sinks.pop(stream.id)
        assert bytes(sink.data) == b"request %d" % i
        sink.stream.write(b"answer %d" % i)
        sink.stream.finish()
        pair.run(lambda stream=stream: stream.unread > 0)
        assert stream.take(100) == b"answer %d" % i
        assert stream.ended
    pair.settle()
    for end in (pair.client, pair.server):
        assert facts(end)["streams"] == 0
        # A few structs are kept for reuse, whatever the number of streams.
        assert core_memory(end)[TOTAL] < before + 8 * 1024
    assert pair.client.stats()["streams_opened"] == pair.server.stats()["streams_accepted"] == 1000


def test_a_hundred_streams_at_once_share_the_link() -> None:
    """Round-robin: while all have data, none gets far ahead of the others."""
    pair = Pair(both={"max_datagram_size": 1200}).handshake()
    streams = [pair.client.open_stream(True) for _ in range(100)]
    for stream in streams:
        stream.write(bytes([stream.id % 251]) * 30_000)
        stream.finish()
    pair.run(lambda: sum(len(s.data) for s in pair.sinks.values()) > 1_500_000)
    sizes = [len(pair.sinks[s.id].data) for s in streams]
    assert max(sizes) - min(sizes) < 15_000
    pair.run(lambda: all(s.stream.ended for s in pair.sinks.values()))
    for stream in streams:
        assert bytes(pair.sinks[stream.id].data) == bytes([stream.id % 251]) * 30_000


def test_streams_may_be_opened_before_their_lower_neighbours(pair: Pair) -> None:
    """Packets of stream 8 arrive first: streams 0 and 4 are there as soon as something of them arrives."""
    forge = Forge(pair, client=True)
    for stream_id in (8, 0, 4):
        pair.give(pair.server, forge.frames((0x08, {"stream_id": stream_id, "offset": 0, "data": b"x", "fin": True})))
    assert sorted(pair.sinks) == [0, 4, 8]
    assert all(sink.stream.ended for sink in pair.sinks.values())


# ---- frames that contradict the state of streams


def stream_frame(stream_id: int, offset: int, data: bytes, fin: bool = False) -> bytes:
    return encode_frame(0x08, stream_id=stream_id, offset=offset, data=data, fin=fin)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        # (from the client to a server that has opened stream 1 (bidirectional) and 3 (unidirectional))
        ([stream_frame(3, 0, b"x")], 0x05),  # only we send on it
        ([stream_frame(5, 0, b"x")], 0x05),  # ours, not opened
        ([encode_frame(0x04, stream_id=3, error_code=0, final_size=0)], 0x05),
        ([encode_frame(0x05, stream_id=2, error_code=0)], 0x05),  # only they send on it
        ([encode_frame(0x05, stream_id=5, error_code=0)], 0x05),
        ([encode_frame(0x11, stream_id=2, maximum=9)], 0x05),
        ([encode_frame(0x11, stream_id=5, maximum=9)], 0x05),
        ([encode_frame(0x15, stream_id=3, maximum=9)], 0x05),
        ([stream_frame(0, 0, b"ab", True), stream_frame(0, 2, b"c")], 0x06),  # beyond the final size
        ([stream_frame(0, 0, b"ab", True), stream_frame(0, 0, b"a", True)], 0x06),  # another final size
        ([stream_frame(0, 5, b"a"), stream_frame(0, 0, b"a", True)], 0x06),  # below what arrived
        ([stream_frame(0, 5, b"a"), encode_frame(0x04, stream_id=0, error_code=0, final_size=5)], 0x06),
        ([stream_frame(0, 5, b"a", True), encode_frame(0x04, stream_id=0, error_code=0, final_size=9)], 0x06),
        (
            [
                encode_frame(0x04, stream_id=0, error_code=0, final_size=5),
                encode_frame(0x04, stream_id=0, error_code=0, final_size=6),
            ],
            0x06,
        ),
        ([encode_frame(0x04, stream_id=0, error_code=0, final_size=5), stream_frame(0, 5, b"x")], 0x06),
        ([stream_frame(0, 1 << 20, b"x")], 0x03),  # one byte beyond the window
        ([encode_frame(0x04, stream_id=0, error_code=0, final_size=(1 << 20) + 1)], 0x03),
        ([stream_frame(0, (1 << 62) - 2, b"xy")], 0x07),
        ([encode_frame(0x12, maximum=1 << 60).replace(b"\xd0\0\0\0\0\0\0\0", b"\xd0\0\0\0\0\0\0\1")], 0x07),
        ([encode_frame(0x1E)], 0x0A),  # HANDSHAKE_DONE from a client
        ([encode_frame(0x07, token=b"token")], 0x0A),  # NEW_TOKEN from a client
    ],
)
def test_frames_that_contradict_the_streams(frames: list[bytes], code: int) -> None:
    pair = Pair().handshake()
    for unidirectional in (False, True):
        pair.server.open_stream(unidirectional).write(b"x")
    pair.settle()
    forge = Forge(pair, client=True)
    for frame in frames[:-1]:
        pair.give(pair.server, forge.seal(frame))
        assert pair.server.close_reason is None
    pair.give(pair.server, forge.seal(frames[-1]))
    close = facts(pair.server)["close"]
    assert close["code"] == code
    # A STREAM frame is reported as it was, or by the first of its eight types.
    assert close["frame_type"] in {frames[-1][0], frames[-1][0] & 0xF8 if 8 <= frames[-1][0] < 16 else frames[-1][0]}
    # The peer is told, with the frame that was to blame.
    pair.settle()
    assert pair.client.close_reason is not None
    assert pair.client.close_reason.error_code == code


@pytest.mark.parametrize(
    "frame",
    [
        stream_frame(0, 0, b"gone", True),
        encode_frame(0x04, stream_id=0, error_code=0, final_size=4),
        encode_frame(0x05, stream_id=0, error_code=0),
        encode_frame(0x11, stream_id=0, maximum=1 << 40),
        encode_frame(0x15, stream_id=0, maximum=1 << 40),
        encode_frame(0x12, maximum=1),  # lower than before: ignored (RFC 9000 §4.6)
        encode_frame(0x10, maximum=1),
        encode_frame(0x14, maximum=1),
        encode_frame(0x16, maximum=1),
    ],
)
def test_late_frames_of_a_stream_that_is_over_are_ignored(frame: bytes) -> None:
    pair = Pair().handshake()
    stream = pair.client.open_stream()
    stream.write(b"gone")
    stream.finish()
    pair.settle()
    pair.sinks[0].stream.finish()
    pair.settle()
    assert facts(pair.server)["streams"] == 0
    pair.give(pair.server, Forge(pair, client=True).seal(frame))
    assert pair.server.close_reason is None
    assert facts(pair.server)["streams"] == 0
    assert pair.transfer(pair.client, b"next") == b"next"


def test_a_resent_first_frame_does_not_open_the_stream_again(pair: Pair) -> None:
    assert pair.transfer(pair.client, b"data") == b"data"
    pair.settle()
    pair.give(pair.server, Forge(pair, client=True).seal(stream_frame(2, 0, b"data", True)))
    assert pair.names(pair.server).count("stream_opened") == 1


def test_the_first_of_two_different_bytes_wins(pair: Pair) -> None:
    """RFC 9000 §2.2 leaves the choice; what counts is that it is the same whatever the order of frames was."""
    forge = Forge(pair, client=True)
    pair.give(pair.server, forge.seal(stream_frame(0, 2, b"CD")))
    pair.give(pair.server, forge.seal(stream_frame(0, 0, b"abcd")))
    assert bytes(pair.sinks[0].data) == b"abCD"


# ---- the end of the connection


def test_streams_after_the_connection_closed(pair: Pair) -> None:
    stream = pair.client.open_stream()
    stream.write(b"x")
    pair.settle()
    pair.server.close(7, "bye")
    pair.settle()
    for act in (lambda: stream.write(b"y"), pair.client.open_stream):
        with pytest.raises(ApplicationClosed) as caught:
            act()
        assert caught.value.error_code == 7
    stream.reset(1)
    stream.stop(1)
    stream.finish()
    pair.run(lambda: pair.client.terminated)
    stream.reset(1)
    stream.stop(1)
    assert stream.take(1) == b""
    assert core_memory(pair.client)["streams"] == 0


def test_a_stream_class_of_ones_own() -> None:
    class Mine(StreamHandle):
        pass

    pair = Pair().handshake()
    pair.server.stream_factory = Mine
    pair.client.stream_factory = Mine
    stream = pair.client.open_stream()
    stream.write(b"x")
    pair.settle()
    assert isinstance(stream, Mine)
    assert isinstance(pair.sinks[stream.id].stream, Mine)
    assert isinstance(pair.sinks[stream.id], Sink)
