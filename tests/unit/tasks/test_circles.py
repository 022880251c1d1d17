"""Asks and waits for tasks that wait for each other: the newest is refused at once, and nothing else is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from actors import cycles
from actors.domain import TaskSpec
from bus.errors import StorageUnavailable
from callboard import AskCycle, Context
from callboard.testing import TestKit
from storage.edges import Agent, WaitEdge
from tests.unit.agents import Note
from tests.unit.tasks.worker import Errand, Worker, do, fresh, program
from tests.unit.waiter import until

DESK = "test/worker/desk"  # does every task that another one starts
PARENT = "test/worker/parent"
HELPER = "test/worker/helper"


async def answers(self: Worker, ctx: Context) -> None:
    do("answered")


async def asks_back(self: Worker, ctx: Context) -> None:
    try:
        await ctx.ask(PARENT, Errand(program="answers"))
        ctx.complete("answered")
    except AskCycle as error:
        ctx.complete(list(error.cycle))


async def waits_for_one(self: Worker, ctx: Context) -> None:
    ctx.complete(await ctx.run_task("test", goal="asks_back"))


@pytest.fixture
async def kit() -> AsyncIterator[TestKit]:
    fresh(answers, asks_back, waits_for_one)
    async with TestKit([Worker], hosts=2, tasks=TaskSpec(to="worker/desk")) as running:
        yield running


def leftovers(kit: TestKit) -> tuple[int, int]:
    return len(kit.store.waits.turns), len(kit.store.waits.promises.rows)


async def test_a_task_that_asks_back_whoever_waits_for_it_is_refused(kit: TestKit) -> None:
    task = await kit.give_task(PARENT, goal="waits_for_one")
    await kit.quiet()
    assert kit.task(task).result == [DESK, PARENT, DESK]
    assert leftovers(kit) == (0, 0)


async def test_a_circle_through_several_tasks_and_an_ask() -> None:
    async def hands_on(self: Worker, ctx: Context) -> None:
        ctx.complete(await ctx.ask(HELPER, Errand(program="helps")))

    async def helps(self: Worker, ctx: Context) -> None:
        self.state.noted = await ctx.run_task("test", goal="asks_back")

    async def begins(self: Worker, ctx: Context) -> None:
        ctx.complete(await ctx.run_task("test", goal="hands_on"))

    fresh(answers, asks_back, hands_on, helps, begins)
    async with TestKit([Worker], hosts=2, tasks=TaskSpec(to="worker/{task}")) as kit:
        task = await kit.give_task(PARENT, goal="begins")
        await kit.quiet()
        assert kit.task(task).status == "completed"
        _, second = (f"test/worker/{id_}" for _, _, id_ in kit.store.tasks.children)
        # Whoever is asked on behalf of the first task may end it, too.
        assert kit.state(HELPER).noted == [second, PARENT, HELPER, second]
        assert leftovers(kit) == (0, 0)


async def test_a_task_that_is_given_to_who_waits_for_who_waits_for_it_is_cancelled(kit: TestKit) -> None:
    async def asks_the_parent(self: Worker, ctx: Context) -> None:
        await ctx.ask(PARENT, Errand(program="answers"))
        await ctx.sleep(1)  # till all hosts know
        do("asked")

    async def waits(self: Worker, ctx: Context) -> None:
        await ctx.sleep(1)
        try:
            await ctx.run_task("test", goal="asks_back")
        except AskCycle as error:
            ctx.complete(list(error.cycle))

    task = await kit.give_task(PARENT, goal=program(waits))
    await kit.send(DESK, Errand(program=program(asks_the_parent)))
    await kit.advance(seconds=5)
    assert kit.task(task).result == [PARENT, DESK, PARENT]
    assert Worker.log == ["answered", "asked"]
    [child] = (id_ for _, _, id_ in kit.store.tasks.children)
    assert kit.task(child).status == "cancelled"
    assert leftovers(kit) == (0, 0)


async def test_whoever_else_may_end_the_task_is_waited_for(kit: TestKit) -> None:
    async def completes(self: Worker, ctx: Context) -> None:
        await ctx.sleep(60)
        ctx.complete("by the helper")

    async def has_help(self: Worker, ctx: Context) -> None:
        ctx.send(HELPER, Errand(program="completes"))
        await asks_back(self, ctx)

    async def begins(self: Worker, ctx: Context) -> None:
        ctx.complete(await ctx.run_task("test", goal="has_help"))

    program(completes), program(has_help)
    task = await kit.give_task(PARENT, goal=program(begins))
    await kit.advance(seconds=30)
    assert kit.task(task).status == "running"
    await kit.advance(seconds=60)
    assert kit.task(task).result == "by the helper"
    assert Worker.log == ["answered"]


async def test_a_circle_is_found_when_all_else_of_the_task_has_ended(
    kit: TestKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def is_busy(self: Worker, ctx: Context) -> None:
        await ctx.sleep(60)

    async def tells(self: Worker, ctx: Context) -> None:
        ctx.send(HELPER, Note(text="told"))
        await asks_back(self, ctx)

    async def begins(self: Worker, ctx: Context) -> None:
        ctx.complete(await ctx.run_task("test", goal="tells"))

    program(tells)
    monkeypatch.setattr(cycles, "LOOK_AGAIN_S", 0.05)
    await kit.send(HELPER, Errand(program=program(is_busy)))
    task = await kit.give_task(PARENT, goal=program(begins))
    await kit.advance(seconds=30)
    assert kit.task(task).status == "running"
    await kit.advance(seconds=60)
    await until(lambda: kit.task(task).status == "completed")
    assert kit.task(task).result == [DESK, PARENT, DESK]
    assert kit.state(HELPER).noted == ["told"]


async def test_a_circle_is_found_when_who_was_at_work_beside_it_has_ended(
    kit: TestKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def naps(self: Worker, ctx: Context) -> None:
        await ctx.sleep(60)

    async def has_help(self: Worker, ctx: Context) -> None:
        ctx.send(HELPER, Errand(program=program(naps)))
        await ctx.sleep(1)
        await asks_back(self, ctx)

    async def begins(self: Worker, ctx: Context) -> None:
        ctx.complete(await ctx.run_task("test", goal=program(has_help)))

    monkeypatch.setattr(cycles, "LOOK_AGAIN_S", 0.05)
    task = await kit.give_task(PARENT, goal=program(begins))
    await kit.advance(seconds=30)
    assert kit.task(task).status == "running"
    await kit.advance(seconds=60)
    await until(lambda: kit.task(task).result)
    assert kit.task(task).result == [DESK, PARENT, DESK]
    assert leftovers(kit) == (0, 0)


async def test_a_further_look_that_storage_could_not_answer_is_made_once_it_can(
    kit: TestKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def naps(self: Worker, ctx: Context) -> None:
        await ctx.sleep(60)

    async def has_help(self: Worker, ctx: Context) -> None:
        ctx.send(HELPER, Errand(program=program(naps)))
        await ctx.sleep(1)
        await asks_back(self, ctx)

    async def begins(self: Worker, ctx: Context) -> None:
        ctx.complete(await ctx.run_task("test", goal=program(has_help)))

    monkeypatch.setattr(cycles, "LOOK_AGAIN_S", 0.05)
    task = await kit.give_task(PARENT, goal=program(begins))
    await kit.advance(seconds=30)
    looked, look = set(), kit.store.wait_edges
    watches = {running.host.cycles for running in kit._running if running.host.cycles._unsettled}

    async def is_away(agents: Sequence[Agent], limit: int) -> list[WaitEdge]:
        looked.add(asyncio.current_task())
        raise StorageUnavailable("Postgres does not answer.")

    assert watches
    monkeypatch.setattr(kit.store, "wait_edges", is_away)
    await until(lambda: len(looked) == len(watches))
    monkeypatch.setattr(kit.store, "wait_edges", look)
    await kit.advance(seconds=60)
    await until(lambda: kit.task(task).result)
    assert kit.task(task).result == [DESK, PARENT, DESK]


@pytest.mark.parametrize("asks_first", [False, True])
async def test_a_circle_through_what_a_task_with_its_result_still_waits_for(asks_first: bool) -> None:
    async def asks_from_below(self: Worker, ctx: Context) -> None:
        await ctx.sleep(1 if asks_first else 20)
        await asks_back(self, ctx)

    async def leaves(self: Worker, ctx: Context) -> None:
        ctx.submit_task("test", goal=program(asks_from_below))
        await ctx.sleep(10)
        ctx.complete("done")

    async def begins(self: Worker, ctx: Context) -> None:
        ctx.complete(await ctx.run_task("test", goal=program(leaves)))

    fresh(answers, asks_back)
    async with TestKit([Worker], hosts=2, tasks=TaskSpec(to="worker/{task}")) as kit:
        task = await kit.give_task(PARENT, goal=program(begins))
        await kit.advance(seconds=5)
        first, second = (id_ for _, _, id_ in kit.store.tasks.children)
        assert kit.task(first).status == kit.task(second).status == "running"
        await kit.advance(seconds=25)
        assert kit.task(task).result == "done"
        below = f"test/worker/{second}"
        assert kit.task(second).result == [below, PARENT, below]
        assert Worker.log == []
        assert leftovers(kit) == (0, 0)


async def test_who_may_still_cancel_what_a_task_with_its_result_waits_for_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def asks_from_below(self: Worker, ctx: Context) -> None:
        await asks_back(self, ctx)

    async def naps(self: Worker, ctx: Context) -> None:
        await ctx.sleep(60)

    async def leaves(self: Worker, ctx: Context) -> None:
        ctx.submit_task("test", goal=program(asks_from_below))
        ctx.send(HELPER, Errand(program=program(naps)))
        ctx.complete("done")

    async def begins(self: Worker, ctx: Context) -> None:
        ctx.complete(await ctx.run_task("test", goal=program(leaves)))

    fresh(answers, asks_back)
    monkeypatch.setattr(cycles, "LOOK_AGAIN_S", 0.05)
    async with TestKit([Worker], hosts=2, tasks=TaskSpec(to="worker/{task}")) as kit:
        task = await kit.give_task(PARENT, goal=program(begins))
        await kit.advance(seconds=30)
        first, second = (id_ for _, _, id_ in kit.store.tasks.children)
        assert (kit.task(first).status, kit.task(second).status) == ("ending", "running")
        await kit.advance(seconds=60)
        await until(lambda: kit.task(task).result)
        assert (kit.task(task).result, Worker.log) == ("done", [])
