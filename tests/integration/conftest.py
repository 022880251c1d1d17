"""What the tests of the command line share: commands on a home of their own, and two domains at work."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from callboard.services import Endpoints
from tests.integration.cli import Cli, desk_at_work
from tests.integration.deployment import Deployment
from tests.integration.vigil_at_work import vigil_at_work


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("CALLBOARD_HOME", str(home))
    return Cli(capsys)


@pytest.fixture
async def desk(
    services: Endpoints, database: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Deployment]:
    async with desk_at_work(services, database, monkeypatch) as desk:
        yield desk


@pytest.fixture
async def vigil(
    services: Endpoints, database: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Deployment]:
    async with vigil_at_work(services, database, monkeypatch) as vigil:
        yield vigil
