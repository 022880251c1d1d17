"""Calls that are not begun after all, although they were to be: nobody is asked what they have done."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from actors import threads
from actors.domain import LimitSpec
from bus.errors import StorageUnavailable
from callboard import Context, tool
from callboard.testing import TestKit
from tests.unit.agents import Keeper, Note
from tests.unit.tools.caller import AT, KINDS, Caller, World, blocking, program, run_once, statuses


async def test_a_message_that_no_storage_takes_yet_leaves_no_call_in_doubt(world: World) -> None:
    block = blocking(world)

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.step(str, "before")
        ctx.send("test/keeper/k", Note(text="y" * 5_000))
        await ctx.call(block, "192.0.2.1")

    async with TestKit([*KINDS, Keeper], limits=LimitSpec(claim_check_bytes=2_000)) as kit:
        put_blob, failures = kit.store.put_blob, [StorageUnavailable("Away.")]

        async def flaky(*arguments: Any) -> None:
            if failures:
                raise failures.pop()
            await put_blob(*arguments)

        kit.store.put_blob = flaky  # type: ignore[method-assign,assignment]
        await kit.send(AT, program(run))
        async with asyncio.timeout(10):
            while kit.store.waits.turns or not kit.ledger():
                await asyncio.sleep(0.01)
                assert kit.approvals() == []
        assert world.calls == ["192.0.2.1"]
        assert [status for _, status, _ in statuses(kit)] == ["succeeded"]


async def test_the_time_of_a_call_begins_once_there_is_a_thread_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "AT_ONCE", 1)
    begun, may_end, calls = threading.Event(), threading.Event(), []

    @tool(timeout=0.05)
    def act(name: str) -> None:
        calls.append(name)

    def holds_the_thread() -> None:
        begun.set()
        may_end.wait(10)

    async def run(self: Caller, ctx: Context) -> None:
        async def acts() -> None:
            while not begun.is_set():  # noqa: ASYNC110  (of a thread)
                await asyncio.sleep(0)
            asyncio.get_running_loop().call_later(0.2, may_end.set)
            await ctx.call(act, "a")

        await ctx.gather(ctx.step(holds_the_thread), acts())

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        assert (calls, kit.approvals()) == (["a"], [])
        assert statuses(kit) == [("act", "succeeded", 1)]


@pytest.mark.parametrize("first", [None, 1], ids=["a failure", "others were first"])
async def test_a_branch_that_ends_while_its_intent_is_written_leaves_no_call_in_doubt(
    world: World, first: int | None
) -> None:
    block = blocking(world)
    writing, starts = asyncio.Event(), []

    async def run(self: Caller, ctx: Context) -> None:
        starts.append("run")

        async def ends() -> None:
            await writing.wait()
            if first is None and len(starts) == 1:
                raise ValueError("once")

        await ctx.step(str, "before")
        await ctx.gather(ctx.call(block, "192.0.2.1"), ends(), first=first)

    async with TestKit(KINDS) as kit:
        commit = kit.store.commit

        async def slow(fence: Any, writes: Any, marks: Any) -> Any:
            entries = [
                entry for write in writes if write.journal is not None for entry in write.journal.entries
            ]
            if not writing.is_set() and any(entry.kind == "intent" for entry in entries):
                writing.set()
                for _ in range(10):  # while its branch is given up
                    await asyncio.sleep(0)
            return await commit(fence, writes, marks)

        kit.store.commit = slow  # type: ignore[method-assign]
        await run_once(kit, run)
        await kit.advance(seconds=5)
        assert kit.approvals() == []
        assert world.calls == ([] if first else ["192.0.2.1"])
        assert statuses(kit) == [("block_address", *(("failed", 1) if first else ("succeeded", 2)))]
