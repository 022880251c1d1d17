"""A cancellation goes on wherever hosts die, agents are paused or partitions leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest

from actors.domain import LimitSpec
from callboard import Context
from callboard.testing import TestKit
from storage.journal import Kind
from storage.records import Fence, MailPlace
from tests.unit.agents import Note
from tests.unit.cancelling import AT, KINDS, book, cancelled, kinds, leftovers, look, release, sleeps
from tests.unit.tasks.worker import Errand, Worker, program

pytestmark = pytest.mark.usefixtures("no_errands")


@pytest.mark.parametrize("commits", range(8))
async def test_a_host_that_dies_at_any_commit_of_a_cancellation_is_followed_by_one_that_ends_it(
    commits: int,
) -> None:
    async def asks(self: Worker, ctx: Context) -> None:
        ctx.compensate(release, await ctx.step(book, "w"))
        await ctx.ask("test/worker/b", Errand(program="sleeps"))

    program(sleeps)
    left = [commits]

    def passing(point: str) -> None:
        if point == "commit.before":
            left[0] -= 1
            if left[0] == -1:
                crash.set()

    crash = asyncio.Event()
    async with TestKit(KINDS) as kit:
        task = await kit.give_task(AT, goal=program(asks))
        await kit.advance(seconds=2)
        kit.store.passing = passing
        await kit.cancel_task(task, "not needed")
        going = asyncio.create_task(kit.advance(seconds=2))
        stop = asyncio.create_task(crash.wait())
        await asyncio.wait({going, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        await kit.crash()
        await going
        await kit.recover()
        await look(kit)
        assert kit.task(task).status == "cancelled"
        assert kinds(kit, task).count("cancelled") == 1
        for undone in ("release w", "release b"):
            assert 1 <= Worker.log.count(undone) <= 2  # a crash may repeat the one that ran
        assert kit.dead_letters() == []
        assert leftovers(kit) == (0, 0, 0, 0)


async def test_a_host_that_comes_later_knows_what_was_cancelled_before() -> None:
    async def sends(self: Worker, ctx: Context) -> None:
        ctx.send("test/keeper/k", Note(text="of the task"))

    async with TestKit(KINDS) as kit:
        task = await kit.give_task("test/worker/x", goal=program(sends))
        await kit.quiet()
        await cancelled(kit, task)
        await kit.crash()
        await kit.recover()
        await kit.send("test/keeper/k", Note(text="late"), task=task)
        await kit.quiet()
        assert kit.state("test/keeper/k").notes == ["of the task"]


async def test_a_waiting_turn_of_a_paused_agent_ends_when_the_agent_goes_on() -> None:
    async with TestKit(KINDS, limits=LimitSpec()) as kit:
        task = await kit.give_task(AT, goal=program(sleeps))
        await kit.advance(seconds=2)
        await kit.pause(AT)
        await kit.cancel_task(task)
        await look(kit)
        assert kit.task(task).status == "cancelling"
        await kit.resume(AT)
        await look(kit)
        assert kit.task(task).status == "cancelled"
        assert Worker.log[-1] == "release w"


async def test_what_a_cancelled_turn_has_waited_for_is_in_its_history() -> None:
    async def waits(self: Worker, ctx: Context) -> None:
        await ctx.sleep(1)
        await ctx.gather(ctx.sleep(1_000), ctx.ask("test/keeper/k", Note(text="x")), ctx.approval("go on"))

    async with TestKit(KINDS) as kit:
        task = await kit.give_task(AT, goal=program(waits))
        await kit.advance(seconds=5)
        await kit.cancel_task(task, "not needed")
        await look(kit)
        assert leftovers(kit)[0] == 0
        (journal,) = kit.store.waits.journal.values()
        ends = [(e.kind, json.loads(e.value)["status"]) for e in journal if e.kind in tuple(Kind)]
        assert ends[:1] == [("sleep", "resolved")]
        assert sorted(ends[1:]) == [("approval", "abandoned"), ("ask", "resolved"), ("sleep", "abandoned")]
        body = json.loads(kit.store.agents.transitions[("test", "default", "worker/w")][-1].body)
        assert [c["kind"] for c in body["calls"] if c["kind"] in tuple(Kind)] == [kind for kind, _ in ends]


async def test_a_partition_that_leaves_as_its_turns_are_looked_up_leaves_nothing_of_them_in_memory() -> None:
    """Were it to come back, what another host has made of its agents meanwhile would not be known here."""
    async with TestKit(KINDS) as kit:
        task = await kit.give_task(AT, goal=program(sleeps))
        await kit.quiet()
        await kit.advance(seconds=2)
        host, stop_cancelled = kit._running[0].host, kit.store.stop_cancelled

        async def taken_as_it_looks(fence: Fence, partitions: Sequence[int]) -> list[MailPlace]:
            found = await stop_cancelled(fence, partitions)
            if found:
                await kit.store.take_back(fence, partitions)
                await host.holdings.refresh()
            return found

        kit.store.stop_cancelled = taken_as_it_looks  # type: ignore[method-assign]
        await kit.cancel_task(task)
        await look(kit)
        assert not host.holdings.all_partitions()
        assert len(host.mailboxes) == 0
