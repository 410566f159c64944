"""A file stays under 600 lines: longer ones hold more than one noun."""

from __future__ import annotations

import datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
LIMIT = 600
FOLDERS = ("stoq", "vendor", "tests", "perf", "examples", "bpf", "kernel_tests")
SUFFIXES = {".py", ".pyx", ".pxd", ".pyi", ".c", ".h"}

# path -> (date of the exception, most lines it may have, why). A file that shrinks below LIMIT must leave the list.
ALLOWED: dict[str, tuple[str, int, str]] = {}


def too_long(sizes: dict[str, int], allowed: dict[str, tuple[str, int, str]]) -> list[str]:
    problems = []
    for path, lines in sorted(sizes.items()):
        limit = allowed[path][1] if path in allowed else LIMIT
        if lines > limit:
            problems.append(f"{path}: {lines} lines, limit {limit}: split it by noun")
    for path, (date, _, reason) in sorted(allowed.items()):
        datetime.date.fromisoformat(date)
        if len(reason) < 20:
            problems.append(f"{path}: the exception gives no reason")
        if sizes.get(path, 0) <= LIMIT:
            problems.append(f"{path}: needs its exception no more")
    return problems


def test_sizes() -> None:
    sizes = {
        str(path.relative_to(ROOT)): path.read_text().count("\n")
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in SUFFIXES
    }
    sizes["setup.py"] = (ROOT / "setup.py").read_text().count("\n")
    assert len(sizes) > 20
    assert not too_long(sizes, ALLOWED)


def test_a_long_file_is_seen() -> None:
    reason = "one table of code points, no logic"
    assert too_long({"a.py": 601, "b.py": 600}, {}) == ["a.py: 601 lines, limit 600: split it by noun"]
    assert too_long({"a.py": 640}, {"a.py": ("2026-11-21", 650, reason)}) == []
    assert too_long({"a.py": 651}, {"a.py": ("2026-11-21", 650, reason)})
    assert too_long({"a.py": 300}, {"a.py": ("2026-11-21", 650, reason)}) == ["a.py: needs its exception no more"]
    assert too_long({"a.py": 640}, {"a.py": ("2026-11-21", 650, "")})
