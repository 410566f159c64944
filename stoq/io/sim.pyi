from typing import final

from stoq.io.datagram import Address
from stoq.io.links import LinkConfig, LinkCounters
from stoq.io.simlink import SimLink
from stoq.io.transport import Transport

__all__ = ["LinkConfig", "LinkCounters", "SimNetwork", "SimTransport"]

@final
class SimNetwork:
    def __init__(self, seed: int = 0, *, start_ns: int = 0, default: LinkConfig = ...) -> None: ...
    @property
    def now(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def unreachable(self) -> int: ...
    def transport(
        self,
        address: Address,
        *,
        remote: Address | None = None,
        gso: bool = True,
        gro: bool = True,
        ecn: bool = True,
        max_segments: int = 64,
        buffer_size: int = 65536,
        receive_slots: int = 8,
        send_slots: int = 4,
        send_buffer: int = 0,
        receive_queue: int = ...,
    ) -> SimTransport: ...
    def link(
        self, a: SimTransport | Address, b: SimTransport | Address, config: LinkConfig | None = None
    ) -> SimLink: ...
    def rebind(
        self, transport: SimTransport | Address, address: Address, at_ns: int | None = None, *, keep_old: bool = False
    ) -> None: ...
    def next_event_time(self) -> int | None: ...
    def advance(self, to_ns: int) -> int: ...

@final
class SimTransport(Transport):
    @property
    def network(self) -> SimNetwork: ...
    @property
    def readable(self) -> bool: ...
    @property
    def writable(self) -> bool: ...
    @property
    def visible_address(self) -> Address: ...
    @property
    def remote_address(self) -> Address | None: ...
    def connect(self, remote: Address) -> None: ...
