"""Cancelled tasks on real hosts over real Postgres and NATS, whose hosts die."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bus.errors import InvalidTask, TaskError, TaskFailed, UnknownTask
from callboard.services import Endpoints
from coordinators.tasks.front import CancelRequest
from coordinators.tasks.remote import cancel_over_nats
from tests.integration.cli import until
from tests.integration.deployment import Deployment

OUTING = Path(__file__).with_name("outing")
BOOKERS = 12
SOON_S = 20.0


@pytest.fixture
async def outing(database: str, services: Endpoints) -> AsyncIterator[Deployment]:
    async with Deployment.open(OUTING, database, services.nats_url) as deployment:
        agents().booked.clear()
        agents().released.clear()
        yield deployment


def agents() -> Any:
    import outing.agents

    return outing.agents


async def count(at: Deployment, table: str) -> int:
    return int((await at.fetch(f"select count(*) from {table}"))[0][0])  # noqa: S608  (a name from here)


async def at_work(at: Deployment) -> str:
    """A task whose bookers all wait: each has asked two others, one of them by a plain message."""
    task = await at.submit({"bookers": BOOKERS})

    async def all_wait() -> bool:
        return await count(at, "turns where waiting") == 1 + BOOKERS * 5

    await until(all_wait)
    return task


async def is_over(at: Deployment, task: str) -> None:
    with pytest.raises(TaskFailed, match="was cancelled: not needed") as caught:
        await at.client.result(task, timeout_s=SOON_S)
    assert caught.value.code == "cancelled"
    left = [await count(at, table) for table in ("turns", "promises", "timers", "mailbox", "dead_letters")]
    assert left == [0] * 5
    rows = await at.fetch("select kind from task_events where task = $1::uuid order by number", task)
    kinds = [kind for (kind,) in rows]
    assert kinds[-2:] == ["cancelling", "cancelled"]
    assert Counter(kinds)["cancelled"] == 1


async def test_a_cancelled_task_ends_with_all_that_it_has_started(outing: Deployment) -> None:
    await outing.coordinate(hosts=2)
    task = await at_work(outing)
    before = await outing.client.cancel(task, "not needed")
    assert before.status == "running"
    await is_over(outing, task)
    assert Counter(agents().released) == Counter(agents().booked)
    assert len(agents().booked) == BOOKERS * 5
    assert (await outing.client.cancel(task, "again")).status == "cancelled"
    decisions = await outing.fetch("select count(*) from transitions where body ->> 'decision' = 'cancelled'")
    assert decisions == [(1 + BOOKERS * 5,)]


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.2, 0.4])
async def test_hosts_that_die_while_a_task_is_cancelled_leave_nothing_of_it(
    outing: Deployment, after_s: float
) -> None:
    await outing.coordinate(hosts=2)
    task = await at_work(outing)
    await outing.client.cancel(task, "not needed")
    await asyncio.sleep(after_s)  # in the midst of it, wherever that is
    await outing.kill_hosts()
    await is_over(outing, task)
    assert set(agents().released) == set(agents().booked)
    assert len(agents().booked) == BOOKERS * 5  # and nothing was booked once more


async def test_a_task_is_cancelled_over_nats(outing: Deployment) -> None:
    await outing.coordinate(hosts=2)
    task = await at_work(outing)
    for wrong, error in [
        (CancelRequest(id=task, reason=" "), InvalidTask),
        (CancelRequest(id=task.replace(task[0], "f", 1), reason="x"), UnknownTask),
    ]:
        with pytest.raises(error):
            await cancel_over_nats(outing.transport, "outing", wrong)
    await cancel_over_nats(outing.transport, "outing", CancelRequest(id=task, reason="not needed"))
    await is_over(outing, task)


async def test_a_task_that_has_ended_is_not_cancelled(outing: Deployment) -> None:
    await outing.coordinate(hosts=2)
    task = await outing.submit({"bookers": 0})
    assert await outing.client.result(task, timeout_s=SOON_S) == "all is booked"
    with pytest.raises(TaskError, match="has ended already: it is completed"):
        await outing.client.cancel(task, "too late")


async def test_a_task_that_nobody_has_assigned_is_cancelled(outing: Deployment) -> None:
    await outing.coordinate(hosts=2)
    await outing.client.result(await outing.submit({"bookers": 0}), timeout_s=SOON_S)  # hosts are there
    await outing.forsake()
    task = await outing.submit({"bookers": 3})
    await outing.client.cancel(task, "not needed")
    with pytest.raises(TaskFailed, match="not needed"):
        await outing.client.result(task, timeout_s=SOON_S)
    await outing.coordinate(hosts=2)
    await outing.client.result(await outing.submit({"bookers": 0}), timeout_s=SOON_S)
    assert agents().booked == []
