"""Promises: resolved once, before, while or after a turn waits for them, or expired for good."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actors.activation import Activation
from bus.errors import InvalidMessage, PromiseExpired
from callboard import Context, Promise
from storage.journal import Does
from tests.unit.agents import Note
from tests.unit.waiter import AT, Run, Waiter, open_turns, program, put_away, waiters


@pytest.mark.parametrize("when", ["before the wait", "while it lingers", "when it was put away"])
async def test_a_promise_is_resolved_once_whenever_that_happens(when: str) -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        promise = await ctx.promise("payment")
        ctx.send("test/keeper/k", Note(text=promise.ref))
        if when == "before the wait":
            await ctx.sleep(60)
        self.state.log.append(await promise)
        await ctx.sleep(60)

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        if when == "when it was put away":
            await put_away(kit)
        [ref] = kit.state("test/keeper/k").notes
        assert await kit.resolve(ref, "paid")
        assert not await kit.resolve(ref, "paid twice")
        await kit.advance(seconds=130)
        assert kit.state(AT).log == ["paid"]
        assert (open_turns(kit), len(kit.store.waits.promises.rows)) == (0, 1)  # its row stays as history


async def test_a_promise_that_nobody_resolves_expires() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        promise = await ctx.promise("payment", timeout=60)
        try:
            await promise
        except PromiseExpired:
            self.state.log.append("expired")

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.advance(seconds=61)
        assert kit.state(AT).log == ["expired"]


async def test_a_promise_that_has_expired_stays_expired_however_often_the_turn_is_tried() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        await (await ctx.promise("ok", timeout=10))

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=60)
        [letter] = kit.dead_letters()
        assert (letter.failures, "PromiseExpired" in letter.error) == (3, True)
        assert open_turns(kit) == 0


@pytest.mark.parametrize("name", ["", 3, "a\0b", "\ud800"])
async def test_a_name_that_cannot_be_recorded_is_refused_where_it_is_given(name: Any) -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        for call in (ctx.promise(name), ctx.sleep(0, key=name)):
            with pytest.raises(InvalidMessage, match="cannot be"):
                await call
        self.state.log.append("refused")

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        assert kit.state(AT).log == ["refused"]


async def test_a_ref_with_a_wrong_owner_settles_nothing() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        promise = await ctx.promise("payment")
        ctx.send("test/keeper/k", Note(text=promise.ref))
        self.state.log.append(await promise)

    async def resolve(self: Waiter, ctx: Context) -> None:
        ref = refs[0]
        ctx.resolve(ref.replace("waiter/w", "waiter/other"), "wrong")
        ctx.resolve(ref, "right")

    refs: list[str] = []
    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        refs += kit.state("test/keeper/k").notes
        await kit.send("test/waiter/third", Run(program=program(resolve)))
        await kit.quiet()
        assert kit.state(AT).log == ["right"]


async def test_a_wake_up_that_comes_while_a_failure_is_written_down_is_there_for_the_next_try() -> None:
    refs: list[str] = []
    failed = asyncio.Event()

    async def resolve(ref: str, value: str) -> None:
        assert await kit.resolve(ref, value)
        for _ in range(20):  # until the wake-up has reached the host
            await asyncio.sleep(0)

    async def fails_once() -> str:
        if not failed.is_set():
            await resolve(refs[0], "one")  # so there is something to write down when the turn fails
            failed.set()
            raise ValueError("not yet")
        return "done"

    async def run(self: Waiter, ctx: Context) -> None:
        promises = [await ctx.promise("one"), await ctx.promise("two")]
        refs[:] = [promise.ref for promise in promises]
        self.state.log.append(await ctx.step(fails_once))
        self.state.log += [await promise for promise in promises]

    async with waiters() as kit:
        commit = kit.store.commit
        resolved = False

        async def slow(fence: Any, writes: Any, marks: Any) -> Any:
            nonlocal resolved
            written = await commit(fence, writes, marks)
            if failed.is_set() and not resolved:
                resolved = True
                await resolve(refs[1], "two")
            return written

        kit.store.commit = slow  # type: ignore[method-assign]
        await kit.send(AT, Run(program=program(run)))
        await kit.advance(seconds=30)
        assert kit.state(AT).log == ["done", "one", "two"]
        assert open_turns(kit) == 0


async def test_a_wake_up_for_a_turn_whose_end_is_on_its_way_does_not_run_it_again() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        promise = await ctx.promise("payment")
        Waiter.calls.append(promise.ref)

    async with waiters() as kit:
        commit = kit.store.commit

        async def slow(fence: Any, writes: Any, marks: Any) -> Any:
            if any(write.journal is not None and write.journal.does is Does.END for write in writes):
                assert await kit.resolve(Waiter.calls[0], "paid")
                for _ in range(20):  # until the wake-up has reached the host
                    await asyncio.sleep(0)
            return await commit(fence, writes, marks)

        kit.store.commit = slow  # type: ignore[method-assign]
        await kit.send(AT, Run(program=program(run)))
        await kit.advance(seconds=5)
        assert len(Waiter.starts) == 1
        assert (open_turns(kit), sum(len(box) for box in kit.store.mail.boxes.values())) == (0, 0)


@pytest.mark.parametrize("begun", [False, True])
async def test_a_wake_up_that_comes_when_its_turn_is_being_put_away_is_not_lost_with_the_host(
    begun: bool,
) -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        promise = await ctx.promise("payment")
        Waiter.calls.append(promise.ref)
        self.state.log.append(await promise)

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        host, fatal = kit._running[0].host, asyncio.Event()

        def mail_and_park(activation: Activation) -> None:
            """The time to put the turn away has come just before its wake-up, which comes before that, or when it has
            begun and is not on its way to the commit."""
            parking.append(asyncio.create_task(host.waiting.put_away(activation)))
            if begun:
                asyncio.get_running_loop().call_soon(host.waiting.mail, activation)
            else:
                host.waiting.mail(activation)

        def passing(reached: str) -> None:
            if reached == "commit.after":
                kit.store.passing = lambda point: None
                fatal.set()
                raise asyncio.CancelledError  # the process is gone

        parking: list[asyncio.Task[None]] = []
        host.mailboxes.on_mail = mail_and_park
        kit.store.passing = passing
        ref = Waiter.calls[0]
        assert await kit.resolve(ref, "paid")
        async with asyncio.timeout(5):
            await fatal.wait()
        await kit.crash()
        await kit.recover()
        assert kit.state(AT).log == ["paid"]


async def test_a_turn_is_not_put_away_between_the_end_of_a_branch_and_what_comes_after_the_gather() -> None:
    async def awaited(promise: Promise) -> str:
        return str(await promise)

    async def run(self: Waiter, ctx: Context) -> None:
        promise = await ctx.promise("payment")
        Waiter.calls.append(promise.ref)
        self.state.log += await ctx.gather(awaited(promise), ctx.sleep(1_000), first=1)

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        host, fatal = kit._running[0].host, asyncio.Event()
        waits = host.waiting.waits

        def waits_and_is_put_away(activation: Activation) -> None:
            """There is no room for turns that wait."""
            waits(activation)
            parking.append(asyncio.create_task(host.waiting.put_away(activation)))

        def passing(reached: str) -> None:
            if reached == "commit.after":
                kit.store.passing = lambda point: None
                fatal.set()
                raise asyncio.CancelledError  # the process is gone

        parking: list[asyncio.Task[None]] = []
        host.waiting.waits = waits_and_is_put_away  # type: ignore[method-assign]
        kit.store.passing = passing
        assert await kit.resolve(Waiter.calls[0], "paid")
        async with asyncio.timeout(5):
            await fatal.wait()
        await kit.crash()
        await kit.recover()
        assert kit.state(AT).log == ["paid"]
