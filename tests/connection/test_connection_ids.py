"""Connection IDs: issuing, use, retirement, and what is refused (RFC 9000 §5.1, §19.15, §19.16)."""

from __future__ import annotations

from typing import Any

import pytest
from connection_pair import Forge, Pair, first_flight

from stoq.connection.connection import Connection
from stoq.errors import ConfigurationError, StatelessReset
from stoq.testing.seams import core_memory, facts
from stoq.wire.header import parse_header


def cid(n: int) -> bytes:
    return b"cid-%04d" % n


def token(n: int) -> bytes:
    return b"reset token %04d" % n


def new_cid(sequence: int, retire_prior_to: int = 0, **changes: Any) -> tuple[int, dict[str, Any]]:
    fields = {
        "sequence_number": sequence,
        "retire_prior_to": retire_prior_to,
        "connection_id": cid(sequence),
        "stateless_reset_token": token(sequence),
    }
    return 0x18, fields | changes


def issue(end: Connection, first: int = 1) -> int:
    """Give the peer what it can take, as an endpoint does."""
    wanted = end.connection_ids_wanted()
    for n in range(first, first + wanted):
        end.add_connection_id(cid(n), token(n))
    return wanted


@pytest.fixture
def pair() -> Pair:
    return Pair().handshake()


def test_none_is_wanted_before_the_handshake_is_complete() -> None:
    pair = Pair()
    pair.deliver(True, first_flight(pair))
    assert pair.client.connection_ids_wanted() == pair.server.connection_ids_wanted() == 0


@pytest.mark.parametrize("by_client", [True, False])
@pytest.mark.parametrize(("limit", "expected"), [(2, 1), (4, 3), (8, 7)])
def test_as_many_as_the_peer_allows(by_client: bool, limit: int, expected: int) -> None:
    pair = Pair(both={"active_connection_id_limit": limit}).handshake()
    end, other = (pair.client, pair.server) if by_client else (pair.server, pair.client)
    assert issue(end) == expected
    assert end.connection_ids_wanted() == 0
    pair.settle()
    assert facts(other)["remote_cids"][1:] == [(n, cid(n)) for n in range(1, expected + 1)]
    assert sorted(end.local_cids())[:expected] == [cid(n) for n in range(1, expected + 1)]


def test_a_ninth_of_ours_is_refused() -> None:
    pair = Pair(both={"active_connection_id_limit": 8}).handshake()
    issue(pair.server)
    with pytest.raises(ConfigurationError):
        pair.server.add_connection_id(cid(9), token(9))
    for bad in ((b"short", token(1)), (cid(9), b"short")):
        with pytest.raises(ConfigurationError):
            pair.server.add_connection_id(*bad)


def test_lost_ids_are_sent_again(pair: Pair) -> None:
    pair.filter = lambda to_server, number, datagram: None if to_server else []
    issue(pair.server)
    pair.flush()
    pair.filter = None
    pair.run(lambda: len(facts(pair.client)["remote_cids"]) == 4)
    assert facts(pair.client)["remote_cids"][1:] == [(n, cid(n)) for n in (1, 2, 3)]


def test_retire_prior_to_moves_the_peer_to_a_new_id(pair: Pair) -> None:
    issue(pair.server)
    pair.settle()
    old = facts(pair.client)["dcid"]
    assert old == facts(pair.server)["local_cids"][0][1]
    forge = Forge(pair, client=False)
    back = Forge(pair, client=True)
    # Sequence 4 retires 0 and 1. (The server's core does not issue it: its answer is checked below.)
    pair.give(pair.client, forge.frames(new_cid(4, 2)))
    known = facts(pair.client)
    assert known["dcid"] == cid(2)
    assert sorted(n for n, _ in known["remote_cids"]) == [2, 3, 4]
    datagrams = [d for d, _ in pair.client.datagrams_to_send(pair.now)]
    assert all(parse_header(d, 8).dcid == cid(2) for d in datagrams)
    retired = [f["sequence_number"] for d in datagrams for p in back.open(d) for f in p.fields(0x19)]
    assert sorted(retired) == [0, 1]
    assert facts(pair.client)["retire_unacked"] == 2
    for datagram in datagrams:
        pair.give(pair.server, datagram)
    told = [value for name, value in pair.events[False] if name == "cid_retired"]
    assert sorted(told) == sorted([old, cid(1)])
    assert sorted(pair.server.local_cids()) == [cid(2), cid(3)]
    # Retired ones are replaced, with sequence numbers that go on.
    assert pair.server.connection_ids_wanted() == 2
    issue(pair.server, 50)
    assert sorted(n for n, _ in facts(pair.server)["local_cids"]) == [2, 3, 4, 5]


def test_a_retirement_that_is_lost_is_said_again(pair: Pair) -> None:
    issue(pair.server)
    pair.settle()
    pair.give(pair.client, Forge(pair, client=False).frames(new_cid(4, 3)))
    pair.filter = lambda to_server, number, datagram: [] if to_server else None
    pair.flush()
    pair.filter = None
    pair.run(lambda: pair.names(pair.server).count("cid_retired") == 3)
    pair.settle()
    assert facts(pair.client)["retire_unacked"] == facts(pair.client)["retire_due"] == 0


def test_the_connection_works_on_after_every_id_changed(pair: Pair) -> None:
    """Ten generations of IDs, each forcing the client away from the one before."""
    pair.settle()
    forge = Forge(pair, client=False)
    for sequence in range(1, 11):
        # The server must know the ID to receive under it.
        assert pair.server.connection_ids_wanted() >= 1
        pair.server.add_connection_id(cid(sequence), token(sequence))
        pair.give(pair.client, forge.frames(new_cid(sequence, sequence)))
        pair.settle()
        assert facts(pair.client)["dcid"] == cid(sequence)
        assert pair.transfer(pair.client, b"x" * 4000) == b"x" * 4000
    assert len(facts(pair.client)["remote_cids"]) == 1


def test_repeated_and_late_frames(pair: Pair) -> None:
    forge = Forge(pair, client=False)
    pair.give(pair.client, forge.frames(new_cid(1), new_cid(1), new_cid(2)))
    pair.give(pair.client, forge.frames(new_cid(1)))
    assert [n for n, _ in facts(pair.client)["remote_cids"]] == [0, 1, 2]
    pair.give(pair.client, forge.frames(new_cid(3, 2)))
    assert sorted(n for n, _ in facts(pair.client)["remote_cids"]) == [2, 3]
    pair.flush()
    # One that was retired before it came: it is retired at once, and never used (RFC 9000 §19.15).
    before = facts(pair.client)["retire_due"] + facts(pair.client)["retire_unacked"]
    pair.give(pair.client, forge.frames(new_cid(0, 0, connection_id=b"very old", stateless_reset_token=token(9))))
    assert facts(pair.client)["retire_due"] + facts(pair.client)["retire_unacked"] == before + 1
    assert pair.client.close_reason is None


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([new_cid(1), new_cid(1, connection_id=b"other id")], 0x0A),  # one number, two IDs
        ([new_cid(1), new_cid(1, stateless_reset_token=token(7))], 0x0A),
        ([new_cid(1), new_cid(2, connection_id=cid(1))], 0x0A),  # one ID, two numbers
        ([new_cid(n) for n in range(1, 9)], 0x09),  # more than anybody could have announced
    ],
)
def test_contradictions(pair: Pair, frames: list[tuple[int, dict[str, Any]]], code: int) -> None:
    pair.give(pair.client, Forge(pair, client=False).frames(*frames))
    close = facts(pair.client)["close"]
    assert (close["code"], close["frame_type"]) == (code, 0x18)


@pytest.mark.parametrize("limit", [2, 4, 8])
def test_one_more_than_was_announced_closes(limit: int) -> None:
    """RFC 9000 §5.1.1: an endpoint that is given more IDs than its limit closes with CONNECTION_ID_LIMIT_ERROR."""
    pair = Pair(both={"active_connection_id_limit": limit}).handshake()
    forge = Forge(pair, client=False)
    pair.give(pair.client, forge.frames(*(new_cid(n) for n in range(1, limit))))
    assert pair.client.close_reason is None
    # As many again, if they retire as many: the limit is on what is active after the frame.
    pair.give(pair.client, forge.frames(new_cid(limit, 1)))
    assert pair.client.close_reason is None
    pair.give(pair.client, forge.frames(new_cid(limit + 1)))
    assert facts(pair.client)["close"]["code"] == 0x09


def test_a_retire_prior_to_beyond_the_sequence_is_malformed(pair: Pair) -> None:
    raw = b"\x18\x01\x02\x08" + cid(1) + token(1)
    pair.give(pair.client, Forge(pair, client=False).seal(raw))
    assert facts(pair.client)["close"]["code"] == 0x07


@pytest.mark.parametrize("length", [0, 21])
def test_lengths_outside_1_to_20_are_malformed(pair: Pair, length: int) -> None:
    raw = b"\x18\x01\x00" + bytes([length]) + bytes(length) + token(1)
    pair.give(pair.client, Forge(pair, client=False).seal(raw))
    assert facts(pair.client)["close"]["code"] == 0x07


def test_retiring_what_was_never_issued_is_a_violation(pair: Pair) -> None:
    forge = Forge(pair, client=True)
    issue(pair.server)
    pair.give(pair.server, forge.frames((0x19, {"sequence_number": 3})))
    assert pair.server.close_reason is None
    pair.give(pair.server, forge.frames((0x19, {"sequence_number": 3})))  # repeated: nothing to do
    assert pair.server.close_reason is None
    assert pair.names(pair.server).count("cid_retired") == 1
    pair.give(pair.server, forge.frames((0x19, {"sequence_number": 4})))
    assert facts(pair.server)["close"]["code"] == 0x0A


# ---- reset tokens come and go with their IDs


def test_the_token_of_each_active_id_is_watched(pair: Pair) -> None:
    pair.give(pair.client, Forge(pair, client=False).frames(new_cid(1), new_cid(2)))
    pair.give(pair.client, b"\x41" + bytes(40) + token(2))
    assert isinstance(pair.client.close_reason, StatelessReset)


def test_the_token_of_a_retired_id_means_nothing(pair: Pair) -> None:
    forge = Forge(pair, client=False)
    pair.give(pair.client, forge.frames(new_cid(1), new_cid(2)))
    pair.give(pair.client, forge.frames(new_cid(3, 3)))
    for n in (1, 2):
        pair.give(pair.client, b"\x41" + bytes(40) + token(n))
        assert pair.client.close_reason is None
    pair.give(pair.client, b"\x41" + bytes(40) + token(3))
    assert isinstance(pair.client.close_reason, StatelessReset)


def test_a_server_watches_the_tokens_of_its_client_too(pair: Pair) -> None:
    pair.give(pair.server, Forge(pair, client=True).frames(new_cid(1)))
    pair.give(pair.server, b"\x41" + bytes(40) + token(1))
    assert isinstance(pair.server.close_reason, StatelessReset)


def test_a_thousand_generations_cost_no_memory(pair: Pair) -> None:
    """RFC 9000 §5.1.2: IDs that are replaced for ever, each retirement acknowledged."""
    forge, back = Forge(pair, client=False), Forge(pair, client=True)
    before = core_memory(pair.client)["total"]
    for n in range(1, 1001):
        pair.give(pair.client, forge.frames(new_cid(n, n)))
        pair.now += 2 * pair.delay
        numbers = [p.number for p in back.sent()]
        if numbers:
            low, high = min(numbers), max(numbers)
            pair.give(pair.client, forge.frames((0x02, {"ranges": acked(pair, low, high), "ack_delay": 0})))
        assert pair.client.close_reason is None, n
    assert core_memory(pair.client)["total"] < before + 4096


def acked(pair: Pair, low: int, high: int) -> list[tuple[int, int]]:
    """Ranges that cover low to high without the numbers that the client left out."""
    skipped = [n for n in facts(pair.client)["spaces"][2]["skipped"] if low < n < high]
    ranges, start = [], low
    for n in sorted(skipped):
        ranges.append((start, n - 1))
        start = n + 1
    return [*ranges, (start, high)][::-1]
