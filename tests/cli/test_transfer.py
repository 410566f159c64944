"""`stoq serve` and `stoq get` as processes: files arrive, and whatever goes wrong is one line and an exit code."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
STOQ = [sys.executable, "-m", "stoq.cli"]


def stoq(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [*STOQ, *map(str, arguments)]
    environ = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, timeout=60, check=False, cwd=ROOT, env=environ)


def failed(done: subprocess.CompletedProcess[bytes]) -> str:
    """The one line that a failed command says."""
    text = done.stderr.decode()
    assert done.returncode == 1, text
    assert text.count("\n") == 1, text
    assert text.startswith("stoq: ")
    return text


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    assert stoq("cert", "--out", folder).returncode == 0
    assert stoq("cert", "--out", folder / "other").returncode == 0
    assert stoq("cert", "--out", folder / "elsewhere", "--name", "elsewhere.example").returncode == 0
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served")
    (root / "big.bin").write_bytes(os.urandom(1 << 16) * 80 + b"end")
    (root / "big.bin.sha256").write_text(digest_of(root / "big.bin") + "  big.bin\n")
    (root / "small.txt").write_text("small\n")
    (root / "empty").write_bytes(b"")
    return root


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def keys(pki: Path) -> list[str]:
    return ["--certificate", str(pki / "cert.pem"), "--private-key", str(pki / "key.pem")]


@contextlib.contextmanager
def serving(folder: Path, pki: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [*STOQ, "serve", str(folder), "--port", "0", *keys(pki), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        match = re.search(r":(\d+) \(", process.stdout.readline())
        if match is None:
            process.kill()
            pytest.fail(process.communicate()[1])
        yield process, int(match[1])
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def port(folder: Path, pki: Path) -> Iterator[int]:
    with serving(folder, pki) as (_, number):
        yield number


def test_get_verifies_and_reports(folder: Path, pki: Path, port: int, tmp_path: Path) -> None:
    digest = digest_of(folder / "big.bin")
    url = f"https://localhost:{port}/big.bin"
    out = tmp_path / "out"
    done = stoq("get", url, "-o", out, "--ca-file", pki / "ca.pem", "--verify", f"sha256:{digest}", "--json")
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == (folder / "big.bin").read_bytes()
    row = json.loads(done.stdout)
    assert (row["bytes"], row["sha256"], row["verified"]) == (out.stat().st_size, digest, True)
    assert row["alpn"] == "hq-interop"
    assert row["cipher"].startswith("TLS_")
    assert row["group"]
    assert row["connect_ms"] > 0


def test_get_by_sidecar_and_by_address(folder: Path, pki: Path, port: int, tmp_path: Path) -> None:
    done = stoq(
        "get", f"https://127.0.0.1:{port}/big.bin", "-o", tmp_path, "--ca-file", pki / "ca.pem", "--verify", "sha256"
    )
    assert done.returncode == 0, done.stderr
    assert b"(verified)" in done.stderr
    assert digest_of(tmp_path / "big.bin") == digest_of(folder / "big.bin")


def test_get_several_files(folder: Path, pki: Path, port: int, tmp_path: Path) -> None:
    urls = [f"https://127.0.0.1:{port}/{name}" for name in ("big.bin", "small.txt", "empty")]
    done = stoq("get", *urls, "-o", tmp_path, "--ca-file", pki / "ca.pem", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    for name in ("big.bin", "small.txt", "empty"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_get_to_standard_output_with_uvloop_and_keylog(pki: Path, port: int, tmp_path: Path) -> None:
    keylog = tmp_path / "keys"
    url = f"https://127.0.0.1:{port}/small.txt"
    done = stoq("get", url, "-o", "-", "--ca-file", pki / "ca.pem", "--uvloop", SSLKEYLOGFILE=str(keylog))
    assert (done.returncode, done.stdout) == (0, b"small\n"), done.stderr
    labels = {line.split()[0] for line in keylog.read_text().splitlines()}
    assert {"CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_TRAFFIC_SECRET_0"} <= labels


def test_insecure_asks_for_no_authority(port: int) -> None:
    done = stoq("get", f"https://127.0.0.1:{port}/small.txt", "-o", "-", "--insecure")
    assert done.stdout == b"small\n"


def test_missing_file(pki: Path, port: int, tmp_path: Path) -> None:
    done = stoq("get", f"https://127.0.0.1:{port}/none", "-o", tmp_path / "x", "--ca-file", pki / "ca.pem")
    assert "no such file" in failed(done)
    assert list(tmp_path.iterdir()) == []


def test_traversal_is_refused(folder: Path, pki: Path, port: int) -> None:
    (folder.parent / "secret").write_text("secret")
    done = stoq("get", f"https://127.0.0.1:{port}/%2e%2e/secret", "-o", "-", "--ca-file", pki / "ca.pem")
    assert done.stdout == b""
    assert "no such file" in failed(done)


def test_wrong_authority(pki: Path, port: int) -> None:
    done = stoq("get", f"https://127.0.0.1:{port}/small.txt", "-o", "-", "--ca-file", pki / "other" / "ca.pem")
    assert done.stdout == b""
    failed(done)


def test_authority_file_that_is_none(folder: Path, port: int) -> None:
    done = stoq("get", f"https://127.0.0.1:{port}/small.txt", "-o", "-", "--ca-file", folder / "small.txt")
    assert "small.txt" in failed(done)


def test_wrong_name(folder: Path, pki: Path) -> None:
    with serving(folder, pki / "elsewhere") as (_, port):
        ca_file = pki / "elsewhere" / "ca.pem"
        failed(stoq("get", f"https://127.0.0.1:{port}/small.txt", "-o", "-", "--ca-file", ca_file))


def test_refused_alpn(pki: Path, port: int) -> None:
    url = f"https://127.0.0.1:{port}/small.txt"
    line = failed(stoq("get", url, "-o", "-", "--ca-file", pki / "ca.pem", "--alpn", "other"))
    assert "application_protocol" in line or "ALPN" in line


def test_nobody_there(pki: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", 0))
        free = held.getsockname()[1]
    failed(stoq("get", f"https://127.0.0.1:{free}/x", "-o", "-", "--ca-file", pki / "ca.pem"))


def test_unknown_host(pki: Path) -> None:
    assert "no-such-host.invalid" in failed(
        stoq("get", "https://no-such-host.invalid/x", "-o", "-", "--ca-file", pki / "ca.pem")
    )


def test_port_in_use(folder: Path, pki: Path, port: int) -> None:
    assert "in use" in failed(stoq("serve", folder, "--port", str(port), *keys(pki)))


def test_certificates_that_cannot_serve(folder: Path, pki: Path) -> None:
    certificate, key = str(pki / "cert.pem"), str(pki / "key.pem")
    for pair in (
        (certificate, str(pki / "other" / "key.pem")),  # a key of another certificate
        (key, key),
        (str(folder / "small.txt"), key),
        (certificate, str(folder / "big.bin")),
    ):
        failed(stoq("serve", folder, "--port", "0", "--certificate", pair[0], "--private-key", pair[1]))


def test_a_signal_ends_the_server_quietly(folder: Path, pki: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with serving(folder, pki) as (process, _):
            process.send_signal(number)
            _, errors = process.communicate(timeout=10)
            assert (process.returncode, errors) == (0, "")


def test_the_log_has_a_line_a_request(folder: Path, pki: Path) -> None:
    with serving(folder, pki, "--log", "--uvloop") as (process, port):
        for name in ("small.txt", "none"):
            stoq("get", f"https://127.0.0.1:{port}/{name}", "-o", "-", "--ca-file", pki / "ca.pem")
        process.terminate()
        _, errors = process.communicate(timeout=10)
    assert "/small.txt 6 bytes" in errors
    assert "refused: not_found" in errors


def test_doctor_tells_what_is_there() -> None:
    done = stoq("doctor")
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    for row in ("kernel", "aead backend", "cipher library", "udp gso", "udp gro", "udp ecn", "udp pktinfo", "rmem_max"):
        assert row in text
