"""Steps of a turn that waits: what is recorded is not computed again, and how much may be recorded."""

from __future__ import annotations

import asyncio
from contextvars import copy_context

import pytest

from actors.branch import inside
from actors.domain import LimitSpec
from actors.retry import RetryPolicy
from bus.errors import InvalidMessage, JournalFull, StepFailed
from callboard import Context, tool
from tests.unit.agents import Note
from tests.unit.waiter import AT, Run, Waiter, call, counted, leftovers, program, put_away, waiters


async def test_steps_are_computed_once_although_the_handler_runs_again() -> None:
    crashed = asyncio.Event()
    go_on = asyncio.Event()

    async def run(self: Waiter, ctx: Context) -> None:
        for name in ("a", "b"):
            self.state.log.append(await ctx.step(call, name))
        if not go_on.is_set():
            crashed.set()
            await asyncio.Event().wait()
        self.state.log.append(await ctx.step(call, "c"))

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await crashed.wait()
        await kit.crash()
        go_on.set()
        await kit.recover()
        assert kit.state(AT).log == ["A", "B", "C"]
        assert Waiter.calls == ["a", "b", "c"]
        assert len(Waiter.starts) == 2
        assert leftovers(kit) == (0, 0, 0)


async def test_a_step_is_tried_again_as_its_policy_says() -> None:
    failures = [ValueError("once"), ValueError("twice")]

    def flaky() -> str:
        Waiter.calls.append("flaky")
        if failures:
            raise failures.pop()
        return "done"

    async def run(self: Waiter, ctx: Context) -> None:
        self.state.log.append(await ctx.step(flaky, retry=RetryPolicy(attempts=3, first_delay_s=0.01)))

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.advance(seconds=10)
        assert kit.state(AT).log == ["done"]
        assert Waiter.calls == ["flaky"] * 3


async def test_a_failure_that_the_handler_goes_on_from_is_recorded_and_stays() -> None:
    def broken() -> str:
        Waiter.calls.append("broken")
        raise ValueError("no such thing")

    async def run(self: Waiter, ctx: Context) -> None:
        try:
            await ctx.step(broken)
        except StepFailed as error:
            self.state.log.append(error.message)
        await ctx.sleep(5)
        self.state.log.append(await ctx.step(call, "after"))

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=10)
        assert kit.state(AT).log[0].endswith("broken failed: ValueError: no such thing.")
        assert kit.state(AT).log[1] == "AFTER"
        assert Waiter.calls == ["broken", "after"]
        assert len(Waiter.starts) == 2


async def test_a_failed_turn_keeps_its_results_and_tries_only_the_failed_step_again() -> None:
    failures = [ValueError("not yet")]

    def flaky() -> str:
        Waiter.calls.append("flaky")
        if failures:
            raise failures.pop()
        return "done"

    async def run(self: Waiter, ctx: Context) -> None:
        self.state.log.append(await ctx.step(call, "first"))
        self.state.log.append(await ctx.step(flaky))

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.advance(seconds=10)
        assert kit.state(AT).log == ["FIRST", "done"]
        assert Waiter.calls == ["first", "flaky", "flaky"]
        assert kit.dead_letters() == []


async def test_a_turn_that_keeps_failing_becomes_a_dead_letter_and_leaves_nothing_open() -> None:
    def broken() -> str:
        raise ValueError("for good")

    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.step(call, "first")
        await ctx.step(broken)

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.send(AT, Note(text="next"))
        await kit.advance(seconds=30)
        [letter] = kit.dead_letters()
        assert (letter.reason, letter.failures) == ("failed", 3)
        assert "StepFailed" in letter.error
        assert kit.state(AT).log == ["note next"]
        assert Waiter.calls == ["first"]
        assert leftovers(kit) == (0, 0, 0)


async def test_a_turn_that_records_without_end_is_refused_its_next_call_and_given_up() -> None:
    errors: list[str] = []

    async def run(self: Waiter, ctx: Context) -> None:
        n = 0
        while True:
            try:
                await ctx.step(call, f"{n}")
            except JournalFull as error:
                errors.append(str(error))
                raise
            n += 1
            if n == 3:  # from here on it runs again, and what is recorded counts
                await ctx.sleep(5)

    async with waiters(limits=LimitSpec(journal_entries=10)) as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=10)
        assert Waiter.calls == [str(n) for n in range(9)]  # and the sleep is the tenth
        assert errors == [
            "The turn has recorded 10 calls, the most that `limits.journal_entries` allows. Split the work into several "
            "turns, or raise `limits.journal_entries` or `limits.journal_bytes` in domain.yaml."
        ]
        [dead] = kit.dead_letters(AT)
        assert "JournalFull" in dead.error
        await kit.send(AT, Note(text="goes on"))
        await kit.quiet()
        assert kit.state(AT).log == ["note goes on"]
        assert leftovers(kit) == (0, 0, 0)


async def test_a_turn_may_record_so_many_bytes() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        for n in range(10):
            await ctx.step(counted("x" * 400), f"{n}")

    async with waiters(limits=LimitSpec(journal_bytes=1_024)) as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        assert Waiter.calls == ["0", "1", "2"]
        [dead] = kit.dead_letters(AT)
        assert "limits.journal_bytes" in dead.error


async def test_a_key_used_twice_or_a_call_in_a_task_of_its_own_is_refused() -> None:
    errors: list[str] = []

    async def twice(self: Waiter, ctx: Context) -> None:
        await ctx.step(call, "a", key="k")
        try:
            await ctx.step(call, "b", key="k")
        except InvalidMessage as error:
            errors.append(error.message)

    async def beside(self: Waiter, ctx: Context) -> None:
        try:
            await asyncio.create_task(ctx.step(call, "c", key="c"))
        except InvalidMessage as error:
            errors.append(error.message)
        await ctx.gather(ctx.step(call, "d", key="d"), ctx.step(call, "e"))

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(twice)))
        await kit.send(AT, Run(program=program(beside)))
        await kit.quiet()
        assert "is used twice" in errors[0]
        assert "in a task of its own" in errors[1]
        assert sorted(Waiter.calls) == ["a", "d", "e"]


async def test_what_a_steps_function_does_takes_no_place_of_the_handlers_when_that_runs_again() -> None:
    """It does not run again with it. A message sent after the wait was taken for the one that the step had sent."""

    async def inner(ctx: Context) -> str:
        ctx.send("test/keeper/k", Note(text="from the step"))
        ctx.charge(tokens=1)
        return str(await ctx.step(call, "inner"))

    async def run(self: Waiter, ctx: Context) -> None:
        self.state.log.append(await ctx.step(inner, ctx))
        self.state.log.append(await ctx.step(call, "outer"))
        await ctx.sleep(60)
        ctx.send("test/keeper/k", Note(text="after the wait"))

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=61)
        assert kit.state("test/keeper/k").notes == ["from the step", "after the wait"]
        assert kit.state(AT).log == ["INNER", "OUTER"]
        assert Waiter.calls == ["inner", "outer"]
        assert leftovers(kit) == (0, 0, 0)


async def test_a_step_that_waits_is_put_away_and_its_function_goes_on_from_where_it_was() -> None:
    async def inner(ctx: Context) -> str:
        before = await ctx.step(call, "before")
        await ctx.sleep(60)
        return f"{before} {await ctx.step(call, 'after')}"

    async def run(self: Waiter, ctx: Context) -> None:
        self.state.log.append(await ctx.step(inner, ctx))

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=61)
        assert (kit.state(AT).log, Waiter.calls) == (["BEFORE AFTER"], ["before", "after"])


@pytest.mark.parametrize("is_beside", [False, True], ids=["itself", "beside_another"])
async def test_a_steps_function_cannot_say_what_undoes_it(is_beside: bool) -> None:
    async def undone(ctx: Context) -> None:
        ctx.compensate(call, "undo")

    async def inner(ctx: Context) -> None:
        await (ctx.gather(undone(ctx)) if is_beside else undone(ctx))

    async def run(self: Waiter, ctx: Context) -> None:
        with pytest.raises(StepFailed, match="cannot say what undoes it"):
            await ctx.step(inner, ctx)
        self.state.log.append("refused")

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        assert kit.state(AT).log == ["refused"]


async def test_what_a_tool_sends_takes_no_place_of_the_handlers() -> None:
    contexts: list[Context] = []

    @tool
    async def act() -> None:
        contexts[-1].send("test/keeper/k", Note(text="from the tool"))

    async def run(self: Waiter, ctx: Context) -> None:
        contexts.append(ctx)
        await ctx.call(act)
        await ctx.sleep(60)
        ctx.send("test/keeper/k", Note(text="after the wait"))

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=61)
        assert kit.state("test/keeper/k").notes == ["from the tool", "after the wait"]


async def test_a_step_that_is_cut_off_with_its_host_ends_without_a_word() -> None:
    """The collector closes what was left, wherever that runs."""

    async def step() -> None:
        with inside("#1"):
            await asyncio.Event().wait()

    left = step()
    copy_context().run(left.send, None)
    left.close()


async def test_a_step_within_a_step_that_has_failed_is_made_anew_with_it() -> None:
    async def flaky() -> str:
        Waiter.calls.append("flaky")
        if len(Waiter.calls) == 1:
            raise ValueError("once")
        return "there"

    async def outer(ctx: Context) -> str:
        return str(await ctx.step(flaky))

    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.step(str, "on record")
        self.state.log.append(await ctx.step(outer, ctx))

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.advance(minutes=1)
        assert (kit.state(AT).log, Waiter.calls) == (["there"], ["flaky", "flaky"])
