"""Build of stoq's compiled modules.

The table below is the only list of extensions. Environment switches:

STOQ_DEBUG=1     bounds checks, wraparound, assertions and -O1 -g
STOQ_SANITIZE=1  as STOQ_DEBUG, with AddressSanitizer and UBSan
STOQ_ANNOTATE=1  write Cython's annotated HTML beside each generated file
STOQ_EXT=a,b     build only the modules whose names start with one of these

`python setup.py annotate` writes the annotated HTML of every module below build/annotate and compiles nothing.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from setuptools import Command, Extension, setup
from setuptools.command.build_ext import build_ext


@dataclass(frozen=True)
class Ext:
    """One compiled module.

    `hot`: its `noexcept nogil` bodies hold no Python (tests/style/test_yellow.py) and Cython's performance hints
    about it stop the build.
    """

    name: str
    libraries: list[str] = field(default_factory=list)
    hot: bool = True

    @property
    def source(self) -> Path:
        return Path(self.name.replace(".", "/") + ".pyx")


CRYPTO = ["crypto"]

EXTENSIONS = [
    Ext("stoq.wire.varint"),
    Ext("stoq.wire.packet_number"),
    Ext("stoq.wire.header"),
    Ext("stoq.wire.frames"),
    Ext("stoq.wire.frame_codec", hot=False),
    Ext("stoq.crypto.aead", CRYPTO),
    Ext("stoq.crypto.aead_openssl", CRYPTO),
    Ext("stoq.crypto.aead_null"),
    Ext("stoq.crypto.keys", CRYPTO),
    Ext("stoq.core.memory"),
    Ext("stoq.core.rangeset"),
    Ext("stoq.core.recvbuf"),
    Ext("stoq.core.sendbuf"),
    Ext("stoq.core.sentlog"),
    Ext("stoq.core.sidestream"),
    Ext("stoq.core.knobs"),
    Ext("stoq.core.cc"),
    Ext("stoq.core.reno"),
    Ext("stoq.core.events"),
    Ext("stoq.core.recovery"),
    Ext("stoq.core.streams"),
    Ext("stoq.core.streamsource"),
    Ext("stoq.core.cids"),
    Ext("stoq.core.acks"),
    Ext("stoq.core.sources"),
    Ext("stoq.core.closing"),
    Ext("stoq.core.relay"),
    Ext("stoq.core.keyupdate"),
    Ext("stoq.core.handshake"),
    Ext("stoq.core.dispatch"),
    Ext("stoq.core.receive"),
    Ext("stoq.core.packer"),
    Ext("stoq.core.core"),
    Ext("stoq.core.ledger", hot=False),
    Ext("stoq.connection.connection", hot=False),
    Ext("stoq.connection.stream", hot=False),
    Ext("stoq.connection.address", hot=False),
    Ext("stoq.connection.factory", hot=False),
    Ext("stoq.connection.reasons", hot=False),
    Ext("stoq.connection.negotiated", hot=False),
    Ext("stoq.core.containers"),
    Ext("stoq.testing.seams", hot=False),
    Ext("stoq.testing.hooks", hot=False),
    Ext("stoq.io.transport"),
    Ext("stoq.io.udp"),
    Ext("stoq.io.simlink"),
    Ext("stoq.io.sim"),
    Ext("stoq.io.bench", hot=False),
    Ext("stoq.endpoint.cidmap"),
    Ext("stoq.endpoint.timerheap"),
    Ext("stoq.endpoint.cid_scheme", hot=False),
    Ext("stoq.endpoint.admission", hot=False),
    Ext("stoq.endpoint.replies"),
    Ext("stoq.endpoint.session", hot=False),
    Ext("stoq.endpoint.outbox", hot=False),
    Ext("stoq.endpoint.demux", hot=False),
    Ext("stoq.endpoint.endpoint", hot=False),
    Ext("stoq.endpoint.stream", hot=False),
    Ext("stoq.endpoint.connection", hot=False),
    Ext("stoq.endpoint.loopdriver", hot=False),
    Ext("stoq.testing.simstream", hot=False),
    Ext("stoq.testing.inspect", hot=False),
]


def switch(name: str) -> bool:
    return os.environ.get(name, "") not in {"", "0"}


SANITIZE = switch("STOQ_SANITIZE")
DEBUG = switch("STOQ_DEBUG") or SANITIZE
VARIANT = "sanitize" if SANITIZE else "debug" if DEBUG else "release"
BUILD = Path("build") / VARIANT  # one tree a variant: objects of two variants never meet

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
    CFLAGS += ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
    LDFLAGS += ["-fsanitize=address,undefined"]

PERFORMANCE_HINT = re.compile(r"^performance hint: (?P<path>[^:\n]+):\d+:\d+: .*$", re.MULTILINE)


def fatal_hints(output: str, table: list[Ext]) -> list[str]:
    """Cython's performance hints in `output` that lie in a hot module or in a .pxd (shared by hot modules)."""
    cold = {str(e.source) for e in table if not e.hot}
    hints = []
    for match in PERFORMANCE_HINT.finditer(output):
        path = os.path.relpath(match["path"])
        if path.startswith("stoq/") and path not in cold:
            hints.append(match[0])
    return sorted(set(hints))


def selected() -> list[Ext]:
    wanted = [w for w in os.environ.get("STOQ_EXT", "").split(",") if w]
    chosen = [e for e in EXTENSIONS if not wanted or any(e.name.startswith(w) for w in wanted)]
    return chosen


def extensions() -> list[Extension]:
    return [
        Extension(
            e.name,
            [str(e.source)],
            libraries=e.libraries,
            extra_compile_args=CFLAGS,
            extra_link_args=LDFLAGS,
        )
        for e in selected()
    ]


def generate_c(modules: list[Extension], build_dir: Path, *, annotate: bool) -> dict[str, Extension]:
    """Cython sources to C below build_dir; the extensions by name, their sources now C files.

    SystemExit when a hot module draws a performance hint. The file descriptor is captured, not sys.stderr, because
    Cython works in child processes.
    """
    from Cython.Build import cythonize  # noqa: PLC0415 - metadata commands need no Cython
    from Cython.Compiler.Errors import CompileError  # noqa: PLC0415

    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            done = cythonize(
                modules,
                compiler_directives=DIRECTIVES,
                annotate=annotate,
                nthreads=os.cpu_count() or 1,
                build_dir=str(build_dir),
            )
        except CompileError as error:
            raise SystemExit(f"Cython refused {error}") from None
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            captured.seek(0)
            output = captured.read().decode(errors="replace")
            sys.stderr.write(output)
    hints = fatal_hints(output, EXTENSIONS)
    if hints:
        # Without their C files the modules are translated again next time, and the hint is seen again.
        for extension in done:
            for source in extension.sources:
                Path(source).unlink(missing_ok=True)
        raise SystemExit("performance hints are fatal in hot modules (STYLE 6.3):\n  " + "\n  ".join(hints))
    return {extension.name: extension for extension in done}


class BuildExt(build_ext):
    """Compiles in parallel, one process a core, in a tree of its own for each variant."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.parallel = os.cpu_count()

    def finalize_options(self) -> None:
        if self.build_temp is None:
            self.build_temp = str(BUILD / "temp")
        if self.build_lib is None and self.inplace:
            self.build_lib = str(BUILD / "lib")
        super().finalize_options()

    def run(self) -> None:
        self.start_afresh_if_flags_changed()
        generated = generate_c(extensions(), BUILD / "cython", annotate=switch("STOQ_ANNOTATE"))
        for extension in self.extensions:
            extension.sources = generated[extension.name].sources
        super().run()

    def start_afresh_if_flags_changed(self) -> None:
        """Neither Cython nor distutils notices changed flags or directives: they compare times of files only."""
        flags = hashlib.sha256(repr((sys.version, DIRECTIVES, CFLAGS, LDFLAGS)).encode()).hexdigest()
        stamp = BUILD / "flags"
        if not stamp.exists() or stamp.read_text() != flags:
            shutil.rmtree(BUILD, ignore_errors=True)
            BUILD.mkdir(parents=True)
            stamp.write_text(flags)

    def copy_file(self, infile, outfile, *args, **kwargs):  # type: ignore[no-untyped-def]
        """Copy where the bytes differ. The default compares times and keeps the other variant's newer module."""
        if Path(outfile).exists() and not filecmp.cmp(infile, outfile, shallow=False):
            Path(outfile).unlink()
        return super().copy_file(infile, outfile, *args, **kwargs)

    def get_source_files(self) -> list[str]:
        return [str(e.source) for e in EXTENSIONS]


INLINE = re.compile(r"^cdef inline (?P<type>[^(]*?)(?P<name>\w+)\(")


def inline_bodies(pxd: Path) -> str | None:
    """A module that repeats the inline functions of a .pxd under other names; None when it has none.

    Cython annotates only the file that it compiles. Line n of the .pxd is line n + 1 here.
    """
    lines = [f"from {'.'.join(pxd.with_suffix('').parts)} cimport *"]
    inside = found = False
    for line in pxd.read_text().splitlines():
        match = INLINE.match(line)
        if match:
            inside = found = True
            renamed = line.replace(match["name"] + "(", "annotated_" + match["name"] + "(", 1)
            lines.append(renamed.replace(" inline", "", 1))
            continue
        if line and not line[0].isspace() and line[0] not in ")#":
            inside = False
        lines.append(line if inside or re.match(r"(from|cimport)\s", line) else "")
    return "\n".join(lines) + "\n" if found else None


def headers(folder: Path) -> list[Extension]:
    """Write the modules of inline_bodies below folder."""
    folder.mkdir(parents=True, exist_ok=True)
    modules = []
    for pxd in sorted(Path("stoq").rglob("*.pxd")):
        text = inline_bodies(pxd)
        if text is None:
            continue
        name = "__".join(pxd.with_suffix("").parts)
        path = folder / f"{name}.pyx"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
        modules.append(Extension(name, [str(path)]))
    return modules


class Annotate(Command):
    """Write Cython's annotated HTML of every module and of the inline functions of .pxd files; compile nothing."""

    description = "write Cython's annotated HTML"
    user_options = [("build-dir=", None, "where to (default: build/annotate)")]  # noqa: RUF012 - distutils' form

    def initialize_options(self) -> None:
        self.build_dir = "build/annotate"

    def finalize_options(self) -> None:
        pass

    def run(self) -> None:
        folder = Path(self.build_dir)
        generate_c(extensions() + headers(folder / "headers"), folder, annotate=True)


PACKAGES = [
    "stoq",
    *sorted("stoq." + p.parent.name for p in Path("stoq").glob("*/__init__.py")),
]

if __name__ == "__main__":
    setup(
        ext_modules=extensions(),
        cmdclass={"build_ext": BuildExt, "annotate": Annotate},
        packages=PACKAGES,
        package_data={"": ["*.pxd", "*.pyi", "py.typed"]},
        exclude_package_data={"": ["*.c", "*.html"]},
        include_package_data=False,
    )
