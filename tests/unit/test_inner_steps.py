"""Steps within the function of a step: each has a place of its own, and an attempt finds what the one before has recorded."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actors.retry import RetryPolicy
from bus.errors import StepFailed
from callboard import Context, tool
from tests.unit.agents import Note
from tests.unit.waiter import AT, Run, Waiter, call, counted, leftovers, program, put_away, waiters

TWICE = RetryPolicy(attempts=2, first_delay_s=0.0)


@pytest.mark.parametrize("own", ["a/b", "a%2Fb", "a/#1", "#1/b"])
async def test_a_key_within_a_step_is_no_key_of_the_handlers(own: str) -> None:
    async def outer(ctx: Context) -> str:
        return f"{await ctx.step(call, 'inner', key='b')} {await ctx.step(call, 'numbered')}"

    async def run(self: Waiter, ctx: Context) -> None:
        self.state.log.append(await ctx.step(outer, ctx, key=None if own.startswith("#") else "a"))
        self.state.log.append(await ctx.step(call, "mine", key=own.lstrip("#")))
        await ctx.sleep(60)

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=61)
        assert kit.state(AT).log == ["INNER NUMBERED", "MINE"]
        assert Waiter.calls == ["inner", "numbered", "mine"]


@pytest.mark.parametrize("own", ["pay?", "pay!1", "pay~1", "pay$", "sent:2", "void:2"])
async def test_a_key_is_never_taken_for_what_stands_beside_a_call_in_the_journal(own: str) -> None:
    @tool(effect="at_most_once", requires_approval=True)
    async def pay() -> str:
        return "paid"

    async def run(self: Waiter, ctx: Context) -> None:
        ctx.send("test/keeper/k", Note(text="out"))
        self.state.log.append(await ctx.step(call, "mine", key=own))
        self.state.log.append(await ctx.call(pay, key="pay"))

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        [asked] = kit.approvals()
        assert await kit.approve(asked.id)
        assert kit.state(AT).log == ["MINE", "paid"]
        assert kit.state("test/keeper/k").notes == ["out"]
        assert Waiter.calls == ["mine"]


async def test_a_key_without_structure_is_shown_as_it_was_given() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.step(call, "x", key="fetch:7 of Zoë's")
        await ctx.sleep(60)

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        [entries] = kit.store.waits.journal.values()
        assert [entry.key for entry in entries] == ["fetch:7 of Zoë's"]


@pytest.mark.parametrize("key", ["inner", None])
@pytest.mark.parametrize("fails_at", ["the inner step", "after it"])
async def test_the_next_attempt_of_a_step_finds_what_its_function_has_recorded(
    key: str | None, fails_at: str
) -> None:
    async def inner() -> str:
        Waiter.calls.append("inner")
        if fails_at == "the inner step" and Waiter.calls.count("inner") == 1:
            raise ValueError("once")
        return "there"

    async def outer(ctx: Context) -> str:
        Waiter.calls.append("outer")
        found = [await ctx.step(call, "first", key=key and "first"), await ctx.step(inner, key=key)]
        if fails_at == "after it" and Waiter.calls.count("outer") == 1:
            raise ValueError("once")
        return " ".join(found)

    async def run(self: Waiter, ctx: Context) -> None:
        self.state.log.append(await ctx.step(outer, ctx, retry=TWICE))
        await ctx.sleep(60)
        self.state.log.append("after")

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=61)
        assert kit.state(AT).log == ["FIRST there", "after"]
        again = ["inner"] if fails_at == "the inner step" else []
        assert Waiter.calls == ["outer", "first", "inner", "outer", *again]
        assert leftovers(kit) == (0, 0, 0)


@pytest.mark.parametrize("goes_out", [False, True])
@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("in_branch", [False, True])
async def test_what_a_failed_attempt_has_sent_its_next_one_does_not_send_again(
    goes_out: bool, dies: bool, in_branch: bool
) -> None:
    async def send(ctx: Context) -> None:
        ctx.send("test/keeper/k", Note(text="tried"))
        if goes_out:
            await ctx.step(call, "first")
        if Waiter.calls.count("outer") == 1:
            raise ValueError("once")
        ctx.send("test/keeper/k", Note(text="done"))
        await ctx.sleep(60)

    async def outer(ctx: Context) -> None:
        Waiter.calls.append("outer")
        await (ctx.gather(send(ctx)) if in_branch else send(ctx))

    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.step(outer, ctx, retry=TWICE)
        self.state.log.append("after")

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        if dies:
            await kit.crash()
            await kit.recover()
        await kit.advance(seconds=61)
        assert kit.state(AT).log == ["after"]
        assert kit.state("test/keeper/k").notes == ["tried", "done"]
        assert leftovers(kit) == (0, 0, 0)


async def test_a_failure_that_the_function_went_on_from_stays_in_its_next_attempt() -> None:
    def broken() -> str:
        Waiter.calls.append("broken")
        raise ValueError("never")

    async def outer(ctx: Context) -> str:
        Waiter.calls.append("outer")
        with pytest.raises(StepFailed):
            await ctx.step(broken)
        if Waiter.calls.count("outer") == 1:
            raise ValueError("once")
        return "without it"

    async def run(self: Waiter, ctx: Context) -> None:
        self.state.log.append(await ctx.step(outer, ctx, retry=TWICE))

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        assert kit.state(AT).log == ["without it"]
        assert Waiter.calls == ["outer", "broken", "outer"]


@pytest.mark.parametrize("beside", [False, True])
async def test_a_failure_that_the_handler_went_on_from_stays_when_a_step_after_it_is_tried_again(
    beside: bool,
) -> None:
    """Each error of the second step names the first one's as its context."""

    async def broken() -> str:
        Waiter.calls.append("broken")
        if Waiter.calls.count("broken") == 1:
            raise ValueError("once")
        return "mended"

    async def instead() -> str:
        Waiter.calls.append("instead")
        if Waiter.calls.count("instead") == 1:
            raise ValueError("once")
        return "instead"

    async def run(self: Waiter, ctx: Context) -> None:
        try:
            found = await (ctx.gather(ctx.step(broken)) if beside else ctx.step(broken))
        except StepFailed:
            found = await ctx.step(instead, retry=TWICE)
        await ctx.sleep(60)
        self.state.log.append(str(found))

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=61)
        assert kit.state(AT).log == ["instead"]
        assert Waiter.calls == ["broken", "instead", "instead"]


async def test_a_key_used_twice_in_one_attempt_is_refused_all_the_same() -> None:
    async def outer(ctx: Context) -> Any:
        await ctx.step(counted(), "one", key="k")
        return await ctx.step(counted(), "two", key="k")

    async def run(self: Waiter, ctx: Context) -> None:
        with pytest.raises(StepFailed, match="used twice"):
            await ctx.step(outer, ctx, retry=TWICE)
        self.state.log.append("refused")

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        assert kit.state(AT).log == ["refused"]


async def test_the_next_attempt_waits_for_a_call_that_the_one_before_has_left_under_way() -> None:
    @tool(effect="at_most_once")
    async def act() -> str:
        Waiter.calls.append("act")
        for _ in range(20):
            await kit.store.load_journal("test", kit.tenant, "waiter/w")
        return "acted"

    async def fail(ctx: Context) -> None:
        while "act" not in Waiter.calls:
            await ctx.step(str, "a while")
        if "failed" not in Waiter.calls:
            Waiter.calls.append("failed")
            raise ValueError("once")

    async def outer(ctx: Context) -> list[Any]:
        return await ctx.gather(ctx.call(act, key="act"), fail(ctx))

    async def run(self: Waiter, ctx: Context) -> None:
        self.state.log.append(str(await ctx.step(outer, ctx, retry=TWICE)))

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        assert kit.state(AT).log == ["['acted', None]"]
        assert Waiter.calls == ["act", "failed"]


async def test_the_next_attempt_waits_for_no_call_of_another_branch() -> None:
    begun, again = asyncio.Event(), asyncio.Event()

    @tool(effect="at_most_once")
    async def act() -> str:
        begun.set()
        await again.wait()
        return "acted"

    async def outer() -> None:
        Waiter.calls.append("outer")
        await begun.wait()
        if len(Waiter.calls) == 1:
            raise ValueError("once")
        again.set()

    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.gather(ctx.call(act), ctx.step(outer, retry=TWICE))
        self.state.log.append("after")

    async with waiters() as kit, asyncio.timeout(5):
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        assert kit.state(AT).log == ["after"]
