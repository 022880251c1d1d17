"""Limits of tasks: what counts, that it counts once, and how a task ends that is above one."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from actors.domain import TaskSpec
from bus.errors import InvalidMessage, LimitExceeded, TaskFailed
from bus.task_limits import TaskLimits
from callboard import Context, RetryPolicy, tool
from callboard.testing import TestKit
from storage.spent import Spent
from tests.unit.tasks.worker import Errand, Program, Worker, do, fresh, program, undo


async def idles(self: Worker, ctx: Context) -> None:
    """Answers, or says nothing."""


async def sleeps(self: Worker, ctx: Context) -> None:
    await ctx.sleep(1_000)


async def never_ends(self: Worker, ctx: Context) -> None:
    """Sends itself the next message, on and on."""
    Worker.log.append("hop")
    ctx.send(ctx.address, Errand(program="never_ends"))


@pytest.fixture
async def kit() -> AsyncIterator[TestKit]:
    fresh(idles, sleeps, never_ends)
    async with TestKit([Worker], hosts=2, tasks=TaskSpec(to="worker/{task}")) as running:
        yield running


async def given(kit: TestKit, goal: Program, **limits: float) -> str:
    task = await kit.give_task("test/worker/w", goal=program(goal), limits=TaskLimits.model_validate(limits))
    await kit.quiet()
    return task


async def failed(kit: TestKit, task: str) -> dict[str, Any]:
    """The error of a task that has ended at a limit; nothing of it is left."""
    for _ in range(20):
        await kit.advance(seconds=0.1)
    error = kit.task(task).error
    assert error is not None
    assert (kit.task(task).status, error["code"]) == ("failed", "limit")
    waits = kit.store.waits
    assert (len(waits.turns), len(waits.promises.rows), len(kit.store.timers)) == (0, 0, 0)
    assert kit.dead_letters() == []
    return {name: error[name] for name in ("limit", "used", "allowed")}


def used(kit: TestKit, task: str) -> tuple[float | Decimal, ...]:
    """Hops, asks in flight, steps, tokens, cost."""
    spent: Spent = kit.spent(task)
    return spent.hops, spent.asks, spent.steps, spent.tokens, spent.cost


# -- what counts -------------------------------------------------------------------------------------


async def test_messages_steps_asks_in_flight_and_charges_count(kit: TestKit) -> None:
    async def works(self: Worker, ctx: Context) -> None:
        ctx.send("test/worker/a", Errand(program="idles"))
        await ctx.step(do, "one")
        ctx.charge(tokens=100, cost=0.25)
        await ctx.gather(*(ctx.ask(f"test/worker/{n}", Errand(program="idles")) for n in range(3)))
        await ctx.step(do, "two")
        ctx.charge(tokens=50)
        ctx.progress(0.5)
        await ctx.ask("test/worker/b", Errand(program="sleeps"))

    task = await given(kit, works)
    assert used(kit, task) == (5, 1, 2, 150, 0.25)
    await kit.advance(seconds=1_001)
    assert used(kit, task) == (5, 0, 2, 150, 0.25)


@pytest.mark.parametrize(("keys", "tokens"), [(None, 10), ("abc", 10 + 20 + 30)])
async def test_a_charge_in_a_step_that_is_tried_again_counts_once_for_each_key(
    kit: TestKit, keys: str | None, tokens: int
) -> None:
    async def works(self: Worker, ctx: Context) -> None:
        attempts: list[int] = []

        async def tries() -> None:
            attempts.append(10 * (len(attempts) + 1))
            ctx.charge(tokens=attempts[-1], key=keys and keys[len(attempts) - 1])
            if len(attempts) < 3:
                raise ValueError("not yet")

        await ctx.step(tries, retry=RetryPolicy(attempts=3, first_delay_s=0.0))

    assert used(kit, await given(kit, works))[3] == tokens


async def test_what_is_part_of_no_task_counts_for_none(kit: TestKit) -> None:
    async def charges(self: Worker, ctx: Context) -> None:
        ctx.charge(tokens=7)
        await ctx.step(do, "one")
        ctx.send("test/worker/a", Errand(program="idles"))

    await kit.send("test/worker/w", Errand(program=program(charges)))
    await kit.quiet()
    assert kit.store.spending.rows == {}


async def test_children_count_for_the_task_at_the_top(kit: TestKit) -> None:
    async def below(self: Worker, ctx: Context) -> None:
        await ctx.step(do, "below")
        ctx.charge(tokens=10)
        ctx.send("test/worker/a", Errand(program="idles"))
        ctx.complete()

    async def middle(self: Worker, ctx: Context) -> None:
        ctx.charge(tokens=100)
        await ctx.run_task("test", goal=program(below))
        ctx.complete()

    async def above(self: Worker, ctx: Context) -> None:
        await ctx.gather(*(ctx.run_task("test", goal=program(middle)) for _ in range(2)))
        ctx.complete()

    task = await given(kit, above)
    assert kit.task(task).status == "completed"
    assert used(kit, task) == (2, 0, 2, 220, 0)
    assert {root for _, root, _ in kit.store.spending.rows} == {f"test/{task}"}


async def test_a_turn_that_runs_again_charges_nothing_twice(kit: TestKit) -> None:
    async def goes_on(self: Worker, ctx: Context) -> None:
        ctx.charge(tokens=1)
        await ctx.step(do, "one")
        ctx.charge(tokens=10, key="the second")
        if ctx.failures == 0:
            raise ValueError("once")
        await ctx.ask("test/worker/b", Errand(program="sleeps"))
        ctx.charge(tokens=100)
        ctx.complete()

    task = await given(kit, goes_on)
    await kit.advance(seconds=5)
    assert used(kit, task) == (1, 1, 1, 11, 0)
    for host in (0, 1):
        await kit.crash(host)
    await kit.recover()
    assert used(kit, task) == (1, 1, 1, 11, 0)
    await kit.advance(seconds=1_001)
    assert used(kit, task) == (1, 0, 1, 111, 0)
    assert kit.task(task).status == "completed"


async def test_asks_in_flight_come_down_whatever_becomes_of_who_has_asked(kit: TestKit) -> None:
    async def asks(self: Worker, ctx: Context) -> None:
        await ctx.ask("test/worker/b", Errand(program="sleeps"))

    task = await given(kit, asks)
    assert used(kit, task)[1] == 1
    await kit.advance(seconds=2)
    await kit.skip_turn("test/worker/w", "enough")
    await kit.advance(seconds=2)
    assert used(kit, task)[1] == 0
    other = await given(kit, asks)
    await kit.cancel_task(other)
    for _ in range(10):
        await kit.advance(seconds=0.1)
    assert used(kit, other)[1] == 0


async def test_a_charge_that_is_none_is_refused(kit: TestKit) -> None:
    async def wrong(self: Worker, ctx: Context) -> None:
        wrong_tokens: list[Any] = [
            -1,
            1.5,
            float("nan"),
            10**15,
        ]  # in a journal, they would fail each of its flushes
        for tokens, cost in [(n, 0.0) for n in wrong_tokens] + [
            (0, c) for c in (-0.5, float("nan"), float("inf"), 1e15)
        ]:
            with pytest.raises(InvalidMessage, match="Nobody can spend"):
                ctx.charge(tokens=tokens, cost=cost)
        ctx.complete("refused")

    assert kit.task(await given(kit, wrong)).result == "refused"


# -- above a limit -----------------------------------------------------------------------------------


async def test_a_task_that_uses_what_it_may_and_no_more_is_completed(kit: TestKit) -> None:
    async def frugal(self: Worker, ctx: Context) -> None:
        for n in range(3):
            ctx.charge(tokens=5)
            await ctx.step(do, str(n))
        ctx.send("test/worker/a", Errand(program="idles"))
        ctx.complete("done")

    task = await given(kit, frugal, steps=3, tokens=15, hops=1, asks=1)
    assert kit.task(task).result == "done"


async def test_the_next_step_is_refused_and_what_was_done_is_undone(kit: TestKit) -> None:
    caught: list[LimitExceeded] = []

    async def climbs(self: Worker, ctx: Context) -> None:
        for n in range(10):
            try:
                ctx.compensate(undo, await ctx.step(do, str(n)))
            except LimitExceeded as error:
                caught.append(error)
                raise

    task = await given(kit, climbs, steps=3)
    assert await failed(kit, task) == {"limit": "steps", "used": 4, "allowed": 3}
    assert Worker.log == ["0", "1", "2", "3", "undo 3", "undo 2", "undo 1", "undo 0"]
    assert (caught[0].limit, caught[0].used, caught[0].allowed, caught[0].task) == (
        "steps", 4, 3, f"test/{task}",
    )  # fmt: skip
    assert "4 steps; its limit is 3" in caught[0].message
    assert [step.decision for step in kit.history("test/worker/w")] == ["cancelled"]


async def test_messages_that_go_round_and_round_come_to_an_end(kit: TestKit) -> None:
    async def begins(self: Worker, ctx: Context) -> None:
        ctx.send("test/worker/round", Errand(program="never_ends"))

    task = await kit.give_task("test/worker/w", goal=program(begins), limits=TaskLimits(hops=20))
    assert (await failed(kit, task))["limit"] == "hops"
    assert 20 <= len(Worker.log) <= 25


async def test_a_send_is_refused_in_a_turn_that_goes_on_above_the_limit(kit: TestKit) -> None:
    async def catches(self: Worker, ctx: Context) -> None:
        await ctx.step(do, "one")
        ctx.charge(tokens=11)
        await ctx.step(do, "two")
        with pytest.raises(LimitExceeded):
            ctx.send("test/worker/a", Errand(program="idles"))
        with pytest.raises(LimitExceeded):
            await ctx.ask("test/worker/a", Errand(program="idles"))
        ctx.complete("as far as it came")  # a report still passes

    task = await given(kit, catches, tokens=10)
    assert await failed(kit, task) == {"limit": "tokens", "used": 11, "allowed": 10}
    assert kit.task(task).result == "as far as it came"


async def test_the_parts_that_have_come_stay_as_the_partial_result(kit: TestKit) -> None:
    async def splits(self: Worker, ctx: Context) -> None:
        ctx.split(5)
        for n in range(5):
            await ctx.step(do, str(n))
            ctx.complete_part(f"part {n}", n)

    task = await given(kit, splits, steps=2)
    assert (await failed(kit, task))["limit"] == "steps"
    assert kit.task(task).result == {"part 0": 0, "part 1": 1}


async def test_too_many_asks_in_flight_end_the_task(kit: TestKit) -> None:
    async def spreads(self: Worker, ctx: Context) -> None:
        await ctx.gather(*(ctx.ask(f"test/worker/{n}", Errand(program="sleeps")) for n in range(6)))

    task = await given(kit, spreads, asks=5)
    assert await failed(kit, task) == {"limit": "asks", "used": 6, "allowed": 5}
    assert used(kit, task)[1] == 0


async def test_a_child_that_spends_too_much_ends_the_whole_tree(kit: TestKit) -> None:
    async def spends(self: Worker, ctx: Context) -> None:
        ctx.charge(cost=0.3)
        await ctx.step(do, "spent")
        await ctx.sleep(1_000)

    async def delegates(self: Worker, ctx: Context) -> None:
        with pytest.raises(TaskFailed):
            await ctx.gather(*(ctx.run_task("test", goal=program(spends)) for _ in range(4)))

    task = await given(kit, delegates, cost=1.0)
    assert await failed(kit, task) == {"limit": "cost", "used": 1.2, "allowed": 1}
    children = [kit.task(id_) for _, _, id_ in kit.store.tasks.children]
    assert [child.status for child in children] == ["cancelled"] * 4
    assert all("its limit is 1" in (child.error or {})["message"] for child in children)


async def act(where: str) -> str:
    """Acts, and nobody knows whether it has."""
    Worker.log.append("acts")
    raise ConnectionError("no route")


@pytest.mark.parametrize("how", ["step", "send"])
@pytest.mark.parametrize("caught", [False, True])
@pytest.mark.parametrize("crashes", [False, True])
async def test_who_goes_above_a_limit_beside_a_task_that_it_waits_for_is_undone_after_that(
    kit: TestKit, how: str, caught: bool, crashes: bool
) -> None:
    async def acts(self: Worker, ctx: Context) -> None:
        ctx.compensate(undo, "what has acted")
        await ctx.call(tool(act), "here")

    async def spends(ctx: Context) -> None:
        await ctx.sleep(5)
        ctx.charge(tokens=11)
        await ctx.step(do, "spent", key="spent")
        if how == "step":
            await ctx.step(do, "more", key="more")
        else:
            ctx.send("test/worker/a", Errand(program="idles"))

    async def books(self: Worker, ctx: Context) -> None:
        ctx.compensate(undo, await ctx.step(do, "booked"))
        with contextlib.suppress(LimitExceeded) if caught else contextlib.nullcontext():
            await ctx.gather(ctx.run_task("test", goal="acts"), spends(ctx))

    program(acts)
    task = await given(kit, books, tokens=10)
    (asked,) = kit.approvals()
    await kit.advance(seconds=5)
    for _ in range(10):
        await kit.advance(seconds=0.1)
    if crashes:
        await kit.crash()
        await kit.recover()
        await kit.advance(minutes=20)
    assert Worker.log == ["booked", "acts", "spent"]
    assert await kit.say(asked.id, happened=True, result="done")
    for _ in range(20):
        await kit.advance(seconds=0.1)
    assert (kit.task(task).status, (kit.task(task).error or {})["limit"]) == ("failed", "tokens")
    assert Worker.log == ["booked", "acts", "spent", "undo what has acted", "undo booked"]
    assert (len(kit.store.waits.turns), kit.dead_letters()) == (0, [])


async def test_a_task_has_so_much_time_from_its_assignment_on(kit: TestKit) -> None:
    async def lingers(self: Worker, ctx: Context) -> None:
        await ctx.sleep(1_000)

    task = await given(kit, lingers, wall_s=60)
    await kit.advance(seconds=59)
    assert kit.task(task).status == "running"
    await kit.advance(seconds=2)
    assert await failed(kit, task) == {"limit": "wall_s", "used": 60, "allowed": 60}
    assert (kit.task(task).error or {})["message"] == "The task has run for 60 s, its limit (wall_s)."


async def test_a_host_that_comes_later_refuses_as_well(kit: TestKit) -> None:
    async def wakes(self: Worker, ctx: Context) -> None:
        await ctx.step(do, "one")
        await ctx.step(do, "two")

    task = await given(kit, wakes, steps=1)
    for host in (0, 1):
        await kit.crash(host)
    kit._scope.exhausted.clear()
    await kit.recover()
    assert (await failed(kit, task))["limit"] == "steps"


async def test_a_domain_sets_limits_for_tasks_that_bring_none(kit: TestKit) -> None:
    async def steps(self: Worker, ctx: Context) -> None:
        for n in range(3):
            await ctx.step(do, str(n))

    async with TestKit([Worker], tasks=TaskSpec(to="worker/{task}", limits=TaskLimits(steps=2))) as strict:
        task = await strict.give_task("test/worker/w", goal=program(steps))
        assert (await failed(strict, task))["allowed"] == 2
