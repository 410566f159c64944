"""`make demo`: a real file over QUIC, by stoq alone and in both roles with upstream aioquic; bytes compared each time.

Everything is made on the spot below build/demo: certificates, and a tar of the machine's own libraries. Every transfer
is checked by SHA-256. Ports are ephemeral and each process is ended by its id.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import selectors
import statistics
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent
WORK = ROOT / "build" / "demo"
FILE = "system-libraries.tar"
SIZE_WANTED = 210_000_000  # 200 MiB, a little more
SIZE_LEAST = 200_000_000
STOQ = [sys.executable, "-m", "stoq.cli"]
# Seconds: aioquic moves the file in about ten on a slow core; a server binds at once.
TRANSFER_SECONDS = 120
START_SECONDS = 20
# stoq's transfers are short: the median of some.
REPEATS = 3


class DemoFailed(Exception):
    """Says which step failed, and what the process wrote."""


@dataclass
class Row:
    server: str
    client: str
    results: list[dict[str, Any]]

    def median(self, key: str) -> float:
        return statistics.median(float(result[key]) for result in self.results)

    @property
    def gbit(self) -> float:
        return self.results[0]["bytes"] * 8 / self.median("seconds") / 1e9


def library_folders() -> Iterator[Path]:
    triplet = sysconfig.get_config_var("MULTIARCH") or ""
    for folder in (Path("/usr/lib") / triplet, Path("/usr/lib/gcc"), Path("/usr/lib"), Path("/usr/bin"), ROOT):
        if folder.is_dir():
            yield folder


def library_files() -> Iterator[Path]:
    """Readable regular files of the system, biggest libraries first."""
    for folder in library_folders():
        found = [
            (path.stat().st_size, path) for path in folder.rglob("*.so*") if path.is_file() and not path.is_symlink()
        ]
        yield from (path for _, path in sorted(found, reverse=True))
    for folder in library_folders():
        yield from (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def make_file(path: Path) -> str:
    """Write the tar unless it stands there; its SHA-256."""
    if not path.exists():
        part = path.with_suffix(".part")
        seen: set[Path] = set()
        with tarfile.open(part, "w") as archive:
            for each in library_files():
                if archive.offset >= SIZE_WANTED:
                    break
                if each not in seen and os.access(each, os.R_OK):
                    seen.add(each)
                    archive.add(each)
        if part.stat().st_size < SIZE_LEAST:
            raise DemoFailed(f"this machine has too few libraries: {part.stat().st_size} bytes of tar")
        part.replace(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run(what: str, command: list[str]) -> str:
    """Run to the end; its standard output. DemoFailed with what it said otherwise."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TRANSFER_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise DemoFailed(f"{what}: not done after {TRANSFER_SECONDS} s") from None
    if done.returncode:
        raise DemoFailed(f"{what}: exit code {done.returncode}\n{(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def first_line(process: subprocess.Popen[str], what: str) -> str:
    """The first line of a server's output, with a deadline."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        line = process.stdout.readline() if selector.select(START_SECONDS) else ""
    if not line:
        process.kill()
        _, errors = process.communicate()
        raise DemoFailed(f"{what} did not start: {errors[-2000:] or 'it said nothing'}")
    return line


@contextlib.contextmanager
def server(what: str, command: list[str]) -> Iterator[int]:
    """A server process; gives its port, the last number of its first line."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        numbers = re.findall(r":?(\d+)\b", first_line(process, what).split("(")[0])
        yield int(numbers[-1])
    finally:
        process.terminate()
        try:
            process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def stoq_server() -> list[str]:
    keys = ["--certificate", str(WORK / "pki/cert.pem"), "--private-key", str(WORK / "pki/key.pem")]
    return [*STOQ, "serve", str(WORK / "files"), "--port", "0", *keys]


def aioquic_server() -> list[str]:
    pki = [str(WORK / "pki/cert.pem"), str(WORK / "pki/key.pem")]
    return [sys.executable, str(HERE / "aioquic_server.py"), str(WORK / "files"), *pki]


def stoq_client(port: int, digest: str) -> list[str]:
    url = f"https://127.0.0.1:{port}/{FILE}"
    checks = ["--ca-file", str(WORK / "pki/ca.pem"), "--verify", f"sha256:{digest}"]
    return [*STOQ, "get", url, "-o", str(WORK / "fetched"), "--json", *checks]


def aioquic_client(port: int, digest: str) -> list[str]:
    del digest  # compared by the demo, as everybody's
    return [
        sys.executable,
        str(HERE / "aioquic_client.py"),
        str(port),
        f"/{FILE}",
        str(WORK / "fetched"),
        str(WORK / "pki/ca.pem"),
    ]


SERVERS = {"stoq": stoq_server, "aioquic": aioquic_server}
CLIENTS = {"stoq": stoq_client, "aioquic": aioquic_client}
PAIRS = [("stoq", "stoq"), ("stoq", "aioquic"), ("aioquic", "stoq"), ("aioquic", "aioquic")]


def transfer(names: tuple[str, str], digest: str, size: int) -> Row:
    """Fetch the file over one pair (server, client), as often as is sensible. DemoFailed when bytes differ."""
    what = f"{names[0]} serving, {names[1]} fetching"
    row = Row(*names, [])
    with server(f"the {names[0]} server", SERVERS[names[0]]()) as port:
        for _ in range(REPEATS if names == ("stoq", "stoq") else 1):
            fetched = WORK / "fetched"
            fetched.unlink(missing_ok=True)
            result = json.loads(run(what, CLIENTS[names[1]](port, digest)))
            with fetched.open("rb") as file:
                on_disk = hashlib.file_digest(file, "sha256").hexdigest()
            if on_disk != digest or result["bytes"] != size:
                raise DemoFailed(f"{what}: {result['bytes']} bytes with SHA-256 {on_disk}, wanted {size} with {digest}")
            row.results.append(result)
    fetched.unlink()
    return row


def cipher_name(name: object) -> str:
    """AES-128-GCM for both spellings: TLS_AES_128_GCM_SHA256 and AES_128_GCM_SHA256."""
    return str(name or "").removeprefix("TLS_").rpartition("_")[0].replace("_", "-")


def show(console: Console, rows: list[Row], backend: str) -> None:
    base = rows[-1].gbit
    table = Table(title=f"{FILE}, {rows[0].results[0]['bytes'] / 1e6:.0f} MB, loopback, SHA-256 equal each time")
    table.add_column("server")
    table.add_column("client")
    for title in ("seconds", "Gbit/s", "x aioquic", "handshake ms"):
        table.add_column(title, justify="right")
    for title in ("cipher", "group", "AEAD of stoq"):
        table.add_column(title)
    for row in rows:
        mine = "stoq" in {row.server, row.client}
        table.add_row(
            row.server,
            row.client,
            f"{row.median('seconds'):.2f}",
            f"{row.gbit:.2f}",
            f"{row.gbit / base:.1f}",
            f"{row.median('connect_ms'):.1f}",
            cipher_name(row.results[0].get("cipher")),
            str(row.results[0].get("group") or "").upper(),
            backend if mine else "",
        )
    console.print(table)


def main() -> int:
    console = Console()
    if not console.is_terminal:
        console = Console(width=110)  # a log file has no edge: the table must not be squeezed
    begun = time.monotonic()
    try:
        import stoq  # noqa: PLC0415 - a broken build is a line, not a traceback

        backend = stoq.capabilities().aead_backend or "none"
        (WORK / "files").mkdir(parents=True, exist_ok=True)
        run("stoq cert", [*STOQ, "cert", "--out", str(WORK / "pki"), "--force"])
        digest = make_file(WORK / "files" / FILE)
        size = (WORK / "files" / FILE).stat().st_size
        console.print(f"{FILE}: {size} bytes, sha256 {digest}")
        rows = []
        for pair in PAIRS:
            console.print(f"{pair[0]} serves, {pair[1]} fetches ...", end=" ")
            rows.append(transfer(pair, digest, size))
            console.print(f"{rows[-1].median('seconds'):.2f} s, SHA-256 equal")
    except (DemoFailed, ImportError) as error:
        console.print(f"\n[bold red]demo failed[/]: {error}", highlight=False)
        return 1
    show(console, rows, backend)
    console.print(f"done in {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
