"""What goes wrong while a turn is undone: compensations that fail, kill, hang, or are not come to again."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from actors.domain import LimitSpec
from actors.retry import RetryPolicy
from bus.errors import InvalidMessage
from callboard import Context
from callboard.testing import TestKit
from tests.unit.agents import Note
from tests.unit.trips import AT, KINDS, ONCE, Clerk, book, broken, calls, program, release
from tests.unit.waiter import leftovers

pytestmark = pytest.mark.usefixtures("no_trips")


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


async def test_what_was_undone_before_a_compensation_killed_its_host_is_not_said_to_be_left() -> None:
    reached = asyncio.Event()

    async def deadly(name: str) -> None:
        reached.set()
        await asyncio.Event().wait()

    async def run(self: Clerk, ctx: Context) -> None:
        ctx.compensate(deadly, await ctx.step(book, "flight"))
        ctx.compensate(release, await ctx.step(book, "hotel"))
        ctx.compensate(broken, await ctx.step(book, "car"), retry=ONCE)
        raise InvalidMessage("no money")

    async with TestKit(KINDS, limits=LimitSpec(crash_trials=2)) as kit:
        await kit.send(AT, program(run))
        for _ in range(5):
            await reached.wait()
            reached.clear()
            await kit.crash()
            await _restart(kit)
        await kit.quiet()
        assert Clerk.done[3:] == ["broken car", "release hotel"]
        [letter] = kit.dead_letters()
        _, _, left = letter.error.partition("not undone: ")
        assert "deadly (it was not reached)" in left
        assert "broken (ValueError: the desk is closed)" in left
        assert "release" not in left


async def test_a_turn_that_is_given_up_ends_although_its_handler_no_longer_comes_to_what_was_undone() -> None:
    changed: list[bool] = []
    stopped = asyncio.Event()

    async def stops(name: str) -> None:
        if not changed:
            stopped.set()
            await asyncio.Event().wait()
        release(name)

    async def run(self: Clerk, ctx: Context) -> None:
        ctx.compensate(stops, await ctx.step(book, "flight"))
        if not changed:
            ctx.compensate(release, await ctx.step(book, "hotel"))
        raise InvalidMessage("no money")

    async with TestKit(KINDS) as kit:
        await kit.send(AT, program(run))
        await stopped.wait()
        await kit.crash()
        changed.append(True)
        await kit.recover()
        assert Clerk.done == ["book flight", "book hotel", "release hotel", "release flight"]
        [letter] = kit.dead_letters()
        assert letter.error == "InvalidMessage: no money"


async def test_what_a_compensation_charges_takes_no_place_of_its_handlers() -> None:
    good: list[bool] = []
    stopped = asyncio.Event()

    async def run(self: Clerk, ctx: Context) -> None:
        async def pays(name: str) -> None:
            ctx.charge(tokens=5)
            release(name)

        async def stops(name: str) -> None:
            if not good:
                stopped.set()
                await asyncio.Event().wait()
            release(name)

        ctx.compensate(stops, await ctx.step(book, "flight"))
        ctx.compensate(pays, await ctx.step(book, "hotel"))
        if not good:
            raise InvalidMessage("no money")
        await ctx.step(book, "never")

    async with TestKit(KINDS) as kit:
        await kit.send(AT, program(run))
        await stopped.wait()
        await kit.crash()
        good.append(True)
        await kit.recover()
        assert Clerk.done == ["book flight", "book hotel", "release hotel", "release flight"]
        assert [letter.reason for letter in kit.dead_letters()] == ["invalid_message"]
        assert [kind for kind, _, _ in calls(kit)].count("charge") == 1


async def test_what_a_failed_attempt_of_a_compensation_has_sent_its_next_one_sends_once() -> None:
    ctx_: Any = None

    async def undo() -> None:
        Clerk.done.append("undo")
        ctx_.send("test/keeper/k", Note(text="undone"))
        ctx_.charge(tokens=5)
        if len(Clerk.done) < 3:
            raise ValueError("the desk is closed")

    async def run(self: Clerk, ctx: Context) -> None:
        nonlocal ctx_
        ctx_ = ctx
        await ctx.step(book, "flight")
        ctx.compensate(undo, retry=RetryPolicy(attempts=3, first_delay_s=0.0))
        raise InvalidMessage("no money")

    async with TestKit(KINDS) as kit:
        await kit.send(AT, program(run))
        await kit.quiet()
        assert Clerk.done == ["book flight", "undo", "undo"]
        assert kit.state("test/keeper/k").notes == ["undone"]
        assert [kind for kind, _, _ in calls(kit)].count("charge") == 1


async def test_a_message_that_has_come_further_is_not_given_up_for_the_deaths_before_that() -> None:
    reached = asyncio.Event()
    lives = 0

    async def first() -> None:
        if lives < 2:
            reached.set()
            await asyncio.Event().wait()

    async def run(self: Clerk, ctx: Context) -> None:
        nonlocal lives
        await ctx.step(first)
        await ctx.step(book, "flight")
        await ctx.step(book, "hotel")
        if lives < 3:
            reached.set()
            await asyncio.Event().wait()

    async with TestKit(KINDS, limits=LimitSpec(crash_trials=2)) as kit:
        await kit.send(AT, program(run))
        for _ in range(3):
            await reached.wait()
            reached.clear()
            await kit.crash()
            lives += 1
            await _restart(kit)
        await kit.quiet()
        assert kit.dead_letters() == []
        assert Clerk.done == ["book flight", "book hotel"]
        assert leftovers(kit) == (0, 0, 0)
