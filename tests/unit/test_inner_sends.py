"""What the function of a step sends goes out with its record, whatever comes between the two: it does not run again."""

from __future__ import annotations

import asyncio
from typing import Any

from actors.domain import LimitSpec
from bus.errors import InvalidMessage, StorageUnavailable
from callboard import Context
from callboard.testing import TestKit
from tests.unit.agents import Note
from tests.unit.waiter import AT, Run, Waiter, call, leftovers, program, waiters

LARGE = "y" * 5_000
SMALL_BLOBS = LimitSpec(claim_check_bytes=2_000)


def away_once(kit: TestKit) -> None:
    """Storage takes no blob the first time."""
    put_blob, failures = kit.store.put_blob, [StorageUnavailable("Away.")]

    async def flaky(*arguments: Any) -> None:
        if failures:
            raise failures.pop()
        await put_blob(*arguments)

    kit.store.put_blob = flaky  # type: ignore[method-assign,assignment]


async def ended(kit: TestKit) -> None:
    async with asyncio.timeout(10):
        while leftovers(kit) != (0, 0, 0):  # noqa: ASYNC110  (it tries again by real time)
            await asyncio.sleep(0.01)


async def test_a_step_that_has_sent_what_no_storage_takes_yet_sends_it_later() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        async def speaks() -> None:
            ctx.send("test/keeper/k", Note(text=LARGE))

        await ctx.step(call, "a")
        await ctx.step(speaks)

    async with waiters(limits=SMALL_BLOBS) as kit:
        away_once(kit)
        await kit.send(AT, Run(program=program(run)))
        await ended(kit)
        assert kit.state("test/keeper/k").notes == [LARGE]
        assert Waiter.calls == ["a"]


async def test_a_step_whose_message_is_being_stored_when_a_call_beside_it_fails_sends_it_later() -> None:
    storing = asyncio.Event()

    async def run(self: Waiter, ctx: Context) -> None:
        async def speaks() -> None:
            ctx.send("test/keeper/k", Note(text=LARGE))

        async def fails() -> None:
            await storing.wait()
            if len(Waiter.starts) == 1:
                raise ValueError("once")

        await ctx.step(call, "a")
        await ctx.gather(ctx.step(speaks), fails())

    async with waiters(limits=SMALL_BLOBS) as kit:
        put_blob = kit.store.put_blob

        async def slow(*arguments: Any) -> None:
            if not storing.is_set():
                storing.set()
                await asyncio.Event().wait()
            await put_blob(*arguments)

        kit.store.put_blob = slow  # type: ignore[method-assign,assignment]
        await kit.send(AT, Run(program=program(run)))
        await kit.advance(seconds=5)
        assert len(Waiter.starts) == 2
        assert kit.state("test/keeper/k").notes == [LARGE]


async def test_a_compensation_that_has_sent_what_no_storage_takes_yet_sends_it_later() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        async def undo() -> None:
            ctx.send("test/keeper/k", Note(text=LARGE))

        await ctx.step(call, "a")
        ctx.compensate(undo)
        raise InvalidMessage("no money")

    async with waiters(limits=SMALL_BLOBS) as kit:
        away_once(kit)
        await kit.send(AT, Run(program=program(run)))
        await ended(kit)
        assert kit.state("test/keeper/k").notes == [LARGE]
        assert [letter.reason for letter in kit.dead_letters()] == ["invalid_message"]
