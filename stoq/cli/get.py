"""`stoq get`: fetch files over hq-interop, check them, show how it goes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, unquote, urlsplit

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

import stoq
from stoq.cli import hq
from stoq.cli.serve import loop_factory
from stoq.errors import StoqError, StreamReset, one_line

DEFAULT_PORT = 443
# Bytes taken from the stream at once.
READ = 1 << 20
# Files fetched at once over one connection.
PARALLEL = 8
# Bytes of a .sha256 sidecar that are read: a digest and a file name.
SIDECAR_MAX = 4096
# Seconds between two looks of the progress bar at the byte count.
REFRESH = 0.1

SHA256_HEX = re.compile(r"\b[0-9a-fA-F]{64}\b")


@dataclass(frozen=True)
class Target:
    """One URL and where its bytes go."""

    url: str
    host: str
    port: int
    path: str
    """As it stands in the request, percent-encoded."""
    out: Path | None
    """None: standard output."""

    @property
    def name(self) -> str:
        return unquote(self.path.rsplit("/", 1)[-1]) or self.host


@dataclass
class Fetched:
    """What became of one target."""

    target: Target
    size: int = 0
    seconds: float = 0.0
    sha256: str | None = None
    verified: bool | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Failed(Exception):
    """One file could not be had; the text says why."""


def parse_url(url: str, out: Path | None) -> Target:
    """UsageError when a URL is not one that hq-interop can serve."""
    try:
        parts = urlsplit(url if "://" in url else f"https://{url}")
        port = parts.port if parts.port is not None else DEFAULT_PORT
    except ValueError as error:
        raise click.UsageError(f"{url}: {error}") from None
    if parts.scheme != "https" or not parts.hostname or not port:
        raise click.UsageError(f"{url}: want https://HOST[:PORT]/PATH")
    if parts.query or parts.fragment:
        raise click.UsageError(f"{url}: hq-interop has neither query nor fragment")
    return Target(url, parts.hostname, port, quote(unquote(parts.path or "/")), out)


def place(urls: Iterable[str], output: str | None) -> list[Target]:
    """Where each URL's bytes go: a file, a folder, or standard output. UsageError when that cannot be."""
    parsed = [parse_url(url, None) for url in urls]
    if output == "-":
        if len(parsed) > 1:
            raise click.UsageError("-o - takes one URL")
        return parsed
    if output is not None and not Path(output).is_dir() and not output.endswith("/"):
        if len(parsed) > 1:
            raise click.UsageError(f"-o {output} is no directory, and there are {len(parsed)} URLs")
        return [parse_url(parsed[0].url, Path(output))]
    folder = Path(output or ".")
    targets = []
    for each in parsed:
        name = each.name
        if each.path.endswith("/") or name in {".", ".."} or "/" in name or "\0" in name:
            raise click.UsageError(f"{each.url}: names no file; give one with -o")
        targets.append(parse_url(each.url, folder / name))
    if len({target.out for target in targets}) < len(targets):
        raise click.UsageError("two URLs would be written to the same file")
    return targets


def parse_verify(value: str | None) -> str | None:
    """None: no digest. "": compute it and look for a sidecar. Otherwise the wanted digest in lower case."""
    if value is None:
        return None
    kind, _, digest = value.partition(":")
    if kind != "sha256" or (digest and not SHA256_HEX.fullmatch(digest)):
        raise click.UsageError("--verify takes sha256 or sha256:HEX with 64 hexadecimal digits")
    return digest.lower()


class Bars:
    """Progress bars on a terminal, nothing elsewhere."""

    def __init__(self, wanted: bool) -> None:
        console = Console(stderr=True)
        self.shown = wanted and console.is_terminal
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not self.shown,
        )

    def add(self, name: str, size: int | None) -> TaskID:
        return self.progress.add_task(one_line(name), total=size)


class Session:
    """Fetches the targets of one command."""

    def __init__(self, bars: Bars, verify: str | None, connect: dict[str, Any]) -> None:
        self.bars = bars
        self.verify = verify
        self.connect = connect
        self.failures: list[str] = []

    async def fetch_all(self, targets: list[Target]) -> list[Fetched]:
        """Fetch everything, one connection a server. Failures of single files are collected, not raised."""
        servers: dict[tuple[str, int], list[Target]] = defaultdict(list)
        for target in targets:
            servers[target.host, target.port].append(target)
        done: list[Fetched] = []
        for (host, port), wanted in servers.items():
            try:
                begun = time.monotonic()
                async with stoq.connect(host, port, **self.connect) as connection:
                    connected = time.monotonic() - begun
                    done += await self.fetch_from(connection, wanted, connected)
            except (StoqError, OSError) as error:
                finished = {each.target.url for each in done}
                if not finished.issuperset(target.url for target in wanted):
                    self.failures.append(f"{host} port {port}: {error}")
        return done

    async def fetch_from(self, connection: stoq.Connection, targets: list[Target], connected: float) -> list[Fetched]:
        slots = asyncio.Semaphore(PARALLEL)

        async def one(target: Target) -> Fetched | None:
            async with slots:
                try:
                    return await self.fetch(connection, target)
                except Failed as error:
                    self.failures.append(f"{target.url}: {error}")
                    return None

        results = [result for result in await asyncio.gather(*map(one, targets)) if result is not None]
        for result in results:
            result.facts = {
                "connect_ms": round(connected * 1000, 2),
                "alpn": connection.alpn,
                "cipher": connection.cipher_suite,
                "group": connection.group,
            }
        return results

    async def fetch(self, connection: stoq.Connection, target: Target) -> Fetched:
        """Fetch one file. Failed, or StoqError when the connection is gone."""
        size = await hq.ask_size(connection, target.path) if self.bars.shown else None
        bar = self.bars.add(target.name, size)
        result = Fetched(target)
        if target.out is None:
            await self.receive(connection, target, sys.stdout.buffer, bar, result)
            await self.check(connection, result)
            sys.stdout.buffer.flush()
            return result
        try:
            await self.fetch_to(target.out, connection, bar, result)
        except OSError as error:
            raise Failed(f"cannot write {target.out}: {os.strerror(error.errno or 0)}") from None
        return result

    async def fetch_to(self, out: Path, connection: stoq.Connection, bar: TaskID, result: Fetched) -> None:
        """Fetch into a file that appears, or is replaced, only when its bytes are whole and checked."""
        out = out.resolve()  # through a link: its target changes, the link stays
        if out.exists() and not out.is_file():
            # A device, a pipe: it is written to, never renamed over.
            with out.open("wb") as file:
                await self.receive(connection, result.target, file, bar, result)
            await self.check(connection, result)
            return
        part = out.with_name(f".stoq-{os.getpid()}-{id(result):x}.part")
        try:
            with part.open("xb") as file:
                await self.receive(connection, result.target, file, bar, result)
            await self.check(connection, result)
            part.replace(out)
        finally:
            part.unlink(missing_ok=True)

    async def receive(
        self, connection: stoq.Connection, target: Target, file: IO[bytes], bar: TaskID, result: Fetched
    ) -> None:
        digest = hashlib.sha256() if self.verify is not None else None
        begun = shown = time.monotonic()
        try:
            stream = await hq.request(connection, target.path)
            while chunk := await stream.read(READ):
                file.write(chunk)
                if digest is not None:
                    digest.update(chunk)
                result.size += len(chunk)
                now = time.monotonic()
                if now - shown > REFRESH:
                    shown = now
                    self.bars.progress.update(bar, completed=result.size)
        except StreamReset as error:
            raise Failed(refusal(error.error_code)) from None
        result.seconds = time.monotonic() - begun
        self.bars.progress.update(bar, completed=result.size, total=result.size)
        if digest is not None:
            result.sha256 = digest.hexdigest()

    async def check(self, connection: stoq.Connection, result: Fetched) -> None:
        """Compare with the wanted digest, or with the server's sidecar file."""
        if result.sha256 is None:
            return
        wanted = self.verify or await sidecar(connection, result.target.path)
        if wanted is None:
            return
        if wanted != result.sha256:
            raise Failed(f"SHA-256 is {result.sha256}, not {wanted}: the bytes were thrown away")
        result.verified = True


def refusal(code: int) -> str:
    """What a server means by resetting the stream."""
    if code == hq.Code.NOT_FOUND:
        return "the server has no such file"
    known = {int(each) for each in hq.Code}
    return f"the server refused: {hq.Code(code).name.lower() if code in known else hex(code)}"


async def sidecar(connection: stoq.Connection, path: str) -> str | None:
    """The digest in PATH.sha256 on the server; None when there is no such file."""
    try:
        stream = await hq.request(connection, path + ".sha256")
        text = b""
        while len(text) <= SIDECAR_MAX and (more := await stream.read(SIDECAR_MAX)):
            text += more
    except StreamReset:
        return None
    match = SHA256_HEX.search(text[:SIDECAR_MAX].decode("ascii", "replace"))
    if match is None:
        raise Failed(f"{path}.sha256 holds no SHA-256")
    return match[0].lower()


def report(results: list[Fetched], as_json: bool, quiet: bool) -> None:
    for result in results:
        if as_json:
            row = {
                "url": result.target.url,
                "out": str(result.target.out) if result.target.out else None,
                "bytes": result.size,
                "seconds": round(result.seconds, 6),
                "sha256": result.sha256,
                "verified": result.verified,
                **result.facts,
            }
            print(json.dumps(row))
        elif not quiet:
            rate = result.size * 8 / max(result.seconds, 1e-9) / 1e9
            line = f"{result.target.out or '-'}: {result.size} bytes in {result.seconds:.2f} s, {rate:.2f} Gbit/s"
            if result.sha256:
                verdict = "verified" if result.verified else "nothing to compare it with"
                line += f", sha256 {result.sha256} ({verdict})"
            print(line, file=sys.stderr)


@click.command()
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option("-o", "--output", help="File, folder, or - for standard output. Default: the URL's last part.")
@click.option(
    "--ca-file", type=click.Path(exists=True, dir_okay=False), help="PEM file of authorities instead of the system's."
)
@click.option("--insecure", is_flag=True, help="Do not check the server's certificate.")
@click.option("--verify", help="sha256:HEX, or sha256 to compare with URL.sha256 if the server has it.")
@click.option("--keylog", type=click.Path(dir_okay=False), help="Append TLS secrets here (default: $SSLKEYLOGFILE).")
@click.option("--alpn", default=hq.ALPN, show_default=True)
@click.option("--uvloop", is_flag=True, help="Run on uvloop.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON a file on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="No bar, no summary.")
def get(
    urls: tuple[str, ...],
    output: str | None,
    ca_file: str | None,
    insecure: bool,
    verify: str | None,
    keylog: str | None,
    alpn: str,
    uvloop: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Fetch files: https://HOST[:PORT]/PATH over QUIC and hq-interop."""
    digest = parse_verify(verify)
    targets = place(urls, output)
    if digest and len(targets) > 1:
        raise click.UsageError("--verify sha256:HEX takes one URL")
    if as_json and output == "-":
        raise click.UsageError("--json and -o - both want standard output")
    if output is not None and output.endswith("/"):
        Path(output).mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {
        "alpn": [alpn],
        "ca_file": ca_file,
        "verify": not insecure,
        "keylog": keylog or True,  # True: the file that SSLKEYLOGFILE names, if it does
    }
    bars = Bars(wanted=not quiet)
    session = Session(bars, digest, options)
    with asyncio.Runner(loop_factory=loop_factory(uvloop)) as runner, bars.progress:
        results = runner.run(session.fetch_all(targets))
    report(results, as_json, quiet)
    for failure in session.failures:
        print(f"stoq: {one_line(failure)}", file=sys.stderr)
    return 1 if session.failures else 0
