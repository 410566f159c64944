"""Floods of frames and datagrams, and declared lengths (SECURITY section 7, rows 7 and 14)."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import pytest
from attack import KB, ROOM, Attack, Ignore, confirmed, crypto, packed, stream, total
from connection_pair import CLIENT, HANDSHAKE, INITIAL, MS, Forge, Pair, first_flight

from stoq.connection.connection import Connection
from stoq.testing.seams import facts
from stoq.wire.frame_codec import encode_frame
from stoq.wire.header import parse_datagram
from stoq.wire.varint import encode_varint

# ---- row 7 and other floods


def test_20k_streams_opened_and_reset() -> None:
    """Credit comes for streams that are over; the table, the sets and the events stay small."""
    pair = confirmed()
    pair.server.listener = Ignore()
    attack = Attack(pair)
    n = 0
    for _ in range(400):
        limit = facts(pair.server)["kinds"][2]["limit"]
        frames = b""
        while n < limit - 1 and len(frames) < ROOM:
            frames += encode_frame(0x04, stream_id=4 * n + 2, error_code=0, final_size=0)
            n += 1
        assert attack.feed(frames or b"\x01")
        pair.now += 1 * MS
        pair.server.datagrams_to_send(pair.now)
    assert n > 20_000
    assert facts(pair.server)["streams"] == 0
    assert attack.grown < 128 * KB  # structs kept for reuse, the table, events of a batch
    pair.server.listener = None
    assert attack.feed(stream(0, b"served", 4 * n + 2, True))
    pair.collect(pair.server)
    assert bytes(pair.sinks[4 * n + 2].data) == b"served"


def test_streams_with_holes_between_them() -> None:
    """Every second stream only: the set of opened ones is bounded by the stream limit."""
    pair = confirmed(server={"max_streams_uni": 4096})
    pair.server.listener = Ignore()
    attack = Attack(pair)
    for payload in packed(encode_frame(0x04, stream_id=8 * n + 2, error_code=0, final_size=0) for n in range(2048)):
        assert attack.feed(payload)
    assert attack.grown < 2048 * 16 * 2 + 96 * KB


@pytest.mark.parametrize(
    "make",
    [
        lambda n: encode_frame(0x12, maximum=200 + n),  # MAX_STREAMS: an event each
        lambda n: encode_frame(0x10, maximum=(1 << 21) + n),
        lambda n: encode_frame(0x14, maximum=n),
        lambda n: encode_frame(0x16, maximum=n),
        lambda n: encode_frame(0x01),
        lambda n: encode_frame(0x05, stream_id=0, error_code=n),
        lambda n: encode_frame(0x11, stream_id=0, maximum=(1 << 21) + n),
        lambda n: encode_frame(0x15, stream_id=0, maximum=n),
        lambda n: encode_frame(0x04, stream_id=2, error_code=0, final_size=0),
        lambda n: encode_frame(0x1B, data=n.to_bytes(8, "big")),
    ],
    ids=["MAX_STREAMS", "MAX_DATA", "DATA_BLOCKED", "STREAMS_BLOCKED", "PING", "STOP_SENDING", "MAX_STREAM_DATA",
         "STREAM_DATA_BLOCKED", "RESET_STREAM", "PATH_RESPONSE"],
)  # fmt: skip
def test_floods_of_one_frame(make: Any) -> None:
    """50,000 of each in full packets, nobody reading events: small and constant, in the core and above it."""
    pair = confirmed()
    attack = Attack(pair)
    payloads = list(packed(make(n) for n in range(50_000)))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for payload in payloads:
            assert attack.feed(payload)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert attack.grown < 64 * KB
    assert after - before < 64 * KB
    assert pair.server.close_reason is None


def test_a_flood_of_new_tokens_at_a_client() -> None:
    """The newest token is kept, up to 1024 bytes of it; longer ones are not worth their memory."""
    pair = confirmed()
    forge = Forge(pair, client=False)
    base = total(pair.client)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for n in range(2000):
            payload = b"".join(encode_frame(0x07, token=b"token %06d" % (10 * n + i)) for i in range(10))
            pair.client.receive_datagram(forge.seal(payload), ("198.51.100.1", 4433), pair.now)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total(pair.client) - base < 16 * KB
    assert after - before < 256 * KB
    pair.collect(pair.client)
    tokens = [v for n, v in pair.events[True] if n == "new_token"]
    assert tokens[-1] == b"token 019999"
    pair.give(pair.client, forge.seal(encode_frame(0x07, token=bytes(1025))))
    assert pair.client.close_reason is None
    assert [v for n, v in pair.events[True] if n == "new_token"][-1] == b"token 019999"


def test_one_huge_datagram_of_events() -> None:
    """A datagram of 60 kB: what its frames say is one event, and no ring is left that held thousands."""
    pair = confirmed()
    attack = Attack(pair)
    assert attack.feed(b"".join(encode_frame(0x12, maximum=20_000 + n) for n in range(12_000)))
    assert attack.grown < 16 * KB
    forge = Forge(pair, client=False)
    base = total(pair.client)
    pair.give(pair.client, forge.seal(b"".join(encode_frame(0x07, token=b"t") for n in range(20_000))))
    assert total(pair.client) - base < 16 * KB
    assert pair.names(pair.client).count("new_token") == 1


def test_floods_of_junk_cost_nothing() -> None:
    """Undecryptable, malformed and foreign datagrams: no memory, no answer, the connection lives."""
    pair = confirmed()
    rng = random.Random(1)
    base = total(pair.server)
    for _ in range(5000):
        junk = bytes([rng.randrange(256)]) + rng.randbytes(rng.randrange(1, 300))
        pair.server.receive_datagram(junk, CLIENT, pair.now)
    assert total(pair.server) - base < 4 * KB
    assert pair.server.datagrams_to_send(pair.now) == []
    assert pair.transfer(pair.client, b"alive") == b"alive"
    assert pair.server.stats()["auth_failures"] > 500


# ---- row 14: declared lengths


def expecting(kind: int) -> tuple[Pair, Connection, Forge, int]:
    """(pair, end, forge of its peer, space): the end's TLS waits for a message of this kind."""
    pair = confirmed() if kind == 4 else Pair()
    if kind == 4:  # NewSessionTicket, at a client
        return pair, pair.client, Forge(pair, client=False), 2
    datagram = first_flight(pair)
    pair.accept(datagram)
    if kind == 1:  # ClientHello
        return pair, pair.server, Forge(pair, client=True), INITIAL
    pair.give(pair.server, datagram)
    (flight, *_) = (d for d, _ in pair.server.datagrams_to_send(pair.now))
    (_, initial), *_ = parse_datagram(flight, 8)
    pair.give(pair.client, flight[: initial.packet_length])
    return pair, pair.client, Forge(pair, client=False), HANDSHAKE  # EncryptedExtensions


def cost(pair: Pair, end: Connection, datagrams: list[bytes]) -> int:
    """Bytes that datagrams add to an end, in the core and in Python."""
    base = total(end)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for datagram in datagrams:
            pair.give(end, datagram)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return after - before + total(end) - base


@pytest.mark.parametrize("kind", [1, 4, 8])
def test_a_tls_head_that_claims_16_megabytes(kind: int) -> None:
    """Four bytes: refused at once (illegal_parameter), < 4 kB kept."""
    pair, end, forge, space = expecting(kind)
    datagram = forge.seal(crypto(0, bytes([kind]) + b"\xff\xff\xff"), space=space, size=1200)
    assert cost(pair, end, [datagram]) < 4 * KB
    assert end.close_reason is not None
    assert end.close_reason.error_code == 0x100 + 47


@pytest.mark.parametrize("kind", [1, 8])
def test_a_tls_head_that_claims_what_is_allowed(kind: int) -> None:
    """Room for the message grows with the bytes that came, not with the bytes that were announced."""
    claimed = 0x3000 if kind == 1 else 0xF000
    pair, end, forge, space = expecting(kind)
    head = bytes([kind]) + claimed.to_bytes(3, "big")
    assert cost(pair, end, [forge.seal(crypto(0, head), space=space, size=1200)]) < 4 * KB
    datagrams = [forge.seal(crypto(4 + 1000 * i, bytes(1000)), space=space, size=1200) for i in range(5)]
    assert cost(pair, end, datagrams) < 4 * KB + 2 * 5000
    assert end.close_reason is None


def test_declared_lengths_in_frames_allocate_nothing() -> None:
    """Lengths of up to 2^62 - 1 in every frame that has one."""
    huge = encode_varint((1 << 62) - 1)
    for payload in (
        b"\x06\x00" + huge,
        b"\x0a\x00" + huge,
        b"\x0e\x00" + encode_varint(5) + huge,
        b"\x07" + huge,
        b"\x1c\x00\x00" + huge,
        b"\x1d\x00" + huge,
        b"\x02\x00\x00" + huge + b"\x00",
        b"\x18\x01\x00\xff",
    ):
        pair = confirmed()
        attack = Attack(pair)
        assert not attack.feed(payload + b"ab")
        assert attack.code == 0x07
        assert attack.grown < 4 * KB
