from enum import IntEnum, IntFlag
from typing import Any, NamedTuple

class FrameType(IntEnum):
    PADDING = 0x00
    PING = 0x01
    ACK = 0x02
    ACK_ECN = 0x03
    RESET_STREAM = 0x04
    STOP_SENDING = 0x05
    CRYPTO = 0x06
    NEW_TOKEN = 0x07
    STREAM = 0x08
    MAX_DATA = 0x10
    MAX_STREAM_DATA = 0x11
    MAX_STREAMS_BIDI = 0x12
    MAX_STREAMS_UNI = 0x13
    DATA_BLOCKED = 0x14
    STREAM_DATA_BLOCKED = 0x15
    STREAMS_BLOCKED_BIDI = 0x16
    STREAMS_BLOCKED_UNI = 0x17
    NEW_CONNECTION_ID = 0x18
    RETIRE_CONNECTION_ID = 0x19
    PATH_CHALLENGE = 0x1A
    PATH_RESPONSE = 0x1B
    CONNECTION_CLOSE = 0x1C
    APPLICATION_CLOSE = 0x1D
    HANDSHAKE_DONE = 0x1E

class FrameEpoch(IntFlag):
    INITIAL = 1
    ZERO_RTT = 2
    HANDSHAKE = 4
    ONE_RTT = 8

class ParsedFrame(NamedTuple):
    type: int
    name: str
    fields: dict[str, Any]
    epochs: FrameEpoch
    ack_eliciting: bool
    probing: bool
    start: int
    end: int

def parse_frames(payload: bytes, start: int = 0, end: int | None = None) -> list[ParsedFrame]: ...
def encode_frame(type: int, *, with_length: bool = True, room: int | None = None, **fields: Any) -> bytes: ...
