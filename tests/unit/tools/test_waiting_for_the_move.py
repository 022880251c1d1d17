"""Turns that wait for the move of their partition, or end on the way there."""

from __future__ import annotations

import asyncio

import pytest

from actors.domain import LimitSpec
from actors.ledger import EarlierCalls
from bus.errors import TaskCancelled
from callboard import Context
from callboard.testing import TestKit
from storage.ledger import EarlierCall
from tests.unit.tools.caller import AT, KINDS, Caller, World, blocking, program, statuses
from tests.unit.tools.move import Move
from tests.unit.waiter import until

pytestmark = pytest.mark.usefixtures("short_drain")


async def test_a_call_that_was_given_up_is_on_record_though_its_turn_waits_for_the_move(
    world: World,
) -> None:
    block, longer = blocking(world, timeout=30), World()
    lasts = blocking(longer, timeout=60)
    world.gate = gate = asyncio.Event()
    begun, go = asyncio.Event(), asyncio.Event()

    async def at_once() -> str:
        await world.begun.wait()
        return "first"

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.gather(ctx.call(block, "192.0.2.1", key="call"), ctx.step(at_once, key="step"), first=1)
        begun.set()
        await go.wait()
        await ctx.call(lasts, "192.0.2.2")

    async with TestKit(KINDS, hosts=2, partitions=2) as kit:
        move = Move(kit)
        await kit.send(AT, program(run))
        await begun.wait()
        await move.ask_back()
        turn = move.giver.mailboxes.roster.find(("default", "caller/a"))
        assert turn is not None
        assert turn.journal is not None
        go.set()
        branches = turn.journal.branches
        await until(lambda: branches.is_stopped)
        gate.set()
        await until(lambda: len(move.giver.waiting) == 1)
        await move.giver.waiting.put_away(turn)  # as its loop does now and then
        await move.grant()
        await until(lambda: longer.calls == ["192.0.2.2"])
        assert world.calls == ["192.0.2.1"]


async def test_a_turn_that_is_cancelled_on_its_way_to_the_gate_does_not_wait_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    block, other = blocking(world, timeout=30), blocking(World(), timeout=60)
    world.gate = asyncio.Event()
    looks, go, take = asyncio.Event(), asyncio.Event(), EarlierCalls.take

    async def slowly(self: EarlierCalls, turn: str, tool: str, digest: str, place: str) -> EarlierCall | None:
        looks.set()
        await go.wait()
        return await take(self, turn, tool, digest, place)

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, "192.0.2.1")

    async def runs_other(self: Caller, ctx: Context) -> None:
        await ctx.call(other, "192.0.2.2")

    async with TestKit(KINDS, hosts=2, partitions=2) as kit:
        move = Move(kit)
        await kit.send(AT, program(run))
        await world.begun.wait()
        await move.ask_back()
        monkeypatch.setattr(EarlierCalls, "take", slowly)
        address = move.beside("caller")[0]
        await kit.send(address, program(runs_other))
        await looks.wait()
        activation = move.giver.mailboxes.roster.find(("default", address.removeprefix("test/")))
        assert activation is not None
        assert activation.journal is not None
        activation.cancelled = "not needed"
        activation.journal.branches.end_early(lambda: TaskCancelled("not needed"), children_first=True)
        go.set()
        await until(lambda: activation not in move.giver.workers.running)
        world.gate.set()


async def test_a_turn_whose_agent_was_dropped_ends_when_all_that_is_left_of_it_waits(world: World) -> None:
    block, other = blocking(world, timeout=30), blocking(World(), timeout=60)
    world.gate = asyncio.Event()
    go, ends = asyncio.Event(), []

    async def plain() -> None:
        await go.wait()
        ends.append("what ran")

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, "192.0.2.1")

    async def runs_other(self: Caller, ctx: Context) -> None:
        try:
            await ctx.gather(ctx.call(other, "192.0.2.2"), plain())
        finally:
            ends.append("the handler")

    async with TestKit(KINDS, hosts=2, partitions=2) as kit:
        move = Move(kit)
        await kit.send(AT, program(run))
        await world.begun.wait()
        await move.ask_back()
        address = move.beside("caller")[0]
        await kit.send(address, program(runs_other))
        key = ("default", address.removeprefix("test/"))
        find = move.giver.mailboxes.roster.find
        await until(lambda: (turn := find(key)) and turn.journal and turn.journal.branches.is_stopped)
        await kit.store.take_back(
            move.giver.fence, [move.partition]
        )  # its coordinator has waited for long enough
        await move.giver.holdings.refresh()
        workers = move.giver.workers
        left = workers.count
        go.set()
        await until(lambda: len(ends) == 2)
        assert ends == ["what ran", "the handler"]
        await until(lambda: workers.count < left)
        assert len(move.giver.waiting) == 0


@pytest.mark.parametrize("stays", [False, True])
async def test_no_more_turns_wait_for_the_move_in_memory_than_may(world: World, stays: bool) -> None:
    block, other = blocking(world, timeout=30), blocking(World(), timeout=60)
    world.gate = gate = asyncio.Event()
    begun: list[str] = []

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, "192.0.2.1")

    async def runs_other(self: Caller, ctx: Context) -> None:
        begun.append(ctx.address.key)
        await ctx.call(other, "192.0.2.2")

    few = LimitSpec(waiting_in_memory=3, concurrent_turns=2)
    async with TestKit(KINDS, hosts=2, partitions=2, limits=few) as kit:
        move = Move(kit)
        await kit.send(AT, program(run))
        await world.begun.wait()
        await move.ask_back()
        others = move.beside("caller")[:20]
        for address in others:
            await kit.send(address, program(runs_other))
        held = move.giver.mailboxes.held
        await until(lambda: len(begun) + len(held._agents) == 20)
        assert len(begun) <= 4
        if stays:
            await move.stay()
        gate.set()
        if not stays:
            await move.grant()
        await kit.quiet()
        assert {address.rpartition("/")[2] for address in others} == set(begun)
        assert [status for _, status, _ in statuses(kit)] == ["succeeded"] * 21


async def test_who_stands_back_goes_on_where_the_partition_stays_though_others_wait_for_another_move(
    world: World,
) -> None:
    block, other = blocking(world, timeout=30), blocking(World(), timeout=60)
    world.gate = gate = asyncio.Event()
    began: list[str] = []

    async def run(self: Caller, ctx: Context) -> None:
        await ctx.call(block, "192.0.2.1")

    async def runs_other(self: Caller, ctx: Context) -> None:
        began.append(ctx.address.key)
        await ctx.call(other, "192.0.2.2")

    async with TestKit(KINDS, hosts=2, partitions=4, limits=LimitSpec(waiting_in_memory=1)) as kit:
        leaves = Move(kit)
        stays = Move(kit)
        stays.partition = next(p for p in leaves.row.owned if p != leaves.partition)
        (waits, *_), (calls, stands_back, *_) = leaves.beside("caller"), stays.beside("caller")
        await kit.send(AT, program(run))
        await kit.send(calls, program(run))
        flights = leaves.giver.scope.flights
        await until(lambda: flights.of(leaves.partition) and flights.of(stays.partition))
        await leaves.ask_back()
        await stays.ask_back()
        await kit.send(waits, program(runs_other))
        await until(lambda: flights.is_full(stays.partition))
        await kit.send(stands_back, program(runs_other))
        held = leaves.giver.mailboxes.held
        await until(
            lambda: [activation.agent for activation in held._agents] == [stands_back.removeprefix("test/")]
        )
        await stays.stay()
        await until(lambda: stands_back.rpartition("/")[2] in began)
        gate.set()
        await leaves.grant()
        await kit.quiet()
        assert [status for _, status, _ in statuses(kit)] == ["succeeded"] * 4
