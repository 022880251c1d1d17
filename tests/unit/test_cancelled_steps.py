"""What a cancelled task has under way is cut short, or waited for until it is known what it did."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from actors.cancelling import _end
from actors.retry import RetryPolicy
from callboard import Context, tool
from callboard.testing import TestKit
from tests.unit.cancelling import AT, KINDS, book, cancelling, leftovers, look, release
from tests.unit.tasks.worker import Errand, Worker, program
from tests.unit.waiter import until

pytestmark = pytest.mark.usefixtures("no_errands")


async def test_an_async_step_is_cut_short_and_a_thread_is_waited_for() -> None:
    started = threading.Event()
    go_on = threading.Event()
    cut: list[bool] = []

    def in_a_thread() -> str:
        started.set()
        go_on.wait(10)
        return "thread"

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cut.append(True)
            raise

    async def threads(ctx: Context) -> None:
        ctx.compensate(release, await ctx.step(in_a_thread))
        await ctx.step(book, "never")

    async def runs(self: Worker, ctx: Context) -> None:
        await ctx.gather(ctx.step(endless, key="endless"), threads(ctx))

    async with TestKit(KINDS) as kit:
        task = await kit.give_task(AT, goal=program(runs))
        await until(started.is_set)
        await cancelling(kit, task)
        assert cut == [True]
        assert kit.task(task).status == "cancelling"  # as long as the thread runs
        go_on.set()
        await kit.quiet()
        await look(kit)
        assert kit.task(task).status == "cancelled"
        assert Worker.log == ["release thread"]
        assert leftovers(kit) == (0, 0, 0, 0)


async def test_the_function_of_a_step_is_cut_short_also_after_a_step_within_it() -> None:
    begun = asyncio.Event()

    async def short() -> None:
        Worker.log.append("short")

    async def endless(ctx: Context) -> None:
        await ctx.step(short)
        begun.set()
        await asyncio.Event().wait()

    async def runs(self: Worker, ctx: Context) -> None:
        await ctx.step(endless, ctx)

    async with TestKit(KINDS) as kit:
        task = await kit.give_task(AT, goal=program(runs))
        await begun.wait()
        await cancelling(kit, task)
        await look(kit)
        assert kit.task(task).status == "cancelled"
        assert Worker.log == ["short"]
        assert leftovers(kit) == (0, 0, 0, 0)


@pytest.mark.parametrize("beside", ["nothing", "another", "one before it"])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_thread_within_the_function_of_a_step_is_waited_for(beside: str, fails: bool) -> None:
    started = threading.Event()
    go_on = threading.Event()

    def in_a_thread() -> None:
        started.set()
        go_on.wait(10)
        Worker.log.append("thread")
        if fails:
            raise SystemExit(1)

    async def outer(ctx: Context) -> None:
        calls = [ctx.step(in_a_thread)]
        if beside != "nothing":
            calls.insert(beside == "another", ctx.step(asyncio.sleep, 60))
        await ctx.gather(*calls)

    async def runs(self: Worker, ctx: Context) -> None:
        ctx.compensate(release, "all")
        await ctx.step(outer, ctx)

    async with TestKit(KINDS) as kit:
        task = await kit.give_task(AT, goal=program(runs))
        await until(started.is_set)
        await cancelling(kit, task)
        assert kit.task(task).status == "cancelling"
        go_on.set()
        await kit.quiet()
        await look(kit)
        assert kit.task(task).status == "cancelled"
        assert Worker.log == ["thread", "release all"]
        assert leftovers(kit) == (0, 0, 0, 0)


async def test_a_branch_that_is_cut_short_and_given_up_at_once_does_not_wait_for_the_others() -> None:
    """One beside it had failed: what runs them waits for it, and it would wait for that."""

    async def runs(self: Worker, ctx: Context) -> None:
        await ctx.gather(ctx.step(fails), ctx.step(endless))

    async def fails() -> None:
        [activation] = kit._running[0].host.workers.running
        branch = asyncio.current_task()
        assert branch is not None
        # Called after what has the gather end the other branch, and before that has heard of it.
        branch.add_done_callback(lambda _: _end(activation, "not needed"))
        raise ValueError("no")

    async def endless() -> None:
        await asyncio.Event().wait()

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Errand(program=program(runs)))
        await kit.quiet(timeout_s=5)
        assert [step.decision for step in kit.history(AT)] == ["cancelled"]
        assert leftovers(kit) == (0, 0, 0, 0)


async def test_a_call_of_a_tool_is_waited_for_until_it_is_known_and_then_undone() -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    @tool(effect="at_most_once")
    async def pay(amount: int) -> str:
        """Pay so much."""
        Worker.log.append(f"pay {amount}")
        started.set()
        await go_on.wait()
        return f"receipt {amount}"

    async def pays(self: Worker, ctx: Context) -> None:
        ctx.compensate(release, await ctx.call(pay, 7))
        await ctx.call(pay, 8)

    async with TestKit(KINDS) as kit:
        task = await kit.give_task(AT, goal=program(pays))
        await started.wait()
        await kit.cancel_task(task, "not needed")
        await until(lambda: kit.task(task).status == "cancelling")
        for _ in range(3):
            kit.clock.move_to(kit.clock.now() + 1)
            for _ in range(20):
                await asyncio.sleep(0)
        assert kit.task(task).status == "cancelling"
        go_on.set()
        await kit.quiet()
        await look(kit)
        assert kit.task(task).status == "cancelled"
        assert Worker.log == ["pay 7", "release receipt 7"]


@pytest.mark.parametrize("effect", ["pure", "idempotent"])
async def test_a_call_that_fails_is_not_made_again_once_its_task_is_cancelled(effect: Any) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    @tool(effect=effect, retry=RetryPolicy(attempts=50, first_delay_s=0.0))
    async def pay(amount: int, idempotency_key: str) -> None:
        """Pay so much."""
        Worker.log.append(f"pay {amount}")
        started.set()
        await go_on.wait()
        raise ConnectionError("the bank is away")

    async def pays(self: Worker, ctx: Context) -> None:
        await ctx.call(pay, 7)

    async with TestKit(KINDS) as kit:
        task = await kit.give_task(AT, goal=program(pays))
        await started.wait()
        await kit.cancel_task(task, "not needed")
        await until(lambda: kit.task(task).status == "cancelling")
        kit.clock.move_to(kit.clock.now() + 1)
        for _ in range(20):
            await asyncio.sleep(0)
        go_on.set()
        await kit.quiet()
        await look(kit)
        assert kit.task(task).status == "cancelled"
        assert Worker.log == ["pay 7"]
