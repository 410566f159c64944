"""Random scenarios over impaired links: everything about one is drawn from its seed."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from stoq.endpoint.session import Session
from stoq.errors import ApplicationClosed, ConfigurationError, StreamLimitError, StreamStopped
from stoq.io.sim import LinkConfig
from stoq.testing.pair import SECOND, InvariantError, SimulatedPair
from stoq.testing.simstream import SimulatedStream

MS = 1_000_000
# RFC 9000 §14 needs 1200 bytes of UDP payload: 1228 with IPv4's headers.
MTU_MIN = 1228
HIGH_WATER = 1 << 16
CLOSE_CODE = 0x51
LIMIT = 1200 * SECOND
HANDSHAKE_SECONDS = 300


def content(seed: int, stream_id: int, from_client: bool, size: int) -> bytes:
    """What one side sends on one stream."""
    return random.Random(f"{seed}/{stream_id}/{from_client}").randbytes(size)


@dataclass
class Flow:
    """One direction of one stream."""

    size: int
    end: str = "finish"
    """finish; reset: the sender gives up after `at` bytes; stop: the receiver has enough after `at` bytes."""
    at: int = 0
    code: int = 0
    chunk: int = 4096


@dataclass
class StreamPlan:
    by_client: bool
    unidirectional: bool
    flows: dict[bool, Flow]
    """By sender: True is the client."""
    answer_after_end: bool = False
    """The other side writes only once it has read everything (half close)."""


@dataclass
class Scenario:
    """What one seed stands for."""

    seed: int
    client_link: LinkConfig
    server_link: LinkConfig
    retry: bool
    close_by_client: bool
    plans: list[StreamPlan]
    client_options: dict[str, Any] = field(default_factory=dict)
    server_options: dict[str, Any] = field(default_factory=dict)
    transport_options: dict[str, Any] = field(default_factory=dict)

    def describe(self) -> str:
        lines = [f"seed {self.seed}: retry {self.retry}, closed by {'client' if self.close_by_client else 'server'}"]
        lines += [f"  to server: {shown(self.client_link)}", f"  to client: {shown(self.server_link)}"]
        lines.append(f"  client {self.client_options}, server {self.server_options}, io {self.transport_options}")
        for plan in self.plans:
            kind = "unidirectional" if plan.unidirectional else "bidirectional"
            lines.append(f"  {kind} by {'client' if plan.by_client else 'server'}: {plan.flows}")
        return "\n".join(lines)


def shown(link: LinkConfig) -> str:
    default = LinkConfig()
    parts = [(name, getattr(link, name)) for name in LinkConfig.__slots__]
    return ", ".join(f"{name} {value}" for name, value in parts if value != getattr(default, name)) or "perfect"


def draw_link(rng: random.Random, delay: int, mtu: int) -> LinkConfig:
    """One direction. About one in four kinds of trouble is on, so that a scenario has several at once but not all."""
    options: dict[str, Any] = {"delay_ns": delay, "mtu": mtu}
    if rng.random() < 0.5:
        options["loss"] = rng.choice([0.005, 0.02, 0.05, 0.1, 0.2]) * rng.random()
    if rng.random() < 0.2:
        options |= {"burst_enter": 0.02 * rng.random(), "burst_leave": rng.uniform(0.2, 0.8)}
        options["max_burst"] = rng.randint(2, 8)
    if rng.random() < 0.35:
        options |= {"reorder": 0.2 * rng.random(), "reorder_delay_ns": rng.randint(1, 20) * MS}
    if rng.random() < 0.2:
        options |= {"jitter_ns": rng.randint(1, 20) * MS, "jitter_reorders": rng.random() < 0.5}
    if rng.random() < 0.3:
        options["duplicate"] = 0.1 * rng.random()
    if rng.random() < 0.3:
        options |= {"corrupt": 0.03 * rng.random(), "corrupt_bits": rng.randint(1, 8)}
    if rng.random() < 0.4:
        rate = rng.choice([1, 4, 10, 50, 200]) * 1_000_000
        options |= {"bit_rate": rate, "queue_bytes": max(20_000, rate // 8 * rng.randint(5, 200) // 1000)}
    if rng.random() < 0.1:
        begin = SECOND + rng.randint(0, 1000) * MS
        options["blackholes"] = ((begin, begin + rng.randint(50, 1500) * MS),)
    return LinkConfig(**options)


def draw_flow(rng: random.Random, bulk: int) -> Flow:
    kind = rng.random()
    if kind < 0.1:
        size = 0
    elif kind < 0.55:
        size = rng.randint(1, 2000)
    elif kind < 0.9:
        size = rng.randint(2000, 60_000)
    else:
        size = rng.randint(bulk // 4, bulk)
    flow = Flow(size, chunk=rng.choice([1 + size // 50, 100 + size // 20, 1200, 16_384, 65_536]))
    if rng.random() < 0.15:
        flow.end = rng.choice(["reset", "stop"])
        flow.at = rng.randint(0, size)
        flow.code = rng.getrandbits(rng.choice([6, 14, 30, 62]))
    return flow


def draw(seed: int) -> Scenario:
    """The scenario of a seed."""
    rng = random.Random(f"scenario {seed}")
    mtu = rng.choice([1500, 1500, rng.randint(MTU_MIN, 1500)])
    delay = rng.choice([1, 5, 20, 50, 100, 200, 400]) * MS
    links = [draw_link(rng, delay, mtu), draw_link(rng, delay if rng.random() < 0.7 else rng.randint(1, 400) * MS, mtu)]
    slow = min((link.bit_rate or 10**9) for link in links) < 3_000_000
    bulk = 100_000 if slow else rng.choice([200_000, 400_000, 1_000_000])
    plans = []
    for _ in range(rng.choice([1, 2, 5, 10, 30])):
        by_client = rng.random() < 0.6
        unidirectional = rng.random() < 0.3
        senders = {by_client} if unidirectional else {True, False}
        flows = {sender: draw_flow(rng, bulk) for sender in sorted(senders)}
        plans.append(StreamPlan(by_client, unidirectional, flows, rng.random() < 0.4))
    scenario = Scenario(seed, links[0], links[1], rng.random() < 0.2, rng.random() < 0.6, plans)
    for options in (scenario.client_options, scenario.server_options):
        options["idle_timeout"] = rng.choice([0, 60, 120])
        options["handshake_timeout"] = HANDSHAKE_SECONDS
        if rng.random() < 0.3:
            options["max_streams_bidi"], options["max_streams_uni"] = rng.randint(1, 5), rng.randint(1, 5)
        if rng.random() < 0.3:
            window = rng.choice([16_384, 50_000, 200_000])
            options["knobs"] = {"stream_window": window // rng.choice([1, 2, 4]), "receive_window": window}
    if rng.random() < 0.3:
        scenario.transport_options["gso"] = False
    if rng.random() < 0.3:
        scenario.transport_options["gro"] = False
    if rng.random() < 0.2 and any(link.bit_rate for link in links):
        scenario.transport_options["send_buffer"] = rng.choice([5_000, 30_000])
    return scenario


Method = TypeVar("Method", bound=Callable[..., None])


def kept(method: Method) -> Method:
    """The first exception of a handler is the run's failure (the endpoint would only log it and close)."""

    @functools.wraps(method)
    def call(self: Side, *arguments: Any) -> None:
        try:
            method(self, *arguments)
        except Exception as error:
            self.run.failure = self.run.failure or error
            raise

    return cast(Method, call)


class Side(Session):
    """One side's connection: opens its streams, writes what the plan says, checks every byte that comes."""

    def __init__(self, run: Run, is_client: bool) -> None:
        self.run = run
        self.is_client = is_client
        self.ready = False
        self.reason: Exception | None = None
        self.over = False
        self.to_open = [plan for plan in run.scenario.plans if plan.by_client == is_client]
        self.unfinished: set[tuple[int, bool]] = set()

    @kept
    def handshake_completed(self, connection: Any) -> None:
        super().handshake_completed(connection)
        if not self.is_client:
            self.run.server = self
        self.ready = True
        self.open_streams()

    def closed(self, connection: Any) -> None:
        super().closed(connection)
        self.reason = connection.close_reason

    def terminated(self, connection: Any) -> None:
        self.over = True

    # ---- streams

    def open_streams(self) -> None:
        waiting = []
        for plan in self.to_open:
            try:
                stream = cast(SimulatedStream, self.connection.open_stream(plan.unidirectional))
            except StreamLimitError:
                waiting.append(plan)
                continue
            self.run.plans[stream.id] = plan
            self.begin(stream, plan)
        self.to_open = waiting

    @kept
    def streams_available(self, connection: Any, unidirectional: bool) -> None:
        self.open_streams()

    @kept
    def stream_opened(self, connection: Any, stream: SimulatedStream) -> None:
        plan = self.run.plans.get(stream.id)
        if plan is None or plan.by_client == self.is_client:
            raise InvariantError(f"stream {stream.id} was opened by nobody")
        self.begin(stream, plan)

    def begin(self, stream: SimulatedStream, plan: StreamPlan) -> None:
        stream.note = Exchange(self, stream, plan)
        stream.note.start()

    @kept
    def stream_data(self, stream: SimulatedStream) -> None:
        stream.note.data()

    @kept
    def stream_reset(self, stream: SimulatedStream, code: int) -> None:
        stream.note.reset(code)

    @kept
    def stream_stopped(self, stream: SimulatedStream, code: int) -> None:
        stream.note.stopped(code)

    @kept
    def stream_writable(self, stream: SimulatedStream) -> None:
        stream.note.write()


class Exchange:
    """One stream as one side sees it: what it sends, what it expects."""

    def __init__(self, side: Side, stream: SimulatedStream, plan: StreamPlan) -> None:
        self.side = side
        self.stream = stream
        self.plan = plan
        seed = side.run.scenario.seed
        self.out = plan.flows.get(side.is_client)
        self.expected = plan.flows.get(not side.is_client)
        if self.out is not None:
            self.outgoing = content(seed, stream.id, side.is_client, self.out.size)
            side.unfinished.add((stream.id, True))
        if self.expected is not None:
            self.incoming = content(seed, stream.id, not side.is_client, self.expected.size)
            side.unfinished.add((stream.id, False))
        self.written = 0
        self.read = 0
        self.sent_all = self.received_all = False

    def start(self) -> None:
        waits = self.plan.answer_after_end and self.plan.by_client != self.side.is_client
        if self.out is not None and (not waits or self.expected is None):
            self.write()
        self.maybe_stop()

    def done(self, sending: bool) -> None:
        self.side.unfinished.discard((self.stream.id, sending))

    # ---- sending

    def write(self) -> None:
        if self.out is None or self.sent_all:
            return
        limit = self.out.at if self.out.end == "reset" else self.out.size
        while self.written < limit:
            piece = self.outgoing[self.written : min(limit, self.written + self.out.chunk)]
            self.written += len(piece)
            try:
                buffered = self.stream.write(piece)
            except (StreamStopped, ConfigurationError):  # known to the connection, not told yet
                if self.out.end != "stop":
                    raise
                return
            if buffered > HIGH_WATER:
                self.stream.notify_writable(HIGH_WATER // 2)
                break
        if self.written >= limit:
            self.sent_all = True
            if self.out.end == "reset":
                self.stream.reset(self.out.code)
            else:
                self.stream.finish()
            self.done(True)

    def stopped(self, code: int) -> None:
        if self.out is None or self.out.end != "stop" or code != self.out.code:
            self.fail(f"stopped with {code}")
        self.sent_all = True
        self.done(True)

    # ---- receiving

    def maybe_stop(self) -> None:
        if self.expected is None or self.expected.end != "stop" or self.received_all:
            return
        if self.read >= self.expected.at:
            self.received_all = True
            self.stream.stop(self.expected.code)
            self.done(False)
            self.answer()

    def answer(self) -> None:
        if self.out is not None and not self.sent_all and self.written == 0:
            self.write()

    def data(self) -> None:
        assert self.expected is not None
        while piece := self.stream.take(1 << 16):
            if self.received_all:
                self.fail(f"{len(piece)} bytes after the end")
            if piece != self.incoming[self.read : self.read + len(piece)]:
                self.fail(f"wrong bytes at {self.read}")
            self.read += len(piece)
            self.maybe_stop()
            if self.received_all:
                return
        if self.stream.ended and not self.received_all:
            if self.expected.end == "reset" or self.read != self.expected.size:
                self.fail(f"ended after {self.read} bytes")
            self.received_all = True
            self.done(False)
            self.answer()

    def reset(self, code: int) -> None:
        assert self.expected is not None
        if self.received_all:
            if self.expected.end != "stop":
                self.fail("reset after the end")
            return
        # A sender that was stopped answers with a reset (RFC 9000 §3.5); otherwise the plan says so.
        if self.expected.end != "reset" or code != self.expected.code:
            self.fail(f"reset with {code}")
        self.received_all = True
        self.done(False)
        self.answer()

    def fail(self, text: str) -> None:
        side = "client" if self.side.is_client else "server"
        raise InvariantError(f"{side}, stream {self.stream.id}: {text}; plan {self.plan}")


class Run:
    """One scenario under way."""

    def __init__(self, scenario: Scenario, tap: Any = None) -> None:
        self.scenario = scenario
        self.plans: dict[int, StreamPlan] = {}
        self.failure: Exception | None = None
        self.server: Side | None = None
        self.client = Side(self, True)
        client_link, server_link = scenario.client_link, scenario.server_link
        if tap is not None:
            client_link, server_link = tap(client_link, "->"), tap(server_link, "<-")
        self.pair = SimulatedPair(
            scenario.seed,
            client_link=client_link,
            server_link=server_link,
            client_options=scenario.client_options,
            server_options=scenario.server_options,
            transport_options=scenario.transport_options,
            server_session=lambda: Side(self, False),
            retry=scenario.retry,
        )

    def exchanged(self) -> bool:
        """Every stream is over at both sides."""
        if self.server is None or len(self.plans) < len(self.scenario.plans):
            return False
        return all(side.ready and not side.to_open and not side.unfinished for side in (self.client, self.server))

    def execute(self) -> None:
        """Run to the end; InvariantError when anything is not as it should be."""
        pair, client = self.pair, self.client
        pair.connect(client)
        over = pair.run_until(lambda: self.exchanged() or client.reason is not None or self.failure is not None, LIMIT)
        if self.failure is not None:
            raise self.failure
        if not over or not self.exchanged():
            sides = [("client", client), ("server", self.server)]
            left = {name: (side.unfinished, len(side.to_open)) for name, side in sides if side is not None}
            raise InvariantError(
                f"not complete at {pair.now / 1e9:.3f} s: client {client.reason!r}, "
                f"server {self.server.reason if self.server else 'absent'!r}, left {left}"
            )
        server = self.server
        assert server is not None
        closer, other = (client, server) if self.scenario.close_by_client else (server, client)
        closer.connection.close(CLOSE_CODE, "done")
        ended = pair.run_until(lambda: client.over and server.over, LIMIT)
        if not ended and self.idle_timeout():
            raise InvariantError(f"connections did not end: {closer.reason!r}, {other.reason!r}")
        reason = closer.reason
        if not isinstance(reason, ApplicationClosed) or reason.by_peer or reason.error_code != CLOSE_CODE:
            raise InvariantError(f"the closing side saw {reason!r}")
        reason = other.reason
        if isinstance(reason, ApplicationClosed) and (reason.error_code != CLOSE_CODE or reason.reason != "done"):
            raise InvariantError(f"the other side saw {reason!r}")
        if pair.server.endpoint.half_open:  # a first packet that was damaged on its way
            pair.run_for(HANDSHAKE_SECONDS * SECOND)
            if pair.server.endpoint.half_open:
                raise InvariantError(f"{pair.server.endpoint.half_open} half-open connections are left")

    def idle_timeout(self) -> bool:
        """Whether a side that missed the CONNECTION_CLOSE ends by itself."""
        options = self.scenario.client_options, self.scenario.server_options
        return any(each["idle_timeout"] for each in options)

    def facts(self) -> dict[str, Any]:
        """What two runs of the same seed must have in common."""
        return {
            "now": self.pair.now,
            "steps": self.pair.steps,
            "out": self.pair.link_out.counters,
            "back": self.pair.link_back.counters,
            "client": self.pair.client.endpoint.counters(),
            "server": self.pair.server.endpoint.counters(),
        }


def run_seed(seed: int, tap: Any = None) -> Run:
    """Draw and execute one seed."""
    run = Run(draw(seed), tap)
    run.execute()
    return run
