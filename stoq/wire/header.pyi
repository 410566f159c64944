from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple

CONNECTION_ID_MAX: Final[int]
INITIAL_TOKEN_MAX: Final[int]
VERSION_1: Final[int]

class PacketType(IntEnum):
    INITIAL = 0
    ZERO_RTT = 1
    HANDSHAKE = 2
    RETRY = 3
    ONE_RTT = 4
    VERSION_NEGOTIATION = 5
    UNKNOWN_VERSION = 6

class PacketHeader(NamedTuple):
    type: PacketType
    first: int
    version: int
    dcid: bytes
    scid: bytes
    token: bytes
    versions: tuple[int, ...]
    integrity_tag: bytes
    pn_offset: int
    packet_length: int

def parse_header(data: bytes, short_cid_length: int = 8, start: int = 0, end: int | None = None) -> PacketHeader: ...
def parse_datagram(data: bytes, short_cid_length: int = 8) -> list[tuple[int, PacketHeader]]: ...
def encode_long_header(
    type: int,
    version: int,
    dcid: bytes,
    scid: bytes,
    *,
    token: bytes = b"",
    packet_number: int = 0,
    pn_length: int = 2,
    payload_length: int = 0,
) -> bytes: ...
def encode_short_header(
    dcid: bytes, *, spin: bool = False, key_phase: bool = False, packet_number: int = 0, pn_length: int = 2
) -> bytes: ...
def encode_version_negotiation(
    received_dcid: bytes, received_scid: bytes, versions: Sequence[int] = ..., random: int = 0
) -> bytes: ...
def encode_retry_without_tag(dcid: bytes, scid: bytes, token: bytes, *, version: int = 1, random: int = 0) -> bytes: ...
