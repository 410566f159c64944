"""Pages that come from tables in the code are what the tables say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

DOCS = Path(__file__).parents[2] / "docs"


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_fresh() -> None:
    for name, page in generator().PAGES.items():
        assert (DOCS / name).read_text(encoding="utf-8") == page(), f"stale: python docs/generate.py rewrites {name}"


def test_every_row_is_on_the_page() -> None:
    page = generator().knobs_page()
    assert "| `max_ack_delay_ns` | ns | 25,000,000 |" in page
    assert "| `bytes_in_flight` | bytes |" in page
