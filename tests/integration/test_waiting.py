"""Turns that wait, on real hosts over real Postgres and NATS, whose hosts die."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bus.address import Address
from callboard.services import Endpoints
from storage.intake import Incoming, accept
from tests.integration.deployment import Deployment

PATIENCE = Path(__file__).with_name("patience")
CLERKS = 40


@pytest.fixture
async def patience(database: str, services: Endpoints) -> AsyncIterator[Deployment]:
    async with Deployment.open(PATIENCE, database, services.nats_url) as deployment:
        yield deployment


async def give_cases(deployment: Deployment, *, sleep_s: float) -> None:
    from patience.agents import Case

    await accept(
        deployment.pool,
        deployment.transport,
        [
            Incoming(to=Address("patience", "clerk", str(n)), message=Case(number=n, sleep_s=sleep_s))
            for n in range(CLERKS)
        ],
    )


async def results(deployment: Deployment) -> dict[str, list[str]]:
    rows = await deployment.fetch("select agent, state::text from agents where agent like 'clerk/%'")
    return {agent: json.loads(state)["results"] for agent, state in rows}


def expected() -> dict[str, list[str]]:
    return {f"clerk/{n}": [f"{n}: <{n * n}> <{n * n + 1}>"] for n in range(CLERKS)}


async def until_done(deployment: Deployment) -> None:
    async with asyncio.timeout(40):
        while len(await results(deployment)) < CLERKS:  # noqa: ASYNC110  # rows in Postgres, changed by others
            await asyncio.sleep(0.05)


async def leftovers(deployment: Deployment) -> list[int]:
    return [
        (await deployment.fetch(sql))[0][0]
        for sql in (
            "select count(*) from turns",
            "select count(*) from promises",
            "select count(*) from mailbox",
        )
    ]


async def test_turns_that_compute_ask_and_sleep_end_with_what_they_asked_for(patience: Deployment) -> None:
    await patience.coordinate(hosts=2)
    await give_cases(patience, sleep_s=0.5)
    await until_done(patience)
    assert await results(patience) == expected()
    assert await leftovers(patience) == [0, 0, 0]
    lookups = await patience.fetch(
        "select sum((state ->> 'lookups')::int) from agents where agent like 'archive/%'"
    )
    assert lookups == [(2 * CLERKS,)]


@pytest.mark.parametrize("after_s", [0.2, pytest.param(0.5, marks=pytest.mark.long), 1.0])
async def test_hosts_that_die_while_turns_wait_lose_and_repeat_nothing(
    patience: Deployment, after_s: float
) -> None:
    await patience.coordinate(hosts=2)
    await give_cases(patience, sleep_s=1.0)
    for _ in range(2):
        await asyncio.sleep(after_s)  # in the midst of it, wherever that is
        await patience.kill_hosts()
    await until_done(patience)
    assert await results(patience) == expected()
    assert await leftovers(patience) == [0, 0, 0]
    asked = await patience.fetch(
        "select sum((state ->> 'lookups')::int) from agents where agent like 'archive/%'"
    )
    assert asked == [(2 * CLERKS,)]
    turns = await patience.fetch("select count(*) from transitions where agent like 'clerk/%'")
    assert turns == [(CLERKS,)]
