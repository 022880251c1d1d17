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
from tests.integration.cli import until
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


# -- through tasks -----------------------------------------------------------------------------------

DESK = "right/peer/desk"  # does all tasks of its domain
SOON_S = 20.0


async def follow(deployment: Deployment, address: str, orders: list[list[object]]) -> None:
    from circles import Follow

    await accept(
        deployment.pool, deployment.transport,
        [Incoming(to=parse_address(address), message=Follow(orders=orders))],
    )  # fmt: skip


async def test_a_task_that_asks_back_whoever_waits_for_it_is_refused(circles: Deployment) -> None:
    task = await circles.submit([["run", "right", [["ask", "me"]]]])
    parent = f"left/peer/{task}"
    assert await circles.client.result(task, timeout_s=SOON_S) == [DESK, parent, DESK]
    await until_nothing_waits(circles)
    assert (await states(circles))[parent]["greeted"] == 0


async def test_a_circle_through_tasks_within_tasks_is_refused(circles: Deployment) -> None:
    task = await circles.submit([["run", "right", [["run", "left", [["ask", "me"]]]]]])
    cycle = await circles.client.result(task, timeout_s=SOON_S)
    assert cycle == [cycle[0], f"left/peer/{task}", DESK, cycle[0]]
    task = await circles.submit([["run", "left", [["run", "right", [["ask", "me"]]]]]])
    cycle = await circles.client.result(task, timeout_s=SOON_S)
    assert cycle == [DESK, f"left/peer/{task}", cycle[2], DESK]
    await until_nothing_waits(circles)


async def test_a_circle_of_three_through_two_tasks(circles: Deployment) -> None:
    task = await circles.submit([["sleep", 1.5], ["run", "left", [["run", "right", []]]]])
    parent = f"left/peer/{task}"
    at_work = f"select from turns where domain = 'left' and agent = 'peer/{task}'"
    await until(lambda: circles.fetch(at_work))
    await follow(circles, DESK, [["ask", parent], ["sleep", 0.5]])
    cycle = await circles.client.result(task, timeout_s=SOON_S)
    assert cycle[1:3] == [DESK, parent]
    assert cycle[0] == cycle[3]
    await until_nothing_waits(circles)
    tasks = await circles.fetch("select domain, status from tasks order by created_at")
    assert tasks == [("left", "completed"), ("left", "completed"), ("right", "cancelled")]


ENDS: list[list[object]] = [["complete", "by the helper"]]


@pytest.mark.parametrize(
    "told",
    [
        ["tell", "left/peer/helper", [["sleep", 1.0], *ENDS]],
        ["tell", "left/peer/busy", ENDS],
        ["tell", "left/peer/helper", [["tell", "left/peer/busy", ENDS]]],
    ],
    ids=["at work", "not begun", "told by others"],
)
async def test_whoever_else_may_end_the_task_is_waited_for(circles: Deployment, told: list[object]) -> None:
    await follow(circles, "left/peer/busy", [["sleep", 1.0]])
    task = await circles.submit([["run", "right", [told, ["ask", "me"]]]])
    assert await circles.client.result(task, timeout_s=SOON_S) == "by the helper"
    await until_nothing_waits(circles)
    assert all(not state.get("cycles") for state in (await states(circles)).values())


async def test_a_circle_is_found_when_all_else_of_the_task_has_ended(circles: Deployment) -> None:
    helper = "left/peer/helper"
    await follow(circles, helper, [["sleep", 1.0]])
    task = await circles.submit([["run", "right", [["tell", helper, []], ["ask", "me"]]]])
    assert await circles.client.result(task, timeout_s=SOON_S) == [DESK, f"left/peer/{task}", DESK]
    await until_nothing_waits(circles)


@pytest.mark.parametrize("asks_after_s", [0.0, 1.0])
async def test_a_circle_through_what_a_task_with_its_result_still_waits_for(
    circles: Deployment, asks_after_s: float
) -> None:
    below: list[list[object]] = [["sleep", asks_after_s], ["ask", "me"]]
    task = await circles.submit(
        [["run", "right", [["leave", "left", below], ["sleep", 0.5], ["complete", "done"]]]]
    )
    parent = f"left/peer/{task}"
    assert await circles.client.result(task, timeout_s=SOON_S) == "done"
    await until_nothing_waits(circles)
    [(child, result)] = await circles.fetch(
        "select 'left/peer/' || id, result::text from tasks where goal = 'left behind'"
    )
    assert json.loads(result) == [child, parent, child]
    assert (await states(circles))[parent]["greeted"] == 0


async def test_who_may_still_cancel_what_a_task_with_its_result_waits_for_is_waited_for(
    circles: Deployment,
) -> None:
    below: list[list[object]] = [["ask", "me"]]
    orders = [["leave", "left", below], ["tell", "left/peer/helper", [["sleep", 1.5]]], ["complete", "done"]]
    task = await circles.submit([["run", "right", orders]])
    assert await circles.client.result(task, timeout_s=SOON_S) == "done"
    await until_nothing_waits(circles)
    ended = await circles.fetch(
        "select agent = 'peer/helper' from transitions where domain = 'left' and agent in ("
        " select 'peer/helper' union select 'peer/' || id from tasks where goal = 'left behind')"
        " order by at"
    )
    assert ended == [(True,), (False,)]
