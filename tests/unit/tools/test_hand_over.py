"""A partition that is asked back while calls are being made there: what they do comes on record before it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from actors.retry import RetryPolicy
from bus.errors import NotDone, StorageUnavailable
from callboard import Context, tool
from callboard.testing import TestKit
from storage.records import Fence
from tests.unit.agents import Keeper, Note
from tests.unit.tools.caller import AT, KINDS, Caller, World, blocking, program, statuses
from tests.unit.tools.move import Move
from tests.unit.waiter import until

pytestmark = pytest.mark.usefixtures("short_drain")


async def test_a_call_under_way_is_on_record_before_its_partition_leaves(world: World) -> None:
    block = blocking(world)
    world.gate = gate = asyncio.Event()

    async def run(self: Caller, ctx: Context) -> None:
        receipt = await ctx.call(block, "192.0.2.1")
        self.state.log.append(receipt.address)

    async with TestKit([*KINDS, Keeper], hosts=2, partitions=2) as kit:
        move = Move(kit)
        await kit.send(AT, program(run))
        await world.begun.wait()
        await move.ask_back()
        assert move.row.kept == {move.partition}
        beside = move.beside("keeper")[0]
        await kit.send(beside, Note(text="goes on"))
        await until(lambda: kit.state(beside).notes == ["goes on"])
        assert move.partition in move.row.owned
        gate.set()
        await move.grant()
        await kit.quiet()
        assert move.row.kept == frozenset()
        assert (kit.state(AT).log, world.calls) == (["192.0.2.1"], ["192.0.2.1"])
        assert statuses(kit) == [("block_address", "succeeded", 1)]


async def test_what_would_hold_it_up_longer_begins_at_the_new_owner(world: World) -> None:
    long, begun = blocking(world, timeout=60), []
    world.gate = gate = asyncio.Event()

    @tool(effect="at_most_once", timeout=30)
    async def quick(where: str) -> str:
        begun.append(where)
        return where

    @tool(effect="at_most_once", timeout=60)
    async def as_long(where: str) -> str:
        begun.append(where)
        return where

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(long, "192.0.2.1")

    async def runs_quick(self: Caller, ctx: Context) -> None:
        await ctx.call(quick, "quick")

    async def runs_long(self: Caller, ctx: Context) -> None:
        await ctx.call(as_long, "as long")

    async with TestKit(KINDS, hosts=2, partitions=2) as kit:
        move = Move(kit)
        await kit.send(AT, program(run))
        await world.begun.wait()
        await move.ask_back()
        others = move.beside("caller")
        await kit.send(others[0], program(runs_quick))
        await kit.send(others[1], program(runs_long))
        await until(lambda: begun == ["quick"])
        await until(lambda: len(move.giver.waiting) == 1)  # and takes no place of those that may run
        gate.set()
        await move.grant()
        await kit.quiet()
        assert begun == ["quick", "as long"]
        assert {(tool, status) for tool, status, _ in statuses(kit)} == {
            ("block_address", "succeeded"), ("quick", "succeeded"), ("as_long", "succeeded"),
        }  # fmt: skip


async def test_what_has_waited_goes_on_where_the_partition_stays_after_all(world: World) -> None:
    block = blocking(world)
    world.gate = gate = asyncio.Event()

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, "192.0.2.1")
        self.state.log.append("done")

    async with TestKit(KINDS, hosts=2, partitions=2) as kit:
        move = Move(kit)
        await kit.send(AT, program(run))
        await world.begun.wait()
        await move.ask_back()
        other = move.beside("caller")[0]
        await kit.send(other, program(run))
        await until(lambda: len(move.giver.waiting) == 1)
        await move.stay()
        gate.set()
        await kit.quiet()
        assert (kit.state(AT).log, kit.state(other).log) == (["done"], ["done"])
        assert (move.partition in move.row.owned, move.row.kept) == (True, frozenset())


async def test_the_pause_after_a_call_that_has_not_acted_holds_nothing_up(world: World) -> None:
    block = blocking(world, retry=RetryPolicy(attempts=2, first_delay_s=600.0, jitter=0.0))
    world.fails = [NotDone("the line was busy")]

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, "192.0.2.1")

    async with TestKit(KINDS, hosts=2, partitions=2) as kit:
        move = Move(kit)
        await kit.send(AT, program(run))
        await until(lambda: [status for _, status, _ in statuses(kit)] == ["failed"])
        await move.ask_back()
        await move.grant()
        await until(lambda: statuses(kit) == [("block_address", "succeeded", 2)])
        assert world.calls == ["192.0.2.1"]


async def test_a_call_whose_branch_was_given_up_is_on_record_before_its_partition_leaves(
    world: World,
) -> None:
    block, runs = blocking(world), []
    world.gate = gate = asyncio.Event()
    after, begun = asyncio.Event(), asyncio.Event()

    async def at_once() -> str:
        await world.begun.wait()
        return "first"

    async def takes_long() -> None:
        begun.set()
        await after.wait()

    async def run(self: Caller, ctx: Context) -> None:
        runs.append(1)
        await ctx.gather(ctx.call(block, "192.0.2.1", key="call"), ctx.step(at_once, key="step"), first=1)
        await ctx.step(takes_long)

    async with TestKit(KINDS, hosts=2, partitions=2) as kit:
        move = Move(kit)
        await kit.send(AT, program(run))
        await begun.wait()
        await move.ask_back()
        gate.set()
        await until(lambda: world.calls)
        assert move.partition in move.row.owned
        after.set()
        await move.grant()
        await kit.quiet()
        assert statuses(kit) == [("block_address", "succeeded", 1)]


async def test_a_call_that_ends_in_no_ordinary_way_holds_nothing_up() -> None:
    @tool(effect="at_most_once", on_unknown="fail", timeout=60)
    async def cancelled(where: str) -> str:
        never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        never.cancel()
        return await never

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(cancelled, "192.0.2.1")

    async with TestKit(KINDS, hosts=2, partitions=2) as kit:
        move = Move(kit)
        await kit.send(AT, program(run))
        await until(lambda: statuses(kit) and not move.giver.scope.flights.of(move.partition))
        await move.ask_back()
        await until(lambda: move.partition not in move.row.owned)


async def test_a_call_whose_agent_was_dropped_meanwhile_holds_nothing_up(world: World) -> None:
    block = blocking(world)
    world.gate = gate = asyncio.Event()

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, "192.0.2.1")

    async with TestKit(KINDS, hosts=2, partitions=2) as kit:
        move = Move(kit)
        await kit.send(AT, program(run))
        await world.begun.wait()
        activation = move.giver.mailboxes.roster.find(("default", "caller/a"))
        assert activation is not None
        move.giver.drop(activation)
        gate.set()
        await until(lambda: world.calls)
        await move.ask_back()
        await until(lambda: move.partition not in move.row.owned)


async def test_a_call_goes_on_though_it_cannot_be_written_down_that_its_partition_is_no_longer_suspect(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = blocking(world)
    world.gate = gate = asyncio.Event()

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, "192.0.2.1")

    async with TestKit(KINDS) as kit:
        clear = kit.store.clear_suspects

        async def is_away(fence: Fence, partitions: Sequence[int]) -> None:
            monkeypatch.setattr(kit.store, "clear_suspects", clear)
            await kit.send(AT, program(run))
            await world.begun.wait()
            asyncio.get_running_loop().call_later(0.1, gate.set)  # after whatever becomes of the partition
            raise StorageUnavailable("Postgres does not answer.")

        await kit.crash()
        monkeypatch.setattr(kit.store, "clear_suspects", is_away)
        await kit.recover()
        assert statuses(kit) == [("block_address", "succeeded", 1)]
        row = kit.store.hosts[("test", kit._running[0].host.fence.epoch)]
        await until(lambda: not row.suspect)
