"""The rows and columns of the benchmark, and what the rows must reach."""

from __future__ import annotations

from dataclasses import dataclass

BULK, ECHO = ("down", "up"), ("ping", "flight")
ALL = (*BULK, "handshake", *ECHO)


@dataclass(frozen=True)
class Lane:
    """One peer program on one event loop. `module` None: the spike of docs/adr/0001, which needs no peer."""

    name: str
    module: str | None
    cases: tuple[str, ...] = ALL
    loop: str = "asyncio"


LANES = (
    Lane("aioquic", "perf.peers.aioquic"),
    Lane("qh3", "perf.peers.qh3"),
    Lane("stoq", "perf.peers.stoq"),
    Lane("stoq/uvloop", "perf.peers.stoq", loop="uvloop"),
    Lane("udp", "perf.peers.udp_echo", ECHO),
    Lane("spike", None, ("down",)),
)

TITLES = {
    "down": "bulk, server to client, Gbit/s",
    "up": "bulk, client to server, Gbit/s",
    "handshake": "handshakes/s, one after the other",
    "ping": "64-byte echo on a new stream, p50 us",
    "flight": "the same, 32 in flight, requests/s",
}


@dataclass(frozen=True)
class Target:
    """`lane` must reach `factor` times `against` in `case`, or (`plus`) stay below it plus so many microseconds."""

    case: str
    lane: str
    against: str
    factor: float = 1.0
    plus: float | None = None

    @property
    def text(self) -> str:
        if self.plus is not None:
            return f"<= {self.against} + {self.plus:.0f} us"
        return f">= {self.factor:g}x {self.against}" if self.factor != 1 else f"no slower than {self.against}"


# "No slower" allows this share, or ranges that overlap: medians of a few runs on a shared machine differ by as much.
SAME = 0.95

TARGETS = (
    *(Target(case, "stoq", "aioquic", 25) for case in BULK),
    *(Target(case, "stoq", "qh3", 6) for case in BULK),
    Target("handshake", "stoq", "aioquic", 3),
    Target("ping", "stoq", "udp", plus=60),
    Target("flight", "stoq", "aioquic", 5),
    *(Target(case, "stoq/uvloop", "stoq") for case in ALL),
)
