"""A cursor over one TLS message, and the vectors of RFC 8446 §3.4 in both directions.

Every read is checked against the end of the data; anything short, long or left over is a decode_error alert.
"""

from __future__ import annotations

from struct import Struct, unpack
from typing import NoReturn

from stoq.tls.alerts import AlertDescription, TlsAlert
from stoq.tls.codes import EXTENSIONS_MAX, extension_name

_TWO_U16 = Struct(">HH").unpack_from


def decode_error(message: str) -> NoReturn:
    raise TlsAlert(AlertDescription.DECODE_ERROR, message)


class Reader:
    """Reads `data` from `position`; `what` names the structure in error texts."""

    __slots__ = ("_data", "_end", "_what", "position")

    def __init__(self, data: bytes, what: str, position: int = 0) -> None:
        self._data = data
        self._what = what
        self._end = len(data)
        self.position = position

    def take(self, length: int) -> bytes:
        start = self.position
        stop = start + length
        if stop > self._end:
            decode_error(f"{self._what} is too short")
        self.position = stop
        return self._data[start:stop]

    def u8(self) -> int:
        position = self.position
        if position >= self._end:
            decode_error(f"{self._what} is too short")
        self.position = position + 1
        return self._data[position]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def vector8(self, minimum: int = 0) -> bytes:
        """opaque<minimum..2^8-1>"""
        return self._vector(self.u8(), minimum)

    def vector16(self, minimum: int = 0) -> bytes:
        """opaque<minimum..2^16-1>"""
        return self._vector(int.from_bytes(self.take(2), "big"), minimum)

    def vector24(self, minimum: int = 0) -> bytes:
        """opaque<minimum..2^24-1>"""
        return self._vector(int.from_bytes(self.take(3), "big"), minimum)

    def _vector(self, length: int, minimum: int) -> bytes:
        if length < minimum:
            decode_error(f"a list in {self._what} is too short")
        return self.take(length)

    def more(self) -> bool:
        return self.position < self._end

    def finish(self) -> None:
        if self.position != self._end:
            decode_error(f"{self._what} has {self._end - self.position} bytes too many")


def u16_list(data: bytes, what: str) -> tuple[int, ...]:
    """The body of a vector of 16-bit values; it must not be empty."""
    count = len(data) >> 1
    if not count or len(data) & 1:
        decode_error(f"{what} is malformed")
    unpacked: tuple[int, ...] = unpack(f">{count}H", data)
    return unpacked


def whole_vector16(data: bytes, what: str) -> bytes:
    """Body of an extension that is one vector16 and nothing more."""
    if len(data) < 2 or len(data) - 2 != (data[0] << 8 | data[1]):
        decode_error(f"{what} is malformed")
    return data[2:]


def whole_vector8(data: bytes, what: str) -> bytes:
    """Body of an extension that is one vector8 and nothing more."""
    if not data or len(data) - 1 != data[0]:
        decode_error(f"{what} is malformed")
    return data[1:]


def parse_extensions(block: bytes, what: str) -> dict[int, bytes]:
    """An extension block's body to {type: data} in order of appearance; a repeated type is illegal_parameter."""
    found: dict[int, bytes] = {}
    position, end = 0, len(block)
    while position < end:
        if end - position < 4:
            decode_error(f"the extensions of {what} are malformed")
        code, length = _TWO_U16(block, position)
        position += 4
        stop = position + length
        if stop > end:
            decode_error(f"the extensions of {what} are malformed")
        if code in found:
            raise TlsAlert(AlertDescription.ILLEGAL_PARAMETER, f"{what} contains {extension_name(code)} more than once")
        found[code] = block[position:stop]
        position = stop
        if len(found) > EXTENSIONS_MAX:
            decode_error(f"{what} has more than {EXTENSIONS_MAX} extensions")
    return found


# ---- encoding


def vector8(data: bytes) -> bytes:
    return len(data).to_bytes(1, "big") + data


def vector16(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def vector24(data: bytes) -> bytes:
    return len(data).to_bytes(3, "big") + data


def extension(code: int, data: bytes) -> bytes:
    return code.to_bytes(2, "big") + vector16(data)


def message(code: int, body: bytes) -> bytes:
    return code.to_bytes(1, "big") + vector24(body)
