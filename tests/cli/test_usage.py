"""What a wrong command line says: one line on stderr, exit code 2 (usage) or 1 (failure), no traceback."""

from __future__ import annotations

import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from stoq.cli.main import run

ROOT = Path(__file__).parent.parent.parent


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "nonsense"),
        (["serve"], "DIRECTORY"),
        (["serve", "/no/such/folder", "--certificate", "x", "--private-key", "x"], "does not exist"),
        (["serve", "."], "--certificate"),
        (["serve", ".", "--certificate", "/no/such.pem", "--private-key", "/no/such.pem"], "/no/such.pem"),
        (
            [
                "serve",
                ".",
                "--certificate",
                str(ROOT / "LICENSE"),
                "--private-key",
                str(ROOT / "LICENSE"),
                "--port",
                "x",
            ],
            "x",
        ),
        (["serve", "--frobnicate", "."], "--frobnicate"),
        (["get"], "URL"),
        (["get", "--frobnicate", "https://localhost/x"], "--frobnicate"),
        (["get", "http://localhost/x"], "want https://"),
        (["get", "https:///x"], "want https://"),
        (["get", "https://localhost:99999/x"], "99999"),
        (["get", "https://localhost:0/x"], "want https://"),
        (["get", "https://localhost/x?y=1"], "query"),
        (["get", "https://localhost/"], "names no file"),
        (["get", "https://localhost/%2e%2e"], "names no file"),
        (["get", "https://localhost/a%2f..", "-o", "."], "names no file"),
        (["get", "https://localhost/x", "https://localhost/y", "-o", "-"], "one URL"),
        (["get", "https://localhost/x", "https://localhost/y", "-o", "/no/such/file"], "no directory"),
        (["get", "https://localhost/x", "https://localhost:4433/x"], "same file"),
        (["get", "https://localhost/x", "--verify", "md5"], "--verify"),
        (["get", "https://localhost/x", "--verify", "sha256:abc"], "--verify"),
        (["get", "https://h/x", "https://h/y", "--verify", "sha256:" + "0" * 64], "one URL"),
        (["get", "https://localhost/x", "--ca-file", "/no/such.pem"], "/no/such.pem"),
        (["cert"], "--out"),
        (["cert", "--out", str(ROOT / "LICENSE")], "file"),
        (["cert", "--out", "x", "--days", "0"], "days"),
        (["doctor", "surplus"], "surplus"),
    ],
)
def test_usage_errors(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert said in one_line(capsys)


@pytest.mark.parametrize("command", [[], ["serve"], ["get"], ["cert"], ["doctor"]])
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--help"]) == 0
    assert "Usage: stoq" in capsys.readouterr().out


def test_version_is_the_projects(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert capsys.readouterr().out.split()[-1] == version


def test_cert_makes_what_a_server_and_its_clients_need(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cert", "--out", str(tmp_path / "pki"), "--name", "localhost", "--name", "127.0.0.1"]) == 0
    capsys.readouterr()
    folder = tmp_path / "pki"
    authority = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    leaf = x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())
    leaf.verify_directly_issued_by(authority)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    key = load_pem_private_key((folder / "key.pem").read_bytes(), None)
    assert key.public_key() == leaf.public_key()
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600


def test_cert_keeps_what_stands_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cert", "--out", str(tmp_path)]) == 0
    before = (tmp_path / "key.pem").read_bytes()
    capsys.readouterr()
    assert run(["cert", "--out", str(tmp_path)]) == 1
    assert "--force" in one_line(capsys)
    assert (tmp_path / "key.pem").read_bytes() == before
    assert run(["cert", "--out", str(tmp_path), "--force"]) == 0
    assert (tmp_path / "key.pem").read_bytes() != before


def test_cert_in_a_folder_that_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cert", "--out", "/proc/nowhere"]) == 1
    assert "/proc/nowhere" in one_line(capsys)


def test_cert_for_a_name_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cert", "--out", str(tmp_path), "--name", "bücher"]) == 1
    assert "bücher" in one_line(capsys)


def test_without_click_the_hint_is_one_line() -> None:
    script = "import sys; sys.modules['click'] = None; import stoq.cli.main"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.strip() == "stoq: the command needs click: pip install 'stoq[cli]'"
