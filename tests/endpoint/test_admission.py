"""stoq.endpoint.admission: who may open a connection, and the tokens that prove an address."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoq.endpoint.admission import DefaultAdmission
from stoq.errors import ConfigurationError, TransportErrorCode

KEY = bytes(range(32))
CLIENT = ("192.0.2.7", 40000)
DCID, SCID, NEW = b"original", b"clientid", b"retryscd"
NOW = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


def ask(admission: DefaultAdmission, token: bytes = b"", dcid: bytes = DCID, **options: Any) -> dict[str, Any]:
    given = {"address": CLIENT, "now": NOW, "half_open": 0, "connections": 0} | options
    address, now = given.pop("address"), given.pop("now")
    half_open, connections = given.pop("half_open"), given.pop("connections")
    return admission.decide(token, dcid, SCID, address, now, half_open, connections, **given)


def retry_token(admission: DefaultAdmission) -> bytes:
    return admission.mint_retry(CLIENT, DCID, NEW, 1, NOW)


def test_thresholds() -> None:
    admission = DefaultAdmission(KEY, half_open_retry=2, half_open_max=4, max_connections=10)
    assert ask(admission, half_open=1)["verdict"] == "accept"
    assert not ask(admission)["validated"]
    assert ask(admission, half_open=2)["verdict"] == "retry"
    assert ask(admission, half_open=4)["verdict"] == "drop"
    refused = ask(admission, connections=10)
    assert refused["verdict"] == "refuse"
    assert refused["error_code"] == TransportErrorCode.CONNECTION_REFUSED


def test_a_vouched_address_needs_no_retry() -> None:
    admission = DefaultAdmission(KEY, half_open_retry=0)
    assert ask(admission)["verdict"] == "retry"
    decision = ask(admission, vouched=True)
    assert decision["verdict"] == "accept"
    assert decision["validated"]


@pytest.mark.parametrize("always", [False, True])
def test_a_retry_token_is_accepted(always: bool) -> None:
    # Without always_retry this server never sent one: a packet filter in front of it may have.
    admission = DefaultAdmission(KEY, always_retry=always, half_open_retry=0)
    token = retry_token(DefaultAdmission(KEY))
    decision = ask(admission, token, NEW, now=NOW + 9 * SECOND)
    assert decision == {
        "verdict": "accept", "validated": True, "traffic_class": 0, "original_dcid": DCID, "retry_scid": NEW,
    }  # fmt: skip


def test_what_a_retry_token_is_bound_to() -> None:
    admission = DefaultAdmission(KEY)
    token = retry_token(admission)
    stale = ask(admission, token, NEW, now=NOW + 10 * SECOND + 1)
    assert (stale["verdict"], stale["error_code"]) == ("refuse", TransportErrorCode.INVALID_TOKEN)
    assert ask(admission, token, NEW, now=NOW - 2 * SECOND)["verdict"] == "accept"  # clocks differ a little
    assert ask(admission, token, NEW, now=NOW - 2 * SECOND - 1)["verdict"] == "refuse"
    assert ask(admission, token, b"otherid!")["verdict"] == "refuse"
    assert ask(admission, token, NEW, address=("192.0.2.7", 40001))["verdict"] == "drop"
    assert ask(admission, token, NEW, address=("192.0.2.8", 40000))["verdict"] == "drop"
    assert ask(admission, token, NEW, version=2)["verdict"] == "drop"
    assert ask(DefaultAdmission(b"o" * 32), token, NEW)["verdict"] == "drop"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_altered_token_validates(data: st.DataObject) -> None:
    admission = DefaultAdmission(KEY)
    token = bytearray(data.draw(st.sampled_from([retry_token(admission), admission.mint_new_token(CLIENT, 1, NOW)])))
    at = data.draw(st.integers(0, len(token) - 1))
    token[at] ^= data.draw(st.integers(1, 255))
    decision = ask(admission, bytes(token), NEW)
    assert not decision["validated"]
    assert "original_dcid" not in decision


def test_random_tokens_validate_nothing() -> None:
    """SECURITY row 15, scaled to a tenth of a second; the MAC is 128 bits."""
    admission = DefaultAdmission(KEY)
    rng = random.Random(3)
    for _ in range(20_000):
        token = bytes([rng.choice(b"rn")]) + rng.randbytes(rng.randint(0, 80))
        decision = ask(admission, token, NEW)
        assert not decision["validated"]
    # Structures that parse up to the MAC.
    good = retry_token(admission)
    for _ in range(5_000):
        assert not ask(admission, good[:-16] + rng.randbytes(16), NEW)["validated"]


def test_a_new_token_validates_the_host_for_its_lifetime() -> None:
    admission = DefaultAdmission(KEY, half_open_retry=0, token_lifetime=100)
    token = admission.mint_new_token(CLIENT, 1, NOW)
    decision = ask(admission, token, address=("192.0.2.7", 1), now=NOW + 100 * SECOND)
    assert decision == {"verdict": "accept", "validated": True, "traffic_class": 0}
    assert ask(admission, token, now=NOW + 100 * SECOND + 1)["verdict"] == "retry"
    assert ask(admission, token, address=("192.0.2.8", 40000))["verdict"] == "retry"
    assert ask(admission, token, version=2)["verdict"] == "retry"


def test_tokens_of_other_servers_count_as_none() -> None:
    admission = DefaultAdmission(KEY)
    for token in (b"x", b"another server's token", b"n" * 33, b"r", b"r" * 9, bytes(60)):
        decision = ask(admission, token)
        assert not decision["validated"]
        assert decision["verdict"] in ("accept", "drop")


def test_a_clock_for_tokens() -> None:
    minting = DefaultAdmission(KEY, clock=lambda: NOW)
    checking = DefaultAdmission(KEY, clock=lambda: NOW + 5 * SECOND)
    token = minting.mint_retry(CLIENT, DCID, NEW, 1, 1)
    assert ask(checking, token, NEW, now=77)["validated"]


def test_keys_are_random_only_when_not_given() -> None:
    token = retry_token(DefaultAdmission())
    assert not ask(DefaultAdmission(), token, NEW)["validated"]
    with pytest.raises(ConfigurationError):
        DefaultAdmission(b"short")
    with pytest.raises(ConfigurationError):
        DefaultAdmission(KEY, max_connections=-1)
