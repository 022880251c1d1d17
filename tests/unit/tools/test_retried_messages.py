"""Dead letters that are tried again: their calls are those that were made before."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actors import inquiry
from actors.retry import RetryPolicy
from bus.errors import ResultLost
from callboard import Context, NotHappened, tool
from callboard.testing import TestKit
from tests.unit.tools.caller import AT, KINDS, Caller, World, blocking, crashed_in_call, run_once, statuses


async def test_a_process_that_may_still_make_a_call_is_not_forgotten_when_the_message_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inquiry, "GONE_WITHIN_S", 0.0)
    block = blocking(world, on_unknown=lambda address, minutes: NotHappened())

    async def run(self: Caller, ctx: Context) -> None:
        self.state.log.append(f"{(await ctx.call(block, '192.0.2.1')).id}")

    async with TestKit(KINDS) as kit:
        kit.processes_are_gone = False
        await crashed_in_call(kit, world, run)
        for _ in range(2):  # each of these turns writes into the ledger that nobody knows what the call did
            assert len(kit.approvals()) == 1
            await kit.advance(minutes=1)
            await kit.skip_turn(AT)
            await kit.quiet()
            (letter,) = kit.dead_letters()
            await kit.retry_dead_letter(letter.id)
            await kit.quiet()
        assert len(kit.approvals()) == 1
        assert world.calls == []


async def test_a_lost_result_stays_lost_when_the_message_is_tried_again() -> None:
    made: list[str] = []
    broken = True

    @tool
    async def fetch(what: str) -> Any:
        made.append(what)
        return object()

    async def run(self: Caller, ctx: Context) -> None:
        try:
            self.state.log.append(f"got {await ctx.call(fetch, 'x')}")
        except ResultLost as lost:
            self.state.log.append(lost.message)
        if broken:
            raise ValueError("a bug")

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        await kit.advance(minutes=5)
        (letter,) = kit.dead_letters()
        broken = False
        await kit.retry_dead_letter(letter.id)
        await kit.advance(minutes=5)
        assert made == ["x"]
        (said,) = kit.state(AT).log
        assert said.startswith("fetch has acted, and its result is lost")


async def test_a_message_that_is_tried_again_gets_the_result_that_an_operator_has_given_the_call(
    world: World,
) -> None:
    block = blocking(world)

    async def run(self: Caller, ctx: Context) -> None:
        receipt = await ctx.call(block, "192.0.2.1")
        await ctx.sleep(3600)
        again = await ctx.call(block, "192.0.2.1")
        self.state.log += [f"{receipt.id}", f"{again.id}"]

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        await kit.advance(minutes=1)
        await kit.edit_turn(AT, "#1", '{"id": 9, "address": "192.0.2.1"}')
        await kit.skip_turn(AT)
        await kit.quiet()
        (letter,) = kit.dead_letters()
        await kit.retry_dead_letter(letter.id)
        await kit.advance(hours=2)
        assert kit.state(AT).log == ["9", "2"]
        assert world.calls == ["192.0.2.1"] * 2


async def test_a_dead_letter_that_is_retried_repeats_no_effect(world: World) -> None:
    block = blocking(world)
    broken = True

    async def run(self: Caller, ctx: Context) -> None:
        if not broken:
            await ctx.step(str, "the mended code has one more step")
        receipt = await ctx.call(block, "192.0.2.1")
        if broken:
            raise ValueError("a bug")
        other = await ctx.call(block, "192.0.2.2")
        self.state.log += [receipt.address, other.address]

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        await kit.advance(minutes=5)
        (letter,) = kit.dead_letters()
        broken = False
        await kit.retry_dead_letter(letter.id)
        await kit.advance(minutes=5)
        assert kit.state(AT).log == ["192.0.2.1", "192.0.2.2"]
        assert world.calls == ["192.0.2.1", "192.0.2.2"]


async def test_an_idempotent_call_that_has_failed_keeps_its_key_when_the_message_is_tried_again() -> None:
    acted: set[str] = set()
    broken = True

    @tool(effect="idempotent", retry=RetryPolicy(attempts=2, first_delay_s=0.0))
    async def pay(amount: int, idempotency_key: str) -> str:
        acted.add(idempotency_key)
        if broken:
            raise ConnectionError("the answer was lost")
        return "receipt"

    async def run(self: Caller, ctx: Context) -> None:
        self.state.log.append(await ctx.call(pay, 7))

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        await kit.advance(minutes=5)
        (letter,) = kit.dead_letters()
        broken = False
        await kit.retry_dead_letter(letter.id)
        await kit.advance(minutes=5)
        assert kit.state(AT).log == ["receipt"]
        assert len(acted) == 1
        assert statuses(kit) == [("pay", "succeeded", 1)]


async def test_the_outcome_of_a_call_before_counts_for_one_call_also_when_the_turn_was_put_away(
    world: World,
) -> None:
    remind = blocking(world)
    broken = True

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(remind, "somebody")
        if broken:
            raise ValueError("a bug")
        await ctx.sleep(3600)
        self.state.log.append(f"{(await ctx.call(remind, 'somebody')).id}")

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        await kit.advance(minutes=5)
        (letter,) = kit.dead_letters()
        broken = False
        await kit.retry_dead_letter(letter.id)
        await kit.quiet()
        await kit.advance(seconds=2)
        assert not kit._running[0].host.waiting  # the turn has left memory
        await kit.advance(hours=2)
        assert kit.state(AT).log == ["2"]
        assert world.calls == ["somebody"] * 2


async def test_the_outcome_of_a_call_before_counts_for_one_of_two_calls_beside_each_other(
    world: World,
) -> None:
    remind = blocking(world)
    broken = True

    async def run(self: Caller, ctx: Context) -> None:
        if broken:
            await ctx.call(remind, "somebody")
            raise ValueError("a bug")
        await ctx.gather(ctx.call(remind, "somebody"), ctx.call(remind, "somebody"))

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        await kit.advance(minutes=5)
        (letter,) = kit.dead_letters()
        broken = False
        look = kit.store.earlier_calls

        async def slow_look(*of: str) -> Any:
            await asyncio.sleep(0)  # as Postgres answers
            return await look(*of)

        kit.store.earlier_calls = slow_look  # type: ignore[method-assign, assignment]
        await kit.retry_dead_letter(letter.id)
        await kit.advance(minutes=5)
        assert world.calls == ["somebody"] * 2
