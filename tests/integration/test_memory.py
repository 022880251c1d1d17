"""A host's memory stays flat, however much waits in the mailboxes of its agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from bus.address import DEFAULT_TENANT, partition_of
from bus.envelope import Header, header_to_json
from callboard.services import Endpoints
from tests.growth import Growth
from tests.integration.cli import until
from tests.integration.deployment import Deployment

HEAVY = Path(__file__).with_name("heavy")
MIB = 1024 * 1024
AGENTS, EACH, SIZE = 100, 12, 200_000  # 240 MB in all
MOST_GROWTH = 150 * MIB  # a cache of 32 MiB, and what is on its way in and out of Postgres


@pytest.fixture
async def heavy(database: str, services: Endpoints) -> AsyncIterator[Deployment]:
    async with Deployment.open(HEAVY, database, services.nats_url) as deployment:
        yield deployment


async def fill(heavy: Deployment, kind: str) -> None:
    """Large messages in the mailboxes of many agents; they are made by Postgres, not here."""
    for agent in [f"{kind}/{number}" for number in range(AGENTS // 2)]:
        header = Header(id="ID", type="heavy.load.v1", sender="external/test", sent_at=0.0)
        await heavy.pool.execute(
            "insert into mailbox (domain, tenant, partition, agent, seq, id, header, payload)"
            " select 'heavy', $1, $2, $3, nextval('mailbox_seq'), i.id, replace($4, 'ID', i.id::text)::json,"
            "   json_build_object('text', repeat('x', $5))"
            " from (select gen_random_uuid() as id from generate_series(1, $6)) i",
            DEFAULT_TENANT, partition_of(DEFAULT_TENANT, agent, 8), agent, header_to_json(header), SIZE, EACH,
        )  # fmt: skip


@pytest.mark.timeout(300)
async def test_a_host_whose_agents_have_240_mb_of_mail_stays_small_and_handles_it_all(
    heavy: Deployment,
) -> None:
    from heavy.agents import Parked

    Parked.may_go_on = False
    await fill(heavy, "parked")
    await fill(heavy, "porter")
    carried = "select coalesce(sum((state ->> 'carried')::bigint), 0)::bigint from agents where agent like $1"
    half = AGENTS // 2 * EACH * SIZE
    with Growth(psutil.Process()) as memory:
        await heavy.coordinate()
        assert await until(lambda: is_sum(heavy, carried, "porter/%", half), timeout_s=120)
        assert await heavy.fetch("select count(*)::int from mailbox") == [(AGENTS // 2 * EACH,)]
        Parked.may_go_on = True
        assert await until(lambda: is_sum(heavy, carried, "parked/%", half), timeout_s=120)
    assert await heavy.fetch("select * from mailbox") == []
    assert await heavy.fetch("select count(*)::int from transitions") == [(AGENTS * EACH,)]
    assert await heavy.fetch("select * from dead_letters") == []
    assert memory.most < MOST_GROWTH, f"{memory.most / MIB:.0f} MiB"


async def is_sum(heavy: Deployment, sql: str, agents: str, expected: int) -> bool:
    await asyncio.sleep(0)
    return await heavy.fetch(sql, agents) == [(expected,)]
