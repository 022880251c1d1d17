"""The lease to replace hosts, and what hosts lack, in Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from bus.errors import Fenced
from storage import inspect
from storage.connect import create_pool
from storage.lack import Lack, report_lack, settle_lease
from storage.migrate import migrate
from storage.placement import claim_coordinator

NAMES = [f"domain{number}" for number in range(10)]
LACK = Lack(hosts=2, cpus=1.0, free=0.5, largest=2.0, others=0)


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool[Any]]:
    await migrate(database)
    pool = await create_pool(database, application="callboard-test", size=10)
    yield pool
    await pool.close()


@pytest.fixture
async def epochs(pool: asyncpg.Pool[Any]) -> dict[str, int]:
    return {name: await claim_coordinator(pool, name, "node") for name in NAMES}


async def test_of_all_who_want_it_at_once_one_gets_it(
    pool: asyncpg.Pool[Any], epochs: dict[str, int]
) -> None:
    async def settle(name: str, *, wants: bool) -> str | None:
        return await settle_lease(pool, name, epochs[name], wants=wants, urgent=False)

    for _ in range(20):
        heard = set(await asyncio.gather(*(settle(name, wants=True) for name in NAMES)))
        assert len(heard) == 1
        [first] = heard
        assert first is not None
        assert await settle("domain1" if first == "domain0" else "domain0", wants=False) == first
        assert await settle(first, wants=False) is None


async def test_a_coordinator_that_is_frozen_or_started_again_has_it_no_more(
    pool: asyncpg.Pool[Any], epochs: dict[str, int]
) -> None:
    assert await settle_lease(pool, "domain0", epochs["domain0"], wants=True, urgent=False) == "domain0"
    await pool.execute(
        "update coordinators set leased_at = leased_at - interval '11 s' where name = 'domain0'"
    )
    assert await settle_lease(pool, "domain1", epochs["domain1"], wants=True, urgent=False) == "domain1"
    assert await settle_lease(pool, "domain0", epochs["domain0"], wants=True, urgent=False) == "domain1"
    await claim_coordinator(pool, "domain1", "node")
    with pytest.raises(Fenced):
        await settle_lease(pool, "domain1", epochs["domain1"], wants=True, urgent=False)
    assert await settle_lease(pool, "domain0", epochs["domain0"], wants=True, urgent=False) == "domain0"


async def test_who_is_urgent_takes_it_from_who_is_not_and_from_nobody_else(
    pool: asyncpg.Pool[Any], epochs: dict[str, int]
) -> None:
    async def settle(name: str, *, urgent: bool, wants: bool = True) -> str | None:
        return await settle_lease(pool, name, epochs[name], wants=wants, urgent=urgent)

    assert await settle("domain0", urgent=False) == "domain0"
    assert await settle("domain1", urgent=True) == "domain1"
    assert await settle("domain0", urgent=False) == "domain1"
    assert await settle("domain2", urgent=True) == "domain1"
    assert await settle("domain1", urgent=False) == "domain1"  # it has a host, and replaces others yet
    assert await settle("domain2", urgent=True) == "domain2"
    assert await settle("domain1", urgent=False) == "domain2"
    assert await settle("domain2", urgent=False, wants=False) is None


async def test_what_hosts_lack_is_known_of_their_coordinator(
    pool: asyncpg.Pool[Any], epochs: dict[str, int]
) -> None:
    async def lacks() -> dict[str, Lack]:
        return {c.name: c.lack for c in await inspect.list_coordinators(pool) if c.lack is not None}

    await report_lack(pool, "domain1", epochs["domain1"], LACK)
    await report_lack(pool, "domain2", epochs["domain2"], LACK)
    assert await lacks() == {"domain1": LACK, "domain2": LACK}
    await report_lack(pool, "domain1", epochs["domain1"], None)
    await claim_coordinator(pool, "domain2", "node")
    assert await lacks() == {}
