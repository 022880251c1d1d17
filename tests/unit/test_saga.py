"""Compensations: what a turn has done is undone, last first and once, when it fails for good."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel

from actors.domain import LimitSpec
from actors.retry import RetryPolicy
from bus.errors import InvalidMessage, InvalidPayload, StepFailed
from callboard import Agent, Context, handler, message
from callboard.testing import TestKit
from tests.unit.agents import Keeper, Note


@message("saga.run.v1")
class Run(BaseModel):
    program: str


class Room(BaseModel):
    number: int
    since: datetime = datetime(2026, 1, 1, tzinfo=UTC)


Program = Callable[["Clerk", Context], Awaitable[Any]]
ONCE = RetryPolicy(attempts=1)


class Clerk(Agent):
    """Runs the program that the test has given it; a message has two tries."""

    kind = "clerk"
    retry = RetryPolicy(attempts=2, first_delay_s=1.0, jitter=0.0)
    programs: dict[str, Program] = {}  # noqa: RUF012  (shared on purpose)
    done: list[str] = []  # noqa: RUF012

    class State(BaseModel):
        log: list[str] = []

    state: State

    @handler
    async def on_run(self, run: Run, ctx: Context) -> Any:
        return await Clerk.programs[run.program](self, ctx)

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None:
        self.state.log.append(note.text)


def program(function: Program) -> Run:
    Clerk.programs[function.__name__] = function
    return Run(program=function.__name__)


def book(name: str) -> str:
    Clerk.done.append(f"book {name}")
    return name


def release(name: str) -> None:
    Clerk.done.append(f"release {name}")


def broken(name: str) -> None:
    Clerk.done.append(f"broken {name}")
    raise ValueError("the desk is closed")


@pytest.fixture(autouse=True)
def fresh() -> None:
    Clerk.programs.clear()
    Clerk.done = []


AT = "test/clerk/c"
KINDS: list[type[Agent]] = [Clerk, Keeper]


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  (of many things, none signals)
        await asyncio.sleep(0)


def leftovers(kit: TestKit) -> tuple[int, int, int]:
    """Open turns, promises and messages."""
    waits = kit.store.waits
    return len(waits.turns), len(waits.promises.rows), sum(len(box) for box in kit.store.mail.boxes.values())


def calls(kit: TestKit) -> list[tuple[str, str, bool]]:
    """Kind, name and success of what the last turn has recorded."""
    body = json.loads(kit.history(AT)[-1].body)
    return [(c["kind"], c["name"], c["ok"]) for c in body["calls"]]


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


# -- what goes wrong ---------------------------------------------------------------------------------


async def test_a_compensation_is_tried_again_as_its_policy_says() -> None:
    failures = [ValueError("once"), ValueError("twice")]

    def flaky(name: str) -> None:
        if failures:
            raise failures.pop()
        release(name)

    async def run(self: Clerk, ctx: Context) -> None:
        ctx.compensate(
            flaky, await ctx.step(book, "flight"), retry=RetryPolicy(attempts=3, first_delay_s=0.01)
        )
        raise InvalidMessage("never")

    async with TestKit(KINDS) as kit:
        await kit.send(AT, program(run))
        await kit.quiet()
        assert Clerk.done == ["book flight", "release flight"]
        assert kit.dead_letters()[0].reason == "invalid_message"


async def test_a_compensation_that_fails_for_good_is_named_and_the_others_still_run() -> None:
    async def run(self: Clerk, ctx: Context) -> None:
        ctx.compensate(release, await ctx.step(book, "flight"))
        ctx.compensate(broken, await ctx.step(book, "hotel"), retry=ONCE)
        ctx.compensate(release, await ctx.step(book, "car"))
        raise InvalidMessage("no money")

    async with TestKit(KINDS) as kit:
        await kit.send(AT, program(run))
        await kit.quiet()
        assert Clerk.done[3:] == ["release car", "broken hotel", "release flight"]
        [letter] = kit.dead_letters()
        assert letter.reason == "not_undone"
        assert letter.error == (
            "InvalidMessage: no money; not undone: broken (ValueError: the desk is closed)"
        )
        undone = [c for c in calls(kit) if c[0] == "undo"]
        assert undone == [("undo", "release", True), ("undo", "broken", False), ("undo", "release", True)]


async def test_a_compensation_may_send_and_what_its_handler_sent_last_stays_unsent() -> None:
    async def run(self: Clerk, ctx: Context) -> None:
        def cancel(name: str) -> None:
            ctx.send("test/keeper/k", Note(text=f"cancel {name}"))

        def send_and_fail(name: str) -> None:
            ctx.send("test/keeper/k", Note(text="half a thing"))
            raise ValueError(name)

        ctx.compensate(send_and_fail, "hotel", retry=ONCE)
        ctx.compensate(cancel, await ctx.step(book, "flight"))
        ctx.send("test/keeper/k", Note(text="I have booked it all"))
        raise InvalidMessage("never")

    async with TestKit(KINDS) as kit:
        await kit.send(AT, program(run), deadline=kit.clock.now() + 100, task="0190")
        await kit.quiet()
        assert kit.state("test/keeper/k").notes == ["cancel flight"]
        [sent] = [o for o in kit.store.sent if o.agent == "keeper/k"]
        header = sent.header
        assert (header.task, header.deadline, header.undoes) == ("test/0190", None, True)
        transition = kit.store.agents.transitions[("test", "default", "keeper/k")][-1]
        assert json.loads(transition.body)["message"]["header"]["task"] == "test/0190"


async def test_a_compensation_records_nothing_and_waits_for_nothing() -> None:
    errors: list[str] = []

    async def run(self: Clerk, ctx: Context) -> None:
        promise = await ctx.promise("late", timeout=1_000)

        async def undo() -> None:
            for call in (ctx.step(book, "more"), ctx.sleep(1), _await(promise)):
                with pytest.raises(InvalidMessage) as caught:
                    await call
                errors.append(caught.value.message)

        ctx.compensate(undo)
        raise InvalidMessage("never")

    async with TestKit(KINDS) as kit:
        await kit.send(AT, program(run))
        await kit.quiet()
        assert errors == ["A compensation records nothing and waits for nothing."] * 3
        assert (Clerk.done, leftovers(kit)) == (
            [],
            (0, 1, 0),
        )  # the promise, whose ref may be out, is settled
        assert [p.status for p in kit.store.waits.promises.rows.values()] == ["abandoned"]


async def _await(promise: Any) -> None:
    await promise


async def test_a_handler_that_does_not_come_to_its_compensation_again_waits_for_a_person() -> None:
    other: list[bool] = []
    stopped = asyncio.Event()

    async def undo(name: str) -> None:
        if not other:
            stopped.set()
            await asyncio.Event().wait()
        release(name)

    async def run(self: Clerk, ctx: Context) -> None:
        if other == [True]:
            return  # a deployment has changed the code
        ctx.compensate(undo, await ctx.step(book, "flight"))
        raise InvalidMessage("no money")

    async with TestKit(KINDS) as kit:
        await kit.send(AT, program(run))
        await stopped.wait()
        await kit.crash()
        other.append(True)
        await kit.recover()
        assert kit.lifecycle(AT) == "paused"
        assert kit.dead_letters() == []
        [note] = kit.history(AT)[-1].notes
        assert (note["called"], "compensate" in note["recorded"]) == ("the end", True)
        other.append(False)  # and another one mends it
        await kit.resume(AT)
        await kit.quiet()
        assert Clerk.done == ["book flight", "release flight"]
        assert kit.dead_letters()[0].error == "InvalidMessage: no money"


async def test_a_message_that_kills_its_host_is_undone_before_it_is_given_up() -> None:
    reached = asyncio.Event()

    async def deadly() -> None:
        reached.set()
        await asyncio.Event().wait()

    async def run(self: Clerk, ctx: Context) -> None:
        ctx.compensate(release, await ctx.step(book, "flight"))
        await ctx.step(deadly)

    async with TestKit(KINDS, limits=LimitSpec(crash_trials=2)) as kit:
        await kit.send(AT, program(run))
        for _ in range(3):
            await reached.wait()
            reached.clear()
            await kit.crash()
            await _restart(kit)
        await kit.quiet()
        assert Clerk.done == ["book flight", "release flight"]
        [letter] = kit.dead_letters()
        assert (letter.reason, "died 3 times" in letter.error) == ("crash_loop", True)


async def test_a_compensation_that_kills_its_host_is_given_up_after_so_many_trials() -> None:
    reached = asyncio.Event()

    async def deadly(name: str) -> None:
        reached.set()
        await asyncio.Event().wait()

    async def run(self: Clerk, ctx: Context) -> None:
        ctx.compensate(deadly, await ctx.step(book, "flight"))
        raise InvalidMessage("no money")

    async with TestKit(KINDS, limits=LimitSpec(crash_trials=2)) as kit:
        await kit.send(AT, program(run))
        for _ in range(5):
            await reached.wait()
            reached.clear()
            await kit.crash()
            await _restart(kit)
        await kit.quiet()
        [letter] = kit.dead_letters()
        assert letter.reason == "not_undone"
        assert "not undone: test_a_compensation_that_kills" in letter.error
        assert leftovers(kit) == (0, 0, 0)


async def test_a_compensation_that_runs_too_long_is_not_undone_and_the_others_still_run() -> None:
    async def endless(name: str) -> None:
        await asyncio.Event().wait()

    async def run(self: Clerk, ctx: Context) -> None:
        ctx.compensate(release, await ctx.step(book, "flight"))
        ctx.compensate(endless, await ctx.step(book, "hotel"))
        await asyncio.Event().wait()

    class Hasty(Clerk):
        kind = "hasty"
        retry = ONCE

    async with TestKit([Hasty], limits=LimitSpec(turn_s=0.05)) as kit:
        await kit.send("test/hasty/h", program(run))
        await kit.quiet()
        assert Clerk.done == ["book flight", "book hotel", "release flight"]
        [letter] = kit.dead_letters()
        assert letter.error.startswith("TurnTimeout: The turn has run longer than 0.05 s")
        assert "endless (TurnTimeout" in letter.error


async def _restart(kit: TestKit) -> None:
    """A new host for what the crashed one had, without waiting for it to come to rest."""
    crashed = kit._running[0]
    kit.store.end_host(crashed.host.fence, "it crashed")
    kit._hosts.running[0] = kit._hosts.start(crashed.partitions, suspect=crashed.partitions)
