"""The handshake between two connections: what both know afterwards, and how it fails."""

from __future__ import annotations

import os
from typing import Any

import pytest
from connection_pair import (
    APP,
    CLIENT,
    HANDSHAKE,
    INITIAL,
    MS,
    NOW,
    RETRY_TOKEN,
    SECOND,
    SERVER,
    Forge,
    Pair,
    authority,
    first_flight,
    retry_packet,
    tls,
)

from stoq.connection.configuration import Configuration
from stoq.connection.factory import client_connection
from stoq.crypto.certificates import TrustStore, make_leaf, make_test_ca
from stoq.errors import ConfigurationError, HandshakeFailed, StatelessReset, VersionNegotiationFailed
from stoq.testing.seams import facts
from stoq.wire.header import PacketType, encode_version_negotiation, parse_datagram, parse_header


def fail(pair: Pair) -> tuple[HandshakeFailed, HandshakeFailed]:
    client, server = pair.refused()
    assert isinstance(client, HandshakeFailed), client
    assert isinstance(server, HandshakeFailed), server
    return client, server


@pytest.mark.parametrize("real", [False, True])
def test_what_both_sides_know(real: bool) -> None:
    pair = Pair(real=real).handshake()
    for end in (pair.client, pair.server):
        assert end.handshake_complete
        assert end.alpn == "hq"
        assert end.cipher_suite == 0x1301
        assert end.version == 1
        assert end.server_name == "localhost"
        assert end.close_reason is None
        assert pair.names(end) == ["handshake_completed", "handshake_confirmed"]
        assert all(space["discarded"] for space in facts(end)["spaces"][:APP])
    assert pair.client.group == pair.server.group
    assert pair.client.signature_scheme == pair.server.signature_scheme
    assert len(pair.client.peer_certificates) == 1
    assert pair.client.first_dcid == pair.server.first_dcid == pair.dcid
    assert pair.client.peer == SERVER
    assert pair.server.peer == CLIENT
    assert pair.client.export(b"label", b"context", 32) == pair.server.export(b"label", b"context", 32)
    assert pair.client.export(b"label", b"context", 32) != pair.client.export(b"other", b"context", 32)
    # One round trip for the keys, a second until the client hears HANDSHAKE_DONE.
    assert pair.client.stats()["handshake_ns"] == 4 * pair.delay
    assert pair.server.stats()["handshake_ns"] == 2 * pair.delay


def test_transport_parameters_arrive_as_configured() -> None:
    pair = Pair(
        client={
            "idle_timeout": 12.0,
            "max_streams_bidi": 7,
            "max_streams_uni": 9,
            "active_connection_id_limit": 5,
            "knobs": {"receive_window": 1 << 18, "stream_window": 1 << 15, "max_ack_delay_ns": 40 * MS},
        },
        server={"max_streams_bidi": 3, "max_streams_uni": 4},
    ).handshake()
    got = pair.server.peer_parameters
    assert got is not None
    assert got.max_idle_timeout == 12_000
    assert got.initial_max_streams_bidi == 7
    assert got.initial_max_streams_uni == 9
    assert got.active_connection_id_limit == 5
    assert got.initial_max_data == 1 << 18
    assert got.initial_max_stream_data_bidi_local == 1 << 15
    assert got.initial_max_stream_data_bidi_remote == 1 << 15
    assert got.initial_max_stream_data_uni == 1 << 15
    assert got.max_ack_delay == 40
    assert got.stateless_reset_token is None
    assert [i for i in got.unknown if i % 31 == 27], "no greased parameter (RFC 9000 §18.1)"
    got = pair.client.peer_parameters
    assert got is not None
    assert (got.initial_max_streams_bidi, got.initial_max_streams_uni) == (3, 4)
    assert got.original_destination_connection_id == pair.dcid
    assert got.stateless_reset_token == bytes(range(16))
    assert facts(pair.server)["idle_timeout"] == facts(pair.client)["idle_timeout"] == 12 * SECOND


def test_alpn_is_the_servers_choice() -> None:
    pair = Pair(
        tls_client={"alpn_protocols": ["a", "b", "c"]}, tls_server={"alpn_protocols": ["z", "c", "b"]}
    ).handshake()
    assert pair.client.alpn == pair.server.alpn == "c"


def test_refused_alpn() -> None:
    client, server = fail(Pair(tls_client={"alpn_protocols": ["a"]}, tls_server={"alpn_protocols": ["b"]}))
    assert client.error_code == 0x100 + 120  # no_application_protocol, RFC 9001 §8.1
    assert client.by_peer
    assert "no_application_protocol" in str(server)


def test_wrong_authority() -> None:
    stranger = TrustStore([make_test_ca(NOW, name="stranger").certificate])
    client, server = fail(Pair(real=True, tls_client={"trust": stranger}))
    assert server.error_code == 0x100 + 48  # unknown_ca
    assert server.by_peer
    assert not client.by_peer


def test_wrong_name() -> None:
    client, _ = fail(Pair(real=True, tls_client={"server_name": "elsewhere.example"}))
    assert client.error_code == 0x100 + 42  # bad_certificate
    assert "elsewhere.example" in client.reason


def test_an_expired_certificate() -> None:
    old = make_leaf(authority(), ["localhost"], NOW.replace(year=2020), days=1)
    client, _ = fail(Pair(real=True, tls_server={"credentials": old.credentials()}))
    assert client.error_code == 0x100 + 45  # certificate_expired


def test_no_common_group() -> None:
    _, server = fail(Pair(real=True, tls_client={"groups": [0x17]}, tls_server={"groups": [0x1D]}))
    assert server.error_code in (0x100 + 40, 0x100 + 109)  # handshake_failure
    assert not server.by_peer


def test_the_key_log_opens_every_packet() -> None:
    """An independent reader with the key log alone (as a packet analyser has it) reads everything that was sent."""
    seen: list[tuple[bool, bytes]] = []

    def note(to_server: bool, number: int, datagram: bytes) -> None:
        seen.append((to_server, datagram))

    pair = Pair(filter=note).handshake()
    assert pair.transfer(pair.client, b"request" * 500) == b"request" * 500
    kinds = {line.split()[0] for line in pair.keylog}
    assert {
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
        "SERVER_HANDSHAKE_TRAFFIC_SECRET",
        "CLIENT_TRAFFIC_SECRET_0",
        "SERVER_TRAFFIC_SECRET_0",
    } <= kinds
    randoms = {line.split()[1] for line in pair.keylog}
    assert len(randoms) == 1
    assert len(randoms.pop()) == 64
    forges = {True: Forge(pair, client=True), False: Forge(pair, client=False)}
    spaces, data = set(), b""
    for to_server, datagram in seen:
        opened = forges[to_server].open(datagram)
        assert len(opened) == len(parse_datagram(datagram, 8)), "a packet that the key log does not open"
        for packet in opened:
            spaces.add((to_server, packet.space))
            data += b"".join(f["data"] for f in packet.fields(0x08))
    assert len(spaces) == 6
    assert data == b"request" * 500


def test_every_initial_of_the_client_fills_1200_bytes() -> None:
    sizes = []

    def note(to_server: bool, number: int, datagram: bytes) -> None:
        if any(h.type == PacketType.INITIAL for _, h in parse_datagram(datagram, 8)):
            sizes.append((to_server, len(datagram)))

    Pair(filter=note).handshake()
    assert len(sizes) >= 3
    assert all(size >= 1200 for _, size in sizes)  # RFC 9000 §14.1; the server's carry ack-eliciting frames


def test_a_small_initial_is_dropped_by_a_server() -> None:
    """RFC 9000 §14.1: an Initial in a datagram below 1200 bytes is not processed, however valid."""
    pair = Pair()
    pair.accept(first_flight(pair))
    forge = Forge(pair, client=True)
    hello = forge.open(first_flight(Pair()))[0].fields(0x06)[0]
    for size, taken in ((1199, False), (1200, True)):
        pair.give(pair.server, forge.frames((0x06, hello), space=INITIAL, number=0, size=size))
        assert (facts(pair.server)["spaces"][INITIAL]["largest_received"] == 0) == taken
        assert bool(pair.server.datagrams_to_send(pair.now)) == taken


def test_a_large_certificate_chain_spans_many_packets() -> None:
    """About 10 kB: beyond three datagrams, so the server has to wait for the client's address validation."""
    issuer = authority()
    for i in range(4):
        issuer = make_test_ca(NOW, name=f"intermediate {i} " + "x" * 40, issuer=issuer)
    names = ["localhost", *(f"host-{i:03}.department-of-long-names.example" for i in range(220))]
    credentials = make_leaf(issuer, names, NOW).credentials()
    pair = Pair(real=True, tls_server={"credentials": credentials})
    pair.handshake()
    assert pair.sent[False] >= 6
    assert len(pair.client.peer_certificates) == 5
    assert pair.client.stats()["packets_lost"] == 0
    # A round trip for the keys, one more for address validation, one for HANDSHAKE_DONE: no timer had to help.
    assert pair.now - SECOND <= 6 * pair.delay + 5 * MS
    assert pair.server.stats()["ptos"] == pair.client.stats()["ptos"] == 0


def test_a_client_hello_over_several_packets() -> None:
    """Browsers send one: here 4 kB of ALPN names; the order of its packets does not matter."""
    names = [f"protocol-{i:03}-" + "x" * 60 for i in range(50)] + ["hq"]
    pair = Pair(tls_client={"alpn_protocols": names})
    first = [d for d, _ in pair.client.datagrams_to_send(pair.now)]
    assert len(first) >= 3
    pair.accept(first[0])
    for datagram in reversed(first):
        pair.give(pair.server, datagram)
    pair.handshake()
    assert pair.server.alpn == "hq"


def test_coalesced_packets_of_a_flight() -> None:
    """The server's first flight is one or more datagrams that hold Initial and Handshake packets together."""
    shapes = []

    def note(to_server: bool, number: int, datagram: bytes) -> None:
        shapes.append((to_server, [h.type for _, h in parse_datagram(datagram, 8)]))

    Pair(filter=note).handshake()
    assert (False, [PacketType.INITIAL, PacketType.HANDSHAKE]) in [(s, t[:2]) for s, t in shapes]


def test_junk_coalesced_behind_a_packet_is_dropped() -> None:
    """RFC 9000 §12.2: packets for another connection ID in the same datagram, and bytes that are no packet."""

    def spoil(to_server: bool, number: int, datagram: bytes) -> list[bytes]:
        if parse_datagram(datagram, 8)[-1][1].type == PacketType.ONE_RTT:
            return [datagram]  # nothing can stand behind a short header
        stranger = bytes([0xC1]) + (1).to_bytes(4, "big") + b"\x08strangerr\x00\x00\x41\x00" + os.urandom(256)
        return [datagram + stranger, datagram + bytes(40)]

    pair = Pair(filter=spoil).handshake()
    assert pair.client.stats()["auth_failures"] == pair.server.stats()["auth_failures"] == 0
    assert pair.server.stats()["packets_dropped"] >= 1


# ---- timeouts


def test_handshake_timeout_of_a_client_that_nobody_answers() -> None:
    pair = Pair(filter=lambda to_server, number, datagram: [], client={"handshake_timeout": 4.0})
    pair.run(lambda: pair.client.terminated)
    assert isinstance(pair.client.close_reason, HandshakeFailed)
    assert "no answer" in str(pair.client.close_reason)
    assert pair.client.terminated
    assert pair.now - SECOND == 4 * SECOND
    # Probes back off: 1, 2 s … after the first PTO of 999 ms (RFC 9002 §6.2.2): at 1.0 and 3.0 s.
    assert pair.client.stats()["ptos"] == 2


def test_handshake_timeout_of_a_server_that_lost_its_client() -> None:
    pair = Pair(server={"handshake_timeout": 3.0, "idle_timeout": 30.0})
    pair.run(lambda: pair.has_server)
    pair.client.close()
    pair.filter = lambda to_server, number, datagram: []
    start = pair.now
    pair.run(lambda: pair.server.close_reason is not None)
    assert isinstance(pair.server.close_reason, HandshakeFailed)
    assert pair.now - start == 3 * SECOND


def test_idle_timeout_before_the_handshake_is_a_failed_handshake() -> None:
    pair = Pair(filter=lambda to_server, number, datagram: [], client={"handshake_timeout": 0.0, "idle_timeout": 2.0})
    pair.run(limit=30 * SECOND)
    assert isinstance(pair.client.close_reason, HandshakeFailed)


# ---- Version Negotiation and Retry


def test_version_negotiation_ends_a_client_that_has_no_common_version() -> None:
    pair = Pair()
    header = parse_header(first_flight(pair), 8)
    pair.give(pair.client, encode_version_negotiation(header.dcid, header.scid, (0x1A2A3A4A, 0x709A50C4)))
    assert isinstance(pair.client.close_reason, VersionNegotiationFailed)
    assert pair.client.terminated
    assert pair.client.datagrams_to_send(pair.now) == []
    assert pair.client.next_timeout() is None


@pytest.mark.parametrize("case", ["lists ours", "other dcid", "after the server spoke"])
def test_version_negotiation_that_must_be_ignored(case: str) -> None:
    pair = Pair()
    datagram = first_flight(pair)
    header = parse_header(datagram, 8)
    packet = encode_version_negotiation(header.dcid, header.scid, (0x709A50C4,))
    if case == "lists ours":  # RFC 9000 §6.2
        packet = encode_version_negotiation(header.dcid, header.scid, (1, 0x709A50C4))
    elif case == "other dcid":
        packet = encode_version_negotiation(header.dcid, b"somebody", (0x709A50C4,))
    else:
        pair.deliver(True, datagram)
        pair.run(lambda: pair.client.handshake_complete)
    pair.give(pair.client, packet)
    assert pair.client.close_reason is None
    pair.deliver(True, datagram)
    pair.handshake()


def test_retry() -> None:
    tokens = []

    def note(to_server: bool, number: int, datagram: bytes) -> None:
        header = parse_header(datagram, 8)
        if to_server and header.type == PacketType.INITIAL:
            tokens.append(header.token)

    pair = Pair(retry=True, filter=note).handshake()
    assert tokens[0] == b""
    assert set(tokens[1:]) == {RETRY_TOKEN}
    got = pair.client.peer_parameters
    assert got is not None
    assert got.original_destination_connection_id == pair.dcid
    assert got.retry_source_connection_id == pair.key_dcid
    # The token proves the address: the server may send more than three times what it got (RFC 9000 §8.1.2).
    assert pair.client.stats()["handshake_ns"] == 6 * pair.delay
    assert pair.transfer(pair.client, b"x" * 5000) == b"x" * 5000


@pytest.mark.parametrize("case", ["bad tag", "empty token", "second", "own dcid", "after an Initial", "foreign dcid"])
def test_retry_that_must_be_ignored(case: str) -> None:
    """RFC 9000 §17.2.5.2."""
    pair = Pair()
    datagram = first_flight(pair)
    header = parse_header(datagram, 8)
    good = retry_packet(header.scid, header.dcid, b"retryscd")
    if case == "bad tag":
        bad = good[:-1] + bytes([good[-1] ^ 1])
    elif case == "empty token":
        bad = retry_packet(header.scid, header.dcid, b"retryscd", b"")
    elif case == "own dcid":
        bad = retry_packet(header.scid, header.dcid, header.dcid)
    elif case == "foreign dcid":
        bad = retry_packet(b"somebody", header.dcid, b"retryscd")
    else:
        bad = good
    if case == "second":
        pair.give(pair.client, good)
        assert facts(pair.client)["token"] == RETRY_TOKEN
        second = retry_packet(header.scid, header.dcid, b"another1", b"another token")
        third = retry_packet(header.scid, b"retryscd", b"another1", b"another token")
        for packet in (second, third):
            pair.give(pair.client, packet)
            assert facts(pair.client)["token"] == RETRY_TOKEN
            assert facts(pair.client)["dcid"] == b"retryscd"
        return
    if case == "after an Initial":
        pair.deliver(True, datagram)
        answer = pair.server.datagrams_to_send(pair.now)
        pair.give(pair.client, answer[0][0])
    before = facts(pair.client)["dcid"]
    pair.give(pair.client, bad)
    assert facts(pair.client)["token"] == b""
    assert facts(pair.client)["dcid"] == before
    if case != "after an Initial":
        pair.deliver(True, datagram)
    pair.handshake()


def test_retry_numbers_go_on_and_the_hello_is_sent_again() -> None:
    """RFC 9000 §17.2.5.3: packet numbers are not reused after a Retry."""
    pair = Pair()
    header = parse_header(first_flight(pair), 8)
    sent = facts(pair.client)["spaces"][INITIAL]["next"]
    pair.give(pair.client, retry_packet(header.scid, header.dcid, b"retryscd"))
    pair.key_dcid = b"retryscd"
    forge = Forge(pair, client=True)
    packets = forge.sent()
    assert packets[0].number >= sent
    assert packets[0].fields(0x06)[0]["offset"] == 0


def test_a_token_from_elsewhere_is_sent_in_the_first_initial() -> None:
    pair = Pair(token=b"from NEW_TOKEN")
    assert parse_header(first_flight(pair), 8).token == b"from NEW_TOKEN"


# ---- configuration


def test_arguments_that_cannot_work() -> None:
    def client(**changes: Any) -> None:
        how: dict[str, Any] = {"now_ns": 1, "random": os.urandom, "cid": bytes(8), "original_dcid": bytes(8)}
        configuration = changes.pop("configuration", None) or Configuration(tls(True))
        client_connection(configuration, SERVER, **(how | changes))

    client()
    for changes in (
        {"original_dcid": bytes(7)},
        {"original_dcid": bytes(21)},
        {"cid": b""},
        {"cid": bytes(21)},
        {"version": 0x1A2A3A4A},
        {"configuration": Configuration(tls(True), backend="no such backend")},
        {"configuration": Configuration(tls(True), congestion="no such controller")},
        {"configuration": Configuration(tls(True), knobs={"no such knob": 1})},
        {"configuration": Configuration(tls(True), knobs={"ack_frequency": 0})},
    ):
        with pytest.raises((ConfigurationError, ValueError)):
            client(**changes)
    for wrong in ({"max_datagram_size": 1199}, {"idle_timeout": -1.0}, {"versions": ()}, {"max_streams_uni": -1}):
        with pytest.raises(ConfigurationError):
            Configuration(tls(True), **wrong)


def test_an_answer_from_a_server_that_lost_its_state_is_no_reset_before_the_token_is_known() -> None:
    pair = Pair()
    first_flight(pair)
    pair.give(pair.client, b"\x40" + os.urandom(40) + bytes(range(16)))
    assert not isinstance(pair.client.close_reason, StatelessReset)


def test_handshake_packets_of_another_source_id_are_dropped() -> None:
    """RFC 9000 §7.2: the peer's Source Connection ID does not change during the handshake."""
    pair = Pair()
    pair.deliver(True, first_flight(pair))
    answer = pair.server.datagrams_to_send(pair.now)
    pair.give(pair.client, answer[0][0])
    assert facts(pair.client)["dcid"] == facts(pair.server)["local_cids"][0][1]
    before = pair.client.stats()["packets_dropped"]
    forge = Forge(pair, client=False)
    pair.give(pair.client, forge.seal(b"\x01", space=HANDSHAKE, scid=b"somebody"))
    assert pair.client.stats()["packets_dropped"] == before + 1
    assert pair.client.close_reason is None


def test_the_server_waits_with_one_rtt_packets_until_the_handshake_is_complete() -> None:
    """RFC 9001 §5.7: 1-RTT packets that come before the client's Finished are not processed."""
    held: list[bytes] = []

    def hold(to_server: bool, number: int, datagram: bytes) -> list[bytes]:
        if to_server and any(h.type == PacketType.HANDSHAKE for _, h in parse_datagram(datagram, 8)):
            held.append(datagram)
            return []
        return [datagram]

    pair = Pair(filter=hold)
    pair.run(lambda: pair.client.handshake_complete)
    stream = pair.client.open_stream()
    stream.write(b"early")
    pair.send(pair.client)
    forge = Forge(pair, client=True)
    pair.give(pair.server, forge.frames((0x08, {"stream_id": 4, "offset": 0, "data": b"x", "fin": False})))
    assert pair.sinks == {}
    assert not pair.server.handshake_complete
    pair.filter = None
    for datagram in held:
        pair.post(True, datagram)
    pair.handshake()
    pair.run(lambda: 0 in pair.sinks)
    assert bytes(pair.sinks[0].data) == b"early"
