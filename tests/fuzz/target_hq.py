"""Fuzz target: a request to the file server of the command. The first byte chooses how the bytes are cut."""

from __future__ import annotations

import asyncio
import atexit
import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from stoq.cli import hq
from stoq.errors import StreamReset, StreamStopped

INSIDE, SECRET = b"inside" * 1000, b"outside of the root"
FILES = {"file": INSIDE, "empty": b"", "sub/deeper": b"deeper", "with space": b"space", "\u00e9t\u00e9": b"summer"}
READS_MAX = hq.REQUEST_MAX + 8


@cache
def root() -> Path:
    """A directory with files, and everything beside them that must not be served."""
    holder = tempfile.TemporaryDirectory()
    atexit.register(holder.cleanup)
    top = Path(holder.name).resolve()
    folder = top / "root"
    (folder / "sub").mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    (top / "secret").write_bytes(SECRET)
    (top / "root-of-another").mkdir()
    (top / "root-of-another" / "secret").write_bytes(SECRET)
    (folder / "link").symlink_to("sub/deeper")
    (folder / "out").symlink_to("../secret")
    (folder / "up").symlink_to("..")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "fifo")
    return folder


class Stream:
    """A stream whose peer sends what it is told and takes everything."""

    id = 0

    def __init__(self, data: bytes, cut: int) -> None:
        self.data = data
        self.cut = cut & 63
        self.gives_up = bool(cut & 64)  # the peer resets instead of ending
        self.goes_away = bool(cut & 128)  # the peer stops reading
        self.written = b""
        self.finished = False
        self.reset_code: int | None = None
        self.stop_code: int | None = None
        self.reads = 0

    async def read(self, n: int = -1) -> bytes:
        assert n > 0, "the request line has a bound"
        self.reads += 1
        assert self.reads <= READS_MAX
        if not self.data:
            if self.gives_up:
                raise StreamReset(1, self.id)
            return b""
        size = min(n, self.cut or n)
        piece, self.data = self.data[:size], self.data[size:]
        return piece

    async def write(self, data: bytes) -> None:
        if self.goes_away:
            raise StreamStopped(2, self.id)
        self.written += data

    def finish(self) -> None:
        self.finished = True

    def reset(self, code: int) -> None:
        self.reset_code = int(code)

    def stop(self, code: int) -> None:
        self.stop_code = int(code)


def fuzz_one(data: bytes) -> None:
    """Served is a file below the root, whole, or its size; anything else is refused with a code, and nothing raises."""
    if not data:
        return
    stream = Stream(data[1:], data[0])
    lines: list[str] = []
    served: Any = hq.serve_stream(stream, root(), lines.append)  # type: ignore[arg-type]
    asyncio.run(served)
    assert len(lines) == 1
    assert lines[0].isprintable(), lines
    assert SECRET not in stream.written
    if stream.finished:
        assert stream.reset_code is None
        assert stream.written in FILES.values() or stream.written.startswith(b'{"size": ')
    elif stream.reset_code is not None:
        assert stream.reset_code in set(hq.Code)
        assert not stream.written or stream.reset_code == hq.Code.SERVER_ERROR
    else:
        assert stream.gives_up or stream.goes_away


def seeds() -> Iterator[bytes]:
    """Requests good and bad, whole and in pieces."""
    targets = [
        *("/file", "/empty", "/sub/deeper", "/with%20space", "/%C3%A9t%C3%A9", "/link", "/file?stat", "/file?other"),
        *(
            "/",
            "",
            "//file",
            "/./file",
            "/sub/../file",
            "/..",
            "/../secret",
            "/%2e%2e/secret",
            "/sub/%2e%2e/%2e%2e/secret",
        ),
        *(
            "/out",
            "/up/secret",
            "/up/root-of-another/secret",
            "/loop",
            "/fifo",
            "/nothing",
            "/file/",
            "/file/more",
            "/sub",
        ),
        *(
            "/file%00",
            "/%",
            "/%zz",
            "/%ff%fe",
            "/" + "a" * 300,
            "/" + "a/" * 1500,
            "/" + "%2f" * 100,
            "/?stat",
            "/~root",
        ),
        *("/..%5csecret", "/\\..\\secret", "/file?stat?stat", "/sub/.", "/...", "/.%00./secret"),
    ]
    for target in targets:
        for cut in (0, 1, 7):
            yield bytes([cut]) + b"GET " + target.encode() + b"\r\n"
    for line in (
        b"",
        b"\n",
        b"GET",
        b"GET ",
        b"GET  /file\n",
        b"get /file\n",
        b"POST /file\n",
        b"GET file\n",
        b"GET /file",
    ):
        for cut in (0, 64, 128):
            yield bytes([cut]) + line
    yield b"\0GET /file HTTP/0.9\r\n"
    yield b"\0GET /file\nGET /empty\n"
    yield b"\0GET /" + b"x" * 5000
    yield b"\x80GET /file\r\n"
    yield b"\x01" + b"GET /\xff\xfe\x00\x1b[31m\r\n"
