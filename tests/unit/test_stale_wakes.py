"""Wake-ups for turns that have ended, which come while another turn of the agent is in memory: they leave the mailbox."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from callboard import Context
from tests.unit.waiter import AT, Run, Waiter, program, waiters


@pytest.mark.parametrize("ends", ["fails", "fails at once", "is done"])
async def test_one_that_a_turn_has_taken_which_then_records_nothing(ends: str) -> None:
    may_end, runs, taken = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def held() -> int:
        runs.set()
        await (asyncio.Event() if ends == "fails" else taken).wait()
        return 1

    async def first(self: Waiter, ctx: Context) -> None:
        Waiter.calls.append((await ctx.promise("nobody waits for it")).ref)
        runs.set()
        await may_end.wait()

    async def fail(ctx: Context) -> None:
        await taken.wait()
        raise ValueError("now")

    async def second(self: Waiter, ctx: Context) -> Any:
        if len(Waiter.starts) > 2:  # tried again
            return None
        if ends == "fails at once":
            ctx.explain("nothing is recorded")
            await fail(ctx)
        if ends == "fails":
            return await ctx.gather(ctx.step(held, key="a"), fail(ctx))
        return await ctx.step(held)

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(first)))
        await asyncio.wait_for(runs.wait(), 5)
        owner, _, promise = Waiter.calls[0].rpartition("#")
        assert owner == AT
        # It is resolved, and its owner hears of that only later.
        assert kit.store.waits.promises.settle(
            "test", kit.tenant, promise, status="resolved", value="null", by="external/test"
        )
        [box] = [box for box in kit.store.mail.boxes if box[3] == AT.removeprefix("test/")]
        late = kit.store.mail.boxes.pop(box)
        assert [seq < 0 for seq in late] == [True]
        runs.clear()
        await kit.send(AT, Run(program=program(second)))
        may_end.set()
        if ends != "fails at once":
            await asyncio.wait_for(runs.wait(), 5)
        kit.store.mail.boxes.setdefault(box, {}).update(late)
        _, tenant, partition, agent = box
        kit._running[0].host.mailboxes.read_agent(tenant, agent, partition)  # as the sweep does
        for _ in range(50):
            await asyncio.sleep(0)
        taken.set()
        await kit.quiet()
        await kit.advance(seconds=2)  # to the next try
        await kit.quiet()
        assert len(Waiter.starts) == (2 if ends == "is done" else 3)
        assert kit.mailbox(AT) == []
