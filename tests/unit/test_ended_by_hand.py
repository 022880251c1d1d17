"""Turns that operators end: who is told, and what is undone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic import BaseModel

from actors.domain import TaskSpec
from actors.retry import RetryPolicy
from actors.task_messages import TaskWork
from bus.errors import AskFailed
from callboard import Agent, Context, handler
from callboard.testing import TestKit
from tests.unit.agents import Note
from tests.unit.shopping import AT, Run, Worker, at_the_sleep, made, price, program, shop

pytestmark = pytest.mark.usefixtures("nothing_made")


class Client(Agent):
    """Asks the worker to run its program."""

    kind = "client"
    retry = RetryPolicy(attempts=1)

    class State(BaseModel):
        heard: list[str] = []

    state: State

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None:
        try:
            self.state.heard.append(f"{await ctx.ask(AT, Run(program='it'))}")
        except AskFailed as failed:
            self.state.heard.append(failed.message)


CLIENT = "test/client/c"


def unbook(what: str) -> None:
    made.append(f"unbook {what}")


async def _trip(self: Worker, ctx: Context) -> None:
    for what in ("flight", "hotel"):
        ctx.compensate(unbook, what)
        await ctx.step(price, what)
    await ctx.sleep(3600)
    self.state.log.append("travelled")


Hand = Callable[[TestKit], Awaitable[None]]


async def _skip(kit: TestKit) -> None:
    await kit.skip_turn(AT, "enough")


async def _destroy(kit: TestKit) -> None:
    await kit.destroy(AT)


BY_HAND = pytest.mark.parametrize(("end", "reason"), [(_skip, "skipped"), (_destroy, "destroyed")])


@BY_HAND
async def test_who_has_asked_for_a_turn_that_is_ended_by_hand_is_told(end: Hand, reason: str) -> None:
    program(shop)
    async with TestKit([Worker, Client]) as kit:
        await kit.send(CLIENT, Note(text="go"))
        await kit.advance(minutes=1)
        await end(kit)
        await kit.quiet()
        (heard,) = kit.state(CLIENT).heard
        assert reason in heard
        assert not kit.store.waits.turns


@BY_HAND
async def test_a_task_hears_of_its_turn_that_is_ended_by_hand(end: Hand, reason: str) -> None:
    async def work(self: Worker, ctx: Context) -> None:
        await ctx.sleep(3600)

    async with TestKit([Worker], tasks=TaskSpec(on_dead_letter="fail")) as kit:
        task = await kit.give_task("test/worker/other")
        await kit.send(AT, program(work), task=task)
        await kit.advance(minutes=1)
        await end(kit)
        await kit.quiet()
        assert kit.task(task).status == "failed"


@BY_HAND
async def test_what_a_turn_has_done_that_is_ended_by_hand_is_undone(end: Hand, reason: str) -> None:
    async with TestKit([Worker]) as kit:
        await kit.send(AT, program(_trip))
        await kit.send(AT, Note(text="next"))
        await kit.advance(minutes=1)
        await end(kit)
        await kit.quiet()
        assert made == ["flight", "hotel", "unbook hotel", "unbook flight"]
        (letter,) = kit.dead_letters(AT)
        assert letter.reason == reason
        assert kit.state(AT).log == ["created", "next"]
        assert not kit.store.waits.turns


@pytest.mark.parametrize("destroys", [False, True])
async def test_what_is_left_as_it_is_stands_in_the_dead_letter(destroys: bool) -> None:
    async with TestKit([Worker]) as kit:
        await kit.send(AT, program(_trip))
        await kit.advance(minutes=1)
        if destroys:
            await kit.destroy(AT, leave_done=True)
        else:
            await kit.skip_turn(AT, "enough", leave_done=True)
        await kit.quiet()
        assert made == ["flight", "hotel"]
        (letter,) = kit.dead_letters(AT)
        assert letter.error.endswith("; not undone, as was asked: unbook, unbook")
        assert (kit.lifecycle(AT) == "destroyed") is destroys


async def test_a_turn_that_waits_for_its_next_try_is_undone_at_once_when_it_is_skipped() -> None:
    async def fails(self: Worker, ctx: Context) -> None:
        ctx.compensate(unbook, await ctx.step(str, "flight"))
        raise ValueError("no money")

    class Patient(Worker):
        kind = "patient"
        retry = RetryPolicy(attempts=2, first_delay_s=3600.0, jitter=0.0)

    async with TestKit([Worker, Patient]) as kit:
        await kit.send("test/patient/p", program(fails))
        await kit.quiet()
        assert made == []
        await kit.skip_turn("test/patient/p")
        await kit.quiet()
        assert made == ["unbook flight"]
        (letter,) = kit.dead_letters()
        assert (letter.reason, letter.failures) == ("skipped", 1)


async def test_a_host_that_dies_after_a_skip_has_committed_leaves_nothing_undone() -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    async def slow(what: str) -> None:
        begun.set()
        await gate.wait()
        unbook(what)

    async def trip(self: Worker, ctx: Context) -> None:
        ctx.compensate(slow, await ctx.step(str, "flight"))
        await ctx.sleep(3600)

    async with TestKit([Worker]) as kit:
        await kit.send(AT, program(trip))
        await kit.advance(minutes=1)
        await kit.skip_turn(AT)
        await begun.wait()
        await kit.crash()
        gate.set()
        await kit.recover()
        assert made == ["unbook flight"]
        assert [letter.reason for letter in kit.dead_letters()] == ["skipped"]


async def test_a_turn_is_ended_also_where_its_agent_has_come_back_while_the_skip_was_being_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit_begins, may_commit = asyncio.Event(), asyncio.Event()

    async with TestKit([Worker]) as kit:
        await at_the_sleep(kit)
        commit = kit.store.commit

        async def late(*given: Any) -> Any:
            commit_begins.set()
            await may_commit.wait()
            return await commit(*given)

        monkeypatch.setattr(kit.store, "commit", late)
        await kit.skip_turn(AT)
        await asyncio.wait_for(commit_begins.wait(), 5)
        host = kit._running[0].host
        before = host.mailboxes.roster.find((kit.tenant, "worker/a"))
        assert before is not None
        host.mailboxes.drop(before)  # as when storage was away for what it does next
        host.settling.restart(before)

        for _ in range(50):
            await asyncio.sleep(0)
        now = host.mailboxes.roster.find(before.key)
        assert now is not None
        assert now is not before
        assert now.loaded
        may_commit.set()
        await kit.quiet()
        assert [letter.reason for letter in kit.dead_letters(AT)] == ["skipped"]


async def test_code_that_no_longer_comes_to_what_undoes_a_skipped_turn_is_waited_for_unless_it_is_left() -> (
    None
):
    async with TestKit([Worker]) as kit:
        await kit.send(AT, program(_trip))
        await kit.advance(minutes=1)
        program(shop)  # other code
        Worker.programs["it"] = shop
        await kit.skip_turn(AT, "enough")
        await kit.quiet()
        assert kit.lifecycle(AT) == "paused"
        assert (made, kit.dead_letters()) == (["flight", "hotel"], [])
        await kit.skip_turn(AT, "indeed", leave_done=True)
        await kit.quiet()
        (letter,) = kit.dead_letters(AT)
        assert letter.error == "skipped by operator: enough; not undone, as was asked: unbook, unbook"
        assert kit.lifecycle(AT) != "paused"


async def test_code_that_does_something_else_is_skipped_where_nothing_is_to_be_undone() -> None:
    async def other(self: Worker, ctx: Context) -> None:
        await ctx.step(str, "pears")

    async with TestKit([Worker]) as kit:
        await kit.send(AT, program(shop))
        await kit.advance(minutes=1)
        program(other)
        await kit.crash()
        await kit.recover()
        await kit.advance(hours=2)
        assert kit.lifecycle(AT) == "paused"
        await kit.skip_turn(AT, "enough")
        await kit.quiet()
        assert [letter.reason for letter in kit.dead_letters(AT)] == ["skipped"]
        assert not kit.store.waits.turns


class Lead(Agent):
    kind = "lead"

    @handler
    async def on_work(self, work: TaskWork, ctx: Context) -> None:
        await ctx.sleep(3600)


async def test_an_agent_whose_cancelled_turn_cannot_be_undone_can_be_destroyed() -> None:
    async def comes_nowhere(self: Worker, ctx: Context) -> None:
        pass

    async with TestKit([Worker, Lead]) as kit:
        task = await kit.give_task("test/lead/l")
        await kit.send(AT, program(_trip), task=task)
        await kit.advance(minutes=1)
        program(comes_nowhere)  # other code
        await kit.cancel_task(task)
        await kit.advance(minutes=1)
        assert kit.lifecycle(AT) == "paused"
        await kit.destroy(AT, leave_done=True)
        await kit.quiet()
        assert kit.lifecycle(AT) == "destroyed"
        assert [turn.decision for turn in kit.history(AT)] == ["paused", "destroying", "cancelled"]


async def test_an_agent_whose_open_turn_ends_with_it_is_told_once() -> None:
    class Told(Worker):
        kind = "told"

        async def on_destroyed(self, ctx: Context) -> None:
            ctx.send("test/worker/log", Note(text="destroyed"))

    async def wait(self: Worker, ctx: Context) -> None:
        ctx.compensate(price, "undone")
        await ctx.sleep(3600)

    async with TestKit([Told, Worker]) as kit:
        at = "test/told/a"
        await kit.send(at, Note(text="state"))
        await kit.send(at, program(wait))
        await kit.quiet()
        await kit.advance(seconds=2)
        kit._post.nudge = lambda to: None  # type: ignore[method-assign]  # both are there when the first is found
        await kit.destroy(at)
        await kit.destroy(at)
        await kit.advance(seconds=10)
        assert kit.lifecycle(at) == "destroyed"
        assert kit.state("test/worker/log").log.count("destroyed") == 1
        assert made == ["undone"]
