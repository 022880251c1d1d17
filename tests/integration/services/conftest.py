"""Services of a test of its own, and those that tests only look at."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from callboard.services import ensure_services, stop_instance
from callboard.settings import Settings
from tests.conftest import make_home


@pytest.fixture
async def settings(home: Path) -> AsyncIterator[Settings]:
    """Settings for services of this test's own, which are stopped at its end whatever happened."""
    settings = Settings(home=home)
    yield settings
    await stop_instance(settings)


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Settings]:
    """Settings for services that run, and that tests leave as they are."""
    folder = make_home()
    settings = Settings(home=folder / "home")
    async with await ensure_services(settings):
        yield settings
    shutil.rmtree(folder)
