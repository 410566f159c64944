"""What a simulated link does to datagrams, and what it has done: plain values for stoq.io.sim."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stoq.errors import ConfigurationError

PROBABILITIES = ("loss", "burst_enter", "burst_leave", "burst_loss", "reorder", "duplicate", "corrupt", "mark")
COUNTS = ("delay_ns", "jitter_ns", "reorder_delay_ns", "bit_rate", "queue_bytes", "queue_packets", "mark_above_bytes")
# Keeps every sum of times and every product of bits and nanoseconds inside 64 bits.
COUNT_MAX = 10**15


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConfig:
    """One direction of a link. The default is perfect: no delay, no loss, no rate limit, Ethernet's MTU.

    Times are nanoseconds; probabilities are 0.0 to 1.0 per datagram; 0 means "no limit" for rates and queues.
    A datagram meets, in this order: the rules (`drop`, `drop_if`, `blackholes`), the MTU, the queue, loss, ECN,
    corruption, delay.
    """

    delay_ns: int = 0
    jitter_ns: int = 0
    """Extra delay, uniform from 0 to this. It does not change the order unless `jitter_reorders`."""
    jitter_reorders: bool = False
    bit_rate: int = 0
    """Bits a second on the wire, IP and UDP headers (28 or 48 bytes) included."""
    queue_bytes: int = 0
    """Wire bytes that may wait, the datagram on the wire included; what does not fit is dropped (tail drop)."""
    queue_packets: int = 0
    mtu: int = 1500
    """Largest IP packet; larger ones vanish."""
    loss: float = 0.0
    burst_enter: float = 0.0
    """Gilbert-Elliott: chance, before each datagram, that the good state, whose loss is `loss`, turns bad."""
    burst_leave: float = 1.0
    """Chance, before each datagram, that the bad state turns good."""
    burst_loss: float = 1.0
    """Loss in the bad state."""
    max_burst: int = 0
    """Never more than this many random losses in a row (0: no such bound)."""
    reorder: float = 0.0
    """Chance that a datagram takes `reorder_delay_ns` longer, so that later ones overtake it."""
    reorder_delay_ns: int = 1_000_000
    duplicate: float = 0.0
    corrupt: float = 0.0
    """Chance that `corrupt_bits` random bits of a datagram are flipped (the checksum is taken to pass)."""
    corrupt_bits: int = 1
    mark: float = 0.0
    """Chance that an ECN-capable datagram is marked CE."""
    mark_above_bytes: int = 0
    """Mark every ECN-capable datagram that finds more than this waiting (0: never; needs `bit_rate`)."""
    bleach_ecn: bool = False
    """Clear the ECN bits."""
    drop: Sequence[int] = ()
    """Numbers of datagrams to drop, counting from 0 since the link was made."""
    drop_if: Callable[[bytes, int, int], bool] | None = None
    """Called with (data, number, now_ns); true drops. Slower than the rest."""
    blackholes: Sequence[tuple[int, int]] = ()
    """Intervals [from_ns, to_ns) in which every datagram sent is lost."""

    def __post_init__(self) -> None:
        for name in PROBABILITIES:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigurationError(f"{name} is a probability from 0.0 to 1.0, not {getattr(self, name)!r}")
        for name in COUNTS:
            if not 0 <= getattr(self, name) <= COUNT_MAX:
                raise ConfigurationError(f"{name} is 0 to {COUNT_MAX}, not {getattr(self, name)!r}")
        for name, low, high in (("max_burst", 0, 1 << 30), ("corrupt_bits", 1, 64), ("mtu", 29, 65575)):
            if not low <= getattr(self, name) <= high:
                raise ConfigurationError(f"{name} is {low} to {high}, not {getattr(self, name)!r}")
        if any(number < 0 for number in self.drop):
            raise ConfigurationError("drop lists datagram numbers from 0")
        if any(not 0 <= begin <= end for begin, end in self.blackholes):
            raise ConfigurationError("blackholes are pairs (from_ns, to_ns) with from_ns <= to_ns")


@dataclass(frozen=True, slots=True)
class LinkCounters:
    """Totals of one direction, in datagrams unless named otherwise."""

    offered: int
    """Everything the sender handed over."""
    delivered: int
    """Handed to the receiver, duplicates included."""
    bytes_delivered: int
    """UDP payload."""
    lost: int
    """By `loss` and the burst states."""
    dropped_rule: int
    """By `drop` and `drop_if`."""
    dropped_blackhole: int
    dropped_mtu: int
    dropped_queue: int
    dropped_receiver: int
    """Arrived where nobody listens (any more), or where the receive queue was full."""
    duplicated: int
    reordered: int
    corrupted: int
    marked: int
    queued_bytes_max: int
    """Most wire bytes that waited at once."""
