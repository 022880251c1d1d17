"""The kit itself: what authors lean on, also outside of anyio's plugin."""

from __future__ import annotations

import asyncio
import time

import pytest
from pydantic import BaseModel

from actors.domain import TaskSpec
from callboard import (
    Agent,
    CallboardError,
    Context,
    InvalidAddress,
    InvalidTask,
    TaskWork,
    UnknownDomain,
    UnknownKind,
    handler,
)
from callboard.testing import TestKit, VirtualClock
from tests.unit.agents import Forward, Keeper, Note


def test_the_kit_runs_in_a_plain_test() -> None:
    async def main() -> list[str]:
        async with TestKit([Keeper], domain="shop") as kit:
            await kit.send("shop/keeper/k", Note(text="hello"))
            await kit.quiet()
            return list(kit.state("shop/keeper/k").notes)

    assert asyncio.run(main()) == ["hello"]


async def test_a_year_of_timers_and_retries_passes_in_no_time() -> None:
    class Daily(Agent):
        kind = "daily"

        class State(BaseModel):
            days: int = 0

        state: State

        @handler
        async def on_note(self, note: Note, ctx: Context) -> None:
            self.state.days += 1
            ctx.send_later(ctx.address, note, delay_s=86_400)

    began = time.monotonic()
    async with TestKit([Daily]) as kit:
        await kit.send("test/daily/d", Note())
        await kit.advance(days=365)
        assert kit.state("test/daily/d").days == 366
    assert time.monotonic() - began < 10


async def test_time_stands_still_until_it_is_moved() -> None:
    async with TestKit([Keeper]) as kit:
        before = kit.clock.now()
        await kit.send("test/keeper/k", Forward(to="test/keeper/l", text="x", delay_s=1))
        await kit.quiet()
        assert kit.clock.now() == before
        assert kit.mailbox("test/keeper/l") == []
        await kit.advance(seconds=0.5)
        await kit.advance(seconds=0.5)
        assert kit.clock.now() == before + 1
        assert kit.state("test/keeper/l").notes == ["x"]


async def test_a_timer_without_a_delay_is_something_to_do_now() -> None:
    async with TestKit([Keeper]) as kit:
        await kit.send("test/keeper/k", Forward(to="test/keeper/l", text="x", delay_s=0))
        await kit.quiet()
        assert kit.state("test/keeper/l").notes == ["x"]


async def test_quiet_names_those_who_are_still_at_work() -> None:
    class Stuck(Agent):
        kind = "stuck"

        @handler
        async def on_note(self, note: Note, ctx: Context) -> None:
            await asyncio.Event().wait()

    async with TestKit([Stuck]) as kit:
        await kit.send("test/stuck/forever", Note())
        with pytest.raises(CallboardError, match="test/stuck/forever"):
            await kit.quiet(timeout_s=0.1)


async def test_what_was_sent_is_shown_as_typed_models_by_recipient_sender_and_type() -> None:
    async with TestKit([Keeper]) as kit:
        await kit.send("test/keeper/a", Forward(to="test/keeper/b", text="1"))
        await kit.send("test/keeper/c", Forward(to="test/keeper/b", text="2", delay_s=5))
        await kit.quiet()
        assert kit.sent() == [Note(text="1"), Note(text="2")]
        assert (
            kit.sent(sender="test/keeper/c")
            == kit.sent(type=Note, sender="test/keeper/c")
            == [Note(text="2")]
        )
        assert kit.sent(to="test/keeper/a") == kit.sent(type=Forward) == []


async def test_mistakes_of_the_test_itself_are_told_at_once() -> None:
    async with TestKit([Keeper]) as kit:
        with pytest.raises(InvalidAddress):
            await kit.send("keeper/k", Note())
        with pytest.raises(UnknownDomain):
            await kit.send("other/keeper/k", Note())
        with pytest.raises(UnknownKind):
            await kit.send("test/nobody/k", Note())


async def test_a_key_is_accepted_once() -> None:
    async with TestKit([Keeper]) as kit:
        assert await kit.send("test/keeper/k", Note(text="x"), key="line 7") is not None
        assert await kit.send("test/keeper/k", Note(text="x"), key="line 7") is None
        await kit.quiet()
        assert kit.state("test/keeper/k").notes == ["x"]


async def test_crash_and_recover_keep_all_that_was_committed() -> None:
    async with TestKit([Keeper], hosts=2) as kit:
        for index in range(10):
            await kit.send(f"test/keeper/{index}", Note(text=str(index)))
        await kit.quiet()
        await kit.crash(0)
        await kit.crash(1)
        await kit.send("test/keeper/0", Note(text="while away"))
        await kit.quiet()
        assert [m.message for m in kit.mailbox("test/keeper/0")] == [Note(text="while away")]
        await kit.recover()
        assert kit.state("test/keeper/0").notes == ["0", "while away"]
        assert all(kit.state(f"test/keeper/{index}").notes == [str(index)] for index in range(1, 10))


async def test_the_clock_calls_back_in_the_order_of_its_times() -> None:
    clock = VirtualClock(start=100.0)
    called: list[str] = []
    clock.call_at(103.0, called.append, "c")
    clock.call_at(101.0, called.append, "a")
    clock.call_at(103.0, called.append, "d")
    clock.call_at(102.0, lambda: clock.call_at(102.5, called.append, "b"))
    paused = asyncio.create_task(clock.pause(1_000))
    await asyncio.sleep(0)
    clock.move_to(102.9)
    assert (called, clock.next_call, clock.now()) == (["a", "b"], 103.0, 102.9)
    clock.move_to(50.0)
    assert clock.now() == 102.9
    clock.move_to(103.0)
    assert called == ["a", "b", "c", "d"]
    await paused


class Clerk(Agent):
    kind = "clerk"

    @handler
    async def on_task(self, work: TaskWork, ctx: Context) -> None:
        if work.input is None:
            ctx.fail("there is nothing to do")
        else:
            ctx.progress(0.5, "half")
            ctx.complete({"seen": work.input})


async def test_a_task_that_is_given_ends_with_what_its_agent_reports() -> None:
    async with TestKit([Clerk]) as kit:
        done = await kit.give_task("test/clerk/a", goal="look", input=[1])
        failed = await kit.give_task("test/clerk/a", goal="look")
        await kit.quiet()
        assert (kit.task(done).status, kit.task(done).result) == ("completed", {"seen": [1]})
        assert kit.task(failed).status == "failed"
        assert "nothing to do" in str(kit.task(failed).error)


async def test_the_limits_of_a_task_may_be_a_mapping() -> None:
    async with TestKit([Clerk]) as kit:
        task = await kit.give_task("test/clerk/a", limits={"steps": 10, "cost": "0.5"})
        assert kit.store.spending.limits[("default", f"test/{task}")] == {"steps": 10, "cost": 0.5}
        with pytest.raises(InvalidTask, match="stps"):
            await kit.give_task("test/clerk/a", limits={"stps": 10})


class Waiter(Agent):
    kind = "waiter"

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None:
        ctx.compensate(str)
        await ctx.gather(ctx.sleep(3600), ctx.approval("go on"))

    @handler
    async def on_task(self, work: TaskWork, ctx: Context) -> None:
        if work.input is None:
            await ctx.run_task("test", goal="wait too", input="child")
        await self.on_note(Note(), ctx)


async def test_a_turn_that_waits_is_skipped_once_the_kit_is_quiet() -> None:
    async with TestKit([Waiter]) as kit:
        began = kit.clock.now()
        await kit.send("test/waiter/w", Note())
        await kit.quiet()
        await kit.skip_turn("test/waiter/w", "nobody comes")
        await kit.quiet()
        assert [turn.decision for turn in kit.history("test/waiter/w")] == ["turn_skipped", "dead_letter"]
        assert [letter.error for letter in kit.dead_letters()] == ["skipped by operator: nobody comes"]
        assert kit.clock.now() == began


async def test_a_cancelled_task_has_ended_after_one_move_of_the_clock() -> None:
    async with TestKit([Waiter], hosts=2, tasks=TaskSpec(to="waiter/{task}")) as kit:
        task = await kit.give_task("test/waiter/w")
        await kit.quiet()
        await kit.cancel_task(task)
        await kit.advance(seconds=1)
        assert kit.task(task).status == "cancelled"
