from stoq.io.datagram import Address
from stoq.io.transport import Transport

def blast(
    transport: Transport,
    peer: Address | None,
    seconds: float,
    segment: int,
    segments: int,
    entries: int,
    window: int,
    touch: bool,
    ecn: int = 0,
    local: Address | None = None,
) -> tuple[int, int, int, int, int]: ...
def drain(
    transport: Transport, seconds: float, ack_every: int, touch: bool, ack: bool = True
) -> tuple[int, int, int, int, int]: ...
