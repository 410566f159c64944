"""Configurations from keyword arguments: what the caller may change, what it may not select, and the key log's file."""

from __future__ import annotations

import datetime as dt
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from stoq.connection.configuration import Configuration
from stoq.crypto.certificates import make_leaf, make_test_ca
from stoq.endpoint.options import KeylogFile, client_configuration, server_configuration
from stoq.errors import ConfigurationError
from stoq.tls import TlsConfiguration

NOW = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)
AUTHORITY = make_test_ca(NOW)


def client(**options: Any) -> Configuration:
    return client_configuration("a.example", alpn="x", ca_data=AUTHORITY.certificate_pem, **options)


# ---- configurations


def test_what_one_caller_changes_is_not_the_next_ones() -> None:
    for _ in range(2):
        made = client()
        made.tls.verify = False
        made.tls.alpn_protocols.append("y")
        made.tls.cipher_suites.clear()
        made.knobs["stream_window"] = 1
        made.idle_timeout = 1.0
    again = client()
    assert again.tls.verify
    assert again.tls.alpn_protocols == ["x"]
    assert again.tls.cipher_suites
    assert again.knobs == {}
    assert again.idle_timeout == 30.0
    assert again.tls.prepared().verify


def test_encoded_pieces_are_shared() -> None:
    first, second = client(), client()
    assert first.tls is not second.tls
    assert first.tls.prepared() is second.tls.prepared()
    assert first.tls.trust is second.tls.trust
    first.tls.server_name = "b.example"
    assert first.tls.prepared() is not second.tls.prepared()
    assert second.tls.prepared().server_name == "a.example"


def test_no_option_selects_the_null_backend() -> None:
    leaf = make_leaf(AUTHORITY, ["a.example"], NOW)
    server: dict[str, Any] = {"certificate": leaf.chain_pem, "private_key": leaf.key_pem}
    tls = TlsConfiguration(is_client=True, server_name="a.example", verify=False)
    attempts: list[Any] = [
        lambda: client(backend="null"),
        lambda: server_configuration(**server, backend="null"),
        lambda: Configuration(tls, backend="null"),
        lambda: client_configuration("a.example", configuration=Configuration(tls), backend="null"),
    ]
    for attempt in attempts:
        with pytest.raises(ConfigurationError, match="protects nothing"):
            attempt()
    for options in ({"allow_null": True}, {"backend": "null", "allow_null": True}):
        with pytest.raises(ConfigurationError, match="unknown option 'allow_null'"):
            client(**options)
    assert Configuration(tls, backend="null", allow_null=True).backend == "null"


# ---- the key log


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_log_is_private(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("before\n")
    old.chmod(0o644)
    new = tmp_path / "new"
    for path in (old, new):
        log = KeylogFile(str(path))
        assert mode(path) == 0o600
        path.chmod(0o666)  # by another program, while we write
        log("LABEL 00 00")
        assert mode(path) == 0o600
        assert path.read_text().endswith("LABEL 00 00\n")
    assert old.read_text().startswith("before\n")


def test_what_is_no_key_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "target"
    target.write_text("")
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "dangling").symlink_to(tmp_path / "made")
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        for name, text in (
            ("link", "symbolic link"),
            ("dangling", "symbolic link"),
            ("fifo", "not a regular file"),
            ("", "Is a directory"),
            ("no/such", "No such file"),
        ):
            with pytest.raises(ConfigurationError, match=f"key log .*{text}"):
                KeylogFile(str(tmp_path / name))
    finally:
        os.close(reader)
    with pytest.raises(ConfigurationError, match="key log"):
        KeylogFile(str(tmp_path / "fifo"))  # nobody reads: refused, not waited for
    assert target.read_text() == ""
    assert not (tmp_path / "made").exists()
    monkeypatch.setattr(os, "geteuid", lambda: target.stat().st_uid + 1)
    with pytest.raises(ConfigurationError, match="another user"):
        KeylogFile(str(target))
    assert target.read_text() == ""


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = KeylogFile(str(tmp_path / "log"))

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ConfigurationError, match="No space"):
        log("line")
    monkeypatch.setattr(os, "write", lambda descriptor, data: 1)
    with pytest.raises(ConfigurationError, match="no space"):
        log("line")
