"""hq-interop: one request line on a stream of its own, the file's bytes as the answer, nothing else.

The client opens a bidirectional stream, sends `GET /path` and finishes; the server answers with the bytes and finishes,
or resets the stream with one of the codes below. `GET /path?stat` asks for the size instead: a line of JSON. It is an
addition of stoq's; a client that gets anything else for it goes on without.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

import stoq
from stoq.errors import StoqError, one_line

ALPN = "hq-interop"

# Bytes of a request line that a server reads before it gives up: as long as the longest path that Linux opens.
REQUEST_MAX = 4096
# Seconds a client has for its request line.
REQUEST_SECONDS = 30
# Read from the file at once. 64 KiB to 2 MiB measure the same (6.7 Gbit/s); it is what a stalled stream holds beyond
# its send buffer.
CHUNK = 1 << 18


class Code(IntEnum):
    """Application error codes; the protocol defines none, so they are HTTP's."""

    NO_ERROR = 0
    BAD_REQUEST = 0x400
    NOT_FOUND = 0x404
    TOO_SLOW = 0x408
    SERVER_ERROR = 0x500


class Refused(Exception):
    """A request that gets no bytes; `code` resets its stream."""

    def __init__(self, code: Code) -> None:
        super().__init__(code)
        self.code = code


def parse_request(line: bytes) -> tuple[str, str]:
    """(decoded path, query) of a request line without its line end. Refused when it is not one."""
    method, _, target = line.partition(b" ")
    target = target.removesuffix(b" HTTP/0.9").strip()
    if method != b"GET" or not target.startswith(b"/"):
        raise Refused(Code.BAD_REQUEST)
    path, _, query = target.partition(b"?")
    try:
        decoded = unquote(path.decode("ascii"), errors="strict")
    except UnicodeDecodeError:
        raise Refused(Code.BAD_REQUEST) from None
    if "\0" in decoded:
        raise Refused(Code.BAD_REQUEST)
    return decoded, query.decode("ascii", "replace")


def open_below(root: Path, path: str) -> BinaryIO:
    """Open the regular file that a request names. Refused for anything outside root, links included."""
    if ".." in path.split("/"):
        raise Refused(Code.NOT_FOUND)
    try:
        real = (root / path.lstrip("/")).resolve(strict=True)
        if not real.is_relative_to(root):
            raise Refused(Code.NOT_FOUND)
        # Not blocking: opening a FIFO would wait for its writer.
        descriptor = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except (OSError, RuntimeError):  # RuntimeError: a loop of links
        raise Refused(Code.NOT_FOUND) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Refused(Code.NOT_FOUND)
    return os.fdopen(descriptor, "rb", buffering=0)


async def read_request(stream: stoq.Stream) -> bytes:
    """The request line, without its end. Refused when it is too long or too slow."""
    line = b""
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            while b"\n" not in line:
                more = await stream.read(REQUEST_MAX + 1 - len(line))
                if not more:
                    break
                line += more
                if len(line) > REQUEST_MAX:
                    raise Refused(Code.BAD_REQUEST)
    except TimeoutError:
        raise Refused(Code.TOO_SLOW) from None
    return line.split(b"\n", 1)[0].rstrip(b"\r")


async def answer(stream: stoq.Stream, root: Path) -> tuple[str, int]:
    """Serve one request: (path, bytes written). Refused, or StoqError when the peer loses interest."""
    path, query = parse_request(await read_request(stream))
    with open_below(root, path) as file:
        if query == "stat":
            await stream.write(json.dumps({"size": os.fstat(file.fileno()).st_size}).encode() + b"\n")
            stream.finish()
            return path, 0
        sent = 0
        while chunk := file.read(CHUNK):
            await stream.write(chunk)
            sent += len(chunk)
        stream.finish()
        return path, sent


Log = Callable[[str], None]


async def serve_stream(stream: stoq.Stream, root: Path, log: Log) -> None:
    if stream.id & 2:  # RFC 9000 §2.1: unidirectional; nothing to answer on
        stream.stop(Code.BAD_REQUEST)
        return
    try:
        path, sent = await answer(stream, root)
    except Refused as refusal:
        log(f"refused: {refusal.code.name.lower()}")
        with contextlib.suppress(StoqError):  # the peer may have gone meanwhile
            stream.stop(refusal.code)
            stream.reset(refusal.code)
    except StoqError as error:
        log(f"broken off: {error}")
    except OSError as error:
        log(f"cannot read: {error}")
        with contextlib.suppress(StoqError):
            stream.reset(Code.SERVER_ERROR)
    else:
        log(f"{one_line(path)} {sent} bytes")


async def serve_connection(connection: stoq.Connection, root: Path, log: Log) -> None:
    """Answer every request of one connection until it closes."""
    tasks: set[asyncio.Task[None]] = set()  # as many as the stream limit permits
    try:
        async for stream in connection:
            task = asyncio.create_task(serve_stream(stream, root, log))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
    except StoqError as error:
        log(str(error))
    finally:
        for task in tasks:
            task.cancel()


async def request(connection: stoq.Connection, target: str) -> stoq.Stream:
    """Ask for `/path[?query]`; the stream to read the answer from."""
    stream = await connection.wait_open_stream()
    await stream.write(f"GET {target}\r\n".encode("ascii"))
    stream.finish()
    return stream


async def ask_size(connection: stoq.Connection, path: str) -> int | None:
    """Size of a file in bytes, None when the server does not tell."""
    try:
        stream = await request(connection, f"{path}?stat")
        answered = await stream.read(256)
        stream.stop(Code.NO_ERROR)  # a server that ignores the query sends the file
        size = json.loads(answered)["size"]
    except (StoqError, ValueError, KeyError, TypeError):
        return None
    return size if isinstance(size, int) and size >= 0 else None
