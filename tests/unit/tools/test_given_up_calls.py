"""Calls that nobody waits for any more: the ledger says that they stay unknown, and no person is asked."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec
import pytest

from bus.errors import EffectUnknown, StepFailed, ToolFailed
from callboard import Context
from callboard.testing import TestKit
from tests.unit.tools.caller import AT, KINDS, Caller, World, blocking, crashed_in_call, program


def known(kit: TestKit) -> list[tuple[str, str | None, str | None]]:
    """What the ledger says of each call, why it says no more, and who has said it."""
    return [(call.status, call.error and call.error.partition(":")[0], call.said_by) for call in kit.ledger()]


GIVEN_UP = ("unknown", "given up", None)


async def test_what_a_call_has_done_is_not_asked_when_others_were_first(world: World) -> None:
    block = blocking(world)

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.gather(ctx.call(block, "192.0.2.1"), ctx.sleep(10), first=1)
        await ctx.sleep(1_000)

    async with TestKit(KINDS) as kit:
        await crashed_in_call(kit, world, run)
        (asked,) = kit.approvals()
        await kit.advance(seconds=60)
        assert kit.approvals() == []
        assert not await kit.say(asked.id, happened=True, result={"id": 1, "address": "x"})
        assert known(kit) == [GIVEN_UP]
        await kit.advance(seconds=2_000)
        assert (known(kit), world.calls, kit.dead_letters()) == ([GIVEN_UP], [], [])


def breaks() -> None:
    raise ValueError("no")


@pytest.mark.parametrize("with_error", [False, True])
async def test_a_call_of_a_branch_that_was_given_up_is_not_under_way_for_ever(
    world: World, with_error: bool
) -> None:
    block = blocking(world)

    async def quick(ctx: Context) -> None:
        await world.begun.wait()
        await ctx.step(breaks if with_error else str)

    async def run(self: Caller, ctx: Context) -> None:
        with contextlib.suppress(StepFailed):
            await ctx.gather(ctx.call(block, "192.0.2.1"), quick(ctx), first=None if with_error else 1)
        await ctx.sleep(1_000)

    async with TestKit(KINDS) as kit:
        world.gate = asyncio.Event()
        await kit.send(AT, program(run))
        await until_committed(kit, "sleep")
        await kit.crash()
        world.gate = None
        await kit.recover()
        assert [status for status, _, _ in known(kit)] == ["started"]
        await kit.advance(seconds=60)
        assert known(kit) == [GIVEN_UP]
        await kit.advance(seconds=2_000)
        assert (known(kit), world.calls, kit.approvals()) == ([GIVEN_UP], [], [])


async def test_that_a_call_stays_unknown_is_on_record_although_the_turn_fails_then(world: World) -> None:
    block = blocking(world)
    runs: list[int] = []

    async def quick(ctx: Context) -> None:
        await world.begun.wait()
        await ctx.step(str)

    async def run(self: Caller, ctx: Context) -> None:
        runs.append(1)
        await ctx.gather(ctx.call(block, "192.0.2.1"), quick(ctx), first=1)
        if len(runs) == 1:
            await ctx.sleep(1_000)
        breaks()

    async with TestKit(KINDS) as kit:
        world.gate = asyncio.Event()
        await kit.send(AT, program(run))
        await until_committed(kit, "sleep")
        await kit.crash()
        world.gate = None
        await kit.recover()
        await kit.quiet()
        assert len(runs) == 2
        assert (known(kit), kit.dead_letters()) == ([GIVEN_UP], [])


async def until_committed(kit: TestKit, kind: str) -> None:
    while not any(row.made.kind == kind for row in kit.store.waits.promises.rows.values()):  # noqa: ASYNC110
        await asyncio.sleep(0)


@pytest.mark.parametrize("leave_done", [False, True])
async def test_a_turn_that_is_skipped_asks_no_more_what_its_call_has_done(
    world: World, leave_done: bool
) -> None:
    block = blocking(world)

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, "192.0.2.1")

    async with TestKit(KINDS) as kit:
        await crashed_in_call(kit, world, run)
        await kit.skip_turn(AT, "never mind", leave_done=leave_done)
        await kit.advance(seconds=5)
        assert kit.approvals() == []
        assert known(kit) == [GIVEN_UP]


async def test_a_result_that_a_person_has_given_is_known_and_by_whom(world: World) -> None:
    block = blocking(world, on_unknown="fail")

    async def run(self: Caller, ctx: Context) -> None:
        receipt: Any = None
        try:
            receipt = await ctx.call(block, "192.0.2.1")
        except EffectUnknown:
            self.state.log.append("unknown")
        await ctx.sleep(1_000)
        self.state.log.append(f"{receipt.id}")

    async with TestKit(KINDS) as kit:
        await crashed_in_call(kit, world, run)
        assert [status for status, _, _ in known(kit)] == ["unknown"]
        await kit.edit_turn(AT, "#1", '{"id": 7, "address": "192.0.2.1"}')
        await kit.advance(seconds=2_000)
        assert known(kit) == [("succeeded", None, "operator")]
        assert (kit.state(AT).log, world.calls) == (["7"], [])


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"happened": True, "result": {"id": 1, "address": "x"}}, ("succeeded", None, "tester")),
        ({"happened": False, "again": False}, ("failed", "NotDone", "tester")),
        ({"happened": False, "again": True}, ("succeeded", None, None)),  # the second attempt says it itself
    ],
)
async def test_who_has_said_what_a_call_did_is_said(
    world: World, said: dict[str, Any], expected: tuple[str, str | None, str | None]
) -> None:
    block = blocking(world)

    async def run(self: Caller, ctx: Context) -> None:
        with contextlib.suppress(ToolFailed):
            await ctx.call(block, "192.0.2.1")

    async with TestKit(KINDS) as kit:
        await crashed_in_call(kit, world, run)
        (asked,) = kit.approvals()
        assert await kit.say(asked.id, **said)
        await kit.advance(seconds=5)
        assert known(kit) == [expected]


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("unreadable", ["sent", "intent"])
async def test_a_call_of_a_turn_whose_record_cannot_be_read_is_not_under_way_for_ever(
    world: World, ended: bool, unreadable: str
) -> None:
    block = blocking(world)

    async def run(self: Caller, ctx: Context) -> None:
        ctx.send("test/caller/b", program(nothing))
        if ended:
            await ctx.call(block, "192.0.2.1")
            world.gate = asyncio.Event()
        await ctx.call(block, "192.0.2.2")

    async def nothing(self: Caller, ctx: Context) -> None:
        pass

    async with TestKit(KINDS) as kit:
        world.gate = None if ended else asyncio.Event()
        await kit.send(AT, program(run))
        while len(kit.ledger()) <= ended:  # noqa: ASYNC110  (rows of the store)
            await asyncio.sleep(0)
        await kit.crash()
        world.gate = None
        [entries] = kit.store.waits.journal.values()
        entries[:] = [msgspec.structs.replace(e, value="7") if e.kind == unreadable else e for e in entries]
        await kit.recover()
        assert kit.lifecycle(AT) == "paused"
        await kit.skip_turn(AT, leave_done=True)
        await kit.quiet()
        assert [letter.reason for letter in kit.dead_letters()] == ["skipped"]
        assert known(kit) == [("succeeded", None, None)] * ended + [GIVEN_UP]
        assert kit.approvals() == []
