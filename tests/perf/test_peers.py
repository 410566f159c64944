"""The peer programs of the benchmark run, and answer what their protocol says."""

from __future__ import annotations

from pathlib import Path

import pytest

from perf.e2e import certificate, runner
from perf.e2e.lanes import LANES

LANE = {lane.name: lane for lane in LANES}
FEW = {"down": ("--bytes", "300000"), "up": ("--bytes", "300000")}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    return certificate.write(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize(
    ("lane", "case"),
    [("stoq", case) for case in LANE["stoq"].cases]
    + [("stoq/uvloop", "flight"), ("aioquic", "down"), ("qh3", "up"), ("udp", "ping")],
)
def test_a_case_runs(lane: str, case: str, files: tuple[Path, Path, Path]) -> None:
    answer = runner.run(LANE[lane], case, files, 0.1, FEW.get(case, ("--count", "40")))
    assert answer["value"] > 0
    assert answer["cpu"] > 0
    if case in FEW:
        assert answer["bytes"] == 300_000


def test_a_peer_that_fails_says_why(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    other = certificate.write(tmp_path)
    with pytest.raises(runner.RunFailed, match="HandshakeFailed"):
        runner.run(LANE["stoq"], "ping", (other[0], *files[1:]), 0.1)
