"""One run of one case by one lane: a server process, a client process, a result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from perf.e2e.lanes import Lane
from perf.machine import CLIENT_CORE, SERVER_CORE

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 60.0  # seconds for one run; the slowest takes about five


class RunFailed(Exception):
    """A peer program did not answer as it should."""


def line(text: str, key: str) -> dict[str, Any]:
    """The value under `key` of the line that has it."""
    for row in text.splitlines():
        if row.startswith("{"):
            parsed = json.loads(row)
            if key in parsed:
                value: dict[str, Any] = parsed[key]
                return value
    raise RunFailed(f"no {key!r} in {text[-500:]!r}")


def available(lane: Lane) -> str | None:
    """None, or why this lane cannot run here."""
    if lane.module is None:
        return None
    program = [sys.executable, "-m", lane.module, "--help"]
    done = subprocess.run(program, capture_output=True, text=True, cwd=ROOT, check=False)
    return None if done.returncode == 0 else done.stderr.strip().rsplit("\n", 1)[-1]


def run(
    lane: Lane, case: str, files: tuple[Path, Path, Path], seconds: float, extra: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The client's result, with the server's CPU time beside it. Raises RunFailed."""
    if lane.module is None:
        return spike(seconds)
    ca, certificate, key = files
    program = [sys.executable, "-m", lane.module]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(
        [*program, "server", "--core", str(SERVER_CORE), "--loop", lane.loop,
         "--certificate", certificate, "--key", key],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip
    processes = [server]
    assert server.stdout is not None
    try:
        first = server.stdout.readline()
        if not first:
            raise RunFailed(f"server: {server.communicate()[1][-2000:]}")
        port = line(first, "ready")["port"]
        client = subprocess.Popen(
            [*program, "client", "--core", str(CLIENT_CORE), "--loop", lane.loop, "--port", str(port), "--ca", ca,
             "--case", case, "--seconds", str(seconds), *extra],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment,
        )  # fmt: skip
        processes.append(client)
        out, error = client.communicate(timeout=LIMIT)
        if client.returncode:
            raise RunFailed(f"client: {error[-2000:]}")
        last, _ = server.communicate(timeout=5)
        return line(out, "result") | {"server": line(last, "server"), "pids": [client.pid, server.pid]}
    except subprocess.TimeoutExpired as timeout:
        raise RunFailed(f"no answer within {timeout.timeout:.0f} s") from None
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def spike(seconds: float) -> dict[str, Any]:
    """Bulk through the reduced data plane of docs/adr/0001: what the same work costs without a protocol."""
    from perf.spike import run as program  # noqa: PLC0415

    program.build()
    answer = program.measure(program.BASE | {"mode": 1}, program.application_buffer(), seconds, False)
    return {"value": answer["rx"]["gbps"], "server": {}}
