from typing import final

from stoq.io.datagram import Address
from stoq.io.transport import Transport

RECEIVE_BUFFER: int
SEND_BUFFER: int
GRO_SLOTS: int

@final
class UdpTransport(Transport):
    @property
    def remote_address(self) -> Address | None: ...
    def connect(self, remote: Address) -> None: ...

def open_udp(
    host: str | None = None,
    port: int = 0,
    *,
    remote: Address | None = None,
    reuse_port: bool = False,
    receive_buffer: int = ...,
    send_buffer: int = ...,
    gso: bool = True,
    gro: bool = True,
    ecn: bool = True,
    pktinfo: bool = True,
    max_segments: int = 64,
    buffer_size: int = 65536,
    receive_slots: int | None = None,
    send_slots: int = 4,
) -> UdpTransport: ...
