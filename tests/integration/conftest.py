"""What several tests share: commands on a home of their own, two domains at work, and a gateway before played upstreams."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from callboard.services import Endpoints
from tests.integration.cli import Cli, desk_at_work
from tests.integration.deployment import Deployment
from tests.integration.vigil_at_work import vigil_at_work

if TYPE_CHECKING:
    from tests.integration.gateway import Front, Stage
    from tests.integration.policies import Open


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


@pytest.fixture
def deployed(services: Endpoints, database: str) -> Open:
    """Opens the example of a policy as a deployment."""
    from tests.integration.policies import EXAMPLES

    return lambda policy, **tasks: Deployment.open(EXAMPLES / policy, database, services.nats_url, **tasks)


@pytest.fixture(scope="module")
async def stage() -> AsyncIterator[Stage]:
    from tests.integration.gateway import Stage  # with the SDKs, which most tests go without

    async with Stage.set() as stage:
        yield stage


@pytest.fixture
async def front(stage: Stage) -> AsyncIterator[Front]:
    """A gateway whose `openai` answers, until a test has something else put on."""
    from tests.integration.upstreams import completion, reply

    async with stage.front() as front:
        front.openai.put_on(reply(completion()))
        yield front
