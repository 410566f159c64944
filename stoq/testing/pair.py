"""A client and a server over a simulated link, in virtual time, with the invariants watched."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from stoq.connection.configuration import Configuration
from stoq.crypto.simulated import (
    SIMULATED_GROUP,
    SIMULATED_SCHEME,
    register_simulated,
    simulated_authority,
    simulated_leaf,
)
from stoq.crypto.trust import TrustStore
from stoq.endpoint.admission import Admission, DefaultAdmission
from stoq.endpoint.cid_scheme import RandomCids
from stoq.endpoint.endpoint import Endpoint
from stoq.endpoint.session import Driver, Session
from stoq.io.sim import LinkConfig, SimNetwork
from stoq.testing.inspect import ack_ranges, memory, receive_limits, snapshot
from stoq.testing.simstream import SimulatedStream
from stoq.tls import TlsConfiguration

SECOND = 1_000_000_000
CLIENT_ADDRESS = ("192.0.2.1", 50000)
SERVER_ADDRESS = ("198.51.100.1", 4433)
KEY = bytes(range(32))
ACK_RANGES_KEPT = 64
# Room for what is held besides windows: structs, tables at their largest power of two, CRYPTO.
MEMORY_BASE = 1 << 20


class InvariantError(AssertionError):
    """Something happened that must never happen."""


class SimulatedDriver(Driver):
    """Remembers that a flush was asked for; the pair does the rest."""

    def __init__(self) -> None:
        self.scheduled = False

    def schedule(self) -> None:
        self.scheduled = True


def tls_configuration(is_client: bool, alpn: str = "sim", **options: Any) -> TlsConfiguration:
    """TLS with the simulated group and signature scheme: cheap, and the same bytes for the same seed."""
    register_simulated()
    chosen: dict[str, Any] = {
        "alpn_protocols": [alpn],
        "groups": [SIMULATED_GROUP],
        "signature_schemes": [SIMULATED_SCHEME],
    }
    if is_client:
        chosen |= {"server_name": "localhost", "trust": TrustStore([simulated_authority().certificate])}
    else:
        chosen["credentials"] = simulated_leaf().credentials()
    return TlsConfiguration(is_client=is_client, **(chosen | options))


class Node:
    """One endpoint on the simulated network, and what is watched about its connections."""

    def __init__(
        self, pair: SimulatedPair, address: tuple[str, int], transport_options: dict[str, Any], **options: Any
    ) -> None:
        self.pair = pair
        self.driver = SimulatedDriver()
        self.transport = pair.network.transport(address, **transport_options)
        randbytes = random.Random(f"{pair.seed}/{address[0]}").randbytes
        self.endpoint = Endpoint(
            self.transport,
            driver=self.driver,
            clock=lambda: pair.network.now,
            random=randbytes,
            scheme=RandomCids(8, KEY, randbytes),
            stream_factory=SimulatedStream,
            **options,
        )
        self.endpoint.receive_batches = 1  # so that the invariants are checked after each
        self.before: dict[Session, dict[str, Any]] = {}
        self.closing: dict[Session, tuple[int, int]] = {}

    def due(self) -> int | None:
        """When this endpoint needs a call, in ns; now when it needs one at once."""
        if self.driver.scheduled or self.transport.readable or (self.endpoint.is_blocked and self.transport.writable):
            return self.pair.network.now
        deadline: int | None = self.endpoint.next_deadline()
        return deadline

    def run(self) -> None:
        """Everything that can be done at this moment, each step checked."""
        endpoint = self.endpoint
        while self.transport.readable:
            self.step(endpoint.on_readable)
        if endpoint.is_blocked and self.transport.writable:
            self.step(endpoint.on_writable)
        deadline = endpoint.next_deadline()
        if deadline is not None and deadline <= self.pair.network.now:
            self.step(endpoint.on_timer)
        while self.driver.scheduled:
            self.driver.scheduled = False
            self.step(endpoint.flush)

    def step(self, call: Callable[[], Any]) -> None:
        for session in self.endpoint.sessions:
            self.before[session] = snapshot(session)
        call()
        self.pair.steps += 1
        if self.pair.watch:
            self.check()

    # ---- invariants

    def check(self) -> None:
        now = self.pair.network.now
        counters = self.endpoint.counters()
        if counters["late_timers"]:
            self.fail("a timer was armed at or before now")
        for session in list(self.endpoint.sessions):
            facts = snapshot(session)
            if facts:
                self.check_window(session, facts)
                self.check_closing(session, facts, now)
                self.check_memory(session)
            if facts and not facts["validated"] and not session.connection.is_client:
                self.check_amplification(facts)
        for session in [s for s in self.closing if s not in self.endpoint.sessions]:
            closed_at, limit = self.closing.pop(session)
            if now > limit:
                self.fail(f"closed for {(now - closed_at) / 1e6} ms, three PTO are {(limit - closed_at) / 1e6} ms")

    def check_amplification(self, facts: dict[str, Any]) -> None:
        if facts["bytes_sent"] > 3 * facts["bytes_received"]:  # RFC 9000 §8.1
            self.fail(f"{facts['bytes_sent']} bytes out for {facts['bytes_received']} before validation")

    def check_window(self, session: Session, facts: dict[str, Any]) -> None:
        """What a step adds to the bytes in flight stays within the window, probes excepted (RFC 9002 §7.5)."""
        before = self.before.get(session)
        if not before or facts["in_flight"] <= facts["cwnd"] or facts["in_flight"] <= before["in_flight"]:
            return
        probes = 2 * (facts["ptos"] - before["ptos"]) + before["probes"]
        # A probe may be a datagram of several packets; it is never larger than the datagram size.
        allowed = max(facts["cwnd"], before["in_flight"]) + probes * facts["mtu"]
        if facts["in_flight"] > allowed:
            self.fail(f"{facts['in_flight']} bytes in flight, window {facts['cwnd']}, {probes} probes")

    def check_closing(self, session: Session, facts: dict[str, Any], now: int) -> None:
        # The three PTO run from when CONNECTION_CLOSE left, or came.
        if facts["close_state"] in ("closing", "draining") and facts["close_deadline"] and session not in self.closing:
            # The PTO of the moment, which may lie inside the step; one period of clock granularity for rounding.
            pto = max(facts["pto"], self.before.get(session, {}).get("pto", 0))
            self.closing[session] = (now, now + 3 * pto + 1_000_000)

    def check_memory(self, session: Session) -> None:
        if any(count > ACK_RANGES_KEPT for count in ack_ranges(session)):
            self.fail(f"{ack_ranges(session)} ranges of packet numbers are kept")
        held = memory(session)
        room, window = receive_limits(session)
        # Out-of-order bytes: at most twice the window, and 64 KiB for each of a few streams.
        if held["stream_receive"] > 2 * max(room, window) + MEMORY_BASE:
            self.fail(f"{held['stream_receive']} bytes held for reassembly, window {window}")
        if held["crypto"] > MEMORY_BASE:
            self.fail(f"{held['crypto']} bytes held for CRYPTO")

    def fail(self, text: str) -> None:
        side = "client" if self is self.pair.client else "server"
        raise InvariantError(f"{side} at {self.pair.network.now / 1e9:.6f} s: {text}")


class SimulatedPair:
    """A client endpoint and a server endpoint on a simulated network, in virtual time.

    seed: fixes the links' dice, all keys, IDs and TLS bytes: the same seed replays exactly. client_link: from client to
    server, server_link: back. client_options, server_options: fields of Configuration (idle_timeout, congestion, knobs,
    ...). client_session(), server_session(): make the Session of a connection. transport_options: for both transports
    (gso=False, send_buffer=...). retry: the server asks every client to prove its address. watch: check the
    invariants after every step (InvariantError).
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        client_link: LinkConfig | None = None,
        server_link: LinkConfig | None = None,
        client_options: dict[str, Any] | None = None,
        server_options: dict[str, Any] | None = None,
        client_session: Callable[[], Session] = Session,
        server_session: Callable[[], Session] = Session,
        transport_options: dict[str, Any] | None = None,
        admission: Admission | None = None,
        retry: bool = False,
        watch: bool = True,
        alpn: str = "sim",
        tls_client: TlsConfiguration | None = None,
        tls_server: TlsConfiguration | None = None,
    ) -> None:
        self.seed = seed
        self.watch = watch
        self.steps = 0
        # Not from zero: a deadline of 0 means "none".
        self.network = SimNetwork(seed, start_ns=SECOND)
        self.client_configuration = Configuration(tls_client or tls_configuration(True, alpn), **(client_options or {}))
        server_configuration = Configuration(tls_server or tls_configuration(False, alpn), **(server_options or {}))
        options = transport_options or {}
        self.server = Node(
            self,
            SERVER_ADDRESS,
            options,
            configuration=server_configuration,
            session_factory=server_session,
            admission=admission if admission is not None else DefaultAdmission(KEY, always_retry=retry),
        )
        self.client = Node(self, CLIENT_ADDRESS, options)
        self.link_out = self.network.link(CLIENT_ADDRESS, SERVER_ADDRESS, client_link or LinkConfig())
        self.link_back = self.network.link(SERVER_ADDRESS, CLIENT_ADDRESS, server_link or LinkConfig())
        self._client_session = client_session

    @property
    def now(self) -> int:
        """Virtual time in ns."""
        return self.network.now

    def connect(self, session: Session | None = None, *, token: bytes = b"") -> Session:
        """Begin a connection from the client to the server; run_until() moves it on."""
        chosen = self._client_session() if session is None else session
        self.client.endpoint.connect(self.client_configuration, SERVER_ADDRESS, chosen, token=token)
        return chosen

    def advance(self, limit_ns: int | None = None) -> bool:
        """Go to the next moment at which something happens and do it; False when nothing will (before limit_ns)."""
        times = [t for t in (self.network.next_event_time(), self.client.due(), self.server.due()) if t is not None]
        if not times or (limit_ns is not None and min(times) > limit_ns):
            return False
        self.network.advance(max(min(times), self.network.now))
        self.server.run()
        self.client.run()
        return True

    def run_until(self, predicate: Callable[[], bool], limit_ns: int = 60 * SECOND) -> bool:
        """Run until the predicate holds: True; False when limit_ns of virtual time passed or nothing is left to do."""
        deadline = self.network.now + limit_ns
        while not predicate():
            if not self.advance(deadline):
                return False
        return True

    def run_for(self, duration_ns: int) -> None:
        """Let so much virtual time pass."""
        deadline = self.network.now + duration_ns
        while self.advance(deadline):
            pass
        self.network.advance(deadline)
