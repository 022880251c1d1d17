"""Calls of tools: recorded before they act, and made once by a turn that runs again."""

from __future__ import annotations

import asyncio
from typing import Any

from actors.retry import RetryPolicy
from callboard import Context, NotHappened, tool
from callboard.testing import TestKit
from storage.journal import Does
from storage.ledger import CallStatus
from tests.unit.tools.caller import AT, KINDS, Caller, Receipt, World, blocking, program, run_once, statuses


async def test_a_call_returns_what_the_signature_says_and_has_a_row_in_the_ledger(world: World) -> None:
    block = blocking(world)

    async def run(self: Caller, ctx: Context) -> None:
        receipt = await ctx.call(block, "192.0.2.1", minutes=5)
        assert receipt == Receipt(id=1, address="192.0.2.1")
        self.state.log.append(f"{receipt.id}")

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        assert kit.state(AT).log == ["1"]
        (call,) = kit.ledger(AT)
        assert (call.tool, call.status, call.attempts, call.arguments) == (
            "block_address", CallStatus.SUCCEEDED, 1, '{"address":"192.0.2.1","minutes":5}',
        )  # fmt: skip
        (step,) = kit.history(AT)
        assert call.message == step.header.id
        assert '"kind":"intent"' in step.body
        assert '"kind":"call"' in step.body


async def test_the_intent_is_committed_before_the_call_begins(world: World) -> None:
    world.gate = asyncio.Event()
    block = blocking(world)

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, "192.0.2.1")

    async with TestKit(KINDS) as kit:
        await kit.send(AT, program(run))
        await world.begun.wait()
        assert statuses(kit) == [("block_address", "started", 1)]
        world.gate.set()
        await kit.quiet()
        assert statuses(kit) == [("block_address", "succeeded", 1)]


async def test_a_turn_that_runs_again_makes_no_call_twice(world: World) -> None:
    block = blocking(world)
    failures = [ValueError("later"), ValueError("again")]

    async def run(self: Caller, ctx: Context) -> None:
        receipt = await ctx.call(block, "192.0.2.1")
        await ctx.sleep(60)
        if failures:
            raise failures.pop()
        self.state.log.append(receipt.address)

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        await kit.advance(minutes=5)
        assert kit.state(AT).log == ["192.0.2.1"]
        assert world.calls == ["192.0.2.1"]


async def test_a_pure_call_is_a_step_with_a_row_in_the_ledger() -> None:
    made: list[int] = []

    @tool(effect="pure")
    def double(number: int) -> int:
        made.append(number)
        return 2 * number

    async def run(self: Caller, ctx: Context) -> None:
        self.state.log.append(f"{await ctx.call(double, 21)}")
        await ctx.sleep(60)

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        await kit.advance(minutes=2)
        assert (kit.state(AT).log, made) == (["42"], [21])
        assert statuses(kit) == [("double", "succeeded", 1)]


async def test_an_idempotent_call_is_made_again_under_the_same_key() -> None:
    keys: list[str] = []

    @tool(effect="idempotent", retry=RetryPolicy(attempts=2, first_delay_s=0.0))
    async def charge(cents: int, idempotency_key: str) -> str:
        keys.append(idempotency_key)
        if len(keys) < 4:
            raise ConnectionError("reset")
        return "charged"

    async def run(self: Caller, ctx: Context) -> None:
        self.state.log.append(await ctx.call(charge, 100))

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        await kit.advance(seconds=30)
        assert kit.state(AT).log == ["charged"]
        assert (len(keys), len(set(keys))) == (4, 1)
        assert keys[0] == kit.ledger()[0].id


async def test_two_equal_calls_of_one_turn_are_two_calls(world: World) -> None:
    block = blocking(world)

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, "192.0.2.1")
        await ctx.call(block, "192.0.2.1")

    async with TestKit(KINDS) as kit:
        await run_once(kit, run)
        assert world.calls == ["192.0.2.1"] * 2
        assert len(kit.ledger()) == 2


async def test_a_turn_that_was_woken_while_it_was_put_away_goes_on_although_its_host_dies_in_its_call(
    world: World,
) -> None:
    """The wake-up leaves the mailbox with the intent of the call: from there on the turn is one that runs."""
    block, refs = blocking(world, on_unknown=lambda address, minutes: NotHappened()), list[str]()

    async def run(self: Caller, ctx: Context) -> None:
        promise = await ctx.promise("payment")
        refs.append(promise.ref)
        await promise
        self.state.log.append(f"{(await ctx.call(block, '192.0.2.1')).id}")

    async with TestKit(KINDS) as kit:
        commit = kit.store.commit

        async def slow(fence: Any, writes: Any, marks: Any) -> Any:
            written = await commit(fence, writes, marks)
            if any(write.journal is not None and write.journal.does is Does.PARK for write in writes):
                assert await kit.resolve(refs[0], "paid")
                for _ in range(20):  # until the wake-up has reached the host
                    await asyncio.sleep(0)
            return written

        kit.store.commit = slow  # type: ignore[method-assign]
        world.gate = asyncio.Event()
        await kit.send(AT, program(run))
        await kit.quiet()
        moving = asyncio.create_task(kit.advance(seconds=2))
        async with asyncio.timeout(5):
            await world.begun.wait()
        moving.cancel()
        await asyncio.wait([moving])
        await kit.crash()
        world.gate = None
        await kit.recover()
        assert (kit.state(AT).log, world.calls) == (["1"], ["192.0.2.1"])
