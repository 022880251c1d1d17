"""Each day what nobody needs any more goes: rows of hosts, code; and no history."""

# ruff: noqa: S608  # the statements are put together from constants

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from callboard.services import Endpoints
from coordinators.upkeep import Upkeep
from storage.code import put_code
from storage.retention import HOSTS_KEPT, retain
from tests.integration.cli import until
from tests.integration.deployment import Deployment
from tests.integration.old_desk import age, desk_at_rest


@pytest.fixture
async def desk(services: Endpoints, database: str) -> AsyncIterator[Deployment]:
    async with desk_at_rest(services, database) as desk:
        yield desk


async def test_each_day_ended_hosts_go_but_for_the_last_of_each_domain(
    desk: Deployment, database: str
) -> None:
    await desk.pool.execute("delete from hosts")
    await desk.pool.execute(
        "insert into hosts (domain, host, node, pid, born, code, ended_at)"
        f" select d, d || n, 'n', 1, '', '', now() - make_interval(days => n) from unnest(array['busy', 'still']) d,"
        f" generate_series(60, 1, -1) n where d = 'busy' or n > 60 - {HOSTS_KEPT} - 2"
    )
    await desk.pool.execute(
        "insert into hosts (domain, host, node, pid, born, code) values ('busy', 'lives', 'n', 1, '', '')"
    )
    assert (await retain(database, months=None, dry_run=True)).hosts == 31 + 2
    await retain(database, months=None)
    left = await desk.fetch(
        "select domain, count(*), min(ended_at) < now() - interval '31 days' from hosts group by 1"
    )
    assert sorted(left) == [("busy", 30, False), ("still", HOSTS_KEPT, True)]


async def test_each_day_code_goes_that_neither_a_domain_nor_a_live_host_runs(
    desk: Deployment, database: str
) -> None:
    for digest in ("named", "running", "old", "new"):
        await put_code(desk.pool, "desk", digest, b"zip")
    await desk.pool.execute(
        "update domain_code set added_at = now() - interval '25 hours' where digest <> 'new'"
    )
    await desk.pool.execute("update domains set code = 'named'")
    await desk.pool.execute(
        "insert into hosts (domain, host, node, pid, born, code) values ('desk', 'lives', 'n', 1, '', 'running')"
    )
    assert (await retain(database, months=None, dry_run=True)).code == 1
    await retain(database, months=None)
    assert await desk.fetch("select digest from domain_code order by 1") == [
        ("named",),
        ("new",),
        ("running",),
    ]


async def test_code_that_is_registered_again_is_new_again(desk: Deployment, database: str) -> None:
    await put_code(desk.pool, "desk", "back", b"damaged")
    await desk.pool.execute("update domain_code set added_at = now() - interval '25 hours'")
    await put_code(desk.pool, "desk", "back", b"whole")
    await retain(database, months=None)
    assert await desk.fetch("select digest, bundle from domain_code") == [("back", b"whole")]


async def test_the_daily_upkeep_keeps_all_history(desk: Deployment, database: str) -> None:
    await age(desk)
    upkeep = Upkeep(database)
    await upkeep()
    await upkeep()  # the next round, a moment later
    await until(lambda: desk.fetch("select from seen having count(*) = 0"))
    assert await desk.fetch("select count(*) from transitions") == [(3,)]
    assert await desk.fetch("select count(*) from tasks") == [(2,)]
