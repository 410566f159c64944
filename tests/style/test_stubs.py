"""Each compiled module that Python imports ships a stub that names what the module has."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PYTHON_FOLDERS = ("stoq", "tests", "examples", "perf")


def compiled_modules() -> list[str]:
    return sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "stoq").rglob("*.pyx"))


def imported_modules(text: str) -> set[str]:
    """Dotted names that a Python file may mean: of `from a.b import c` both a.b and a.b.c."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def cython_python_imports(text: str) -> set[str]:
    """Modules that a .pyx imports (not cimports)."""
    return set(re.findall(r"^\s*(?:from|import)\s+(stoq\.[\w.]+)(?=\s+import|\s*$|\s+as)", text, re.MULTILINE))


def stub_names(text: str) -> set[str]:
    """The public names that a stub declares at its top level."""
    names: set[str] = set()
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if ast.unparse(node.annotation).rpartition(".")[2] != "TypeAlias":  # for type checkers alone
                names.add(node.target.id)
        elif isinstance(node, ast.Assign) and not isinstance(node.value, (ast.Subscript, ast.BinOp)):  # a type alias
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def own_names(module: object) -> set[str]:
    """Functions and classes that a compiled module defines itself."""
    name = getattr(module, "__name__", "")
    return {
        key
        for key, value in vars(module).items()
        if not key.startswith("_") and callable(value) and getattr(value, "__module__", None) == name
    }


def needed() -> list[str]:
    wanted: set[str] = set()
    for folder in PYTHON_FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            wanted |= imported_modules(path.read_text())
        for path in (ROOT / folder).rglob("*.pyx"):
            wanted |= cython_python_imports(path.read_text())
    return [name for name in compiled_modules() if name in wanted]


def stub_of(name: str) -> Path:
    return ROOT / (name.replace(".", "/") + ".pyi")


def test_every_imported_module_has_a_stub() -> None:
    assert compiled_modules()
    missing = [name for name in needed() if not stub_of(name).exists()]
    assert not missing, f"no .pyi for {missing}"


def test_no_stub_without_its_module() -> None:
    modules = set(compiled_modules())
    for stub in (ROOT / "stoq").rglob("*.pyi"):
        assert ".".join(stub.relative_to(ROOT).with_suffix("").parts) in modules


def test_stubs_and_modules_agree() -> None:
    problems = []
    for name in needed():
        if stub_of(name).exists():
            module = importlib.import_module(name)
            declared = stub_names(stub_of(name).read_text())
            problems += [f"{name}.{n}: in the stub, not in the module" for n in declared if not hasattr(module, n)]
            problems += [f"{name}.{n}: in the module, not in the stub" for n in own_names(module) - declared]
    assert not problems, "\n" + "\n".join(sorted(problems))


def test_what_is_missing_is_seen() -> None:
    assert imported_modules("def f():\n    from stoq.wire import varint\n") == {"stoq.wire", "stoq.wire.varint"}
    assert cython_python_imports("from stoq.wire.header cimport A\nfrom stoq.wire.varint import b\n") == {
        "stoq.wire.varint"
    }
    assert stub_names(
        "X: int\nA: TypeAlias = int\nB = tuple[str, int]\ndef f() -> None: ...\nclass C: ...\n_y: int\n"
    ) == {"X", "f", "C"}
    module = type(ast)("sample")
    module.f = stub_names  # type: ignore[attr-defined]
    assert own_names(module) == set()
    stub_like = type(ast)(stub_names.__module__)
    stub_like.f = stub_names  # type: ignore[attr-defined]
    assert own_names(stub_like) == {"f"}
