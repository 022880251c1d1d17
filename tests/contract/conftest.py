"""Every contract test runs over the store in memory and over Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.contract.rig import MemoryRig, Rig, postgres_rig


@pytest.fixture(params=["memory", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    return request.getfixturevalue("database") if request.param == "postgres" else None


@pytest.fixture
async def rig(database_url: str | None) -> AsyncIterator[Rig]:
    if database_url is None:
        yield MemoryRig()
    else:
        async with postgres_rig(database_url) as over_postgres:
            yield over_postgres
