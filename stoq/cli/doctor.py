"""`stoq doctor`: what this machine offers, what is missing, and how to get it."""

from __future__ import annotations

import platform
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

import stoq

# Processor features that packet protection gains from: x86 names of /proc/cpuinfo, then arm64's.
CPU_FEATURES = {
    "aes": "AES in hardware",
    "pclmulqdq": "GHASH in hardware (the second half of AES-GCM)",
    "vaes": "AES on wide registers",
    "vpclmulqdq": "GHASH on wide registers",
    "avx512f": "512-bit registers",
    "pmull": "GHASH in hardware (arm64)",
}
X86_ONLY = {"pclmulqdq", "vaes", "vpclmulqdq", "avx512f"}
ARM_ONLY = {"pmull"}

# Bytes of kernel queue that a fast bulk receiver fills while its process waits for the processor:
# 4 MiB is 3 ms at 10 Gbit/s.
BUFFER_WANTED = 4 << 20

TRANSPORT_FEATURES = {
    "gso": "one send call carries many datagrams (UDP_SEGMENT, Linux 4.18)",
    "gro": "one receive call brings many datagrams (UDP_GRO, Linux 5.0)",
    "ecn": "congestion marks are sent and seen",
    "pktinfo": "answers leave from the address that was asked",
}
HINTS = {
    "gso": "a kernel of 4.18 or newer",
    "gro": "a kernel of 5.0 or newer",
}


class Finding(NamedTuple):
    """One row. ok None: a fact that is neither good nor bad."""

    name: str
    ok: bool | None
    detail: str
    hint: str = ""


def read(path: str) -> str:
    """A file of /proc; "" when it is not there."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def cpu_flags(cpuinfo: str) -> set[str]:
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            return set(value.split())
    return set()


def processor(cpuinfo: str, machine: str) -> Iterator[Finding]:
    flags = cpu_flags(cpuinfo)
    unwanted = X86_ONLY if machine == "aarch64" else ARM_ONLY
    for name, meaning in CPU_FEATURES.items():
        if name not in unwanted:
            hint = "" if name in flags else "another processor; in a virtual machine, pass the host's CPU model through"
            yield Finding(f"cpu {name}", name in flags, meaning, hint)


def queue_limits() -> Iterator[Finding]:
    for name in ("rmem_max", "wmem_max"):
        text = read(f"/proc/sys/net/core/{name}").strip()
        size = int(text) if text.isdigit() else 0
        enough = size >= BUFFER_WANTED
        yield Finding(
            f"net.core.{name}",
            enough,
            f"{size} bytes" if text else "not readable here",
            "" if enough else f"sysctl -w net.core.{name}={BUFFER_WANTED} (or CAP_NET_ADMIN)",
        )


def transport(found: stoq.Capabilities) -> Iterator[Finding]:
    caps = found.transport
    present = {"gso": caps.max_segments > 1, "gro": caps.gro, "ecn": caps.ecn, "pktinfo": caps.pktinfo}
    for name, meaning in TRANSPORT_FEATURES.items():
        reason = caps.reasons.get(name, "")
        detail = f"{meaning}, {caps.max_segments} segments" if name == "gso" and present[name] else meaning
        yield Finding(f"udp {name}", present[name], reason or detail, "" if present[name] else HINTS.get(name, ""))
    for name in sorted(caps.reasons.keys() - present.keys() - {"zero_copy"}):
        yield Finding(f"udp {name}", False, caps.reasons[name])


def examine() -> Iterator[Finding]:
    found = stoq.capabilities()
    yield Finding("stoq", None, f"{stoq.__version__}, Python {platform.python_version()}")
    yield Finding("kernel", None, f"{platform.system()} {platform.release()} {platform.machine()}")
    backend = found.aead_backend or "none"
    others = ", ".join(b for b in found.aead_backends if b != backend) or "none"
    yield Finding("aead backend", found.aead_backend is not None, f"{backend} (others: {others})")
    library = found.cipher_library or ssl.OPENSSL_VERSION
    # Measured per 1350-byte packet with AES-128-GCM: 348 ns with OpenSSL 3.0, 161 ns with 3.5.
    old = library.startswith(("OpenSSL 3.0", "OpenSSL 3.1", "OpenSSL 3.2"))
    yield Finding("cipher library", None, library, "3.5 seals twice as fast" if old else "")
    yield from processor(read("/proc/cpuinfo"), platform.machine())
    yield from transport(found)
    yield from queue_limits()


MARKS = {True: Text("yes", "green"), False: Text("no", "yellow"), None: Text("")}


@click.command()
def doctor() -> None:
    """Show what this machine offers to stoq, what is missing and how to get it."""
    table = Table(box=None, pad_edge=False)
    for title in ("what", "here", "detail", "how to get it"):
        table.add_column(title, overflow="fold")
    for finding in examine():
        table.add_row(finding.name, MARKS[finding.ok], finding.detail, finding.hint)
    Console().print(table)
