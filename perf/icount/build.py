"""Compiles exchange.pyx into build/icount."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "icount"


def build() -> Path:
    """The folder to put on sys.path. Needs Valgrind's headers (its Debian package has them)."""
    from Cython.Build import cythonize  # noqa: PLC0415
    from setuptools import Distribution, Extension  # noqa: PLC0415

    extension = Extension("exchange", [str(HERE / "exchange.pyx")], extra_compile_args=["-O2"])
    modules = cythonize([extension], build_dir=str(BUILD), include_path=[str(ROOT)], quiet=True)
    command = Distribution({"ext_modules": modules}).get_command_obj("build_ext")
    command.build_lib = str(BUILD)
    command.build_temp = str(BUILD)
    command.ensure_finalized()
    command.run()
    return BUILD
