"""The contract of stoq.io.transport: what every transport keeps, whatever carries the datagrams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, dataclass, field
from typing import Any

import pytest
from network_namespace import in_own_namespace, shaped

from stoq.errors import ConfigurationError
from stoq.io.datagram import Address
from stoq.io.sim import LinkConfig, SimNetwork
from stoq.io.transport import Received, Transport, TransportError, normalize_address
from stoq.io.udp import open_udp

SECOND = 1_000_000_000


@dataclass
class Bed:
    """Where the transports of one test come from. `host`: where they live, `bind`: what they are bound to."""

    host: str
    bind: str
    options: dict[str, Any]
    network: SimNetwork | None = None
    opened: list[Transport] = field(default_factory=list)

    def open(self, **extra: Any) -> Any:
        options = {**self.options, **extra}
        port = options.pop("port", 0)
        if self.network is not None:
            transport: Transport = self.network.transport((self.host, port), **options)
        else:
            bind = self.host if "remote" in options else self.bind
            transport = open_udp(bind, port, **options)
        self.opened.append(transport)
        return transport

    def address(self, transport: Transport) -> Address:
        """Where the others reach it (it may be bound to a wildcard)."""
        return (self.host, transport.local_address[1])

    def pair(self, **extra: Any) -> tuple[Any, Any]:
        """(client connected to the server, server)"""
        server = self.open(**extra)
        return self.open(remote=self.address(server), **extra), server

    def close(self) -> None:
        for transport in self.opened:
            transport.close()


def sim(**options: Any) -> Bed:
    network = SimNetwork(seed=1, default=LinkConfig(delay_ns=1000, mtu=65575))
    return Bed("192.0.2.1", "192.0.2.1", options, network)


BEDS: dict[str, Callable[[], Bed]] = {
    "udp4": lambda: Bed("127.0.0.1", "127.0.0.1", {}),
    "udp6": lambda: Bed("::1", "::1", {}),
    "udp4-any": lambda: Bed("127.0.0.1", "0.0.0.0", {}),
    "udp6-any": lambda: Bed("::1", "::", {}),
    "udp-dual": lambda: Bed("127.0.0.1", "::", {}),
    "udp4-nogso": lambda: Bed("127.0.0.1", "127.0.0.1", {"gso": False}),
    "udp4-nogro": lambda: Bed("127.0.0.1", "127.0.0.1", {"gro": False}),
    "udp4-plain": lambda: Bed("127.0.0.1", "0.0.0.0", {"gso": False, "gro": False, "ecn": False, "pktinfo": False}),
    "sim": sim,
    "sim-nogso": lambda: sim(gso=False),
    "sim-nogro": lambda: sim(gro=False),
    "sim-plain": lambda: sim(gso=False, gro=False, ecn=False),
}


@pytest.fixture(params=BEDS)
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    made = BEDS[request.param]()
    yield made
    made.close()


def receive(transport: Transport, count: int) -> list[tuple[bytes, Address, int]]:
    """Exactly `count` datagrams, or what came within a second."""
    got: list[tuple[bytes, Address, int]] = []
    while len(got) < count and transport.wait(SECOND):
        got += transport.receive_datagrams()
    return got


def entries(transport: Transport, datagrams: int) -> list[Received]:
    got: list[Received] = []
    while sum(len(entry.datagrams()) for entry in got) < datagrams and transport.wait(SECOND):
        got += transport.receive_entries()
    return got


def pattern(size: int, start: int = 0) -> bytes:
    return bytes((start + i * 7 + (i >> 8)) & 0xFF for i in range(size))


# ---- sizes and trains


def test_datagrams_of_every_size_arrive_whole(bed: Bed) -> None:
    client, server = bed.pair()
    largest = client.caps.max_datagram_size
    for size in (1, 2, 20, 1199, 1200, 1252, 1472, 4096, largest - 1, largest):
        data = pattern(size, size)
        assert client.send_datagrams([(data, None)]) == 1
        [(got, peer, _)] = receive(server, 1)
        assert got == data
        assert peer == bed.address(client)
    assert server.receive_datagrams() == []


def test_an_entry_larger_than_its_memory_is_refused(bed: Bed) -> None:
    client, _ = bed.pair()
    with pytest.raises(ConfigurationError, match="do not fit"):
        client.send_datagrams([(bytes(client.caps.max_datagram_size + 1), None)])


@pytest.mark.parametrize(("segment", "total"), [(1200, 1200 * 10), (1200, 1200 * 9 + 1), (1452, 44 * 1452), (500, 501)])
def test_trains_arrive_as_their_datagrams(bed: Bed, segment: int, total: int) -> None:
    client, server = bed.pair()
    data = pattern(total)
    expected = [data[at : at + segment] for at in range(0, total, segment)]
    if client.caps.max_segments == 1:
        with pytest.raises(ConfigurationError, match="one send holds"):
            client.send_train(data, segment, None)
        assert client.send_all([(datagram, None) for datagram in expected])
    else:
        assert client.send_train(data, segment, None) == total
    assert [got for got, _, _ in receive(server, len(expected))] == expected
    assert client.counters.datagrams_out == len(expected)
    assert server.counters.datagrams_in == len(expected)


def test_trains_are_received_in_one_buffer_where_the_caps_say_so(bed: Bed) -> None:
    client, server = bed.pair()
    data = pattern(1000 * 20 + 10)
    client.send_all([(data[at : at + 1000], None) for at in range(0, len(data), 1000)])
    if client.caps.max_segments > 1:
        client.send_train(data, 1000, None)
    got = entries(server, 42 if client.caps.max_segments > 1 else 21)
    assert b"".join(bytes(entry) for entry in got) == data * (2 if client.caps.max_segments > 1 else 1)
    if server.caps.gro and client.caps.max_segments > 1:
        assert any(entry.segment == 1000 and entry.length == len(data) for entry in got)
    if not server.caps.gro:
        assert {entry.segment for entry in got} == {0}


def test_a_train_of_more_segments_than_allowed_is_refused(bed: Bed) -> None:
    client, server = bed.pair(max_segments=4)
    with pytest.raises(ConfigurationError, match="one send holds 1 to"):
        client.send_train(bytes(500), 100, bed.address(server))
    with pytest.raises(ConfigurationError, match="one send holds 1 to"):
        client.send_train(bytes(500), 0, bed.address(server))


# ---- peers, order, addresses


def test_several_peers_and_replies(bed: Bed) -> None:
    server = bed.open()
    clients = [bed.open(remote=bed.address(server)) for _ in range(5)]
    for i, client in enumerate(clients):
        client.send_datagrams([(b"from %d" % i, None)])
    got = receive(server, 5)
    assert sorted((data, peer) for data, peer, _ in got) == [
        (b"from %d" % i, bed.address(client)) for i, client in enumerate(clients)
    ]
    assert server.send_datagrams([(data.upper(), peer) for data, peer, _ in got]) == 5
    for i, client in enumerate(clients):
        assert [(data, peer) for data, peer, _ in receive(client, 1)] == [(b"FROM %d" % i, bed.address(server))]


def test_datagrams_of_one_peer_keep_their_order(bed: Bed) -> None:
    client, server = bed.pair()
    sent: list[bytes] = []
    for n in range(0, 400, 4):
        batch = [n.to_bytes(4, "big") * (1 + (n * 31) % 300) for n in range(n, n + 4)]
        sent += batch
        assert client.send_all([(data, None) for data in batch])
    if client.caps.max_segments > 1:
        train = b"".join(i.to_bytes(100, "big") for i in range(30))
        sent += [train[at : at + 100] for at in range(0, len(train), 100)]
        client.send_train(train, 100, None)
    assert [data for data, _, _ in receive(server, len(sent))] == sent


def test_local_address_of_a_datagram_serves_as_source(bed: Bed) -> None:
    client, server = bed.pair()
    client.send_datagrams([(b"ping", None)])
    [entry] = entries(server, 1)
    if entry.local is not None:
        assert entry.local == bed.address(server)
    else:
        assert not server.caps.pktinfo
    assert server.send_datagrams([(b"pong", entry.peer, 0, entry.local)]) == 1
    assert [(data, peer) for data, peer, _ in receive(client, 1)] == [(b"pong", bed.address(server))]


def test_addresses_round_trip(bed: Bed) -> None:
    client, server = bed.pair()
    client.send_datagrams([(b"x", bed.address(server))])  # the connected peer by name
    [(_, peer, _)] = receive(server, 1)
    assert peer == bed.address(client) == normalize_address(peer)
    assert client.local_address[0] == bed.host
    assert server.local_address[1] != 0


@pytest.mark.parametrize("ecn", [0, 1, 2, 3])
def test_ecn_bits_arrive(bed: Bed, ecn: int) -> None:
    client, server = bed.pair()
    expected = ecn if client.caps.ecn and server.caps.ecn else 0
    client.send_datagrams([(b"one", None, ecn), (b"two", None, 0), (b"three", bed.address(server), ecn)])
    assert [got for _, _, got in receive(server, 3)] == [expected, 0, expected]
    server.send_datagrams([(b"back", bed.address(client), ecn), (b"again", bed.address(client))])
    assert [got for _, _, got in receive(client, 2)] == [expected, 0]


# ---- ownership of memory


def test_entries_stay_untouched_while_they_are_held(bed: Bed) -> None:
    client, server = bed.pair()
    held: list[Received] = []
    for i in range(20):
        client.send_datagrams([(pattern(1200, i), None)])
        held += entries(server, 1)
    for _ in range(20):
        client.send_datagrams([(bytes(1200), None)])
        receive(server, 1)
    assert [bytes(entry) for entry in held] == [pattern(1200, i) for i in range(20)]


def test_entries_are_writable_and_outlive_the_transport(bed: Bed) -> None:
    client, server = bed.pair()
    client.send_datagrams([(b"hello", None)])
    [entry] = entries(server, 1)
    view = memoryview(entry)
    view[0] = ord("j")  # packets are decrypted in place
    server.close()
    bed.opened.remove(server)
    del server, entry
    assert bytes(view) == b"jello"


def test_a_holder_of_all_buffers_starves_receive_until_it_lets_go(bed: Bed) -> None:
    client, server = bed.pair(gro=False)
    held: list[Received] = []
    sent = 0
    while server.counters.starved == 0 and sent < 1000:
        client.send_datagrams([(b"%d" % sent, None)])
        sent += 1
        assert server.wait(SECOND)
        held += server.receive_entries()
    assert server.counters.starved == 1
    assert len(held) == sent - 1 <= 256
    held.clear()
    assert [data for data, _, _ in receive(server, 1)] == [b"%d" % (sent - 1)]


def test_a_datagram_larger_than_the_buffer_is_flagged(bed: Bed) -> None:
    client, server = bed.pair(buffer_size=1000)
    client.send_datagrams([(pattern(1001), None), (pattern(1000), None)])
    cut, whole = entries(server, 2)
    assert cut.truncated
    assert bytes(cut) == pattern(1000)
    assert not whole.truncated
    assert bytes(whole) == pattern(1000)
    assert server.counters.truncated == 1
    assert not server.caps.gro
    client.send_datagrams([(pattern(1001), None), (b"x", None)])
    assert [data for data, _, _ in receive(server, 1)] == [b"x"]


# ---- waiting, closing, errors


def test_nothing_to_receive(bed: Bed) -> None:
    client, server = bed.pair()
    assert server.receive_datagrams() == []
    assert server.receive_entries() == []
    assert not server.wait(0)
    assert not server.wait(1_000_000)
    assert client.wait(0, writable=True)


def test_a_closed_transport_says_so(bed: Bed) -> None:
    client, server = bed.pair()
    client.send_datagrams([(b"x", None)])
    server.wait(SECOND)
    address = bed.address(server)
    server.close()
    server.close()
    assert server.closed
    assert server.fileno() == -1
    for call in (
        server.receive_datagrams,
        server.receive_entries,
        lambda: server.send_datagrams([(b"x", address)]),
        lambda: server.send_train(b"xy", 1, address),
        lambda: server.wait(0),
    ):
        with pytest.raises(TransportError, match="closed"):
            call()
    assert server.local_address[1] == address[1]
    assert server.counters.datagrams_in == 0
    bed.open(port=address[1])  # the port is free again


def test_a_port_in_use_is_one_clear_line(bed: Bed) -> None:
    server = bed.open()
    with pytest.raises(TransportError, match="in use") as caught:
        bed.open(port=server.local_address[1])
    assert "\n" not in str(caught.value)


def test_an_unreachable_peer_is_not_fatal(bed: Bed) -> None:
    client, server = bed.pair()
    address = bed.address(server)
    server.close()
    for _ in range(3):
        assert client.send_datagrams([(b"anyone?", None), (b"no?", address)]) == 2
        assert client.receive_datagrams() == []
    again = bed.open(port=address[1])
    receive(client, 1) if client.wait(1_000_000) else None  # clears what the kernel still has to say
    assert client.send_datagrams([(b"back?", None)]) == 1
    assert b"back?" in [data for data, _, _ in receive(again, 1)]


def test_an_address_the_socket_cannot_reach_is_dropped_and_counted(bed: Bed) -> None:
    server = bed.open()
    foreign = ("2001:db8::1", 9) if ":" not in bed.host else ("192.0.2.77", 9)
    assert server.send_datagrams([(b"lost", foreign), (b"lost", foreign)]) == 2
    if bed.network is not None:
        assert bed.network.unreachable == 2
    elif bed.bind != "::":  # a dual-stack socket may have a route
        assert server.counters.dropped == 2
        assert sum(server.counters.errors.values()) == 2


@pytest.mark.parametrize(
    "address", [("nowhere", 1), ("127.0.0.1", 65536), ("127.0.0.1", -1), ("::1%", "1"), "127.0.0.1", ("::g", 1), (1, 1)]
)
def test_addresses_that_are_none_are_refused(bed: Bed, address: Any) -> None:
    with pytest.raises(ConfigurationError):
        bed.open().send_datagrams([(b"x", address)])


# ---- caps and counters


def test_caps_are_frozen_and_every_missing_feature_has_a_reason(bed: Bed) -> None:
    client, server = bed.pair()
    for transport in (client, server):
        caps = transport.caps
        with pytest.raises(FrozenInstanceError):
            caps.mode = "other"
        with pytest.raises(TypeError):
            caps.reasons["x"] = "y"
        assert caps.mode == ("udp" if bed.network is None else "sim")
        assert 1 <= caps.max_segments <= 64
        assert caps.max_datagram_size <= 65487
        for name in ("gro", "ecn", "pktinfo", "zero_copy"):
            assert getattr(caps, name) or caps.reasons[name]
        assert caps.max_segments > 1 or caps.reasons["gso"]
        assert caps.gro == (bed.options.get("gro", True))
        assert (caps.max_segments > 1) == bed.options.get("gso", True)


def test_counters_add_up(bed: Bed) -> None:
    client, server = bed.pair()
    client.send_datagrams([(b"x" * 10, None), (b"y" * 20, None)])
    if client.caps.max_segments > 1:
        client.send_train(bytes(250), 100, None)
    else:
        client.send_datagrams([(bytes(100), None), (bytes(100), None), (bytes(50), None)])
    receive(server, 5)
    out, got = client.counters, server.counters
    assert (out.datagrams_out, out.bytes_out, out.dropped) == (5, 280, 0)
    assert (got.datagrams_in, got.bytes_in, got.truncated) == (5, 280, 0)
    assert out.send_calls == (3 if client.caps.max_segments > 1 else 5)
    assert got.receive_calls >= 1
    assert (out.datagrams_in, got.datagrams_out, out.errors, got.errors) == (0, 0, {}, {})
    assert got.receive_overflow == 0


def test_a_full_receive_queue_is_counted(bed: Bed) -> None:
    client, server = bed.pair(**({"receive_buffer": 4096} if bed.network is None else {"receive_queue": 4096}))
    for _ in range(40):
        client.send_datagrams([(bytes(1200), None)])
    got = []
    while server.wait(1_000_000):
        got += server.receive_datagrams()
    assert 0 < len(got) < 40
    assert server.counters.receive_overflow == 40 - len(got)


# ---- not writable


@pytest.fixture
def narrow(request: pytest.FixtureRequest) -> Iterator[tuple[Bed, Transport, Transport]]:
    """A pair whose path takes 8 Mbit/s and whose sender may have 16 KiB waiting."""
    made = BEDS[request.param]()
    if made.network is None:
        client, server = in_own_namespace(lambda: made.pair(send_buffer=8192), shaped("8mbit"))
    else:
        client, server = made.pair(send_buffer=16384)
        made.network.link(client, server, LinkConfig(bit_rate=8_000_000, mtu=65575))
    yield made, client, server
    made.close()


@pytest.mark.parametrize("narrow", ["udp4", "udp6", "udp4-nogso", "sim", "sim-nogso"], indirect=True)
def test_a_full_path_puts_sends_off_and_nothing_is_lost(narrow: tuple[Bed, Transport, Transport]) -> None:
    _, client, server = narrow
    sent = [i.to_bytes(4, "big") * 300 for i in range(60)]
    left = [(data, None) for data in sent]
    first = client.send_datagrams(left)
    assert 0 < first < 60
    assert client.counters.not_writable == 1
    assert client.counters.dropped == 0
    assert not client.wait(0, writable=True)
    got: list[bytes] = []
    del left[:first]
    while left:
        assert client.wait(SECOND, writable=True)
        del left[: client.send_datagrams(left)]
        got += [data for data, _, _ in server.receive_datagrams()]
    got += [data for data, _, _ in receive(server, 60 - len(got))]
    assert got == sent
    assert client.send_all([(data, None) for data in sent])
    assert [data for data, _, _ in receive(server, 60)] == sent


@pytest.mark.parametrize("narrow", ["udp4", "udp6", "sim"], indirect=True)
def test_a_train_that_is_put_off_resumes_where_it_stopped(narrow: tuple[Bed, Transport, Transport]) -> None:
    _, client, server = narrow
    data = pattern(12_000)
    taken = 0
    trains = 0
    while client.send_train(data, 1200, None) == len(data):
        trains += 1
        assert trains < 100
    while taken < len(data):
        assert client.wait(SECOND, writable=True)
        taken += client.send_train(data[taken:], 1200, None)
    got = receive(server, (trains + 1) * 10)
    assert b"".join(part for part, _, _ in got) == data * (trains + 1)
    assert {len(part) for part, _, _ in got} == {1200}
