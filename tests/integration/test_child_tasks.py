"""A task of one domain that starts a task in another one, on real Postgres and NATS, with real hosts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from bus.errors import TaskFailed
from bus.task_limits import TaskLimits
from callboard import removal
from callboard.services import Endpoints
from coordinators.tasks.front import Submission
from coordinators.tasks.remote import submit_over_nats
from storage.inspect import TaskView, children_of
from tests.integration.cli import Cli, until
from tests.integration.deployment import Deployment

ERRANDS = Path(__file__).parent / "errands"
SOON_S = 20.0


@pytest.fixture
async def office(
    services: Endpoints, database: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Deployment]:
    """The office at work, and the depot."""
    monkeypatch.setenv("CALLBOARD_POSTGRES_URL", database)
    monkeypatch.setenv("CALLBOARD_NATS_URL", services.nats_url)
    async with (
        Deployment.open(ERRANDS / "office", database, services.nats_url) as office,
        Deployment.open(ERRANDS / "depot", database, services.nats_url) as depot,
    ):
        await depot.coordinate()
        await office.coordinate()
        yield office


async def child_of(at: Deployment, task: str, status: str) -> TaskView:
    async def is_so() -> TaskView | None:
        found = await children_of(at.pool, f"office/{task}", tenant="default")
        return found[0] if found and found[0].status == status else None

    found: TaskView = await until(is_so)
    return found


async def test_a_task_gets_the_result_of_its_child_in_another_domain(cli: Cli, office: Deployment) -> None:
    task = await office.submit({"hire": "a van"})
    assert await office.client.result(task, timeout_s=SOON_S) == "hired: a van"
    child = await child_of(office, task, "completed")
    assert (child.domain, child.parent, child.root) == ("depot", f"office/{task}", f"office/{task}")

    shown = await cli.json("task", task)
    assert [found["id"] for found in shown["children"]] == [child.id]
    assert f"child  completed  {child.ref}  hire for a test" in await cli("task", task)
    assert f"started by task office/{task}" in await cli("task", child.ref)
    assert f"…{task[-6:]} ▸ hire for" in await cli("tasks")
    assert [found["parent"] for found in (await cli.json("tasks"))["tasks"]] == [f"office/{task}", None]

    tree = await cli.json("task", task, "--timeline")
    assert {"office", "depot"} == {turn["address"].partition("/")[0] for turn in tree["turns"]}
    text = await cli("task", task, "--timeline")
    assert f"task …{child.id[-6:]}" in text
    assert "callboard.task.v1" in text


async def test_a_cancelled_task_takes_its_child_along_whatever_dies(office: Deployment) -> None:
    task = await office.submit({"hire": "wait"})
    child = await child_of(office, task, "running")
    await until(lambda: office.fetch("select from turns where domain = 'depot' and waiting"))
    await office.client.cancel(task, "not needed")
    await asyncio.sleep(0.05)  # in the midst of it, wherever that is
    await office.kill_hosts()
    with pytest.raises(TaskFailed, match="not needed"):
        await office.client.result(task, timeout_s=SOON_S)
    assert (await office.client.find(child.ref)).status == "cancelled"
    assert await office.fetch("select count(*) from turns") == [(0,)]


async def test_a_cancelled_task_is_undone_after_what_its_child_is_doing(cli: Cli, office: Deployment) -> None:
    import errands

    errands.done.clear()
    errands.gate = asyncio.Event()
    task = await office.submit({"book": "a piano"})
    await until(lambda: _nothing_but(errands.done, "booked", "carries a piano"))
    await office.client.cancel(task, "not needed")
    child = await child_of(office, task, "cancelling")
    at_rest = """select from hosts where domain = 'office' and ended_at is null
        and stopped @> array(select number from cancellations where domain = 'office')"""
    await until(lambda: office.fetch(at_rest))  # nothing of the parent runs on its host any more
    assert errands.done == ["booked", "carries a piano"]
    errands.gate.set()
    with pytest.raises(TaskFailed, match="not needed"):
        await office.client.result(task, timeout_s=SOON_S)
    assert errands.done[2:] == ["carried a piano", "undoes: carried a piano", "undoes: booked"]
    assert (await office.client.find(child.ref)).status == "cancelled"
    assert await office.fetch("select count(*) from turns") == [(0,)]
    said = f"1 call has acted: `callboard ledger --task {child.id}`"
    assert said in (await cli("task", child.ref, code=1)).splitlines()
    assert (await cli.json("task", child.ref, code=1))["acted"] == 1
    assert "acted" not in await cli("task", task, code=1)


async def _nothing_but(done: list[str], *expected: str) -> bool:
    return done == [*expected]


@pytest.mark.parametrize("waits_for", ["hire", "ask"])
async def test_who_waits_for_something_of_a_domain_that_is_deleted_is_told(
    cli: Cli, office: Deployment, waits_for: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "FORGOTTEN_AFTER_S", 2.5)
    task = await office.submit({waits_for: "wait"})
    await until(lambda: office.fetch("select from turns where domain = 'depot' and waiting"))
    await cli("domains", "remove", "depot", "--yes", "--force", "--delete-data")
    with pytest.raises(TaskFailed, match="depot"):
        await office.client.result(task, timeout_s=SOON_S)
    assert await office.fetch("select count(*) from turns") == [(0,)]


async def test_tasks_that_wait_for_their_children_leave_them_room(services: Endpoints, database: str) -> None:
    async with (
        Deployment.open(ERRANDS / "office", database, services.nats_url, concurrent=1) as office,
        Deployment.open(ERRANDS / "depot", database, services.nats_url, concurrent=1) as depot,
    ):
        await depot.coordinate()
        tasks = [await office.submit({"office": {"office": {"hire": "a van"}}}) for _ in range(3)]
        await office.coordinate()
        for task in tasks:
            assert await office.client.result(task, timeout_s=SOON_S) == "hired: a van"
        # One after the other, each to its end: what a task has started comes before what was submitted later.
        roots = "select id::text from tasks where parent is null order by finished_at"
        assert [id_ for (id_,) in await office.fetch(roots)] == tasks
        most = """select max((select count(*) from tasks o where o.parent is null and o.finished_at > s.at
                              and (select at from task_events e where e.task = o.id and e.kind = 'assigned') <= s.at))
                  from task_events s where s.kind = 'assigned'"""
        assert await office.fetch(most) == [(1,)]


async def test_a_child_that_fails_tells_its_parent(office: Deployment) -> None:
    task = await office.submit({"hire": "fail"})
    with pytest.raises(TaskFailed, match="nobody is there"):
        await office.client.result(task, timeout_s=SOON_S)
    children = await office.fetch("select status from tasks where parent is not null")
    assert children == [("failed",)] * len(children)
    assert len(children) == 3  # one for each try of the clerk's


async def test_a_task_whose_child_spends_too_much_fails_and_says_so(cli: Cli, office: Deployment) -> None:
    limits = TaskLimits(tokens=200, hops=50, wall_s=3_600)
    request = Submission(goal="a test", input={"hire": "spend"}, limits=limits)
    task = await submit_over_nats(office.transport, "office", request)
    with pytest.raises(TaskFailed, match=r"has used 2[1-9]0 tokens; its limit is 200") as caught:
        await office.client.result(task, timeout_s=SOON_S)
    assert caught.value.code == "limit"
    child = await child_of(office, task, "cancelled")
    shown = await cli.json("task", task, code=1)
    assert shown["limits"] == {"tokens": 200, "hops": 50, "wall_s": 3_600}
    assert 200 < shown["used"]["tokens"] < 1_000
    charged = shown["used"]["tokens"] // 10
    assert shown["used"]["steps"] in (charged - 1, charged)  # each is charged before it is made
    assert shown["error"]["limit"] == "tokens"
    for one in (task, child.ref):
        text = await cli("task", one, code=1)
        assert f"tokens {shown['used']['tokens']} of 200" in text
        assert "hops 0 of 50" in text
        assert f"wall_s {shown['used']['wall_s']} of 3,600" in text
        assert 0 < shown["used"]["wall_s"] < SOON_S


async def test_a_domains_own_limits_hold_for_what_a_submission_does_not_set(
    services: Endpoints, database: str
) -> None:
    own = TaskLimits(steps=5, cost=Decimal(1))
    async with Deployment.open(ERRANDS / "depot", database, services.nats_url, limits=own) as depot:
        task = await depot.submit("spend", limits=TaskLimits(cost=Decimal(2), wall_s=60))
        [(limits,)] = await depot.fetch("select limits::text from tasks")
        assert json.loads(limits) == {"steps": 5, "cost": 2.0, "wall_s": 60}
        await depot.coordinate()
        with pytest.raises(TaskFailed, match="6 steps; its limit is 5"):
            await depot.client.result(task, timeout_s=SOON_S)
