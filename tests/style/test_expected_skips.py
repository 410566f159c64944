"""The guard against silent skips (tests/conftest.py), seen to fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent.parent

SAMPLE = """\
import pytest

def test_listed():
    pytest.skip("no such device here")

def test_unlisted():
    pytest.skip("felt like it")

@pytest.mark.skip(reason="felt like it too")
def test_marked():
    pass

@pytest.mark.xfail(strict=True)
def test_expected_failure():
    assert False
"""


def run(folder: Path, expected: str, sample: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(TESTS / "conftest.py", folder)
    (folder / "expected_skips.txt").write_text(expected)
    (folder / "test_sample.py").write_text(sample)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--rootdir", str(folder), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def test_unlisted_skips_fail(tmp_path: Path) -> None:
    done = run(tmp_path, "# comment\ntest_sample.py::test_listed: no such device\n", SAMPLE)
    assert done.returncode == 1, done.stdout
    assert "1 failed, 1 skipped, 1 xfailed, 1 error" in done.stdout  # a mark skips in the set-up phase
    assert "test_sample.py::test_unlisted: felt like it" in done.stdout


def test_module_level_skip_fails(tmp_path: Path) -> None:
    done = run(tmp_path, "", 'import pytest\npytest.importorskip("no_such_module_at_all")\n')
    assert done.returncode != 0
    assert "unexpected skip" in done.stdout


def test_listed_skips_pass(tmp_path: Path) -> None:
    expected = "test_sample.py: felt like it\ntest_sample.py::test_listed: no such device\n"
    assert run(tmp_path, expected, SAMPLE).returncode == 0
