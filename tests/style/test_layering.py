"""The dependency law (docs/architecture.md) over every `import` and `cimport` line of the project."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent.parent

# Layer -> what it may import of stoq: whole layers, or single modules. A layer may always import itself; stoq.errors is
# a leaf that every layer's Python face may raise from.
LAW: dict[str, set[str]] = {
    "wire": {"errors"},
    "crypto": {"wire", "errors"},
    "tls": {"crypto", "wire", "errors"},
    "core": {"crypto", "wire", "errors"},
    "connection": {"core", "tls", "crypto", "wire", "errors", "qlog"},
    "ext": {"wire", "crypto", "core.hooks", "errors", "qlog"},
    "adapt": {"core.stats", "core.knobs", "errors", "qlog"},
    "h3": {"connection", "errors", "qlog"},
    "kernel": {"errors"},
    "io": {"kernel", "wire.batch", "errors"},
    "endpoint": {"connection", "core", "tls", "crypto", "wire", "io", "kernel", "ext", "adapt", "h3", "errors", "qlog"},
    "testing": {"connection", "core", "tls", "crypto", "wire", "io", "endpoint", "errors", "qlog"},
    "qlog": {"wire", "errors"},
    "errors": set(),
    "cli": {"", "errors", "testing"},  # "": the names of `stoq` itself
    "aioquic": {"endpoint", "connection", "h3", "tls", "errors", "qlog"},
    "dropin": {"aioquic"},
    "": {"endpoint", "errors"},  # stoq/__init__.py, the native API
}

# Rule 1: time, randomness and sockets are arguments there.
PURE_LAYERS = {"wire", "crypto", "tls", "core"}
IMPURE_MODULES = {"socket", "_socket", "asyncio", "time", "random", "secrets", "select", "selectors", "uvloop"}
IMPURE_CIMPORTS = {"libc.time", "posix.time", "posix.unistd", "cpython.time"}

# Rule 6: who may declare which C library, by the beginning of the header's name.
HEADER_OWNERS = {
    "openssl/": "crypto",
    "intel-ipsec-mb": "crypto",
    "bpf/": "kernel",
    "xdp/": "kernel",
    "linux/if_xdp": "kernel",
    "sys/socket": "io",
    "netinet/": "io",
    "arpa/": "io",
}
# Files outside `_*.pxd` that may hold `cdef extern from`, each with its reason.
EXTERN_EXCEPTIONS = {
    "stoq/wire/varint.pxd": "byte swaps and branch hints of the compiler, inlined into every parser; no library",
}


class Import(NamedTuple):
    line: int
    module: str  # dotted, absolute
    name: str  # what is taken from it; "" for `import module`
    compiled: bool  # a cimport


CYTHON_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<base>[\w.]+)[ \t]+(?P<kind>c?import)[ \t]+(?P<names>\([^)]*\)|[^#\n]+)"
    r"|(?P<plain>c?import)[ \t]+(?P<modules>[^#\n]+))",
    re.MULTILINE,
)
EXTERN = re.compile(r"^[ \t]*cdef\s+extern\s+from\s+(?P<header>[^:\n]+)", re.MULTILINE)


def absolute(base: str, package: str) -> str:
    """`..core.x` seen from package `stoq.tls` is `stoq.core.x`."""
    dots = len(base) - len(base.lstrip("."))
    if not dots:
        return base
    parts = package.split(".")
    kept = parts[: len(parts) - (dots - 1)]
    return ".".join(kept + ([base.lstrip(".")] if base.lstrip(".") else []))


def split_names(text: str) -> list[str]:
    text = re.sub(r"#[^\n]*", "", text).strip().strip("()").replace("\\\n", " ")
    return [part.split(" as ")[0].strip() for part in re.split(r"[,\n]", text) if part.strip()]


def cython_imports(text: str, package: str) -> Iterator[Import]:
    joined = text.replace("\\\n", "  ")
    for match in CYTHON_IMPORT.finditer(joined):
        line = joined.count("\n", 0, match.start()) + 1
        if match["base"]:
            for name in split_names(match["names"]):
                yield Import(line, absolute(match["base"], package), name, match["kind"] == "cimport")
        else:
            for module in split_names(match["modules"]):
                yield Import(line, module, "", match["plain"] == "cimport")


def python_imports(text: str, package: str) -> Iterator[Import]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, "", False)
        elif isinstance(node, ast.ImportFrom):
            base = absolute("." * node.level + (node.module or ""), package)
            for alias in node.names:
                yield Import(node.lineno, base, alias.name, False)


def layer_of(path: str) -> str:
    """The layer of a file below the root: `stoq/core/x.pyx` -> core, `stoq/errors.py` -> errors, the package -> ""."""
    if path.startswith("vendor/aioquic/"):
        return "aioquic"
    parts = Path(path).parts[1:]
    if len(parts) > 1:
        return parts[0]
    stem = Path(path).stem
    return "" if stem == "__init__" else stem


def may_import(layer: str, target: str) -> bool:
    """target: dotted name below stoq, "" for the package itself."""
    head = target.split(".", maxsplit=1)[0]
    if head == layer:
        return True
    allowed = LAW[layer]
    return any(target == a or target.startswith(a + ".") if a else target == "" for a in allowed)


def targets(found: Import) -> list[str]:
    """The names below `stoq` that an import reaches. `from stoq import core` reaches core, `from stoq import connect`
    the package itself."""
    if found.module == "stoq":
        return [found.name if found.name in LAW else ""]
    if not found.module.startswith("stoq."):
        return []
    below = found.module.removeprefix("stoq.")
    # `from stoq.core import knobs` is an import of stoq.core.knobs when a layer is allowed by single modules.
    return [f"{below}.{found.name}" if found.name and "." not in below else below]


def check(path: str, text: str) -> list[str]:
    """What breaks the law in one file; each as `path:line: sentence`."""
    layer = layer_of(path)
    if layer not in LAW:
        return [f"{path}:1: layer {layer!r} is not in the law: add it to DESIGN and to this test"]
    cython = path.endswith((".pyx", ".pxd"))
    package = ".".join(Path(path).parent.parts)
    problems = []
    for found in (cython_imports if cython else python_imports)(text, package):
        where = f"{path}:{found.line}:"
        if layer in PURE_LAYERS:
            top = found.module.split(".")[0]
            impure = found.module in IMPURE_CIMPORTS if found.compiled else top in IMPURE_MODULES
            if impure or (found.module == "posix" and found.name in {"time", "unistd"}):
                problems.append(f"{where} {layer} must not import {found.module}: it is an argument there")
        if "aioquic" in found.module.split(".")[:2] and (found.compiled or layer not in {"dropin", "aioquic"}):
            problems.append(f"{where} {found.module}: the face is a consumer, nobody imports it")
            continue
        problems += [
            f"{where} {layer or 'stoq'} must not import stoq.{target}"
            for target in targets(found)
            if not may_import(layer, target)
        ]
    if cython:
        problems += check_extern(path, text, layer)
    return list(dict.fromkeys(problems))


def check_extern(path: str, text: str, layer: str) -> list[str]:
    problems = []
    for match in EXTERN.finditer(text):
        where = f"{path}:{text.count(chr(10), 0, match.start()) + 1}:"
        name = Path(path).name
        if not (name.startswith("_") and name.endswith(".pxd")) and path not in EXTERN_EXCEPTIONS:
            problems.append(f"{where} `cdef extern from` stands only in _*.pxd files")
        header = match["header"].strip().strip("\"'<>")
        for beginning, owner in HEADER_OWNERS.items():
            if header.startswith(beginning) and layer != owner:
                problems.append(f"{where} {header} belongs to stoq.{owner}")
    return problems


def sources() -> list[str]:
    folders = [f for f in ("stoq", "vendor") if (ROOT / f).exists()]
    return sorted(
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".pyx", ".pxd", ".pyi"}
    )


def test_the_tree_obeys() -> None:
    files = sources()
    assert len(files) > 20, "the walk found too little to mean anything"
    problems = [problem for path in files for problem in check(path, (ROOT / path).read_text())]
    assert not problems, "\n" + "\n".join(problems)


def test_exceptions_are_in_use() -> None:
    for path in EXTERN_EXCEPTIONS:
        assert EXTERN.search((ROOT / path).read_text()), f"{path} needs no exception any more"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("stoq/core/x.pyx", "from stoq.tls.record cimport Record\n"),
        ("stoq/core/x.pyx", "from ..tls import record\n"),
        ("stoq/core/x.py", "def f():\n    import time\n"),
        ("stoq/core/x.py", "from stoq import tls\n"),
        ("stoq/core/x.pyx", "cimport stoq.wire.header, stoq.tls.record\n"),
        ("stoq/core/x.pyx", "from libc.time cimport time\n"),
        ("stoq/core/x.pyx", "from posix cimport time\n"),
        ("stoq/core/x.pxd", "from stoq.tls.record cimport (\n    A,\n    B,\n)\n"),
        ("stoq/errors.py", "from stoq.wire.header import Header\n"),
        ("stoq/tls/x.py", "import random as r\n"),
        ("stoq/tls/x.py", "from stoq.core.plane import recv\n"),
        ("stoq/wire/x.pyx", "    from socket import AF_INET\n"),
        ("stoq/wire/x.pxd", "from stoq.crypto.aead cimport Aead\n"),
        ("stoq/io/udp.pyx", "from stoq.wire.header cimport Header\n"),
        ("stoq/io/udp.pyx", "from stoq.core.plane cimport recv\n"),
        ("stoq/connection/x.pyx", "from stoq.io.udp cimport Udp\n"),
        ("stoq/ext/x.py", "from stoq.core.plane import x\n"),
        ("stoq/ext/x.py", "from stoq.aioquic.quic import x\n"),
        ("stoq/adapt/x.py", "from stoq.connection.connection import Connection\n"),
        ("stoq/cli/x.py", "from stoq.endpoint.client import connect\n"),
        ("stoq/cli/x.py", "from stoq import endpoint\n"),
        ("stoq/endpoint/x.pyx", "from stoq.aioquic.buffer cimport Buffer\n"),
        ("stoq/endpoint/x.py", "import aioquic\n"),
        ("stoq/crypto/x.pyx", 'cdef extern from "openssl/evp.h" nogil:\n    pass\n'),
        ("stoq/tls/_x.pxd", 'cdef extern from "openssl/evp.h" nogil:\n    pass\n'),
        ("stoq/endpoint/_x.pxd", "cdef extern from <sys/socket.h>:\n    pass\n"),
        ("stoq/novel/x.py", ""),
        ("vendor/aioquic/tls.py", "from stoq.ext.tokens import x\n"),
    ],
)
def test_a_breach_is_seen(path: str, text: str) -> None:
    assert len(check(path, text)) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("stoq/core/x.pyx", "from stoq.wire.header cimport Header  # tls, asyncio\nfrom libc.string cimport memcpy\n"),
        ("stoq/core/x.pyx", '"""from stoq.wire cimport x\nimport nothing"""\nfrom stoq.crypto.keys cimport Keys\n'),
        ("stoq/io/udp.pyx", "from stoq.wire.batch cimport RecvBatch\nimport socket\n"),
        ("stoq/io/udp.pyx", "from stoq.wire cimport batch\n"),
        ("stoq/crypto/_openssl.pxd", 'cdef extern from "openssl/evp.h" nogil:\n    pass\n'),
        ("stoq/cli/x.py", "import stoq\nfrom stoq import connect\nfrom stoq.errors import StoqError\nimport asyncio\n"),
        ("stoq/cli/main.py", "from stoq.cli.get import get\n"),
        ("stoq/ext/x.py", "from stoq.core.hooks import x\nfrom stoq.core import hooks\n"),
        ("stoq/__init__.py", "from stoq.endpoint.client import connect\nfrom stoq.errors import StoqError\n"),
    ],
)
def test_what_is_allowed_passes(path: str, text: str) -> None:
    assert check(path, text) == []
