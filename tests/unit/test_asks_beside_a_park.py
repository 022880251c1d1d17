"""Branches that are woken while their turn is being put away: the promise of an ask commits with its message."""

from __future__ import annotations

import asyncio
from typing import Any

from callboard import Context, Promise
from storage.journal import Does, Flush
from tests.unit.waiter import AT, Question, Run, Waiter, program, waiters


async def test_an_ask_and_its_message_are_in_one_write_when_two_branches_wait_for_the_same_commit() -> None:
    async def line(ctx: Context, promise: Promise, question: str) -> Any:
        await promise
        return await ctx.ask("test/oracle/o", Question(text=question))

    async def run(self: Waiter, ctx: Context) -> None:
        one, two = await ctx.promise("one"), await ctx.promise("two")
        Waiter.calls += [one.ref, two.ref]
        await ctx.gather(line(ctx, one, "a"), line(ctx, two, "b"))

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        host, commit = kit._running[0].host, kit.store.commit
        begun, may_end = asyncio.Event(), asyncio.Event()
        flushes: list[Flush] = []

        async def slow(fence: Any, writes: Any, marks: Any) -> Any:
            flushes.extend(write for write in writes if isinstance(write, Flush))
            if any(flush.journal.does is Does.PARK for flush in flushes) and not begun.is_set():
                begun.set()
                await may_end.wait()
            return await commit(fence, writes, marks)

        kit.store.commit = slow  # type: ignore[method-assign]
        activation = host.mailboxes.roster.find(("default", AT.removeprefix("test/")))
        assert activation is not None
        parking = asyncio.create_task(host.waiting.put_away(activation))
        async with asyncio.timeout(5):
            await begun.wait()
        for ref in Waiter.calls:
            assert await kit.resolve(ref, "go on")
        for _ in range(50):  # until both branches wait with an ask
            await asyncio.sleep(0)
        may_end.set()
        await parking
        await kit.quiet()
        asks = [flush for flush in flushes if any(p.message for p in flush.journal.promises)]
        assert asks
        for flush in asks:
            made = {promise.message for promise in flush.journal.promises}
            assert made <= {send.header.id for send in flush.sends}
