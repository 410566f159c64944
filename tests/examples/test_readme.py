"""The server and the client of the README run as they stand there."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def programs() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def bound(port: int) -> bool:
    """Whether some process has the UDP port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


@pytest.mark.plain_build  # runs programs without the preloaded sanitizer
def test_they_talk(tmp_path: Path) -> None:
    server, client = programs()
    port = free_port()
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    for name, text in (("server.py", server), ("client.py", client)):
        assert "4433" in text
        (tmp_path / name).write_text(text.replace("4433", str(port)))
    subprocess.run([sys.executable, "-m", "stoq.cli", "cert", "--out", tmp_path], check=True, cwd=ROOT, timeout=60)
    process = subprocess.Popen([sys.executable, "server.py"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 20
        while not bound(port) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        done = subprocess.run(
            [sys.executable, "client.py"], cwd=tmp_path, env=environment, capture_output=True, timeout=30, check=False
        )
    finally:
        process.kill()
        _, errors = process.communicate()
    assert done.returncode == 0, done.stderr + errors
    assert done.stdout == b"b'you said hello'\n"
    assert b"Traceback" not in errors
