"""Paused tasks and domains on real hosts over real Postgres and NATS, which die meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bus.errors import TaskError, TaskFailed, UnknownDomain
from callboard.cli.asked import login_name
from callboard.services import Endpoints
from storage.pauses import pause_domain, resume_domain
from tests.integration.cli import Cli, until
from tests.integration.deployment import Deployment

DEPOT = Path(__file__).parent / "errands" / "depot"
SOON_S = 20.0


@pytest.fixture
async def depot(
    services: Endpoints, database: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Deployment]:
    """The depot, whose tasks wait for an hour or are done at once; without a coordinator."""
    monkeypatch.setenv("CALLBOARD_POSTGRES_URL", database)
    monkeypatch.setenv("CALLBOARD_NATS_URL", services.nats_url)
    async with Deployment.open(DEPOT, database, services.nats_url) as depot:
        yield depot


async def status(at: Deployment, task: str, wanted: str) -> None:
    async def is_so() -> bool:
        return (await at.client.find(task)).status == wanted

    await until(is_so)


async def waits(at: Deployment) -> str:
    """A task whose turn waits, and is put away."""
    task = await at.submit("wait")
    await until(lambda: at.fetch("select from turns where waiting"))
    return task


async def test_a_pause_outlives_the_hosts_and_holds_what_has_come_due(cli: Cli, depot: Deployment) -> None:
    await depot.coordinate()
    task = await waits(depot)
    assert await cli("pause", task, "--reason", "too dear") == f"task {task} is paused.\n"
    assert f"depot/{task} is paused; `callboard resume depot/{task}`" in await cli("task", task)
    assert await cli("pause", task) == f"task {task} was paused already.\n"
    kinds = [event["kind"] for event in (await cli.json("task", task))["events"]]
    assert (kinds.count("paused"), kinds.count("late")) == (1, 0)
    assert "paused" in await cli("tasks")
    assert "1 of its tasks is paused" in await cli("status")
    await depot.kill_hosts()
    await depot.fetch("update promises set due_at = now() returning 1")
    await until(lambda: depot.fetch("select from mailbox where seq < 0"))  # it has woken, by a new host
    other = await depot.submit("a van")
    assert await depot.client.result(other, timeout_s=SOON_S) == "hired: a van"
    assert await depot.fetch("select waiting from turns") == [(True,)]
    assert (await depot.client.find(task)).status == "paused"
    assert await cli("resume", f"depot/{task}") == f"task {task} is running.\n"
    assert await depot.client.result(task, timeout_s=SOON_S) == "hired: wait"
    with pytest.raises(TaskError, match="has ended already"):
        await depot.client.pause(task)


async def test_a_task_that_nobody_has_assigned_is_assigned_when_it_goes_on(depot: Deployment) -> None:
    await depot.coordinate()
    await depot.client.result(await depot.submit("a van"), timeout_s=SOON_S)  # hosts are there
    await depot.forsake()
    task = await depot.submit("a truck")
    await depot.client.pause(task, "not yet")
    await status(depot, task, "paused")
    await depot.coordinate()
    await depot.client.result(await depot.submit("a van"), timeout_s=SOON_S)
    assert (await depot.client.find(task)).status == "paused"
    await depot.client.resume(task)
    assert await depot.client.result(task, timeout_s=SOON_S) == "hired: a truck"


async def test_a_paused_task_is_cancelled(depot: Deployment) -> None:
    await depot.coordinate()
    task = await waits(depot)
    await depot.client.pause(task)
    await status(depot, task, "paused")
    await depot.client.cancel(task, "not needed")
    with pytest.raises(TaskFailed, match="not needed"):
        await depot.client.result(task, timeout_s=SOON_S)
    assert await depot.fetch("select count(*) from turns") == [(0,)]
    assert await depot.fetch("select count(*) from pauses where resumed_at is null") == [(0,)]


async def test_a_paused_domain_keeps_everything_until_it_goes_on(cli: Cli, depot: Deployment) -> None:
    await depot.coordinate()
    before = await waits(depot)
    assert await cli("pause", "depot", "--reason", "an audit") == "depot is paused.\n"
    assert await cli("pause", "depot") == "depot is paused, as before.\n"
    await depot.kill_hosts()
    await depot.fetch("update promises set due_at = now() returning 1")
    task = await depot.submit("a van")
    await status(depot, task, "assigned")
    shown = await cli("status")
    assert f"depot: paused by external/{login_name()}: an audit; `callboard resume depot`" in shown
    assert "depot is paused; `callboard resume depot`" in await cli("task", task)
    await until(lambda: depot.fetch("select from mailbox where agent like 'porter/%'"))
    assert await depot.fetch("select count(*) from transitions where agent like 'porter/%'") == [(0,)]
    assert (await cli.json("resume", "depot"))["changed"]
    for one, result in ((task, "hired: a van"), (before, "hired: wait")):
        assert await depot.client.result(one, timeout_s=SOON_S) == result


async def test_a_domain_that_is_not_there_cannot_be_paused(depot: Deployment) -> None:
    with pytest.raises(UnknownDomain):
        await pause_domain(depot.pool, "nowhere", by="external/test", why="")
    assert not await resume_domain(depot.pool, "depot", by="external/test")
