"""No Python in the bodies of hot functions: Cython's annotation scores every line of a `noexcept nogil` body 0."""

from __future__ import annotations

import html
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.plain_build

ROOT = Path(__file__).parent.parent.parent
ANNOTATIONS = Path("build/annotate")

# (file, function) -> why a line of it may touch Python.
EXCEPTIONS: dict[tuple[str, str], str] = {}

LINE = re.compile(r'<pre class="cython line score-(?P<score>\d+)"[^>]*>(?P<text>.*?)</pre>')
TAG = re.compile(r"<[^>]+>")
NUMBERED = re.compile(r"^[+\xa0 ]?(?P<number>\d+): ?(?P<source>.*)$")
FUNCTION = re.compile(r"^\s*(?:cdef|cpdef)\b[^=]*?\b(?P<name>\w+)\s*\(")


class Line(NamedTuple):
    number: int
    score: int
    source: str


def annotated_lines(page: str) -> list[Line]:
    """The source lines of one annotation page, with their scores."""
    lines = []
    for match in LINE.finditer(page):
        numbered = NUMBERED.match(html.unescape(TAG.sub("", match["text"])))
        if numbered:
            lines.append(Line(int(numbered["number"]), int(match["score"]), numbered["source"]))
    return lines


def indent(source: str) -> int:
    return len(source) - len(source.lstrip())


def code(source: str) -> str:
    return source.split("#", maxsplit=1)[0].rstrip()


def hot_bodies(lines: list[Line]) -> Iterator[tuple[str, list[Line]]]:
    """(name, body lines) of each function whose head says `noexcept nogil`."""
    at = 0
    while at < len(lines):
        head = FUNCTION.match(lines[at].source)
        if not head:
            at += 1
            continue
        level = indent(lines[at].source)
        text = code(lines[at].source)
        while (text.count("(") > text.count(")") or not text.endswith(":")) and at + 1 < len(lines):
            if text.count("(") == text.count(")") and not text.endswith(("\\", ",")):
                break  # a declaration without a body
            at += 1
            text += " " + code(lines[at].source)
        at += 1
        if not text.endswith(":"):
            continue
        start = at
        while at < len(lines) and (not lines[at].source.strip() or indent(lines[at].source) > level):
            at += 1
        if re.search(r"\bnoexcept\s+nogil\s*:$", text):
            yield head["name"].removeprefix("annotated_"), lines[start:at]


def yellow(path: str, page: str) -> list[str]:
    return [
        f"{path}:{line.number}: score {line.score} in {name}(): {line.source.strip()}"
        for name, body in hot_bodies(annotated_lines(page))
        if (path, name) not in EXCEPTIONS
        for line in body
        if line.score
    ]


def load_setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stoq_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def table() -> ModuleType:
    command = [sys.executable, "setup.py", "-q", "annotate", "--build-dir", str(ANNOTATIONS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return load_setup()


def test_hot_modules_are_white(table: ModuleType) -> None:
    rows = [row for row in table.EXTENSIONS if row.hot and (ROOT / row.source).exists()]
    assert rows, "the extension table is empty"
    problems, bodies = [], 0
    for row in rows:
        page = (ROOT / ANNOTATIONS / row.source).with_suffix(".html").read_text()
        bodies += sum(1 for _ in hot_bodies(annotated_lines(page)))
        problems += yellow(str(row.source), page)
    assert bodies > 10, "hardly any hot function was found: does the parser still understand Cython's HTML?"
    assert not problems, "\n" + "\n".join(problems)


def test_inline_functions_are_white(table: ModuleType) -> None:
    found, problems = 0, []
    for source in sorted((ROOT / ANNOTATIONS / "headers").glob("*.pyx")):
        pxd = source.stem.replace("__", "/") + ".pxd"
        if not (ROOT / pxd).exists() or table.inline_bodies(ROOT / pxd) is None:
            continue  # left from an earlier tree
        page = (ROOT / ANNOTATIONS / source.relative_to(ROOT)).with_suffix(".html").read_text()
        found += sum(1 for _ in hot_bodies(annotated_lines(page)))
        problems += yellow(pxd, page)
    assert found > 3
    assert not problems, "\n" + "\n".join(problems)


def test_exceptions_give_reasons() -> None:
    for (path, _), reason in EXCEPTIONS.items():
        assert (ROOT / path).exists()
        assert len(reason) > 20


SAMPLE = """\
cdef int clean(
    int a,
    int b,  # the second
) noexcept nogil:
    cdef int c = a + b
    return c

cdef class Box:
    cdef int fill(self, int n) noexcept nogil:
        cdef int i

        for i in range(n):
            with gil:
                print(i)
        return n

cdef object cold(object x):
    return x + 1

cdef int declared(int a) noexcept nogil
"""


def test_a_yellow_line_is_seen(tmp_path: Path) -> None:
    (tmp_path / "sample.pyx").write_text(SAMPLE.replace("\ncdef int declared(int a) noexcept nogil\n", ""))
    script = "from Cython.Build import cythonize; cythonize('sample.pyx', annotate=True, language_level=3, quiet=True)"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True)
    page = (tmp_path / "sample.html").read_text()
    assert [name for name, _ in hot_bodies(annotated_lines(page))] == ["clean", "fill"]
    problems = yellow("sample.pyx", page)
    assert any(problem.startswith("sample.pyx:14: score ") and "in fill(): print(i)" in problem for problem in problems)
    assert not [problem for problem in problems if "clean()" in problem]


def test_declarations_have_no_body() -> None:
    lines = [Line(number, 0, source) for number, source in enumerate(SAMPLE.splitlines(), 1)]
    assert [name for name, _ in hot_bodies(lines)] == ["clean", "fill"]


def test_a_performance_hint_is_fatal_in_hot_modules() -> None:
    setup = load_setup()
    rows = [setup.Ext("stoq.core.a"), setup.Ext("stoq.core.b", hot=False)]
    hint = "performance hint: stoq/core/{}:3:0: Exception check on 'f' will always require the GIL to be acquired."
    output = "\n".join(["Compiling", hint.format("a.pyx"), hint.format("b.pyx"), hint.format("c.pxd")])
    assert setup.fatal_hints(output, rows) == [hint.format("a.pyx"), hint.format("c.pxd")]
