"""Handshake flights that are cut, corrupted, repeated, reordered or lost: nothing escapes, and the rest recovers."""

from __future__ import annotations

import itertools
import random

import pytest
from connection_pair import APP, HANDSHAKE, INITIAL, MS, SECOND, Forge, Pair, first_flight

from stoq.errors import ConnectionClosedError, HandshakeFailed
from stoq.testing.seams import core_memory, facts
from stoq.wire.frame_codec import encode_frame


def damaged(datagram: bytes) -> list[bytes]:
    """Every cut and every single-byte corruption of a datagram."""
    cuts = [datagram[:n] for n in range(1, len(datagram))]
    return cuts + [datagram[:i] + bytes([datagram[i] ^ 1 << i % 8]) + datagram[i + 1 :] for i in range(len(datagram))]


def test_every_cut_and_corruption_of_every_flight_is_survived() -> None:
    """Each damaged copy arrives before the whole datagram; the handshake goes on as if it had not."""
    count = 0

    def spoil(to_server: bool, number: int, datagram: bytes) -> list[bytes]:
        nonlocal count
        if pair.client.handshake_confirmed and pair.has_server and pair.server.handshake_confirmed:
            return [datagram]
        copies = damaged(datagram)
        count += len(copies)
        return [*copies, datagram]

    pair = Pair(both={"max_datagram_size": 1200})
    pair.filter = spoil
    pair.handshake()
    assert count > 7_000
    assert pair.client.stats()["auth_failures"] > 1000
    assert pair.server.stats()["auth_failures"] > 1000
    assert pair.client.stats()["handshake_ns"] == 4 * pair.delay, "a damaged copy cost a round trip"
    for end in (pair.client, pair.server):
        assert end.close_reason is None
        assert core_memory(end)["total"] < 16 * 1024
    assert pair.transfer(pair.client, b"after all" * 1000) == b"after all" * 1000


@pytest.mark.parametrize("at", range(0, 1200, 149))
@pytest.mark.parametrize("number", range(4))
def test_a_damaged_flight_alone_is_repaired_by_retransmission(number: int, at: int) -> None:
    """The n-th datagram of the handshake arrives only damaged."""
    seen = itertools.count()

    def spoil(to_server: bool, _: int, datagram: bytes) -> list[bytes] | None:
        if next(seen) != number:
            return None
        return [datagram[:at] + bytes([datagram[at] ^ 0x55]) + datagram[at + 1 :] if at < len(datagram) else b"\x00"]

    pair = Pair(filter=spoil)
    pair.handshake()
    assert pair.now - SECOND < 2 * SECOND
    assert pair.transfer(pair.server, b"x" * 3000) == b"x" * 3000


def test_cut_datagrams_alone_end_in_a_typed_error() -> None:
    """Never more than 1199 bytes of anything arrive: no handshake, one typed reason, no memory kept."""
    pair = Pair(filter=lambda to_server, number, datagram: [datagram[:1199]])
    pair.run(lambda: pair.client.terminated)
    assert isinstance(pair.client.close_reason, HandshakeFailed)
    assert not pair.has_server


@pytest.mark.parametrize("seed", range(6))
def test_repeated_and_reordered_flights(seed: int) -> None:
    """Each datagram of the handshake three times, in random order, and once more much later."""
    rng = random.Random(seed)
    kept: list[tuple[bool, bytes]] = []

    def shuffle(to_server: bool, number: int, datagram: bytes) -> list[bytes]:
        kept.append((to_server, datagram))
        return [datagram] * 3

    pair = Pair(seed, filter=shuffle, reorder=0.7)
    pair.handshake()
    pair.filter = None
    rng.shuffle(kept)
    for to_server, datagram in kept:
        pair.post(to_server, datagram)
    pair.settle()
    for end in (pair.client, pair.server):
        assert end.close_reason is None
    # Of the packets whose keys are gone nothing is even tried.
    assert pair.client.stats()["auth_failures"] == pair.server.stats()["auth_failures"] == 0
    duplicates = pair.client.stats()["packets_duplicate"] + pair.server.stats()["packets_duplicate"]
    assert duplicates >= 4
    assert pair.transfer(pair.client, bytes(5000)) == bytes(5000)


def test_the_flights_reversed() -> None:
    """A certificate chain of several datagrams arrives last datagram first."""
    pair = Pair(real=True)
    pair.deliver(True, first_flight(pair))
    flight = [d for d, _ in pair.server.datagrams_to_send(pair.now)]
    for datagram in reversed(flight):
        pair.give(pair.client, datagram)
    pair.handshake()


@pytest.mark.parametrize("seed", range(8))
def test_a_third_of_everything_lost(seed: int) -> None:
    pair = Pair(seed, loss=0.33, client={"handshake_timeout": 60.0}, server={"handshake_timeout": 60.0})
    pair.handshake()
    assert pair.transfer(pair.client, b"z" * 20_000, limit=120 * SECOND) == b"z" * 20_000


@pytest.mark.parametrize("lost", range(5))
def test_any_one_datagram_lost_costs_a_second_at_most(lost: int) -> None:
    """With the first PTO at 999 ms, one loss may cost one PTO; after a sample of the round trip far less."""
    seen = itertools.count()
    pair = Pair(filter=lambda to_server, number, datagram: [] if next(seen) == lost else None)
    pair.handshake()
    assert pair.now - SECOND < 1100 * MS
    if lost >= 3:
        assert pair.now - SECOND < 200 * MS


# ---- valid packets with a damaged inside: what TLS and the core make of it


def crypto_of(forge: Forge, datagrams: list[bytes], space: int) -> bytes:
    pieces = {}
    for datagram in datagrams:
        for packet in forge.open(datagram):
            if packet.space == space:
                pieces |= {f["offset"]: f["data"] for f in packet.fields(0x06)}
    return b"".join(pieces[offset] for offset in sorted(pieces))


def crypto_frames(data: bytes, size: int = 1000) -> list[bytes]:
    return [encode_frame(0x06, offset=at, data=data[at : at + size]) for at in range(0, len(data), size)]


def check_typed(pair: Pair) -> bool:
    """Run on; True when it failed, in the way it has to."""
    pair.run(lambda: pair.client.handshake_confirmed or pair.client.terminated, limit=15 * SECOND)
    reasons = [end.close_reason for end in pair.ends() if end.close_reason is not None]
    for reason in reasons:
        assert isinstance(reason, ConnectionClosedError)
        assert str(reason).isprintable()
    return bool(reasons)


def test_damaged_client_hellos_in_valid_packets() -> None:
    reference = Pair()
    hello = crypto_of(Forge(reference, client=True), [first_flight(reference)], INITIAL)
    failed = 0
    positions = range(0, len(hello), 3)
    for at in positions:
        pair = Pair()
        first_flight(pair)
        pair.filter = lambda to_server, number, datagram: [] if to_server else None
        spoiled = hello[:at] + bytes([hello[at] ^ 0x81]) + hello[at + 1 :]
        datagram = Forge(pair, client=True).seal(crypto_frames(spoiled)[0], space=INITIAL, number=0, size=1200)
        pair.deliver(True, datagram)
        pair.filter = None
        failed += check_typed(pair)
    # Nearly all of them: a flipped bit of a greased or unknown value is tolerated until Finished.
    assert failed > len(positions) * 0.9


def test_damaged_server_flights_in_valid_packets() -> None:
    """The transcript covers every byte: whatever the client gets, the handshake must not complete."""
    reference = Pair()
    reference.deliver(True, first_flight(reference))
    flight = [d for d, _ in reference.server.datagrams_to_send(reference.now)]
    forge = Forge(reference, client=False)
    sizes = {INITIAL: len(crypto_of(forge, flight, INITIAL)), HANDSHAKE: len(crypto_of(forge, flight, HANDSHAKE))}
    for space in (INITIAL, HANDSHAKE):
        for at in range(0, sizes[space], 7 if space == INITIAL else 23):
            pair = Pair()
            pair.deliver(True, first_flight(pair))
            datagrams = [d for d, _ in pair.server.datagrams_to_send(pair.now)]
            forge = Forge(pair, client=False)
            texts = {s: crypto_of(forge, datagrams, s) for s in (INITIAL, HANDSHAKE)}
            # crypto_of has opened them; now they are sealed anew with one byte changed.
            text = texts[space]
            texts[space] = text[:at] + bytes([text[at] ^ 0x40]) + text[at + 1 :]
            pair.filter = lambda to_server, number, datagram: None if to_server else []
            for s in (INITIAL, HANDSHAKE):
                for frame in crypto_frames(texts[s]):
                    pair.give(pair.client, forge.seal(frame, space=s, size=1200 if s == INITIAL else 0))
            assert not pair.client.handshake_complete, (space, at)
            pair.run(lambda pair=pair: pair.client.terminated, limit=15 * SECOND)
            assert isinstance(pair.client.close_reason, HandshakeFailed), (space, at)


@pytest.mark.parametrize("space", [INITIAL, HANDSHAKE])
@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", 0x0A),  # no frame at all (RFC 9000 §12.4); sealed as PADDING-free below
        (encode_frame(0x08, stream_id=0, offset=0, data=b"x", fin=False), 0x0A),  # not in this epoch
        (encode_frame(0x10, maximum=1), 0x0A),
        (encode_frame(0x1D, error_code=1, reason=b""), 0x0A),
        (encode_frame(0x1E), 0x0A),
        (b"\x42\x00\x00\x00", 0x07),  # an unknown type
        (b"\x40\x01\x00\x00", 0x07),  # PING not in its shortest form
        (encode_frame(0x02, ranges=[(900, 900)], ack_delay=0), 0x0A),  # never sent
        (b"\x06\x00\x44\x00", 0x07),  # CRYPTO longer than the packet
    ],
)
def test_frames_that_do_not_belong_into_the_handshake(space: int, payload: bytes, code: int) -> None:
    pair = Pair()
    pair.deliver(True, first_flight(pair))
    for datagram, _ in pair.server.datagrams_to_send(pair.now):
        if space == HANDSHAKE:
            pair.give(pair.client, datagram)
    forge = Forge(pair, client=False)
    if payload:
        datagram = forge.seal(payload, space=space)
    else:
        # A packet number of four bytes and no payload: an empty packet can be sampled (RFC 9001 §5.4.2).
        pair.client.ping()
        datagram = empty_packet(forge, space)
    pair.give(pair.client, datagram)
    assert facts(pair.client)["close"]["code"] == code
    reason = pair.client.close_reason
    assert isinstance(reason, ConnectionClosedError)
    assert reason.error_code == code
    assert not reason.by_peer


def empty_packet(forge: Forge, space: int) -> bytes:
    from stoq.wire.header import PacketType, encode_long_header  # noqa: PLC0415

    known = facts(forge.connection)
    number = 77
    kind = PacketType.INITIAL if space == INITIAL else PacketType.HANDSHAKE
    header = encode_long_header(
        kind, 1, known["dcid"], known["local_cids"][0][1], packet_number=number, pn_length=4, payload_length=16
    )
    return forge.key(space).encrypt_packet(header, b"", number)


@pytest.mark.parametrize("space", [INITIAL, HANDSHAKE, APP])
def test_reserved_bits_are_checked_after_decryption(space: int) -> None:
    """RFC 9000 §17.2, §17.3.1: PROTOCOL_VIOLATION, not a silent drop, once the packet is authentic."""
    pair = Pair()
    pair.deliver(True, first_flight(pair))
    if space == APP:
        pair.handshake()
    else:
        for datagram, _ in pair.server.datagrams_to_send(pair.now):
            if space == HANDSHAKE:
                pair.give(pair.client, datagram)
    forge = Forge(pair, client=False)
    pair.give(pair.client, forge.seal(b"\x01", space=space, first=0x18 if space == APP else 0x0C))
    assert facts(pair.client)["close"]["code"] == 0x0A
