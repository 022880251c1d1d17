"""Calls whose outcome is in doubt when their task is cancelled: the cancellation waits until it is known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from callboard import Agent, Context, Happened, NotHappened, TaskWork, handler, tool
from callboard.testing import TestKit
from tests.unit.tools.caller import Receipt, World, blocking, statuses


class Payer(Agent):
    """Blocks an address for its task, and takes that back when it is cancelled."""

    kind = "payer"
    tool: Any = None
    undone: list[str] = []  # noqa: RUF012  (shared on purpose)
    starts = 0

    class State(BaseModel):
        pass

    @handler
    async def on_task(self, work: TaskWork, ctx: Context) -> None:
        Payer.starts += 1
        receipt = await ctx.call(Payer.tool, "192.0.2.1")
        ctx.compensate(undo, f"{receipt.id}")
        await ctx.call(Payer.tool, "192.0.2.2")


def undo(what: str) -> None:
    Payer.undone.append(what)


AT = "test/payer/p"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    Payer.undone, Payer.starts = [], 0
    yield
    Payer.tool = None


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  (of many things, none signals)
        await asyncio.sleep(0)


async def look(kit: TestKit) -> None:
    for _ in range(10):
        await kit.advance(seconds=0.1)


async def crashed_while_cancelling(kit: TestKit, world: World) -> str:
    """Cancel the task while its tool is called, kill the host, and bring its agents back."""
    world.gate = asyncio.Event()
    task = await kit.give_task(AT)
    await world.begun.wait()
    await kit.cancel_task(task, "not needed")
    await until(lambda: kit.task(task).status == "cancelling")
    await kit.crash()
    world.gate = None
    await kit.recover()
    await look(kit)
    return task


async def test_a_call_whose_task_is_cancelled_while_its_intent_is_written_is_not_made(world: World) -> None:
    Payer.tool = blocking(world)
    async with TestKit([Payer]) as kit:
        host, commit = kit._running[0].host, kit.store.commit

        async def meanwhile(fence: Any, writes: Any, marks: Any) -> Any:
            entries = [
                entry for write in writes if write.journal is not None for entry in write.journal.entries
            ]
            if any(entry.kind == "intent" for entry in entries):
                work = next(activation.at_work for activation in host.in_memory() if activation.at_work)
                host.scope.cancelled[("default", str(work.header.task))] = "not needed"
                host.cancelling._end_running()
            return await commit(fence, writes, marks)

        kit.store.commit = meanwhile  # type: ignore[method-assign]
        await kit.give_task(AT)
        await kit.quiet()
        assert (world.calls, Payer.starts) == ([], 1)
        assert statuses(kit) == [("block_address", "failed", 1)]
        assert [step.decision for step in kit.history(AT)] == ["cancelled"]


async def test_a_call_that_has_acted_is_found_out_and_undone(world: World) -> None:
    looks: list[str] = []

    def verify(address: str, minutes: int) -> Happened:
        looks.append(address)
        return Happened(Receipt(id=9, address=address))

    Payer.tool = blocking(world, on_unknown=verify)
    async with TestKit([Payer]) as kit:
        task = await crashed_while_cancelling(kit, world)
        assert kit.task(task).status == "cancelled"
        assert (looks, Payer.undone, world.calls) == (["192.0.2.1"], ["9"], [])
        assert statuses(kit) == [("block_address", "succeeded", 1)]


async def test_a_call_that_has_not_acted_is_not_made_again(world: World) -> None:
    Payer.tool = blocking(world, on_unknown=lambda address, minutes: NotHappened())
    async with TestKit([Payer]) as kit:
        task = await crashed_while_cancelling(kit, world)
        assert kit.task(task).status == "cancelled"
        assert (Payer.undone, world.calls) == ([], [])
        assert statuses(kit) == [("block_address", "failed", 1)]


@pytest.mark.parametrize(
    ("said", "undone", "status"),
    [
        ({"happened": True, "result": {"id": 4, "address": "x"}}, ["4"], "succeeded"),
        ({"happened": False, "again": True}, [], "failed"),
        ({"happened": False, "again": False}, [], "failed"),
    ],
)
async def test_a_cancellation_waits_for_the_person_who_knows_what_a_call_has_done(
    world: World, said: dict[str, Any], undone: list[str], status: str
) -> None:
    Payer.tool = blocking(world)
    async with TestKit([Payer]) as kit:
        task = await crashed_while_cancelling(kit, world)
        assert kit.task(task).status == "cancelling"
        (asked,) = kit.approvals()
        await kit.crash()
        await kit.recover()
        await kit.advance(seconds=10)
        assert not kit._running[0].host.waiting
        starts = Payer.starts
        await kit.advance(minutes=1)
        assert (kit.task(task).status, Payer.starts) == (
            "cancelling",
            starts,
        )  # put away, and nobody wakes it
        assert await kit.say(asked.id, **said)
        await look(kit)
        assert kit.task(task).status == "cancelled"
        assert (Payer.undone, world.calls) == (undone, [])
        assert statuses(kit) == [("block_address", status, 1)]


async def test_a_host_that_ends_while_a_call_is_in_doubt_undoes_nothing(world: World) -> None:
    @tool(effect="at_most_once")
    async def block_address(address: str, minutes: int = 60) -> Receipt:
        """Block an address; only the first is done at once."""
        receipt = await world.act(address)
        world.gate = asyncio.Event()
        return receipt

    Payer.tool = block_address
    async with TestKit([Payer]) as kit:
        task = await kit.give_task(AT)
        await until(lambda: len(kit.ledger()) == 2)
        await kit.cancel_task(task, "not needed")
        await until(lambda: kit.task(task).status == "cancelling")
        await kit.crash()
        world.gate = None
        await kit.recover()
        (asked,) = kit.approvals()
        (running,) = kit._running
        await until(lambda: len(running.host.waiting) == 1)
        running.host.end("drained")
        await running.task
        assert (Payer.undone, kit.task(task).status) == ([], "cancelling")
        await kit.crash()
        await kit.recover()
        assert await kit.say(asked.id, happened=True, result={"id": 2, "address": "x"})
        await look(kit)
        assert (Payer.undone, kit.task(task).status) == (["1"], "cancelled")


async def test_other_branches_wait_with_the_one_whose_call_is_in_doubt(world: World) -> None:
    left: list[str] = []

    async def other(ctx: Context) -> None:
        try:
            await ctx.sleep(1_000)
        finally:
            left.append("other")

    async def gathers(self: Payer, work: TaskWork, ctx: Context) -> None:
        await ctx.gather(ctx.call(Payer.tool, "192.0.2.1"), other(ctx))

    Payer.tool = blocking(world)
    world.fails = [ConnectionError("no route")]

    class Gatherer(Payer):
        kind = "gatherer"
        on_task = handler(gathers)

    async with TestKit([Gatherer]) as kit:
        task = await kit.give_task("test/gatherer/g")
        await kit.quiet()
        (asked,) = kit.approvals()
        assert asked.details["why"] == "ConnectionError: no route"
        await kit.cancel_task(task, "not needed")
        await kit.advance(seconds=0.5)
        assert (kit.task(task).status, left) == ("cancelling", [])
        assert await kit.say(asked.id, happened=False, again=False)
        await look(kit)
        assert (kit.task(task).status, left) == ("cancelled", ["other"])
