"""Simulated networks for tests: named links, and two transports joined by them.

    network, client, server = pair(seed=1, forward=MOBILE, backward=MOBILE)

Everything happens in virtual time (`network.now`, `network.advance()`), and a seed replays exactly.
"""

from __future__ import annotations

from stoq.io.links import LinkConfig, LinkCounters
from stoq.io.sim import SimNetwork, SimTransport

__all__ = [
    "BROADBAND",
    "HOSTILE",
    "LOCAL",
    "MOBILE",
    "PERFECT",
    "SATELLITE",
    "LinkConfig",
    "LinkCounters",
    "SimNetwork",
    "SimTransport",
    "pair",
]

MS = 1_000_000

PERFECT = LinkConfig()
"""No delay, no loss, no rate limit."""

LOCAL = LinkConfig(delay_ns=100_000, bit_rate=1_000_000_000, queue_bytes=256_000)
"""A local network: 1 Gbit/s, 0.2 ms there and back."""

BROADBAND = LinkConfig(delay_ns=10 * MS, jitter_ns=MS, bit_rate=50_000_000, queue_bytes=125_000, loss=0.0005)
"""50 Mbit/s, 20 ms there and back, one bandwidth-delay product of queue."""

MOBILE = LinkConfig(
    delay_ns=30 * MS,
    jitter_ns=15 * MS,
    bit_rate=10_000_000,
    queue_bytes=150_000,
    burst_enter=0.002,
    burst_leave=0.3,
    reorder=0.005,
    reorder_delay_ns=5 * MS,
)
"""10 Mbit/s, 60 ms and more there and back, loss in bursts, some reordering."""

SATELLITE = LinkConfig(delay_ns=280 * MS, bit_rate=20_000_000, queue_bytes=1_400_000, loss=0.005)
"""20 Mbit/s over a geostationary satellite."""

HOSTILE = LinkConfig(
    delay_ns=5 * MS,
    jitter_ns=5 * MS,
    jitter_reorders=True,
    loss=0.1,
    burst_enter=0.02,
    burst_leave=0.4,
    reorder=0.1,
    reorder_delay_ns=10 * MS,
    duplicate=0.05,
    corrupt=0.05,
    corrupt_bits=3,
)
"""Every impairment at once, far beyond real networks: for correctness, not for speed."""

CLIENT = ("192.0.2.1", 50000)  # addresses of RFC 5737: they belong to nobody
SERVER = ("198.51.100.1", 4433)


def pair(
    seed: int = 0,
    forward: LinkConfig = PERFECT,
    backward: LinkConfig | None = None,
    *,
    start_ns: int = 0,
) -> tuple[SimNetwork, SimTransport, SimTransport]:
    """(network, client, server). `forward` leads from client to server; `backward` is like it when not given."""
    network = SimNetwork(seed, start_ns=start_ns)
    server = network.transport(SERVER)
    client = network.transport(CLIENT, remote=SERVER)
    network.link(client, server, forward)
    network.link(server, client, forward if backward is None else backward)
    return network, client, server
