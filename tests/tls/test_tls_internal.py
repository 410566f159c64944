"""A failing key log must not end a handshake, an error of our own must, for good; and secrets are not shown."""

from __future__ import annotations

import logging

import pytest
from tls_pair import client_configuration, make, pump, run, server_configuration

from stoq.crypto.trust import TrustStore
from stoq.errors import ConfigurationError
from stoq.tls import AlertDescription, Epoch, TlsAlert
from stoq.tls.session import Secret


@pytest.mark.parametrize("error", [OSError(28, "SECRET"), ConfigurationError("cannot write the key log x: full")])
def test_a_failing_key_log_does_not_end_a_handshake(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    def keylog(line: str) -> None:
        raise error

    client_side, server_side = client_configuration(keylog=keylog), server_configuration(keylog=keylog)
    for _ in range(3):
        client, server = make(client_side), make(server_side)
        run(client, server)
        assert client.complete
        assert server.complete
    assert len(caplog.records) == 2  # once for each configuration
    assert "SECRET" not in caplog.text
    assert caplog.records[0].exc_info is None
    if isinstance(error, ConfigurationError):
        assert "full" in caplog.text


def test_an_internal_error_ends_the_handshake_for_good(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that was cut off must not be entered a second time."""
    calls = 0

    def broken(*args: object) -> None:
        nonlocal calls
        calls += 1
        raise ZeroDivisionError("SECRET")

    client, server = make(client_configuration()), make(server_configuration())
    client.start()
    pump(client, server)
    (_, hello), (_, flight) = server.take_output()
    client.receive(Epoch.INITIAL, hello)
    monkeypatch.setattr(TrustStore, "verify", broken)
    with caplog.at_level(logging.CRITICAL + 1), pytest.raises(TlsAlert) as first:
        client.receive(Epoch.HANDSHAKE, flight)
    assert first.value.description is AlertDescription.INTERNAL_ERROR
    assert first.value.message == "internal error: ZeroDivisionError"
    assert isinstance(first.value.__cause__, ZeroDivisionError)
    monkeypatch.undo()
    with pytest.raises(TlsAlert) as second:
        client.receive(Epoch.HANDSHAKE, flight)
    assert second.value.description is AlertDescription.INTERNAL_ERROR
    assert calls == 1
    assert not client.complete
    assert client.take_output() == []


def test_an_internal_error_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def broken(size: int) -> bytes:
        raise ZeroDivisionError

    client, server = make(client_configuration()), make(server_configuration(), broken)
    client.start()
    with pytest.raises(TlsAlert, match="internal"):
        pump(client, server)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_a_secret_is_not_shown() -> None:
    secret = Secret(Epoch.ONE_RTT, True, 0x1301, b"\x41" * 32)
    assert "AAAA" not in f"{secret} {secret!r} {[secret]}"
    assert "0x1301" in repr(secret)
    assert secret.secret == b"\x41" * 32
