"""A skip must be expected: one that tests/expected_skips.txt does not list becomes a failure."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import pytest

LIST = Path(__file__).parent / "expected_skips.txt"


def parse_expected(text: str) -> list[tuple[str, str]]:
    """(node id prefix, reason prefix) of each line that is neither blank nor a comment."""
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        node, separator, reason = line.partition(": ")
        if not separator or not node.strip() or not reason.strip():
            raise ValueError(f"expected_skips.txt line {number}: want 'node id: reason'")
        rows.append((node.strip(), reason.strip()))
    return rows


def is_expected(node: str, reason: str, rows: Iterable[tuple[str, str]]) -> bool:
    return any(node.startswith(n) and reason.startswith(r) for n, r in rows)


def skip_reason(report: Any) -> str | None:
    """The reason of a skipped report; None when it was not skipped (an expected failure is no skip)."""
    if report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return None
    longrepr = report.longrepr
    reason = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return str(reason).removeprefix("Skipped: ").strip()


def refuse_unexpected(report: Any) -> None:
    reason = skip_reason(report)
    if reason is None or is_expected(report.nodeid, reason, parse_expected(LIST.read_text())):
        return
    report.outcome = "failed"
    report.longrepr = (
        f"unexpected skip: {reason}\n"
        f"When this skip is right, add to tests/expected_skips.txt:\n{report.nodeid}: {reason}"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    refuse_unexpected(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    report = yield
    refuse_unexpected(report)
    return report
