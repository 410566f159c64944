"""Build of stoq's compiled modules.

The table below is the only list of extensions. Environment switches:

STOQ_DEBUG=1     bounds checks, wraparound, assertions and -O1 -g
STOQ_SANITIZE=1  as STOQ_DEBUG, with AddressSanitizer and UBSan
STOQ_ANNOTATE=1  write Cython's annotated HTML beside each generated file
STOQ_EXT=a,b     build only the modules whose names start with one of these
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


@dataclass(frozen=True)
class Ext:
    """One compiled module. `hot`: its `noexcept nogil` bodies hold no Python (tests/style/test_yellow.py)."""

    name: str
    libraries: list[str] = field(default_factory=list)
    hot: bool = True


CRYPTO = ["crypto"]

EXTENSIONS = [
    Ext("stoq.wire.varint"),
    Ext("stoq.wire.header"),
    Ext("stoq.wire.frames"),
    Ext("stoq.crypto.aead"),
    Ext("stoq.crypto.aead_openssl", CRYPTO),
    Ext("stoq.crypto.aead_null"),
    Ext("stoq.crypto.keys", CRYPTO),
    Ext("stoq.core.rangeset"),
    Ext("stoq.core.recvbuf"),
    Ext("stoq.core.sendbuf"),
    Ext("stoq.io.udp"),
    Ext("stoq.io.sim"),
]


def switch(name: str) -> bool:
    return os.environ.get(name, "") not in {"", "0"}


SANITIZE = switch("STOQ_SANITIZE")
DEBUG = switch("STOQ_DEBUG") or SANITIZE

DIRECTIVES = {
    "language_level": 3,
    "embedsignature": True,
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": DEBUG,
    "cdivision": True,
}

CFLAGS = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers", "-fno-strict-aliasing"]
# -fno-strict-aliasing: packets are read through several struct views.
CFLAGS += ["-O1", "-g", "-DSTOQ_DEBUG=1"] if DEBUG else ["-O2", "-g1"]
LDFLAGS: list[str] = []
if SANITIZE:
    CFLAGS += ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-fno-sanitize=function"]
    LDFLAGS += ["-fsanitize=address,undefined"]


class BuildExt(build_ext):
    """Compiles in parallel: one process a core."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.parallel = os.cpu_count()


def extensions() -> list[Extension]:
    wanted = [w for w in os.environ.get("STOQ_EXT", "").split(",") if w]
    chosen = [e for e in EXTENSIONS if not wanted or any(e.name.startswith(w) for w in wanted)]
    built = [
        Extension(
            e.name,
            [e.name.replace(".", "/") + ".pyx"],
            libraries=e.libraries,
            extra_compile_args=CFLAGS,
            extra_link_args=LDFLAGS,
        )
        for e in chosen
        if Path(e.name.replace(".", "/") + ".pyx").exists()
    ]
    return list(
        cythonize(
            built,
            compiler_directives=DIRECTIVES,
            annotate=switch("STOQ_ANNOTATE"),
            nthreads=os.cpu_count() or 1,
            build_dir="build/cython-debug" if DEBUG else "build/cython",
        )
    )


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildExt},
    packages=[
        "stoq", "stoq.wire", "stoq.crypto", "stoq.tls", "stoq.core", "stoq.connection",
        "stoq.io", "stoq.endpoint", "stoq.testing", "stoq.cli",
    ],
    package_data={"": ["*.pxd", "*.pyi", "py.typed"]},
)
