"""Fuzz target: address tokens. The first byte chooses who reads the rest: a server's admission, or a client that is
told to try again (Retry) or given a token for later (NEW_TOKEN).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from fuzz_pair import MS, SECOND, START, handshake, make_client, one_rtt, pieces

from stoq.crypto.keys import retry_integrity_tag
from stoq.endpoint.admission import NEW_TOKEN_LIFETIME, RETRY_LIFETIME, DefaultAdmission
from stoq.testing.seams import facts
from stoq.wire.frame_codec import FrameType, encode_frame
from stoq.wire.header import INITIAL_TOKEN_MAX, PacketType, encode_retry_without_tag, parse_header

KEY = bytes(range(32))
ISSUED = 1_700_000_000 * SECOND
PEERS = (("192.0.2.1", 50000), ("192.0.2.1", 50001), ("198.51.100.7", 50000), ("2001:db8::1", 50000))
VERSIONS = (1, 0x6B3343CF)
ORIGINAL, RETRY_SCID = b"original", b"retry-id"
SKEW = 2 * SECOND  # by which the clocks of two servers may differ
AGES = (0, SECOND, RETRY_LIFETIME, RETRY_LIFETIME + 1, NEW_TOKEN_LIFETIME, NEW_TOKEN_LIFETIME + 1, -SKEW, -SKEW - 1)
VERDICTS = {"accept", "drop", "retry", "refuse"}
SCIDS = (b"", b"s", b"server-0", b"retry-id", b"original", bytes(20))


@cache
def admission(always_retry: bool) -> DefaultAdmission:
    return DefaultAdmission(KEY, always_retry=always_retry)


# Clocks of workers that share a key may differ so much (stoq.endpoint.admission).
SKEW = 2_000_000_000


def genuine_retry() -> bytes:
    return admission(False).mint_retry(PEERS[0], ORIGINAL, RETRY_SCID, 1, ISSUED)


def genuine_later() -> bytes:
    return admission(False).mint_new_token(PEERS[0], 1, ISSUED)


def server_reads(choice: int, token: bytes) -> None:
    """A token vouches for an address only if it is one of ours, unchanged, for this client, in time."""
    always, peer = bool(choice & 1), PEERS[choice >> 1 & 3]
    version, dcid = VERSIONS[choice >> 3 & 1], (RETRY_SCID, ORIGINAL)[choice >> 4 & 1]
    age = AGES[choice >> 5 & 7]
    decision = admission(always).decide(token, dcid, b"client-0", peer, ISSUED + age, 0, 0, version=version)
    assert decision["verdict"] in VERDICTS
    later = token == genuine_later() and version == 1 and peer[0] == PEERS[0][0] and -SKEW <= age <= NEW_TOKEN_LIFETIME
    mine = token == genuine_retry() and version == 1 and peer == PEERS[0]
    retried = mine and -SKEW <= age <= RETRY_LIFETIME and dcid == RETRY_SCID
    assert decision["validated"] == (later or retried)
    assert ("original_dcid" in decision) == retried
    if retried:
        assert (decision["original_dcid"], decision["retry_scid"]) == (ORIGINAL, RETRY_SCID)
        assert decision["verdict"] == "accept"
    elif always:
        assert decision["verdict"] != "accept"


def client_retries(choice: int, token: bytes) -> None:
    """One Retry is obeyed, with any token that fits and an ID other than ours; everything else changes nothing."""
    client = make_client()
    first = client.send(START)
    scid = SCIDS[choice % len(SCIDS)]
    packet = encode_retry_without_tag(b"client-0", scid, b"") + token  # it runs to the end: no length
    packet += retry_integrity_tag(1, ORIGINAL, packet)
    now = START + MS
    if choice & 0x80:
        packet = packet[:-1] + bytes([packet[-1] ^ 1])
    client.receive(packet, now)
    again = client.send(now)
    obeyed = bool(token) and len(token) <= INITIAL_TOKEN_MAX and scid != ORIGINAL and not choice & 0x80
    assert bool(again) == obeyed
    for datagram in again:
        header = parse_header(datagram)
        assert header.type == PacketType.INITIAL
        assert (header.token, header.dcid, header.scid) == (token, scid, b"client-0")
        assert len(datagram) >= 1200
    if obeyed:
        assert len(again) >= len(first)
        other = encode_retry_without_tag(b"client-0", b"another!", b"second")
        client.receive(other + retry_integrity_tag(1, ORIGINAL, other), now)
        client.receive(other + retry_integrity_tag(1, scid, other), now)
        assert not client.send(now), "a second Retry was obeyed"
    client.run_out(now)


def client_is_given_tokens(rest: bytes) -> None:
    """What a connection keeps of tokens for later does not add up; its application gets each of them."""
    client, _, now = handshake()
    expected = []
    for number, token in enumerate(pieces(rest)):
        if token:
            expected.append(token)
            client.receive(one_rtt(b"client-0", 100 + number, encode_frame(FrameType.NEW_TOKEN, token=token)), now)
    assert client.connection.close_reason is None
    assert client.tokens == [token for token in expected if len(token) <= INITIAL_TOKEN_MAX]
    assert facts(client.connection)["token"] == b""


def fuzz_one(data: bytes) -> None:
    if len(data) < 2:
        return
    match data[0] % 4:
        case 0 | 1:
            server_reads(data[1], data[2:])
        case 2:
            client_retries(data[1], data[2:1300])
        case 3:
            client_is_given_tokens(data[2:])


def seeds() -> Iterator[bytes]:
    for choice in (*range(6), 8, 16, 17, *range(32, 256, 32)):
        yield bytes((0, choice)) + genuine_retry()
        yield bytes((0, choice)) + genuine_later()
    for token in (
        b"",
        b"r",
        b"n",
        b"\0" * 100,
        b"r" * 25,
        b"n" * 25,
        b"r" + bytes(8) + b"\x14" * 42,
        genuine_retry()[:-1],
    ):
        yield bytes((0, 0)) + token
    for choice in (0, 2, 3, 4, 0x80):
        for token in (b"", b"t", genuine_retry(), b"x" * (INITIAL_TOKEN_MAX), b"x" * (INITIAL_TOKEN_MAX + 1)):
            yield bytes((2, choice)) + token
    for sizes in ((1,), (4, 40, 400), (0, 1, 1000), (1024, 1025, 3), (7,) * 50):
        yield bytes((3, 0)) + b"".join(size.to_bytes(2, "big") + b"n" * size for size in sizes)
