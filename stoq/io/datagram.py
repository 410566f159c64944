"""Shapes of addresses and datagrams in Python."""

from __future__ import annotations

from typing import TypeAlias

Address: TypeAlias = tuple[str, int]
"""(host, port): an IP literal; a link-local scope stands in the host, ("fe80::1%2", 4433)."""

Data: TypeAlias = bytes | bytearray | memoryview

Datagram: TypeAlias = (
    tuple[Data, Address | None] | tuple[Data, Address | None, int] | tuple[Data, Address | None, int, Address | None]
)
"""(data, peer, ECN bits, local): peer None is the connected one, local None lets the transport choose the source."""
