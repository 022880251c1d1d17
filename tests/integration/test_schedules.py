"""Schedules on real hosts over real Postgres, whose hosts and coordinators die, and whose rows are moved in time."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from callboard.services import Endpoints
from storage.queries import query
from tests.integration.cli import Cli, until
from tests.integration.deployment import Deployment

ROTA = Path(__file__).with_name("rota")


@pytest.fixture
async def rota(
    database: str, services: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Deployment]:
    monkeypatch.setenv("CALLBOARD_POSTGRES_URL", database)
    monkeypatch.setenv("CALLBOARD_NATS_URL", services.nats_url)
    async with Deployment.open(ROTA, database, services.nats_url) as deployment:
        yield deployment


async def is_kept(rota: Deployment) -> bool:
    return await rota.fetch("select count(*) from schedules") == [(2,)]


async def minutes_ago(rota: Deployment, count: int) -> float:
    """The rounds were last due so many minutes ago."""
    [(at,)] = await rota.fetch(
        "update schedules set next_at = date_trunc('minute', now()) - make_interval(mins => $1)"
        " where name = 'rounds' returning extract(epoch from next_at)::float8",
        count,
    )
    return float(at)


async def rounds(rota: Deployment) -> list[float]:
    found = await rota.fetch("select state::text from agents where agent = 'watchkeeper/night'")
    state: dict[str, list[float]] = json.loads(found[0][0]) if found else {"rounds": []}
    return state["rounds"]


async def has_rounds(rota: Deployment, first: float, count: int) -> list[float]:
    """Those from the first on: a minute may begin while a test looks."""

    async def enough() -> list[float]:
        made = [at for at in await rounds(rota) if at >= first]
        return made if len(made) >= count else []

    found: list[float] = await until(enough)
    return found


async def test_what_passed_is_sent_once_each_without_a_coordinator(rota: Deployment) -> None:
    await rota.coordinate(hosts=2)
    await until(lambda: is_kept(rota))
    await rota.forsake()
    first = await minutes_ago(rota, 5)
    made = await has_rounds(rota, first, 6)
    assert made == [first + 60 * n for n in range(len(made))]
    assert await rota.fetch("select next_at > now(), last_at is not null from schedules order by name") == [
        (True, False), (True, True),
    ]  # fmt: skip


async def test_hosts_that_die_send_each_occurrence_once(rota: Deployment) -> None:
    await rota.coordinate(hosts=2)
    await until(lambda: is_kept(rota))
    await rota.kill_hosts()
    first = await minutes_ago(rota, 30)
    await has_rounds(rota, first, 10)
    await rota.kill_hosts()
    made = await has_rounds(rota, first, 31)
    assert made == [first + 60 * n for n in range(len(made))]


async def test_a_sleeping_domain_is_woken_by_a_schedule(rota: Deployment) -> None:
    await rota.coordinate(hosts=1)
    await until(lambda: is_kept(rota))
    await rota.forsake()
    await rota.kill_hosts()
    await rota.pool.execute("update domains set state = 'asleep', asleep_after = 9000000000")
    await rota.pool.execute("update schedules set next_at = now() + interval '1 hour'")
    assert await rota.pool.fetchval(query("wake_if_due"), "rota") is None
    await minutes_ago(rota, 1)
    assert await rota.pool.fetchval(query("wake_if_due"), "rota") == "a schedule is due"


async def test_people_see_when_each_comes_next(rota: Deployment, cli: Cli) -> None:
    assert "No schedules" in await cli("schedules")
    await rota.coordinate(hosts=1)
    await until(lambda: is_kept(rota))
    found = {row["name"]: row for row in (await cli.json("schedules"))["schedules"]}
    assert found["report"]["cron"] == "0 6 * * 1-5"
    assert found["report"]["recipient"] == "watchkeeper/day"
    assert (found["report"]["catch_up"], found["report"]["last_at"]) == ("one", None)
    text = await cli("schedules", "--domain", "rota")
    assert "06:00 CE" in text
    assert "nobody" in await cli.error("schedules", "--domain", "nobody")
