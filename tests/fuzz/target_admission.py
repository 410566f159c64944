"""Fuzz target: datagrams of no connection, from several addresses, to a server's endpoint with low limits.

An input is a little program: real clients send and hear, their datagrams are changed or come from elsewhere, packets
of every form are invented, and time passes.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from typing import Any

from fuzz_pair import MS, SECOND, START, TAG, Side, configuration

from stoq.connection.factory import client_connection
from stoq.endpoint.admission import DefaultAdmission
from stoq.endpoint.cid_scheme import RandomCids
from stoq.endpoint.endpoint import Endpoint
from stoq.io.sim import SimNetwork
from stoq.testing.inspect import snapshot
from stoq.testing.pair import KEY, SERVER_ADDRESS, SimulatedDriver
from stoq.wire.header import INITIAL_TOKEN_MAX, PacketType, encode_long_header

ADDRESSES = [("192.0.2.1", 50000), ("192.0.2.1", 50001), ("192.0.2.9", 50000)]
CLIENTS = 8
HALF_OPEN_RETRY, HALF_OPEN_MAX, CONNECTIONS_MAX = 2, 5, 6
MUTATIONS = 1000
OPERATIONS_MAX = 40
KNOWN_ID = b"known-id"


class Complaint(logging.Handler):
    """An endpoint logs what should never happen to it."""

    def emit(self, record: logging.LogRecord) -> None:
        raise AssertionError(self.format(record))


COMPLAINT = Complaint(logging.ERROR)


class World:
    def __init__(self) -> None:
        self.network = SimNetwork(1, start_ns=START)
        self.server = self.network.transport(SERVER_ADDRESS)
        self.transports = [self.network.transport(address, remote=SERVER_ADDRESS) for address in ADDRESSES]
        for transport in self.transports:
            self.network.link(transport, self.server)
            self.network.link(self.server, transport)
        rng = random.Random("server")
        self.driver = SimulatedDriver()
        limits = {
            "half_open_retry": HALF_OPEN_RETRY,
            "half_open_max": HALF_OPEN_MAX,
            "max_connections": CONNECTIONS_MAX,
        }
        self.endpoint = Endpoint(
            self.server,
            configuration=configuration(False, "null"),
            admission=DefaultAdmission(KEY, **limits),
            scheme=RandomCids(8, KEY, rng.randbytes),
            driver=self.driver,
            clock=lambda: self.network.now,
            random=rng.randbytes,
        )
        self.clients: dict[int, Side] = {}
        self.heard: list[list[bytes]] = [[] for _ in ADDRESSES]
        self.bytes_in = [0] * len(ADDRESSES)
        self.bytes_out = [0] * len(ADDRESSES)
        self.trusted: set[int] = set()  # addresses that have proved themselves: no bound on what they get

    def client(self, number: int) -> Side:
        if number not in self.clients:
            rng = random.Random(f"client {number}")
            connection = client_connection(
                configuration(True, "null"),
                SERVER_ADDRESS,
                now_ns=self.network.now,
                random=rng.randbytes,
                cid=b"client-%d" % number,
                original_dcid=b"original%d" % number,
            )
            self.clients[number] = Side(connection)
        return self.clients[number]

    def send(self, address: int, datagrams: list[bytes]) -> None:
        """From one of the addresses to the server, and what the server does about it."""
        for datagram in datagrams:
            if datagram:
                self.bytes_in[address] += len(datagram)
                self.transports[address].send_datagrams([(datagram, None)])
        self.run()

    def run(self) -> None:
        self.network.advance(self.network.now + MS // 4)
        for _ in range(20):
            due = self.endpoint.next_deadline()
            if self.server.readable:
                self.endpoint.on_readable()
            elif due is not None and due <= self.network.now:
                self.endpoint.on_timer()
            elif self.driver.scheduled:
                self.driver.scheduled = False
                self.endpoint.flush()
            else:
                break
        else:
            raise AssertionError("the endpoint does not come to rest")
        for address, transport in enumerate(self.transports):
            for data, _, _ in transport.receive_datagrams():
                self.heard[address].append(data)
                self.bytes_out[address] += len(data)
        self.check()

    def check(self) -> None:
        endpoint = self.endpoint
        assert len(endpoint.sessions) <= CONNECTIONS_MAX
        incomplete = [s.connection for s in endpoint.sessions if not s.connection.handshake_complete]
        under_way = [connection for connection in incomplete if connection.close_reason is None]
        assert len(under_way) <= endpoint.half_open <= len(incomplete)
        assert endpoint.half_open <= HALF_OPEN_MAX
        for session in endpoint.sessions:
            if session.connection.handshake_complete:
                self.trusted.add(ADDRESSES.index(session.connection.peer))
            facts = snapshot(session)
            if facts and not facts["validated"]:
                assert facts["bytes_sent"] <= 3 * facts["bytes_received"]
        assert endpoint.counters()["late_timers"] == 0
        # RFC 9000 §8.1: whoever forges an address gets little out of it. (A Retry token proves one too.)
        if not self.trusted and not endpoint.counters()["retries"]:
            assert sum(self.bytes_out) <= 3 * sum(self.bytes_in)

    def hear(self, number: int, address: int) -> None:
        """The client takes all that came for its address; what is not its own is nothing to it."""
        client = self.client(number)
        for data in self.heard[address]:
            client.receive(data, self.network.now)

    def pass_time(self, duration: int) -> None:
        until = self.network.now + duration
        for _ in range(200):
            due = self.endpoint.next_deadline()
            if due is None or due > until:
                break
            self.network.advance(max(due, self.network.now))
            self.run()
        self.network.advance(max(until, self.network.now))
        self.run()


def invented(kind: int, a: int, b: int, rest: bytes) -> bytes:
    """A packet of some form around the bytes of the input."""
    dcid = KNOWN_ID if a & 0x80 else (rest + bytes(20))[: a % 21]
    scid = (rest[::-1] + bytes(20))[: b % 21]
    match kind % 5:
        case 0:
            return rest
        case 1:
            return b"\x40" + dcid + rest + bytes(b)
        case 2:
            version = int.from_bytes((rest + bytes(4))[:4], "big")
            packet = encode_long_header(PacketType.INITIAL, version, dcid, scid, payload_length=20) + bytes(20)
            return packet.ljust(1200 if a & 1 else 60 + b, b"\0")
        case 3:
            token = rest[:INITIAL_TOKEN_MAX]
            body = rest + TAG
            header = encode_long_header(PacketType.INITIAL, 1, dcid, scid, token=token, payload_length=len(body))
            return (header + body).ljust(1200 if b & 1 else 900, b"\0")
        case _:
            packet_type = PacketType(1 + b % 2)
            return encode_long_header(packet_type, 1, dcid, scid, payload_length=20) + bytes(1180 if a & 1 else 20)


def fuzz_one(data: bytes) -> None:
    """Nothing raises or is logged; limits and the amplification bound hold; in the end nothing is left."""
    logger = logging.getLogger("stoq")
    logger.addHandler(COMPLAINT)
    try:
        run(data)
    finally:
        logger.removeHandler(COMPLAINT)


def run(data: bytes) -> None:
    world = World()
    at = 0
    for _ in range(OPERATIONS_MAX):
        if at + 4 > len(data):
            break
        code, a, b, size = data[at : at + 4]
        rest = data[at + 4 : at + 4 + size]
        at += 4 + size
        number, address = a % CLIENTS, b % len(ADDRESSES)
        match code % 8:
            case 0 | 1:
                world.send(address, world.client(number).send(world.network.now))
            case 2:
                out = world.client(number).send(world.network.now)
                for place, value in enumerate(rest):
                    if out:
                        changed = bytearray(out[0])
                        changed[(place * 7 + a) % len(changed)] ^= value
                        out[0] = bytes(changed)
                world.send(address, out)
            case 3 | 4:
                world.send(address, [invented(code >> 3, a, b, rest)])
            case 5:
                world.hear(number, address)
            case 6:
                world.pass_time((1 << a % 34) * 1000)
            case 7:
                heard: list[Any] = world.heard[address]
                if heard:  # an answer of the server's comes back to it
                    world.send((address + a) % len(ADDRESSES), [heard[b % len(heard)]])
    world.pass_time(120 * SECOND)
    assert not world.endpoint.sessions
    assert world.endpoint.half_open == 0
    assert world.endpoint.next_deadline() is None


def generate(rng: random.Random) -> bytes:
    out = b""
    for _ in range(rng.randrange(1, OPERATIONS_MAX)):
        rest = rng.randbytes(rng.choice((0, 0, 1, 4, 8, 20, 60)))
        code = rng.choice((0, 0, 1, 2, 3, 4, 5, 5, 5, 6, 7)) | rng.randrange(32) << 3
        a = rng.randrange(256) if code & 7 != 6 else rng.choice((0, 8, 14, 18, 22, 26, rng.randrange(34)))
        out += bytes((code, a, rng.randrange(256), len(rest))) + rest
    return out


def seeds() -> Iterator[bytes]:
    """Whole handshakes, more clients than the limits permit, every invented form; and mixtures."""
    yield bytes((0, 0, 0, 0, 5, 0, 0, 0)) * 4
    yield b"".join(bytes((0, n, n, 0)) for n in range(CLIENTS))
    yield (
        b"".join(bytes((0, n, n, 0)) for n in range(CLIENTS))
        + b"".join(bytes((5, n, n, 0, 0, n, n, 0)) for n in range(8)) * 4
    )
    for kind in range(5):
        for a in (0, 1, 8, 9, 0x80, 0x81):
            for b in (0, 1, 8):
                yield bytes((kind << 3 | 3, a, b, 30)) + bytes(range(30)) + bytes((7, 1, b, 0))
    for n in range(4):
        yield bytes((2, n, 0, 3, 1, 2, 3, 5, n, 0, 0, 6, 20, 0, 0)) * 3
    rng = random.Random(6)
    for _ in range(40):
        yield generate(rng)
