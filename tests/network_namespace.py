"""Runs work in a thread with a network namespace of its own, or skips with the reason why that cannot be."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
LO_UP = ["ip", "link", "set", "lo", "mtu", "1500", "up"]


def shaped(rate: str) -> list[str]:
    return ["tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", rate, "burst", "3000", "limit", "1000000"]


def in_own_namespace(work: Callable[[], T], *commands: list[str]) -> T:
    """Run `commands` and then `work` where `lo` is new, up and of MTU 1500. Sockets opened there stay there."""
    result: list[T] = []
    obstacle: list[str] = []
    failure: list[BaseException] = []

    def run() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET):
            obstacle.append(f"no network namespace: {os.strerror(ctypes.get_errno())}")
            return
        for command in (LO_UP, *commands):
            try:
                done = subprocess.run(command, check=False, capture_output=True, text=True)
            except OSError as error:
                obstacle.append(f"cannot run {command[0]}: {error.strerror}")
                return
            if done.returncode:
                obstacle.append(f"{' '.join(command[:3])} fails: {done.stderr.strip()}")
                return
        try:
            result.append(work())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if obstacle:
        pytest.skip(obstacle[0])
    if failure:
        raise failure[0]
    return result[0]
