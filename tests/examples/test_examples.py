"""Every program of examples/ is run as a user runs it."""

from __future__ import annotations

import contextlib
import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    subprocess.run([sys.executable, "-m", "stoq.cli", "cert", "--out", folder], check=True, cwd=ROOT, timeout=60)
    return folder


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[str]:
    """A server process; its port, from the last number of its first line."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        numbers = re.findall(r"\d+", line.split("(")[0])
        if not numbers:
            process.kill()
            pytest.fail(f"no port in {line!r}: {process.communicate()[1]}")
        yield numbers[-1]
    finally:
        process.terminate()
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def run(name: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_echo(pki: Path) -> None:
    server = [sys.executable, str(EXAMPLES / "echo_server.py"), str(pki / "cert.pem"), str(pki / "key.pem"), "0"]
    with started(server) as port:
        assert run("echo_client.py", str(pki / "ca.pem"), port, "grüße") == "grüße\n"


def test_file_client(pki: Path, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"a" * 100_000)
    (tmp_path / "b.bin").write_bytes(b"")
    keys = ["--certificate", str(pki / "cert.pem"), "--private-key", str(pki / "key.pem")]
    with started([sys.executable, "-m", "stoq.cli", "serve", str(tmp_path), "--port", "0", *keys]) as port:
        printed = run("file_client.py", str(pki / "ca.pem"), port, "/a.bin", "/b.bin", "/none")
    assert printed.splitlines() == [
        f"/a.bin 100000 {hashlib.sha256(b'a' * 100_000).hexdigest()}",
        f"/b.bin 0 {hashlib.sha256(b'').hexdigest()}",
        "/none refused with code 0x404",
    ]


def test_none_is_forgotten() -> None:
    text = Path(__file__).read_text()
    assert not [path.name for path in EXAMPLES.glob("*.py") if path.name not in text]
