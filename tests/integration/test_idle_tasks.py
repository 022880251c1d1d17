"""A task that its assignee has handled, that nobody has ended, and of which nothing is under way."""

from __future__ import annotations

import time
import uuid
from contextlib import aclosing
from typing import Any

import pytest

from callboard.cli import idle
from callboard.cli.follow import snapshots
from storage.inspect import TaskView, find_task, is_idle, tasks
from tests.integration.cli import Cli, until
from tests.integration.deployment import Deployment

# What is under way elsewhere, as it stands in Postgres, for a domain that nobody runs.
UNDER_WAY = {
    "mailbox": "insert into mailbox (domain, tenant, partition, agent, seq, id, header, payload)"
    " values ('elsewhere', 'default', 0, $2, 1, gen_random_uuid(), $1::json, 'null')",
    "turns": "insert into turns (domain, tenant, partition, agent, seq, turn, code, failures, trials, header, payload, began_at)"
    " values ('elsewhere', 'default', 0, $2, 1, gen_random_uuid(), '', 0, 0, $1::json, 'null', 0)",
    "timers": "insert into timers (domain, tenant, partition, agent, seq, due_at, id, header, payload)"
    " values ('elsewhere', 'default', 0, $2, 1, now() + interval '1 day', gen_random_uuid(), $1::json, 'null')",
}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "IDLE_S", 0.1)
    monkeypatch.setattr(idle, "_LOOK_EVERY_S", 0.2)


async def no_events_wait(domain: str, *, now: bool) -> int | None:
    return 0


async def idle_task(desk: Deployment) -> TaskView:
    """One whose clerk waits for a note that nobody has sent; its deadline is a timer of its leader's."""
    task = await desk.submit({"lines": 1}, deadline=time.time() + 3600)

    async def is_so() -> bool:
        return await is_idle(desk.pool, await find_task(desk.pool, task, tenant="default"))

    await until(is_so)
    return await find_task(desk.pool, task, tenant="default")


async def test_a_task_that_its_assignee_has_handled_and_not_ended_says_so(cli: Cli, desk: Deployment) -> None:
    task = await idle_task(desk)
    said = (
        f"desk/clerk/{task.id} has handled the task and nothing of it is under way; nobody has called ctx.complete or "
        f"ctx.fail. `callboard cancel {task.id}` ends it."
    )
    assert said in " ".join((await cli("task", task.id)).split())
    assert (await cli.json("task", task.id))["idle"] is True
    watch: Any = snapshots(
        desk.pool, desk.transport, "desk", task.id, "default", gone=lambda: None, waiting=no_events_wait
    )
    async with aclosing(watch):
        async for snapshot in watch:
            assert snapshot.quiet_s >= 0.2 or not snapshot.idle
            if snapshot.idle:
                break
    await cli("cancel", task.id)
    assert "has handled the task" not in await cli("task", task.id, code=1)
    assert (await cli.json("task", task.id, code=1))["idle"] is False


@pytest.mark.parametrize("table", UNDER_WAY)
@pytest.mark.parametrize("of_it", ["task", "shared"])
async def test_it_is_not_said_while_anything_of_it_is_under_way_wherever_that_is(
    desk: Deployment, table: str, of_it: str
) -> None:
    task = await idle_task(desk)
    await desk.pool.execute(UNDER_WAY[table], '{"task": "desk/another"}', "worker/x")
    assert await is_idle(desk.pool, task)
    header = '{"shared": true}' if of_it == "shared" else f'{{"task": "{task.ref}"}}'
    await desk.pool.execute(UNDER_WAY[table].replace("0, $2, 1", "0, $2, 2"), header, "worker/y")
    assert not await is_idle(desk.pool, task)


@pytest.mark.parametrize("table", UNDER_WAY)
async def test_it_is_not_said_where_too_much_waits_to_be_looked_through(
    desk: Deployment, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await idle_task(desk)
    monkeypatch.setattr(tasks, "_MOST_AT_WORK", 2)
    for count in range(3):
        assert await is_idle(desk.pool, task) is (count + (table == "timers") <= 2)
        await desk.pool.execute(
            UNDER_WAY[table].replace("0, $2, 1", f"0, $2, {count + 1}"), "{}", f"worker/{count}"
        )
    assert not await is_idle(desk.pool, task)


async def test_it_is_not_said_while_a_child_is_open(desk: Deployment) -> None:
    task = await idle_task(desk)
    await desk.pool.execute(
        "insert into tasks (domain, tenant, id, status, goal, input, priority, parent)"
        " values ('desk', 'default', $1, 'running', 'x', 'null', 5, $2)",
        uuid.uuid4(),
        task.ref,
    )
    assert not await is_idle(desk.pool, task)
    await desk.pool.execute("update tasks set finished_at = now() where parent = $1", task.ref)
    assert await is_idle(desk.pool, task)


async def test_it_is_not_said_just_after_a_turn(desk: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    task = await idle_task(desk)
    monkeypatch.setattr(tasks, "IDLE_S", 3600.0)
    assert not await is_idle(desk.pool, task)


async def test_it_is_not_said_of_a_task_that_nobody_was_given_or_while_events_wait(
    desk: Deployment, cli: Cli
) -> None:
    task = await idle_task(desk)
    look = idle.IdleLook(desk.pool)
    assert await look(task, quiet_s=9.0, events_waiting=0)
    for quiet_s, events in ((9.0, 1), (9.0, None), (0.1, 0)):
        assert not await look(task, quiet_s=quiet_s, events_waiting=events)
    await desk.forsake()
    waits = await find_task(desk.pool, await desk.submit({"lines": 1}), tenant="default")
    assert not await is_idle(desk.pool, waits)
    assert (await cli.json("task", waits.id))["idle"] is False
