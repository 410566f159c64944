"""UDP over Linux sockets: probes, fallbacks, errors. What holds for every transport is in tests/contract."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from network_namespace import in_own_namespace, shaped

from stoq.errors import ConfigurationError
from stoq.io import sockets
from stoq.io.bench import blast, drain
from stoq.io.transport import TransportError
from stoq.io.udp import UdpTransport, open_udp

SECOND = 1_000_000_000
SO_NO_CHECK = 11

Open = Callable[..., UdpTransport]


@pytest.fixture
def opening() -> Iterator[Open]:
    """open_udp, with everything closed at the end."""
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(closing(open_udp(*args, **options)))


def receive(transport: UdpTransport, count: int) -> list[bytes]:
    got: list[bytes] = []
    while len(got) < count and transport.wait(SECOND):
        got += [data for data, _, _ in transport.receive_datagrams()]
    return got


def no_checksums(transport: UdpTransport) -> None:
    """Linux refuses segmentation (EINVAL) on a socket that sends no checksums: a route that cannot segment."""
    with socket.socket(fileno=os.dup(transport.fileno())) as other:
        other.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)


# ---- segmentation that fails while running


def test_a_route_that_cannot_segment_turns_gso_off(opening: Open) -> None:
    server = opening("127.0.0.1")
    client = opening(remote=server.local_address)
    no_checksums(client)
    data = bytes(range(256)) * 20
    assert client.caps.max_segments == 64
    assert client.send_train(data, 1000, None) == len(data)
    assert b"".join(receive(server, 6)) == data
    assert client.caps.max_segments == 1
    assert client.caps.max_datagram_size == 16320
    assert client.caps.reasons["gso"] == "turned off after a send failed: Invalid argument"
    assert client.counters.datagrams_out == 6
    assert client.counters.dropped == 0
    assert client.send_datagrams([(b"one", None), (b"two", None)]) == 2
    assert receive(server, 2) == [b"one", b"two"]


def test_a_refused_train_that_meets_a_full_queue_is_resumed(opening: Open) -> None:
    def pair() -> tuple[UdpTransport, UdpTransport]:
        server = opening("127.0.0.1")
        return opening(remote=server.local_address, send_buffer=8192), server

    client, server = in_own_namespace(pair, shaped("8mbit"))
    no_checksums(client)
    data = b"".join(i.to_bytes(1200, "big") for i in range(40))
    taken = client.send_train(data, 1200, None)
    assert 0 < taken < len(data)
    assert taken % 1200 == 0
    assert client.counters.datagrams_out == taken // 1200
    rest = [(data[at : at + 1200], None) for at in range(taken, len(data), 1200)]
    assert client.send_all(rest)
    assert b"".join(receive(server, 40)) == data


def test_a_segment_larger_than_the_mtu_is_dropped_and_gso_stays(opening: Open) -> None:
    def pair() -> tuple[UdpTransport, UdpTransport]:
        server = opening("127.0.0.1")
        return opening(remote=server.local_address), server

    client, server = in_own_namespace(pair)
    assert client.caps.mtu == 1500
    assert client.send_train(bytes(6000), 2000, None) == 6000
    assert client.counters.dropped == 3
    assert client.counters.errors["EMSGSIZE"] in (1, 3)  # Linux before 6.14 says EINVAL to the train
    assert client.caps.max_segments == 64
    # DF is set: 1472 bytes fit 1500, 1473 do not and are not fragmented.
    assert client.send_datagrams([(bytes(1473), None), (bytes(1472), None)]) == 2
    assert client.counters.dropped == 4
    assert [len(data) for data in receive(server, 1)] == [1472]
    assert client.send_train(bytes(3000), 1472, None) == 3000
    assert [len(data) for data in receive(server, 3)] == [1472, 1472, 56]


# ---- one socket, several addresses


def test_dual_stack_reports_each_family_as_its_own(opening: Open) -> None:
    server = opening()
    assert server.local_address[0] == "::"
    port = server.local_address[1]
    for host in ("127.0.0.1", "::1"):
        client = opening(remote=(host, port))
        client.send_train(bytes(2500), 1000, None, 2)
        assert server.wait(SECOND)
        [entry] = server.receive_entries()
        assert (entry.peer, entry.local, entry.ecn) == (client.local_address, (host, port), 2)
        assert server.send_train(bytes(2500), 1000, entry.peer, 1, entry.local) == 2500
        assert client.wait(SECOND)
        assert {(peer, ecn) for _, peer, ecn in client.receive_datagrams()} == {((host, port), 1)}


@pytest.mark.parametrize("bind", ["0.0.0.0", "::"])
def test_a_reply_leaves_from_the_address_that_was_asked(opening: Open, bind: str) -> None:
    server = opening(bind)
    client = opening("127.0.0.1", remote=("127.0.0.2", server.local_address[1]))
    client.send_datagrams([(b"ping", None)])
    assert server.wait(SECOND)
    [entry] = server.receive_entries()
    assert entry.local == ("127.0.0.2", server.local_address[1])
    # Without its source a reply would leave from 127.0.0.1, and the connected client would not hear it.
    server.send_datagrams([(b"deaf", entry.peer), (b"heard", entry.peer, 0, entry.local)])
    assert receive(client, 1) == [b"heard"]


def test_connecting_anew_keeps_the_port(opening: Open) -> None:
    first, second = opening("127.0.0.1"), opening("127.0.0.1")
    client = opening("0.0.0.0", remote=first.local_address)
    here = client.local_address
    client.send_datagrams([(b"a", None, 2), (b"b", second.local_address, 2)])
    client.connect(second.local_address)
    assert client.local_address == here
    assert client.remote_address == second.local_address
    client.send_datagrams([(b"c", None, 2)])
    assert first.wait(SECOND)
    assert first.receive_datagrams() == [(b"a", here, 2)]
    assert second.wait(SECOND)
    assert second.receive_datagrams() == [(b"b", here, 2), (b"c", here, 2)]


def test_reuse_port(opening: Open) -> None:
    first = opening("127.0.0.1", reuse_port=True)
    opening("127.0.0.1", first.local_address[1], reuse_port=True)
    with pytest.raises(TransportError, match="in use"):
        opening("127.0.0.1", first.local_address[1])


def test_the_descriptor_can_be_polled(opening: Open) -> None:
    server = opening("127.0.0.1")
    assert select.select([server.fileno()], [], [], 0)[0] == []
    opening(remote=server.local_address).send_datagrams([(b"x", None)])
    assert select.select([server.fileno()], [], [], 1)[0] == [server.fileno()]


# ---- features that are missing


@pytest.mark.parametrize(
    ("constant", "feature"),
    [("UDP_SEGMENT", "gso"), ("UDP_GRO", "gro"), ("IP_PKTINFO", "pktinfo"), ("IP_MTU_DISCOVER", "dont_fragment")],
)
def test_an_option_that_the_kernel_lacks_is_done_without(
    opening: Open, monkeypatch: pytest.MonkeyPatch, constant: str, feature: str
) -> None:
    monkeypatch.setattr(sockets, constant, 9999)
    server = opening("0.0.0.0")
    assert server.caps.reasons[feature] == "the kernel refuses it: Protocol not available"
    client = opening(remote=("127.0.0.1", server.local_address[1]))
    client.send_all([(b"x" * 1200, None)] * 3)
    assert receive(server, 3) == [b"x" * 1200] * 3


def test_a_host_without_ipv6_binds_ipv4(opening: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "has_ipv6", lambda: False)
    server = opening()
    assert server.local_address[0] == "0.0.0.0"
    assert server.caps.reasons["ipv6"] == "this host has no IPv6"


def test_buffers_that_the_kernel_cuts_say_so(opening: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "SO_RCVBUFFORCE", 9999)
    monkeypatch.setattr(sockets, "SO_SNDBUFFORCE", 9999)
    reasons = opening("127.0.0.1", receive_buffer=sockets.BUFFER_MAX, send_buffer=sockets.BUFFER_MAX).caps.reasons
    assert reasons["receive_buffer"].endswith("bytes granted: raise net.core.rmem_max")
    assert reasons["send_buffer"].endswith("bytes granted: raise net.core.wmem_max")
    assert "receive_buffer" not in opening("127.0.0.1", receive_buffer=65536).caps.reasons


# ---- arguments and errors: one clear line


@pytest.mark.parametrize(
    ("args", "options", "line"),
    [
        (("localhost", 1), {}, "not an IP address: 'localhost'"),
        (("127.0.0.1", 70000), {}, "a port is 0 to 65535, not 70000"),
        (("fe80::1", 0), {}, "fe80::1 is link-local: say on which interface, as in fe80::1%eth0"),
        (("fe80::1%none0", 0), {}, "no such network interface: 'fe80::1%none0'"),
        (("127.0.0.1", 0), {"remote": ("::1", 1)}, "127.0.0.1:0 cannot reach [::1]:1: one is IPv4, the other IPv6"),
        (("127.0.0.1", 0), {"receive_buffer": 0}, "receive_buffer is 1 to 1073741823 bytes, not 0"),
        (("127.0.0.1", 0), {"send_buffer": 1 << 40}, "send_buffer is 1 to 1073741823 bytes, not 1099511627776"),
        (("127.0.0.1", 0), {"buffer_size": 0}, "buffer_size is 1 to 65536 bytes, not 0"),
        (("127.0.0.1", 0), {"buffer_size": 65537}, "buffer_size is 1 to 65536 bytes, not 65537"),
        (("127.0.0.1", 0), {"max_segments": 65}, "max_segments is 1 to 64, not 65"),
        (("127.0.0.1", 0), {"receive_slots": 33}, "receive_slots is 1 to 32, not 33"),
        (("127.0.0.1", 0), {"send_slots": 5}, "send_slots is 1 to 4, not 5"),
    ],
)
def test_arguments_that_cannot_work(args: tuple[str, int], options: dict[str, Any], line: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ConfigurationError) as caught:
        open_udp(*args, **options)
    assert str(caught.value) == line
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_address_of_another_host() -> None:
    with pytest.raises(TransportError) as caught:
        open_udp("192.0.2.1", 4433)
    assert str(caught.value) == "cannot open UDP 192.0.2.1:4433: Cannot assign requested address"


def test_a_connect_that_fails_closes_the_socket() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(TransportError) as caught:
        in_own_namespace(lambda: open_udp(remote=("192.0.2.1", 443)))
    assert str(caught.value) == "cannot connect UDP to 192.0.2.1 port 443: Network is unreachable"
    assert len(os.listdir("/proc/self/fd")) == before


def test_icmp_errors_are_counted_and_do_not_eat_datagrams(opening: Open) -> None:
    server = opening("127.0.0.1")
    client = opening(remote=server.local_address)
    address = server.local_address
    server.close()
    client.send_datagrams([(b"nobody", None)])
    again = opening("127.0.0.1", address[1])
    assert (
        client.send_datagrams([(b"somebody", None)]) == 1
    )  # meets the error of the first one, and is sent all the same
    assert receive(again, 1) == [b"somebody"]
    assert client.counters.errors["ECONNREFUSED"] == 1
    assert client.counters.dropped == 0


@pytest.mark.plain_build  # against the clock
def test_the_benchmark_loops_agree_on_what_they_moved(opening: Open) -> None:
    server = opening("127.0.0.1")
    client = opening(remote=server.local_address)
    # Nobody acknowledges: the window is the most that is sent, however long the machine takes for it.
    sent, datagrams, trains, _, _ = blast(client, None, 0.01, 1200, 10, 4, 120_000, True)
    assert 0 < trains <= 10
    assert (sent, datagrams) == (trains * 12_000, trains * 10)
    total, received, entries, _, _ = drain(server, 1.0, 1 << 30, True)
    assert (total, received) == (sent, datagrams)
    assert entries >= trains
