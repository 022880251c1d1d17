"""Asks that wait for each other, across domains, on real hosts over real Postgres and NATS."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bus.address import parse_address
from callboard.services import Endpoints
from storage.intake import Incoming, accept
from tests.integration.deployment import Deployment

CIRCLES = Path(__file__).with_name("circles")
ROUNDS = 40


@pytest.fixture
async def circles(database: str, services: Endpoints) -> AsyncIterator[Deployment]:
    async with (
        Deployment.open(CIRCLES / "left", database, services.nats_url) as left,
        Deployment.open(CIRCLES / "right", database, services.nats_url) as right,
    ):
        await right.coordinate(hosts=1)
        await left.coordinate(hosts=2)
        yield left


def peer(number: int, place: int) -> str:
    return f"{'left' if place % 2 else 'right'}/peer/{number}-{place}"


async def go(deployment: Deployment, asks: dict[str, list[str]], after_s: float) -> None:
    from circles import Go

    messages = [
        Incoming(to=parse_address(asker), message=Go(ask=asked, after_s=after_s))
        for asker, asked in asks.items()
    ]
    await accept(deployment.pool, deployment.transport, messages)


async def until_nothing_waits(deployment: Deployment) -> None:
    async with asyncio.timeout(40):
        while await deployment.fetch(  # noqa: ASYNC110  # rows in Postgres, changed by others
            "select from turns union all select from promises union all select from mailbox limit 1"
        ):
            await asyncio.sleep(0.05)


async def states(deployment: Deployment) -> dict[str, dict[str, object]]:
    rows = await deployment.fetch("select domain || '/' || agent, state::text from agents")
    return {address: json.loads(state) for address, state in rows}


@pytest.mark.parametrize("seed", range(3))
async def test_of_asks_that_begin_at_one_moment_exactly_one_in_each_circle_is_refused(
    circles: Deployment, seed: int
) -> None:
    rng = random.Random(seed)
    sizes = [rng.choice((1, 2, 2, 2, 3, 5)) for _ in range(ROUNDS)]
    asks = {
        peer(number, place): [peer(number, (place + 1) % size)]
        for number, size in enumerate(sizes)
        for place in range(size)
    }
    await go(circles, asks, after_s=rng.choice((0.0, 0.5)))
    await until_nothing_waits(circles)
    found = await states(circles)
    assert all(found[address]["went"] == 1 for address in asks)
    for number, size in enumerate(sizes):
        members = {peer(number, place) for place in range(size)}
        # Each has its own work before the greeting: so all have asked before anyone could answer.
        cycles = [cycle for address in members for cycle in found[address]["cycles"]]  # type: ignore[attr-defined]
        assert len(cycles) == 1, (size, cycles)
        assert set(cycles[0]) == members
        assert len(cycles[0]) == size + 1
        assert sum(int(str(found[address]["greeted"])) for address in members) == size - 1
    dead = await circles.fetch("select count(*) from dead_letters")
    assert dead == [(0,)]


async def test_a_diamond_across_domains_is_answered(circles: Deployment) -> None:
    asks = {peer(n, 0): [peer(n, 1), peer(n, 2), peer(n, 3)] for n in range(10)}
    asks |= {peer(n, 4): [peer(n, 1), peer(n, 2)] for n in range(10)}
    await go(circles, asks, after_s=0.0)
    await until_nothing_waits(circles)
    assert all(state["cycles"] == [] for state in (await states(circles)).values())


async def test_a_circle_that_a_dying_host_has_not_looked_at_is_found_by_the_next(
    circles: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    from actors.cycles import CycleWatch

    with monkeypatch.context() as blind:
        blind.setattr(CycleWatch, "committed", lambda *_: None)
        await go(circles, {peer(0, 1): [peer(0, 3)], peer(0, 3): [peer(0, 1)]}, after_s=0.5)
        async with asyncio.timeout(20):
            while await circles.fetch("select count(*) from promises where kind = 'ask'") != [(2,)]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    await circles.kill_hosts()
    await until_nothing_waits(circles)
    found = await states(circles)
    assert sorted(len(state["cycles"]) for state in found.values()) == [0, 1]  # type: ignore[arg-type]
