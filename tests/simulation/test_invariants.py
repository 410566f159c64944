"""The watchers of stoq.testing.pair see what they watch for; the replay command says what failed."""

from __future__ import annotations

import pytest

from stoq.endpoint.session import Session
from stoq.io.sim import LinkConfig
from stoq.testing import scenario
from stoq.testing.pair import InvariantError, SimulatedPair
from stoq.testing.replay import main
from stoq.testing.scenario import Exchange, draw, run_seed

MS = 1_000_000


def facts(**changes: int | bool) -> dict[str, int | bool]:
    base: dict[str, int | bool] = {
        "in_flight": 1000, "cwnd": 5000, "ptos": 0, "probes": 0, "mtu": 1200, "validated": True, "close_state": 0,
    }  # fmt: skip
    return base | changes


def test_the_window_is_watched() -> None:
    pair = SimulatedPair()
    session = Session()
    node = pair.client
    node.before[session] = facts(in_flight=4000)
    node.check_window(session, facts(in_flight=5000))
    with pytest.raises(InvariantError, match="in flight"):
        node.check_window(session, facts(in_flight=5001))
    node.check_window(session, facts(in_flight=6200, ptos=1))
    node.before[session] = facts(in_flight=9000)
    node.check_window(session, facts(in_flight=8000))  # the window shrank; nothing was added


def test_closing_is_watched() -> None:
    pair = SimulatedPair()
    session = Session()
    node = pair.client
    node.closing[session] = (pair.now, pair.now + 10)
    pair.network.advance(pair.now + 11)
    with pytest.raises(InvariantError, match="three PTO"):
        node.check()


def test_wrong_bytes_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Exchange.__init__

    def altered(self: Exchange, *arguments: object) -> None:
        original(self, *arguments)  # type: ignore[arg-type]
        if self.out is not None and self.side.is_client and len(self.outgoing) > 10:
            self.outgoing = self.outgoing[:5] + b"!!!!!" + self.outgoing[10:]

    monkeypatch.setattr(scenario.Exchange, "__init__", altered)
    with pytest.raises(InvariantError, match="wrong bytes"):
        run_seed(0)


def test_a_link_that_never_delivers_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = draw(0)
    plan.client_link = LinkConfig(delay_ns=MS, loss=1.0)
    plan.client_options["idle_timeout"] = 5
    with pytest.raises(InvariantError, match="not complete"):
        scenario.Run(plan).execute()


def test_replay_prints_the_scenario_and_its_digest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "3"]) == 0
    first = capsys.readouterr().out
    assert "seed 3:" in first
    assert "digest: " in first
    assert main(["--seed", "3", "--verbose"]) == 0
    verbose = capsys.readouterr().out
    assert "initial dcid" in verbose
    assert verbose.splitlines()[-1] == first.splitlines()[-1]


def test_replay_says_what_failed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(scenario, "LIMIT", 1)
    assert main(["--seed", "3"]) == 1
    assert "FAILED: not complete" in capsys.readouterr().err
