"""What the tests of tools share: a world in which nothing has happened yet."""

from __future__ import annotations

import pytest

from actors import holdings
from tests.unit.tools.caller import World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def short_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a partition that is asked back waits for holds it up for a moment only."""
    monkeypatch.setattr(holdings, "DRAIN_S", 0.05)
