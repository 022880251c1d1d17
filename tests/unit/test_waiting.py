"""Turns that wait: they hold nothing, nothing overtakes them, and they go on from where they were."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from actors.domain import LimitSpec
from bus.errors import InvalidMessage
from callboard import Context
from tests.unit.agents import Forward, Note
from tests.unit.waiter import (
    AT,
    Question,
    Run,
    Waiter,
    call,
    leftovers,
    open_turns,
    program,
    put_away,
    until,
    waiters,
)


async def test_a_turn_that_sleeps_for_days_holds_nothing_and_goes_on() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        self.state.log.append(f"{ctx.now:.0f}")
        await ctx.sleep(3 * 86_400)
        self.state.log.append(f"{ctx.now:.0f}")

    async with waiters() as kit:
        began = kit.clock.now()
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        assert len(kit._running[0].host.mailboxes) == 0
        await kit.advance(seconds=2 * 86_400)
        assert len(Waiter.starts) == 1
        await kit.advance(seconds=86_400)
        assert kit.state(AT).log == [f"{began:.0f}"] * 2  # what the handler takes for now stays the same
        assert leftovers(kit) == (0, 0, 0)


@pytest.mark.parametrize("seconds", [0, -1, -0.5, math.nan, math.inf])
@pytest.mark.parametrize("what", ["ask", "promise", "approval", "sleep"])
async def test_a_wait_that_is_over_before_it_begins_or_never_ends_is_refused(
    what: str, seconds: float
) -> None:
    calls: dict[str, Callable[[Context], Any]] = {
        "ask": lambda ctx: ctx.ask("test/waiter/b", Question(text="?"), timeout=seconds),
        "promise": lambda ctx: ctx.promise("payment", timeout=seconds),
        "approval": lambda ctx: ctx.approval("delete", timeout=seconds),
        "sleep": lambda ctx: ctx.sleep(seconds or -1),  # to sleep for no time is fine
    }

    async def run(self: Waiter, ctx: Context) -> None:
        with pytest.raises(InvalidMessage, match=r"can wait for|can sleep for|is no time"):
            await calls[what](ctx)
        self.state.log.append("refused")

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        assert kit.state(AT).log == ["refused"]
        assert leftovers(kit) == (0, 0, 0)


async def test_turns_that_wait_hold_no_worker() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.sleep(60)

    async with waiters(limits=LimitSpec(concurrent_turns=1, linger_s=1_000)) as kit:
        for n in range(20):
            await kit.send(f"test/waiter/{n}", Run(program=program(run)))
        await kit.send("test/keeper/k", Note(text="next"))
        await kit.quiet()
        host = kit._running[0].host
        assert kit.state("test/keeper/k").notes == ["next"]
        assert len(host.waiting) == 20
        await kit.advance(seconds=61)
        assert open_turns(kit) == 0
        await kit.send("test/keeper/k", Note(text="more"))
        await kit.quiet()
        assert host.workers.count == 1


async def test_only_so_many_turns_wait_in_memory() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.sleep(6_000)
        self.state.log.append("slept")

    async with waiters(limits=LimitSpec(waiting_in_memory=5, linger_s=1_000)) as kit:
        for n in range(20):
            await kit.send(f"test/waiter/{n}", Run(program=program(run)))
        await kit.advance(seconds=1)
        assert len(kit._running[0].host.waiting) == 5
        assert len(kit._running[0].host.mailboxes) == 5
        await kit.advance(seconds=6_001)
        assert all(kit.state(f"test/waiter/{n}").log == ["slept"] for n in range(20))


async def test_a_paused_agent_is_not_woken_and_goes_on_when_it_is_resumed() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        reply = await ctx.ask("test/oracle/o", Question(text="later"))
        self.state.log.append(reply.text)

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        await kit.pause(AT)
        await kit.advance(seconds=1)
        assert kit.lifecycle(AT) == "paused"
        await kit.send("test/oracle/o", Note(text="answer"))
        await kit.advance(seconds=5)
        assert (kit.state(AT).log, len(Waiter.starts)) == ([], 1)
        await kit.resume(AT)
        await kit.quiet()
        assert kit.state(AT).log == ["answer"]


async def test_later_messages_wait_for_the_turn_that_waits_also_when_it_is_tried_again() -> None:
    failures = [ValueError("not yet")]

    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.step(call, "a")
        await ctx.sleep(5)
        if failures:
            raise failures.pop()
        self.state.log.append("done")

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        for n in range(3):
            await kit.send(AT, Note(text=f"{n}"))
        await kit.advance(seconds=30)
        assert kit.state(AT).log == ["done", "note 0", "note 1", "note 2"]


async def test_a_handler_that_does_something_else_than_before_is_parked_with_both_keys_shown() -> None:
    turns: list[int] = []

    async def run(self: Waiter, ctx: Context) -> None:
        turns.append(1)
        if len(turns) == 1:
            await ctx.step(call, "a")
        else:
            await ctx.sleep(1)
        await ctx.sleep(5)

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=60)
        assert kit.lifecycle(AT) == "paused"
        assert "calls sleep sleep; the journal has step" in str(kit.history(AT)[-1].notes)
        assert (open_turns(kit), kit.dead_letters()) == (1, [])
        turns.clear()  # the code is mended
        await kit.resume(AT)
        await kit.quiet()
        assert (open_turns(kit), kit.lifecycle(AT)) == (0, "running")
        assert Waiter.calls == ["a"]


async def test_a_dead_letter_that_is_tried_again_starts_with_a_journal_of_its_own() -> None:
    good: list[bool] = []

    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.step(call, "a")
        promise = await ctx.promise("person")
        ctx.send("test/keeper/k", Note(text=promise.ref))
        await ctx.step(call, "b")
        if not good:
            raise ValueError("bad times")
        self.state.log.append(await promise)

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.advance(seconds=30)
        [letter] = kit.dead_letters()
        good.append(True)
        await kit.retry_dead_letter(letter.id)
        await kit.quiet()
        assert await kit.resolve(kit.state("test/keeper/k").notes[-1], "yes")
        await kit.quiet()
        assert kit.state(AT).log == ["yes"]
        assert Waiter.calls == ["a", "b", "a", "b"]


async def test_branches_that_were_given_up_are_not_called_for_again() -> None:
    async def slow(ctx: Context) -> str:
        for name in ("s1", "s2", "s3"):
            await asyncio.sleep(0)
            await ctx.step(call, name)
        await ctx.sleep(1_000)
        return "slow"

    async def run(self: Waiter, ctx: Context) -> None:
        [first] = await ctx.gather(ctx.sleep(30), slow(ctx), first=1)
        self.state.log.append(str(first))
        await ctx.sleep(30)

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=31)
        await put_away(kit)
        await kit.advance(seconds=31)
        assert kit.state(AT).log == ["None"]
        assert Waiter.calls == ["s1", "s2", "s3"]
        assert leftovers(kit) == (0, 0, 0)


async def test_what_is_sent_later_counts_from_now_and_not_from_the_turns_beginning() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.sleep(1_000)
        ctx.send_later("test/keeper/k", Note(text="later"), delay_s=100)

    async with waiters() as kit:
        began = kit.clock.now()
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=1_001)
        assert kit.state("test/keeper/k").notes == []
        assert kit.history(AT)[-1].at >= began + 1_000
        await kit.advance(seconds=101)
        assert kit.state("test/keeper/k").notes == ["later"]


async def test_an_agent_that_is_destroyed_while_a_turn_waits_takes_that_turn_along() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        self.state.log.append("before")
        await ctx.sleep(60)

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.destroy(AT)
        await kit.send(AT, Note(text="after"))
        await kit.advance(seconds=61)
        [letter] = kit.dead_letters()
        assert letter.reason == "destroyed"
        assert kit.state(AT).log == ["note after"]
        assert leftovers(kit) == (0, 0, 0)


async def test_nothing_overtakes_an_open_turn_after_a_crash() -> None:
    gate = asyncio.Event()

    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.step(call, "a")
        await gate.wait()
        self.state.log.append("run")

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await until(lambda: Waiter.calls)
        await kit.send(AT, Note(text="1"))
        await kit.crash()
        recovery = asyncio.create_task(kit.recover())
        await until(lambda: len(Waiter.starts) == 2)
        for n in (2, 3):
            await kit.send("test/keeper/s", Forward(to=AT, text=str(n)))
        for _ in range(50):
            await asyncio.sleep(0)
        gate.set()
        await recovery
        assert kit.state(AT).log[:2] == ["run", "note 1"]
        assert kit.state(AT).log[2:] == ["note 2", "note 3"]


async def test_a_turn_that_makes_progress_is_no_crash_loop() -> None:
    gates = [asyncio.Event() for _ in range(8)]
    reached: list[int] = []

    async def run(self: Waiter, ctx: Context) -> None:
        for n, gate in enumerate(gates):
            await ctx.step(call, f"{n}")
            reached.append(n)
            await gate.wait()
        self.state.log.append("done")

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        for n, gate in enumerate(gates):
            await until(partial(reached.__contains__, n))
            await kit.crash()
            gate.set()
            kit.store.end_host(kit._running[0].host.fence, "it crashed")
            everything = kit._running[0].partitions
            kit._hosts.running[0] = kit._hosts.start(everything, suspect=everything)
        await kit.quiet()
        assert (kit.state(AT).log, kit.dead_letters()) == (["done"], [])


async def test_what_a_read_of_the_partition_leaves_out_for_an_open_turn_keeps_its_place() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.ask("test/oracle/o", Question(text="later"))

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        holdings, post = kit._running[0].host.holdings, kit._post
        post._nudge = lambda *_: None  # type: ignore[method-assign]  # the bus loses the first one
        await kit.send(AT, Note(text="1"))
        del post._nudge
        for partition in holdings.all_partitions():
            holdings.read_again(partition)
        await kit.quiet()
        await kit.send("test/keeper/f", Forward(to=AT, text="2"))
        await kit.quiet()
        await kit.send("test/oracle/o", Note(text="now"))
        await kit.quiet()
        assert kit.state(AT).log == ["note 1", "note 2"]
