"""Compensations: what a turn has done is undone, last first and once, when it fails for good."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel

from bus.errors import InvalidMessage, InvalidPayload, StepFailed
from callboard import Agent, Context, handler
from callboard.testing import TestKit
from tests.unit.agents import Note
from tests.unit.trips import AT, KINDS, ONCE, Clerk, Run, book, broken, calls, program, release
from tests.unit.waiter import leftovers, until

pytestmark = pytest.mark.usefixtures("no_trips")


class Room(BaseModel):
    number: int
    since: datetime = datetime(2026, 1, 1, tzinfo=UTC)


async def trip(self: Clerk, ctx: Context) -> None:
    for name in ("flight", "hotel", "car"):
        ctx.compensate(release, await ctx.step(book, name))
    raise ValueError("no money")


BOOKED = ["book flight", "book hotel", "book car"]
RELEASED = ["release car", "release hotel", "release flight"]


async def test_what_a_turn_has_done_is_undone_last_first_when_its_last_try_has_failed() -> None:
    async with TestKit(KINDS) as kit:
        await kit.send(AT, program(trip))
        await kit.send(AT, Note(text="next"))
        await kit.quiet()
        assert Clerk.done == BOOKED  # one try is left: nothing is undone
        await kit.advance(seconds=10)
        assert Clerk.done == BOOKED + RELEASED
        [letter] = kit.dead_letters()
        assert (letter.reason, letter.failures) == ("failed", 2)
        assert letter.error == "ValueError: no money"
        assert kit.state(AT).log == ["next"]
        assert leftovers(kit) == (0, 0, 0)


async def test_a_plain_handler_says_what_undoes_it_and_what_it_has_spent() -> None:
    """It runs in a thread, where no task runs."""

    class Plain(Agent):
        kind = "plain"
        retry = ONCE

        @handler
        def on_run(self, run: Run, ctx: Context) -> None:
            ctx.charge(tokens=7)
            ctx.compensate(release, book("room"))
            if run.program == "fails":
                raise ValueError("no money")

    async with TestKit([Plain]) as kit:
        task = await kit.give_task("test/plain/p")
        for run in ("succeeds", "fails"):
            await kit.send("test/plain/p", Run(program=run), task=task)
        await kit.quiet()
        assert Clerk.done == ["book room", "book room", "release room"]
        assert "ValueError: no money" in [letter.error for letter in kit.dead_letters()]
        assert kit.store.spending.used(kit.tenant, f"test/{task}").tokens == 14


async def test_the_history_shows_what_was_undone() -> None:
    async with TestKit(KINDS) as kit:
        await kit.send(AT, program(trip))
        await kit.advance(seconds=10)
        undone = [c for c in calls(kit) if c[0] in ("unwind", "undo")]
        assert undone == [("unwind", "failed", True)] + [("undo", "release", True)] * 3


async def test_a_turn_that_succeeds_drops_its_compensations() -> None:
    async def run(self: Clerk, ctx: Context) -> None:
        ctx.compensate(release, await ctx.step(book, "flight"))
        await ctx.sleep(10)
        self.state.log.append("done")

    async with TestKit(KINDS) as kit:
        await kit.send(AT, program(run))
        await kit.advance(seconds=20)
        assert (Clerk.done, kit.state(AT).log) == (["book flight"], ["done"])
        assert leftovers(kit) == (0, 0, 0)


@pytest.mark.parametrize("error", [InvalidMessage("never"), StepFailed("x")], ids=["give_up_on", "last"])
async def test_a_turn_that_may_not_be_tried_again_is_undone_at_once(error: Exception) -> None:
    async def run(self: Clerk, ctx: Context) -> None:
        ctx.compensate(release, await ctx.step(book, "flight"))
        raise error

    class Hasty(Clerk):
        kind = "hasty"
        retry = ONCE

    async with TestKit([Hasty]) as kit:
        await kit.send("test/hasty/h", program(run))
        await kit.quiet()
        assert Clerk.done == ["book flight", "release flight"]
        assert len(kit.dead_letters()) == 1


async def test_arguments_are_those_of_the_registration_and_of_the_annotated_types() -> None:
    given: list[Any] = []

    async def free(room: Room, *floors: int, why: str = "", **more: datetime) -> None:
        given.append((room, floors, why, more))

    moment = datetime(2026, 11, 21, tzinfo=UTC)

    async def run(self: Clerk, ctx: Context) -> None:
        room = Room(number=7)
        ctx.compensate(free, room, 1, 2, why="late", at=moment)
        room.number = 8
        await ctx.step(book, "x")
        raise InvalidMessage("never")

    async with TestKit(KINDS) as kit:
        await kit.send(AT, program(run))
        await kit.quiet()
        assert given == [(Room(number=7), (1, 2), "late", {"at": moment})]


async def test_a_partial_is_given_its_arguments_as_its_functions_annotations_say() -> None:
    given: list[Any] = []

    def free(client: str, room: Room) -> None:
        given.append((client, room))

    async def run(self: Clerk, ctx: Context) -> None:
        ctx.compensate(partial(free, "client"), Room(number=7))
        await ctx.step(book, "x")
        raise InvalidMessage("never")

    async with TestKit(KINDS) as kit:
        await kit.send(AT, program(run))
        await kit.quiet()
        assert given == [("client", Room(number=7))]


async def test_arguments_that_cannot_be_recorded_are_refused() -> None:
    async def run(self: Clerk, ctx: Context) -> None:
        try:
            ctx.compensate(release, object())
        except InvalidPayload as error:
            self.state.log.append(error.message)

    async with TestKit(KINDS) as kit:
        await kit.send(AT, program(run))
        await kit.quiet()
        assert "cannot be written as JSON" in kit.state(AT).log[0]


async def test_a_branch_that_may_be_given_up_cannot_be_compensated() -> None:
    async def branch(ctx: Context, name: str) -> str:
        place: str = await ctx.step(book, name)
        ctx.compensate(release, place)
        return place

    async def run(self: Clerk, ctx: Context) -> None:
        self.state.log += await ctx.gather(branch(ctx, "a"), branch(ctx, "b"), first=2)
        try:
            await ctx.gather(branch(ctx, "c"), ctx.gather(branch(ctx, "d")), first=1)
        except InvalidMessage as error:
            self.state.log.append(error.message)

    async with TestKit(KINDS) as kit:
        await kit.send(AT, program(run))
        await kit.quiet()
        assert kit.state(AT).log[:2] == ["a", "b"]
        assert "may be given up" in kit.state(AT).log[2]


async def test_compensations_of_branches_run_in_the_order_of_their_registration() -> None:
    gates = {name: asyncio.Event() for name in "ab"}

    async def hold(name: str) -> str:
        await gates[name].wait()
        return name

    async def branch(ctx: Context, name: str) -> None:
        ctx.compensate(release, await ctx.step(hold, name))

    async def run(self: Clerk, ctx: Context) -> None:
        await ctx.gather(branch(ctx, "a"), branch(ctx, "b"))
        raise InvalidMessage("never")

    async with TestKit(KINDS) as kit:
        await kit.send(AT, program(run))
        gates["b"].set()
        await until(lambda: any(kit.store.waits.journal.values()))
        gates["a"].set()
        await kit.quiet()
        assert Clerk.done == ["release a", "release b"]


# -- crashes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", range(4))
async def test_a_crash_between_compensations_repeats_none_of_them(after: int) -> None:
    stopped = asyncio.Event()
    go_on = asyncio.Event()

    async def undo(name: str) -> None:
        if len(Clerk.done) == 3 + after and not go_on.is_set():
            stopped.set()
            await asyncio.Event().wait()
        release(name)

    async def run(self: Clerk, ctx: Context) -> None:
        for name in ("flight", "hotel", "car"):
            ctx.compensate(undo, await ctx.step(book, name))
        if after == 3 and not go_on.is_set():
            stopped.set()
            await asyncio.Event().wait()
        raise InvalidMessage("no money")

    async with TestKit(KINDS) as kit:
        await kit.send(AT, program(run))
        await stopped.wait()
        await kit.crash()
        go_on.set()
        await kit.recover()
        assert Clerk.done == BOOKED + RELEASED
        [letter] = kit.dead_letters()
        assert (letter.reason, letter.error) == ("invalid_message", "InvalidMessage: no money")
        assert leftovers(kit) == (0, 0, 0)


async def test_a_turn_that_was_given_up_stays_given_up_although_it_would_now_succeed() -> None:
    good: list[bool] = []
    stopped = asyncio.Event()

    async def undo(name: str) -> None:
        if not good:
            stopped.set()
            await asyncio.Event().wait()
        release(name)

    async def run(self: Clerk, ctx: Context) -> None:
        ctx.compensate(undo, await ctx.step(book, "flight"))
        if not good:
            raise InvalidMessage("no money")
        ctx.send("test/keeper/k", Note(text="never"))
        await ctx.step(book, "never")

    async with TestKit(KINDS) as kit:
        await kit.send(AT, program(run))
        await stopped.wait()
        await kit.crash()
        good.append(True)
        await kit.recover()
        assert Clerk.done == ["book flight", "release flight"]
        assert len(kit.dead_letters()) == 1
        assert kit.sent(type=Note) == []


async def test_branches_come_to_their_compensations_again_before_any_is_told_to_end() -> None:
    stopped = asyncio.Event()
    go_on = asyncio.Event()

    async def undo(name: str) -> None:
        if not go_on.is_set():
            stopped.set()
            await asyncio.Event().wait()
        release(name)

    async def fails(ctx: Context) -> None:
        await ctx.sleep(1)
        await ctx.step(broken, "x")

    async def books(ctx: Context) -> None:
        for _ in range(5):
            await asyncio.sleep(0)  # the other branch is at its end long before
        for name in ("flight", "hotel"):
            ctx.compensate(undo, await ctx.step(book, name))
        await ctx.sleep(1_000)

    async def run(self: Clerk, ctx: Context) -> None:
        await ctx.gather(fails(ctx), books(ctx))

    class Hasty(Clerk):
        kind = "hasty"
        retry = ONCE

    async with TestKit([Hasty]) as kit:
        await kit.send("test/hasty/h", program(run))
        await kit.quiet()
        advance = asyncio.create_task(kit.advance(seconds=2))
        await stopped.wait()
        await kit.crash()
        go_on.set()
        await advance
        await kit.recover()
        assert Clerk.done == ["book flight", "book hotel", "broken x", "release hotel", "release flight"]
        assert len(kit.dead_letters()) == 1
