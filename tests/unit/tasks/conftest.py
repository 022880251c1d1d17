from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from actors.domain import TaskSpec
from callboard.testing import TestKit
from coordinators.tasks.agent import TaskAgent
from tests.unit.tasks import desk as desks
from tests.unit.tasks.family import answers, fails, waits
from tests.unit.tasks.worker import Worker, fresh


@pytest.fixture
async def desk() -> AsyncIterator[desks.Desk]:
    async with TestKit([desks.Worker, desks.Deaf], hosts=2, system_kinds=(TaskAgent,)) as kit:
        yield desks.Desk(kit)


@pytest.fixture
async def kit() -> AsyncIterator[TestKit]:
    """Two domains, in one of which tasks start tasks."""
    fresh(answers, fails, waits)
    async with TestKit(
        [Worker], hosts=2, others=["elsewhere"], tasks=TaskSpec(to="worker/{task}")
    ) as running:
        yield running
