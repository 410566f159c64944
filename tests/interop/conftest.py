"""Certificates for every scenario: made once."""

from __future__ import annotations

import pytest
from interop_peers import Certificates


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("interop"))
