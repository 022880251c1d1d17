"""The secops domain's code travels to hosts as a runtime environment; here it is put on the path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "secops"
sys.path.insert(0, str(EXAMPLE))


@pytest.fixture(scope="session")
def example() -> Path:
    return EXAMPLE


@pytest.fixture(autouse=True)
def blocklist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where blocks are written: nothing of a test gets into the data folder."""
    path = tmp_path / "blocked" / "blocklist.nft"
    monkeypatch.setenv("SECOPS_BLOCKLIST", str(path))
    return path
