"""Compiles an extension that belongs to the benchmarks, not to the package."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def build(source: Path, libraries: tuple[str, ...] = ()) -> Path:
    """Compiles `source`, when it has changed; returns the folder to put on sys.path (build/NAME)."""
    setuptools: Any = import_module("setuptools")
    cython: Any = import_module("Cython.Build")
    name = source.stem
    folder = ROOT / "build" / name
    extension = setuptools.Extension(name, [str(source)], libraries=list(libraries), extra_compile_args=["-O2"])
    modules = cython.cythonize([extension], build_dir=str(folder), include_path=[str(ROOT)], quiet=True)
    command = setuptools.Distribution({"ext_modules": modules}).get_command_obj("build_ext")
    command.build_lib = command.build_temp = str(folder)
    command.ensure_finalized()
    command.run()
    return folder
