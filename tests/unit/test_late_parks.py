"""A turn is put away by one run of it while another has begun: it is woken all the same."""

from __future__ import annotations

import asyncio
from typing import Any

from actors.domain import LimitSpec
from bus.errors import StorageError
from callboard import Context
from storage.journal import Does
from tests.unit.agents import Note
from tests.unit.waiter import AT, Question, Run, Waiter, call, leftovers, program, until, waiters


async def test_a_turn_that_is_put_away_after_its_next_run_has_read_it_is_woken_after_a_crash() -> None:
    works, goes_on = asyncio.Event(), asyncio.Event()

    async def run(self: Waiter, ctx: Context) -> None:
        reply = await ctx.ask("test/oracle/o", Question(text="later"))
        works.set()
        await ctx.step(call, reply.text[:1])
        await ctx.step(goes_on.wait)
        self.state.log.append("done")

    async with waiters(limits=LimitSpec(claim_check_bytes=2_000, linger_s=1_000)) as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        host, commit, get_blob = kit._running[0].host, kit.store.commit, kit.store.get_blob
        fetches, parks, may_fail, may_land = (asyncio.Event() for _ in range(4))

        async def fails_once(*arguments: Any) -> bytes:
            data = await get_blob(*arguments)
            if data.startswith(b'{"promise"') and not fetches.is_set():
                fetches.set()
                await may_fail.wait()
                raise StorageError("Nobody has foreseen this.")
            return data

        async def slow(fence: Any, writes: Any, marks: Any) -> Any:
            if any(write.journal is not None and write.journal.does is Does.PARK for write in writes):
                parks.set()
                await may_land.wait()
            return await commit(fence, writes, marks)

        kit.store.get_blob, kit.store.commit = fails_once, slow  # type: ignore[method-assign,assignment]
        await kit.send("test/oracle/o", Note(text="x" * 5_000))
        async with asyncio.timeout(10):
            await fetches.wait()
            first = host.mailboxes.roster.find(("default", AT.removeprefix("test/")))
            assert first is not None
            parking = asyncio.create_task(host.waiting.put_away(first))
            await parks.wait()
            may_fail.set()
            await works.wait()  # the next run has the answer, and the first one's write has not landed
            may_land.set()
            await parking
            await until(lambda: host.committer.is_idle)
        await kit.crash()
        goes_on.set()
        await kit.recover()
        assert kit.state(AT).log == ["done"]
        assert leftovers(kit) == (0, 0, 0)
