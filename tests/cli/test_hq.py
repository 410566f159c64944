"""hq-interop without a network: requests, paths, and the fetching side over an in-memory connection."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from stoq.cli import hq
from stoq.cli.get import Bars, Fetched, Session, parse_verify, place
from stoq.errors import StreamReset


class FakeStream:
    """One side of a stream in memory."""

    def __init__(self, number: int) -> None:
        self.id = number
        self.incoming: asyncio.Queue[bytes | int] = asyncio.Queue()
        self.pending = b""
        self.ended = False
        self.peer: FakeStream
        self.stopped: int | None = None

    async def read(self, n: int = -1) -> bytes:
        if not self.pending and not self.ended:
            item = await self.incoming.get()
            if isinstance(item, int):
                raise StreamReset(item, self.id)
            self.pending, self.ended = item, item == b""
        taken, self.pending = (self.pending, b"") if n < 0 else (self.pending[:n], self.pending[n:])
        return taken

    async def write(self, data: bytes) -> None:
        if data:
            self.peer.incoming.put_nowait(data)

    def finish(self) -> None:
        self.peer.incoming.put_nowait(b"")

    def reset(self, code: int) -> None:
        self.peer.incoming.put_nowait(int(code))

    def stop(self, code: int) -> None:
        self.stopped = code


class FakeConnection:
    """A client's connection whose streams are answered by `handler`."""

    alpn, cipher_suite, group = "hq-interop", "TLS_AES_128_GCM_SHA256", "X25519"

    def __init__(self, handler: Callable[[Any], Awaitable[object]]) -> None:
        self.handler = handler
        self.tasks: list[asyncio.Future[object]] = []

    def open_stream(self) -> FakeStream:
        here, there = FakeStream(4 * len(self.tasks)), FakeStream(4 * len(self.tasks))
        here.peer, there.peer = there, here
        self.tasks.append(asyncio.ensure_future(self.handler(there)))
        return here

    async def wait_open_stream(self) -> FakeStream:
        return self.open_stream()


def handler_of(root: Path, lines: list[str] | None = None) -> Callable[[Any], Awaitable[object]]:
    sink = lines if lines is not None else []
    return lambda stream: hq.serve_stream(stream, root.resolve(), sink.append)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "sub").mkdir(parents=True)
    (folder / "file.bin").write_bytes(b"0123456789" * 300_000)
    (folder / "empty").write_bytes(b"")
    (folder / "sub" / "with space").write_bytes(b"spaced")
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "inside").symlink_to(folder / "file.bin")
    (folder / "outside").symlink_to(tmp_path / "secret")
    (folder / "outside-folder").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "fifo")
    return folder


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"GET /", ("/", "")),
        (b"GET /a/b.txt", ("/a/b.txt", "")),
        (b"GET /a%20b?stat", ("/a b", "stat")),
        (b"GET /a HTTP/0.9", ("/a", "")),
    ],
)
def test_requests(line: bytes, expected: tuple[str, str]) -> None:
    assert hq.parse_request(line) == expected


@pytest.mark.parametrize(
    "line", [b"", b"GET", b"GET ", b"GET a", b"POST /a", b"get /a", b"GET /\xff", b"GET /%ff", b"GET /a%00b"]
)
def test_what_is_no_request(line: bytes) -> None:
    with pytest.raises(hq.Refused) as refusal:
        hq.parse_request(line)
    assert refusal.value.code == hq.Code.BAD_REQUEST


@pytest.mark.parametrize("path", ["/file.bin", "//file.bin", "/./file.bin", "/inside", "/sub/with space", "/empty"])
def test_files_inside(root: Path, path: str) -> None:
    with hq.open_below(root.resolve(), path) as file:
        assert file.read() == (root / path.lstrip("/")).read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "/../secret",
        "/sub/../../secret",
        "/sub/../file.bin",
        "//../secret",
        "/outside",
        "/outside-folder/secret",
        "/loop",
        "/fifo",
        "/sub",
        "/",
        "/missing",
        "/file.bin/x",
        "/" + "a" * 5000,
    ],
)
def test_paths_that_are_refused(root: Path, path: str) -> None:
    with pytest.raises(hq.Refused) as refusal:
        hq.open_below(root.resolve(), path)
    assert refusal.value.code == hq.Code.NOT_FOUND


def ask(root: Path, raw: bytes) -> tuple[bytes, int | None, list[str]]:
    """(answer, reset code, log) for the raw bytes of a request."""

    async def main() -> tuple[bytes, int | None, list[str]]:
        lines: list[str] = []
        stream = FakeConnection(handler_of(root, lines)).open_stream()
        await stream.write(raw)
        stream.finish()
        got = b""
        try:
            while more := await stream.read():
                got += more
        except StreamReset as reset:
            return got, reset.error_code, lines
        return got, None, lines

    return asyncio.run(main())


def test_answers(root: Path) -> None:
    assert ask(root, b"GET /file.bin\r\n")[:2] == ((root / "file.bin").read_bytes(), None)
    assert ask(root, b"GET /file.bin")[0] == (root / "file.bin").read_bytes()
    assert ask(root, b"GET /empty\n")[:2] == (b"", None)
    assert ask(root, b"GET /file.bin?stat\r\n")[0] == b'{"size": 3000000}\n'
    assert ask(root, b"GET /%2e%2e/secret\r\n")[:2] == (b"", hq.Code.NOT_FOUND)
    assert ask(root, b"GET /missing\r\n")[1] == hq.Code.NOT_FOUND
    assert ask(root, b"")[1] == hq.Code.BAD_REQUEST


def test_a_request_line_is_bounded(root: Path) -> None:
    path = b"/" + b"." * (hq.REQUEST_MAX - len(b"GET //file.bin\r\n")) + b"/file.bin"
    assert ask(root, b"GET " + path + b"\r\n")[1] == hq.Code.NOT_FOUND  # as long as allowed, and looked up
    assert ask(root, b"GET /" + b"a" * hq.REQUEST_MAX)[1] == hq.Code.BAD_REQUEST


def test_a_slow_request_is_given_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hq, "REQUEST_SECONDS", 0.01)

    async def main() -> int:
        stream = FakeConnection(handler_of(root)).open_stream()
        await stream.write(b"GET /file")
        with pytest.raises(StreamReset) as reset:
            await stream.read()
        return reset.value.error_code

    assert asyncio.run(main()) == hq.Code.TOO_SLOW


def test_unidirectional_streams_are_stopped(root: Path) -> None:
    stream = FakeStream(2)
    asyncio.run(hq.serve_stream(stream, root, lambda _: None))  # type: ignore[arg-type]
    assert stream.stopped == hq.Code.BAD_REQUEST


def fetch(
    handler: Callable[[Any], Awaitable[object]], url: str, out: Path, verify: str | None
) -> tuple[list[Fetched], list[str]]:
    """(what was fetched, what failed)"""

    async def main() -> tuple[list[Fetched], list[str]]:
        session = Session(Bars(wanted=False), parse_verify(verify), {})
        connection: Any = FakeConnection(handler)
        return await session.fetch_from(connection, place([url], str(out)), 0.0), session.failures

    return asyncio.run(main())


def test_fetch_and_verify(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    whole = (root / "file.bin").read_bytes()
    digest = hashlib.sha256(whole).hexdigest()
    fetched, failures = fetch(handler_of(root), "https://h/file.bin", out, f"sha256:{digest.upper()}")
    assert failures == []
    assert out.read_bytes() == whole
    assert [(f.size, f.sha256, f.verified) for f in fetched] == [(len(whole), digest, True)]
    assert fetched[0].facts["cipher"] == "TLS_AES_128_GCM_SHA256"
    assert fetched[0].facts["group"] == "X25519"


def test_a_wrong_digest_leaves_no_file(root: Path, tmp_path: Path) -> None:
    fetched, failures = fetch(handler_of(root), "https://h/file.bin", tmp_path / "out", "sha256:" + "0" * 64)
    assert fetched == []
    assert len(failures) == 1
    assert "thrown away" in failures[0]
    assert not list(tmp_path.glob("out*"))


def test_the_sidecar_decides(root: Path, tmp_path: Path) -> None:
    def verdicts() -> list[bool | None] | list[str]:
        fetched, failures = fetch(handler_of(root), "https://h/file.bin", tmp_path / "out", "sha256")
        return failures or [each.verified for each in fetched]

    assert verdicts() == [None]  # there is no sidecar
    digest = hashlib.sha256((root / "file.bin").read_bytes()).hexdigest()
    (root / "file.bin.sha256").write_text(f"{digest}  file.bin\n")
    assert verdicts() == [True]
    (root / "file.bin.sha256").write_text("nothing of the kind\n")
    assert verdicts() == ["https://h/file.bin: /file.bin.sha256 holds no SHA-256"]


def test_a_pipe_is_written_to_and_stays(root: Path, tmp_path: Path) -> None:
    """Devices too: renaming a finished file over /dev/null would take it from the whole machine."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    fetched, failures = fetch(handler_of(root), "https://h/file.bin", pipe, None)
    reader.join(10)
    assert (len(fetched), failures) == (1, [])
    assert read == [(root / "file.bin").read_bytes()]
    assert pipe.is_fifo()


def test_a_link_stays_and_its_target_changes(root: Path, tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert fetch(handler_of(root), "https://h/file.bin", tmp_path / "link", None)[1] == []
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == (root / "file.bin").read_bytes()


def test_a_failure_keeps_the_old_file(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"old")
    for url, verify in (("https://h/missing", None), ("https://h/file.bin", "sha256:" + "0" * 64)):
        assert fetch(handler_of(root), url, out, verify)[1]
        assert out.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "root", "secret"]


def test_a_missing_file_is_named(root: Path, tmp_path: Path) -> None:
    _, failures = fetch(handler_of(root), "https://h/missing", tmp_path / "out", None)
    assert failures == ["https://h/missing: the server has no such file"]
    assert not list(tmp_path.glob("out*"))


def test_a_folder_that_is_not_there(root: Path, tmp_path: Path) -> None:
    _, failures = fetch(handler_of(root), "https://h/file.bin", tmp_path / "no" / "out", None)
    assert "cannot write" in failures[0]


def test_size_is_optional(root: Path) -> None:
    async def ignores_the_query(stream: Any) -> None:
        await hq.read_request(stream)
        await stream.write(b"x" * 100_000)
        stream.finish()

    async def main(handler: Callable[[Any], Awaitable[object]], path: str) -> int | None:
        connection: Any = FakeConnection(handler)
        return await hq.ask_size(connection, path)

    assert asyncio.run(main(handler_of(root), "/file.bin")) == 3_000_000
    assert asyncio.run(main(handler_of(root), "/missing")) is None
    assert asyncio.run(main(ignores_the_query, "/file.bin")) is None


def test_connection_end_cancels_its_requests(root: Path) -> None:
    class Peer:
        def __init__(self) -> None:
            self.stream = FakeStream(0)

        async def __aiter__(self) -> AsyncIterator[FakeStream]:
            yield self.stream  # never sends its request
            await asyncio.sleep(0)

    async def main() -> set[str]:
        peer: Any = Peer()
        await hq.serve_connection(peer, root, lambda _: None)
        await asyncio.sleep(0)
        return {task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()}

    assert asyncio.run(main()) == set()
