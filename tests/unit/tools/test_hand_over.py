"""A partition that is asked back while calls are being made there: what they do comes on record before it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from actors import holdings
from actors.domain import LimitSpec
from actors.ledger import EarlierCalls
from actors.retry import RetryPolicy
from bus import subjects
from bus.address import parse_address
from bus.errors import NotDone, StorageUnavailable, TaskCancelled
from callboard import Context, tool
from callboard.testing import TestKit
from storage.ledger import EarlierCall
from storage.records import Fence
from tests.unit.agents import Keeper, Note
from tests.unit.tools.caller import AT, KINDS, Caller, World, blocking, program, statuses


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  (of many things, none signals)
        await asyncio.sleep(0)


class Move:
    """Of the caller's partition, from the host that has it to the other one."""

    def __init__(self, kit: TestKit) -> None:
        self.kit = kit
        self.partition = kit._partition(parse_address(AT))
        self.giver, self.taker = (r.host for r in kit._running)
        if self.partition not in kit._running[0].partitions:
            self.giver, self.taker = self.taker, self.giver
        self.row = kit.store.hosts[("test", self.giver.fence.epoch)]

    def beside(self, kind: str) -> list[str]:
        """Addresses of other agents of that kind in the same partition."""
        addresses = [f"test/{kind}/{n}" for n in range(99)]
        return [a for a in addresses if self.kit._partition(parse_address(a)) == self.partition]

    async def ask_back(self) -> None:
        self.kit.store.set_wanted(self.giver.fence, self.row.wanted - {self.partition})
        await self.giver.holdings.refresh()

    async def stay(self) -> None:
        self.kit.store.set_wanted(self.giver.fence, self.row.wanted | {self.partition})
        await self.giver.holdings.refresh()

    async def grant(self) -> None:
        """Once it has been given back, as a coordinator does."""
        await until(lambda: self.partition not in self.row.owned)
        self.kit.store.grant(self.taker.fence, {self.partition})
        self.kit.transport.publish(subjects.placement("test"), b"changed")


@pytest.fixture(autouse=True)
def short_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdings, "DRAIN_S", 0.05)


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
