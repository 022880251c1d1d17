from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from callboard.testing import TestKit
from coordinators.tasks.agent import TaskAgent
from tests.unit.tasks.desk import Deaf, Desk, Worker


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with TestKit([Worker, Deaf], hosts=2, system_kinds=(TaskAgent,)) as kit:
        yield Desk(kit)
