"""What the tests of tools share: a world in which nothing has happened yet."""

from __future__ import annotations

import pytest

from tests.unit.tools.caller import World


@pytest.fixture
def world() -> World:
    return World()
