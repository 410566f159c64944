"""`make demo` with a small file: every pair moves it and the table is printed; a changed byte is a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

import perf.demo.__main__ as demo


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(demo, "WORK", tmp_path)
    monkeypatch.setattr(demo, "SIZE_WANTED", 200_000)
    monkeypatch.setattr(demo, "SIZE_LEAST", 200_000)
    monkeypatch.setattr(demo, "library_files", lambda: iter(sorted((demo.ROOT / "stoq").rglob("*.py*"))))
    monkeypatch.setattr(demo, "REPEATS", 1)
    return tmp_path


def test_every_pair(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main() == 0
    printed = capsys.readouterr().out
    assert printed.count("SHA-256 equal\n") == 4
    assert "handshake ms" in printed
    assert printed.count("AES-") == 4
    assert not (small / "fetched").exists()


def test_bytes_that_differ_fail(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "PAIRS", [("stoq", "aioquic")])
    monkeypatch.setattr(demo, "make_file", lambda path: path.write_bytes(b"x" * 1000) and "0" * 64)
    assert demo.main() == 1
    assert "demo failed" in capsys.readouterr().out


def test_a_server_that_does_not_start_is_named(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (small / "pki").write_text("in the way")
    assert demo.main() == 1
    assert "stoq cert" in capsys.readouterr().out
