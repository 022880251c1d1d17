"""Paused tasks and domains: nothing of them begins or goes on, nothing is lost, and they can be cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from actors.domain import LimitSpec, TaskSpec
from bus.task_limits import TaskLimits
from callboard import Context
from callboard.testing import TestKit
from tests.unit.tasks.worker import Errand, Program, Worker, do, fresh, program, undo

# Threads run into the gate.
gate = threading.Event()
at_gate = threading.Event()


def pass_gate(name: str) -> str:
    at_gate.set()
    gate.wait(10)
    return do(name)


async def notes(self: Worker, ctx: Context) -> None:
    Worker.log.append(f"noted by {ctx.address.key}")


async def sleeps(self: Worker, ctx: Context) -> None:
    ctx.compensate(undo, await ctx.step(do, "one"))
    await ctx.sleep(100)
    await ctx.step(do, "two")
    ctx.complete("done")


async def works(self: Worker, ctx: Context) -> None:
    """Sends something, and is in the midst of a step when the test goes on."""
    ctx.compensate(undo, "works")
    ctx.send("test/worker/a", Errand(program="notes"))
    await ctx.step(pass_gate, "gate")
    await ctx.step(do, "after")
    ctx.complete("done")


@pytest.fixture
async def kit() -> AsyncIterator[TestKit]:
    fresh(notes, sleeps, works)
    gate.clear()
    at_gate.clear()
    async with TestKit(
        [Worker], hosts=2, tasks=TaskSpec(to="worker/{task}"), limits=LimitSpec(linger_s=1.0)
    ) as running:
        yield running


async def given(kit: TestKit, goal: Program, **more: Any) -> str:
    name = program(goal)
    return await kit.give_task(f"test/worker/{name}", goal=name, **more)


async def paused(kit: TestKit, task: str) -> None:
    await kit.pause_task(task, "a test")
    await look(kit)
    assert kit.task(task).status == "paused"


async def resumed(kit: TestKit, task: str) -> None:
    await kit.resume_task(task)
    await look(kit)


async def look(kit: TestKit, times: int = 4) -> None:
    """Let every host look so often."""
    for _ in range(times):
        await kit.advance(seconds=0.25)


async def at_the_gate(kit: TestKit) -> None:
    while not at_gate.is_set():  # noqa: ASYNC110  (a thread sets it)
        await asyncio.sleep(0.001)


def log(kit: TestKit, task: str) -> list[str]:
    events = sorted((n, e.kind) for (_, _, of, n), e in kit.store.tasks.events.items() if of == task)
    return [kind for _, kind in events]


async def nothing(self: Worker, ctx: Context) -> None:
    """Waits for messages."""


# -- a task ------------------------------------------------------------------------------------------


async def test_messages_of_a_paused_task_wait_and_those_of_others_do_not(kit: TestKit) -> None:
    task, other = await given(kit, nothing), await given(kit, nothing)
    await kit.quiet()
    await paused(kit, task)
    for agent, of in (("a", task), ("a", task), ("b", other), ("c", None)):
        await kit.send(f"test/worker/{agent}", Errand(program="notes"), task=of)
    await look(kit)
    assert Worker.log == ["noted by b", "noted by c"]
    assert len(kit.mailbox("test/worker/a")) == 2
    await resumed(kit, task)
    assert Worker.log[2:] == ["noted by a"] * 2
    assert (kit.task(task).status, kit.mailbox("test/worker/a")) == ("running", [])
    assert log(kit, task)[-2:] == ["paused", "resumed"]


async def test_an_agent_that_tasks_share_keeps_its_order(kit: TestKit) -> None:
    task = await given(kit, nothing)
    await kit.quiet()
    await paused(kit, task)
    await kit.send("test/worker/a", Errand(program="notes"), task=task)
    await kit.send("test/worker/a", Errand(program="notes"))
    await look(kit)
    assert Worker.log == []
    await resumed(kit, task)
    assert Worker.log == ["noted by a"] * 2
    assert [step.header.task is None for step in kit.history("test/worker/a")] == [False, True]


async def test_what_runs_comes_to_its_next_call_and_no_further(kit: TestKit) -> None:
    task = await given(kit, works)
    await at_the_gate(kit)
    await kit.pause_task(task)
    for _ in range(50):
        kit.clock.move_to(kit.clock.now() + 0.25)
        await asyncio.sleep(0.002)
    assert kit.task(task).status == "paused"
    gate.set()
    await look(kit, 20)  # longer than a turn that waits stays in memory
    assert Worker.log == ["gate"]
    await resumed(kit, task)
    assert sorted(Worker.log) == ["after", "gate", "noted by a"]
    assert kit.task(task).result == "done"


@pytest.mark.parametrize("put_away", [False, True])
async def test_a_turn_that_waits_does_not_go_on_when_its_time_has_come(kit: TestKit, put_away: bool) -> None:
    task = await given(kit, sleeps)
    await kit.quiet()
    if put_away:
        await kit.advance(seconds=5)
    await paused(kit, task)
    await kit.advance(seconds=200)
    assert Worker.log == ["one"]
    await resumed(kit, task)
    assert Worker.log == ["one", "two"]
    assert kit.task(task).result == "done"


async def test_a_pause_outlives_the_hosts(kit: TestKit) -> None:
    task, other = await given(kit, sleeps), await given(kit, works)
    await at_the_gate(kit)
    gate.set()
    await kit.quiet()
    await paused(kit, task)
    await kit.send("test/worker/a", Errand(program="notes"), task=task)
    for host in (0, 1):
        await kit.crash(host)
    kit._scope.paused = frozenset()  # hosts that begin know nothing yet
    await kit.recover()
    await kit.advance(seconds=200)
    assert sorted(Worker.log) == ["after", "gate", "noted by a", "one"]
    assert (kit.task(task).status, kit.task(other).status) == ("paused", "completed")
    await resumed(kit, task)
    await kit.advance(seconds=5)
    assert kit.task(task).result == "done"
    assert Worker.log.count("noted by a") == 2


@pytest.mark.parametrize("stage", ["queued", "waits", "put away", "stopped"])
async def test_a_paused_task_is_cancelled_all_the_same(kit: TestKit, stage: str) -> None:
    task = await given(kit, {"queued": nothing, "stopped": works}.get(stage, sleeps))
    if stage == "stopped":
        await at_the_gate(kit)
        await kit.pause_task(task)
        for _ in range(50):
            kit.clock.move_to(kit.clock.now() + 0.25)
            await asyncio.sleep(0.002)
        gate.set()
    else:
        await kit.advance(seconds=5 if stage == "put away" else 0)
        await paused(kit, task)
    if stage == "queued":
        await kit.send("test/worker/a", Errand(program="notes"), task=task)
    await look(kit)
    await kit.cancel_task(task, "not needed")
    await look(kit, 10)
    assert kit.task(task).status == "cancelled"
    waits, store = kit.store.waits, kit.store
    assert (len(waits.turns), len(waits.promises.rows), sum(map(len, store.mail.boxes.values()))) == (0, 0, 0)
    assert store.pauses == {}
    undone = {"queued": [], "stopped": ["gate", "undo works"]}.get(stage, ["one", "undo one"])
    assert Worker.log == undone


@pytest.mark.parametrize("late", ["deadline", "wall_s"])
async def test_what_comes_due_meanwhile_acts_when_the_task_goes_on(kit: TestKit, late: str) -> None:
    more: dict[str, Any] = (
        {"deadline": kit.clock.now() + 50} if late == "deadline" else {"limits": TaskLimits(wall_s=50)}
    )
    task = await given(kit, nothing, **more)
    await kit.quiet()
    await paused(kit, task)
    await kit.advance(seconds=60)
    assert kit.task(task).status == "paused"
    await resumed(kit, task)
    await look(kit)
    error = kit.task(task).error
    assert error is not None
    assert error["code"] == {"deadline": "deadline", "wall_s": "limit"}[late]


async def test_children_are_paused_and_go_on_with_their_parent(kit: TestKit) -> None:
    async def delegates(self: Worker, ctx: Context) -> None:
        ctx.complete(await ctx.gather(*(ctx.run_task("test", goal="sleeps") for _ in range(2))))

    task = await given(kit, delegates)
    await kit.quiet()
    await paused(kit, task)
    children = [id_ for _, _, id_ in kit.store.tasks.children]
    assert [kit.task(child).status for child in children] == ["paused"] * 2
    await kit.advance(seconds=200)
    assert Worker.log == ["one", "one"]
    await resumed(kit, task)
    await kit.advance(seconds=5)
    assert kit.task(task).result == ["done", "done"]


async def test_a_child_that_a_running_turn_starts_is_paused_too(kit: TestKit) -> None:
    async def starts(self: Worker, ctx: Context) -> None:
        await ctx.step(pass_gate, "gate")
        ctx.submit_task("test", goal="sleeps")
        ctx.complete("started")

    task = await given(kit, starts)
    await at_the_gate(kit)
    await kit.pause_task(task)
    for _ in range(50):
        kit.clock.move_to(kit.clock.now() + 0.25)
        await asyncio.sleep(0.002)
    gate.set()
    await look(kit, 8)
    [child] = [id_ for _, _, id_ in kit.store.tasks.children]
    assert (kit.task(task).status, kit.task(child).status, Worker.log) == ("paused", "paused", ["gate"])
    await resumed(kit, task)
    await kit.advance(seconds=200)
    assert kit.task(task).result == "started"
    assert Worker.log == ["gate", "one", "two"]


async def test_pausing_twice_or_what_has_ended_and_resuming_what_goes_on_change_nothing(kit: TestKit) -> None:
    task = await given(kit, nothing)
    await kit.quiet()
    await kit.resume_task(task)
    await kit.quiet()
    assert kit.task(task).status == "running"
    await paused(kit, task)
    await kit.pause_task(task)
    await resumed(kit, task)
    assert kit.task(task).status == "running"
    await kit.fail_task(task)
    await kit.quiet()
    await kit.pause_task(task)
    await look(kit)
    assert (kit.task(task).status, kit.store.pauses) == ("failed", {})


# -- a domain ----------------------------------------------------------------------------------------


async def test_a_paused_domain_stands_still_and_goes_on_with_everything(kit: TestKit) -> None:
    task, other = await given(kit, sleeps), await given(kit, nothing)
    await kit.quiet()
    kit.pause_domain()
    await look(kit)
    await kit.send("test/worker/a", Errand(program="notes"))
    later = await kit.give_task("test/worker/b", goal="notes", deadline=kit.clock.now() + 50)
    await kit.advance(seconds=200)
    assert Worker.log == ["one"]
    assert kit.task(later).status == "assigned"  # by its agent, which goes on
    await kit.cancel_task(other)
    await look(kit, 10)
    assert kit.task(other).status == "cancelled"
    kit.resume_domain()
    await look(kit)
    await kit.advance(seconds=5)
    assert sorted(Worker.log) == ["noted by a", "one", "two"]
    assert kit.task(task).result == "done"
    assert (kit.task(later).error or {})["code"] == "deadline"


async def test_an_agent_can_be_looked_after_while_its_domain_is_paused(kit: TestKit) -> None:
    kit.pause_domain()
    await look(kit)
    await kit.send("test/worker/a", Errand(program="notes"))
    await kit.pause("test/worker/a")
    await look(kit)
    assert kit.lifecycle("test/worker/a") == "paused"
    kit.resume_domain()
    await look(kit)
    assert Worker.log == []
    await kit.resume("test/worker/a")
    await look(kit)
    assert Worker.log == ["noted by a"]


async def test_what_a_compensation_sends_is_not_held(kit: TestKit) -> None:
    async def gives_back(self: Worker, ctx: Context) -> None:
        def give_back() -> None:
            ctx.send("test/worker/a", Errand(program="notes"))

        ctx.compensate(give_back)
        await ctx.step(do, "one")
        await ctx.sleep(1_000)

    task = await given(kit, gives_back)
    await kit.quiet()
    kit.pause_domain()
    await look(kit)
    await kit.cancel_task(task, "not needed")
    await look(kit, 10)
    assert (kit.task(task).status, Worker.log) == ("cancelled", ["one", "noted by a"])


async def test_a_second_pause_leaves_no_line_in_the_log(kit: TestKit) -> None:
    task = await kit.give_task("test/worker/w", goal=program(notes))
    await kit.quiet()
    await kit.pause_task(task)
    await kit.pause_task(task)
    await kit.quiet()
    kinds = [event.kind for event in kit.store.tasks.events.values() if event.task == task]
    assert (kinds.count("paused"), kinds.count("late")) == (1, 0)
