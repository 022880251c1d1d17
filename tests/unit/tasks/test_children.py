"""Tasks that tasks start: they are awaited, and each is there once."""

from __future__ import annotations

import json

import pytest

from callboard import (
    Context,
    DeadlineExceeded,
    StepFailed,
    TaskFailed,
)
from callboard.testing import TestKit
from tests.unit.tasks.family import children, given, log
from tests.unit.tasks.worker import Worker, program


async def test_a_task_waits_for_the_result_of_one_that_it_has_started(kit: TestKit) -> None:
    async def asks(self: Worker, ctx: Context) -> None:
        ctx.complete(await ctx.run_task("test", goal="answers", input={"n": 1}, priority=9))

    task = await given(kit, asks)
    assert kit.task(task).result == {"by": "answered"}
    [child] = children(kit)
    row = kit.store.tasks.children[("test", "default", child)]
    assert (row.parent, row.root, row.goal, row.priority) == (
        f"test/{task}", f"test/{task}", "answers", 9,
    )  # fmt: skip
    assert json.loads(row.input) == {"n": 1}
    assert kit.task(child).status == "completed"
    assert log(kit, child)[:2] == ["submitted", "assigned"]
    assert log(kit, task) == ["assigned", "running", "child", "child_ended", "completed"]


async def test_children_run_beside_each_other_and_have_children_of_their_own(kit: TestKit) -> None:
    async def splits(self: Worker, ctx: Context) -> None:
        ctx.complete(await ctx.run_task("test", goal="answers"))

    async def gathers(self: Worker, ctx: Context) -> None:
        goals = ("answers", program(splits), "answers")
        ctx.complete(await ctx.gather(*(ctx.run_task("test", goal=goal) for goal in goals)))

    task = await given(kit, gathers)
    assert kit.task(task).result == [{"by": "answered"}] * 3
    rows = list(kit.store.tasks.children.values())
    assert len(rows) == 4
    assert {row.root for row in rows} == {f"test/{task}"}
    assert sorted(row.parent == f"test/{task}" for row in rows) == [False, True, True, True]


async def test_a_child_that_fails_or_is_cancelled_tells_who_waits_for_it(kit: TestKit) -> None:
    async def catches(self: Worker, ctx: Context) -> None:
        found = []
        for goal, error in (("fails", TaskFailed), ("waits", TaskFailed), ("waits", DeadlineExceeded)):
            with pytest.raises(error) as caught:
                await ctx.run_task(
                    "test", goal=goal, deadline=ctx.now + 500 if error is DeadlineExceeded else None
                )
            found.append([caught.value.code, caught.value.task.partition("/")[0]])
        ctx.complete(found)

    task = await given(kit, catches)
    await kit.cancel_task(children(kit)[1], "not needed")
    for _ in range(10):
        await kit.advance(seconds=0.1)
    assert kit.task(children(kit)[1]).status == "cancelled"
    await kit.advance(seconds=600)
    assert kit.task(task).result == [["failed", "test"], ["cancelled", "test"], ["deadline", "test"]]


async def test_a_failed_child_that_nobody_catches_is_started_anew_with_the_next_try(kit: TestKit) -> None:
    async def insists(self: Worker, ctx: Context) -> None:
        ctx.complete(await ctx.run_task("test", goal="fails"))

    task = await given(kit, insists)
    await kit.advance(seconds=5)
    assert len(children(kit)) == 2
    assert kit.task(task).status == "failed"
    assert "no paper" in (kit.task(task).error or {})["message"]


async def test_a_child_that_somebody_has_cancelled_is_not_started_anew(kit: TestKit) -> None:
    async def insists(self: Worker, ctx: Context) -> None:
        ctx.complete(await ctx.run_task("test", goal="waits"))

    task = await given(kit, insists)
    [child] = children(kit)
    await kit.cancel_task(child, "not needed")
    await kit.advance(seconds=0.1)
    await kit.advance(seconds=0.1)
    await kit.advance(seconds=60)
    assert children(kit) == [child]
    assert kit.task(task).status == "failed"
    assert (
        f"WasCancelled: Task test/{child} was cancelled: not needed"
        in (kit.task(task).error or {})["message"]
    )


@pytest.mark.parametrize("crashes", [False, True], ids=["", "with_a_crash"])
async def test_the_children_that_were_not_among_the_first_are_cancelled(kit: TestKit, crashes: bool) -> None:
    async def takes_the_first(self: Worker, ctx: Context) -> None:
        goals = ("waits", "answers", "waits")
        first = await ctx.gather(*(ctx.run_task("test", goal=goal) for goal in goals), first=1)
        await ctx.sleep(10)
        ctx.complete(first)

    task = await given(kit, takes_the_first)
    if crashes:
        for host in (0, 1):
            await kit.crash(host)
        await kit.recover()
    for _ in range(20):
        await kit.advance(seconds=0.1)
    assert sorted(kit.task(child).status for child in children(kit)) == [
        "cancelled",
        "cancelled",
        "completed",
    ]
    assert sorted(Worker.log) == ["answered", "undo waits", "undo waits", "waits", "waits"]
    assert {(kit.task(child).error or {}).get("message") for child in children(kit)} == {
        None, "test/worker/parent had enough results without it",
    }  # fmt: skip
    assert kit.task(task).status == "running"
    await kit.advance(seconds=10)
    assert kit.task(task).result == [{"by": "answered"}]
    assert kit.dead_letters() == []


@pytest.mark.parametrize("crashes", [False, True], ids=["", "with_a_crash"])
async def test_the_children_beside_a_call_that_has_failed_are_cancelled(kit: TestKit, crashes: bool) -> None:
    async def breaks() -> None:
        Worker.log.append("breaks")
        raise ValueError("no ink")

    async def goes_on(self: Worker, ctx: Context) -> None:
        try:
            await ctx.gather(ctx.run_task("test", goal="waits"), ctx.step(breaks))
        except StepFailed as error:  # and not what became of the child, also when the turn runs again
            await ctx.sleep(10)
            ctx.complete(error.message)

    task = await given(kit, goes_on)
    for _ in range(20):
        await kit.advance(seconds=0.1)
    [child] = children(kit)
    assert kit.task(child).status == "cancelled"
    assert (kit.task(child).error or {})["message"] == (
        "test/worker/parent has no use for it: a call beside it has failed"
    )
    if crashes:
        for host in (0, 1):
            await kit.crash(host)
        await kit.recover()
    assert kit.task(task).status == "running"
    await kit.advance(seconds=10)
    assert "ValueError: no ink" in kit.task(task).result
    assert Worker.log.count("breaks") == 1
    assert (children(kit), kit.dead_letters()) == ([child], [])


async def test_a_turn_that_is_tried_again_waits_for_the_child_beside_what_has_failed(kit: TestKit) -> None:
    broken = [ValueError("no ink")]

    async def breaks() -> str:
        if broken:
            raise broken.pop()
        return "printed"

    async def fails_once(self: Worker, ctx: Context) -> None:
        ctx.complete(await ctx.gather(ctx.run_task("test", goal="waits"), ctx.step(breaks)))

    task = await given(kit, fails_once)
    await kit.advance(seconds=5)
    [child] = children(kit)
    assert kit.task(child).status == "running"
    await kit.advance(seconds=1_000)
    assert kit.task(task).result == ["waited", "printed"]
    assert children(kit) == [child]


async def test_a_failure_that_has_ended_a_child_stays_one_when_the_turn_fails_of_it_later(
    kit: TestKit,
) -> None:
    async def breaks() -> None:
        Worker.log.append("breaks")
        raise ValueError("no ink")

    async def gives_up(self: Worker, ctx: Context) -> None:
        try:
            await ctx.gather(ctx.run_task("test", goal="waits"), ctx.step(breaks))
        except StepFailed as error:
            await ctx.sleep(10)
            raise RuntimeError("without ink") from error

    await given(kit, gives_up)
    await kit.advance(minutes=10)
    [letter] = kit.dead_letters()
    assert (letter.error, letter.failures) == ("RuntimeError: without ink", Worker.retry.attempts)
    assert Worker.log.count("breaks") == 1
    assert [kit.task(child).status for child in children(kit)] == ["cancelled"]


# -- once, whatever dies -----------------------------------------------------------------------------


async def test_a_turn_that_runs_again_starts_no_child_twice(kit: TestKit) -> None:
    async def crashes(self: Worker, ctx: Context) -> None:
        first = ctx.submit_task("test", goal="answers")
        again = await ctx.run_task("test", goal="waits")
        second = ctx.submit_task("test", goal="answers")
        ctx.complete([first, again, second])

    task = await given(kit, crashes)
    for host in (0, 1):
        await kit.crash(host)
    await kit.recover()
    assert len(children(kit)) == 2
    await kit.advance(seconds=1_100)
    result = kit.task(task).result
    assert result[1] == "waited"
    assert len(children(kit)) == 3
    assert {result[0], result[2]} < {f"test/{id_}" for id_ in children(kit)}
    assert sorted(Worker.log) == ["answered", "answered", "waits"]  # two agents begin in any order


async def test_a_turn_that_fails_has_started_nothing(kit: TestKit) -> None:
    async def submits_and_fails(self: Worker, ctx: Context) -> None:
        ctx.submit_task("test", goal="answers")
        raise ValueError("not yet")

    await given(kit, submits_and_fails)
    await kit.advance(seconds=5)
    assert children(kit) == []
