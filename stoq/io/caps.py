"""What a transport can do and what it has done, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Caps:
    """Capabilities of one transport. The defaults are what any transport can do: one plain datagram at a time.

    `reasons` names each feature that is missing and says why in one line.
    """

    mode: str
    max_segments: int = 1
    """Datagrams that one send entry may hold (1: no segmentation offload)."""
    max_datagram_size: int = 1472
    """Largest UDP payload that a send entry can carry, in bytes. The path may carry less."""
    mtu: int = 0
    """IP packet size that the local route allows, in bytes; 0 when not known."""
    gro: bool = False
    """Received entries may be trains of datagrams."""
    ecn: bool = False
    """ECN bits are sent and received."""
    pktinfo: bool = False
    """Each received datagram tells the local address it came to, and a send may choose its source."""
    zero_copy: bool = False
    reasons: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Counters:
    """Totals since the transport was opened. `bytes` are UDP payload."""

    datagrams_in: int
    bytes_in: int
    receive_calls: int
    truncated: int
    """Received datagrams that were cut by a small buffer; handed up with DATAGRAM_TRUNCATED."""
    starved: int
    """Receive calls that found every buffer kept by a holder."""
    datagrams_out: int
    bytes_out: int
    send_calls: int
    not_writable: int
    """Sends that were put off because the queue below was full."""
    dropped: int
    """Datagrams given up on send; `errors` has the reasons."""
    errors: Mapping[str, int]
    """Errors of send and receive calls by errno name."""
    receive_overflow: int
    """Datagrams lost because the receive queue below was full."""
