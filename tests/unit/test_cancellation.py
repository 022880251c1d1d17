"""A cancelled task ends with all that it has started, once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from actors.retry import RetryPolicy
from bus.errors import InvalidMessage, TaskCancelled
from callboard import Context
from callboard.testing import TestKit
from tests.unit.agents import Note
from tests.unit.cancelling import AT, KINDS, book, cancelled, kinds, leftovers, look, sleeps
from tests.unit.tasks.worker import Errand, Worker, program
from tests.unit.waiter import until

pytestmark = pytest.mark.usefixtures("no_errands")


@pytest.mark.parametrize("is_put_away", [False, True], ids=["in_memory", "put_away"])
async def test_a_turn_that_waits_is_told_and_undone(is_put_away: bool) -> None:
    async with TestKit(KINDS) as kit:
        task = await kit.give_task(AT, goal=program(sleeps))
        await kit.quiet()
        if is_put_away:
            await kit.advance(seconds=2)
            assert not kit._running[0].host.waiting
            Worker.log.remove("left w")
        await cancelled(kit, task)
        assert Worker.log == ["book w", "told w by external/test", "left w", "release w"]
        assert kit.history(AT)[-1].decision == "cancelled"
        assert kit.dead_letters() == []
        assert leftovers(kit) == (0, 0, 0, 0)
        await kit.send(AT, Note(text="next"))
        await kit.quiet()
        assert kit.state(AT).noted == ["next"]


async def test_asks_sends_and_timers_that_a_task_has_started_end_with_it() -> None:
    async def leads(self: Worker, ctx: Context) -> None:
        ctx.send("test/worker/sent", Errand(program="sleeps"))
        ctx.send_later("test/keeper/k", Note(text="later"), delay_s=10)
        await ctx.gather(
            ctx.ask("test/worker/a", Errand(program="asks"), key="a"),
            ctx.ask("test/worker/b", Errand(program="sleeps"), key="b"),
        )

    async def asks(self: Worker, ctx: Context) -> None:
        await ctx.ask("test/worker/c", Errand(program="sleeps"))

    program(sleeps)
    program(asks)
    async with TestKit(KINDS, hosts=2) as kit:
        task = await kit.give_task(AT, goal=program(leads))
        other = await kit.give_task("test/worker/other", goal="sleeps")
        await kit.quiet()
        await cancelled(kit, task)
        assert sorted(w for w in Worker.log if w.startswith("release")) == [
            "release b", "release c", "release sent",
        ]  # fmt: skip
        assert leftovers(kit) == (1, 1, 0, 0)  # of the other task
        await kit.advance(seconds=1_000)
        assert kit.state("test/keeper/k").notes == []
        assert kit.task(other).status == "running"


async def test_messages_of_a_cancelled_task_are_dropped_when_their_turn_comes() -> None:
    gate = asyncio.Event()

    async def holds(self: Worker, ctx: Context) -> None:
        await gate.wait()

    async def sends(self: Worker, ctx: Context) -> None:
        ctx.send("test/worker/busy", Note(text="of the task"))

    program(holds)
    async with TestKit(KINDS) as kit:
        await kit.send("test/worker/busy", Errand(program="holds"))
        task = await kit.give_task(AT, goal=program(sends))
        await until(lambda: kit.mailbox("test/worker/busy"))
        await until(lambda: kit.task(task).status == "running")
        await kit.cancel_task(task)
        await until(lambda: kit.task(task).status == "cancelling")
        await kit.send("test/worker/busy", Note(text="of nobody"))
        for _ in range(3):
            kit.clock.move_to(kit.clock.now() + 1)
            for _ in range(20):
                await asyncio.sleep(0)
        assert kit.task(task).status == "cancelled"
        gate.set()
        await kit.quiet()
        assert kit.state("test/worker/busy").noted == ["of nobody"]
        decisions = [turn.decision for turn in kit.history("test/worker/busy")]
        assert decisions == ["handled", "cancelled", "handled"]
        assert kit.dead_letters() == []


async def test_shared_work_of_a_cancelled_task_goes_on_until_it_serves_a_task_by_name() -> None:
    async def shares(self: Worker, ctx: Context) -> None:
        ctx.send("test/worker/busy", Errand(program="passes_on"), shared=True)

    async def passes_on(self: Worker, ctx: Context) -> None:
        ctx.send("test/keeper/k", Note(text="for all"))
        ctx.send("test/keeper/k", Note(text="for this one"), task=ctx.task)

    program(passes_on)
    async with TestKit(KINDS) as kit:
        await kit.pause("test/worker/busy")
        task = await kit.give_task(AT, goal=program(shares))
        await kit.quiet()
        await cancelled(kit, task)
        await kit.resume("test/worker/busy")
        await kit.quiet()
        assert kit.state("test/keeper/k").notes == ["for all"]
        assert [turn.decision for turn in kit.history("test/keeper/k")] == ["handled", "cancelled"]


async def test_a_handler_without_a_journal_is_cancelled() -> None:
    started = asyncio.Event()
    seen: list[str] = []

    async def calls_out(self: Worker, ctx: Context) -> None:
        ctx.send("test/keeper/k", Note(text="half done"))
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async with TestKit(KINDS) as kit:
        task = await kit.give_task(AT, goal=program(calls_out))
        await started.wait()
        await kit.cancel_task(task)
        await until(lambda: kit.task(task).status == "cancelling")
        kit.clock.move_to(kit.clock.now() + 1)
        await kit.quiet()
        await look(kit)
        assert (seen, kit.task(task).status) == (["cancelled"], "cancelled")
        assert kit.history(AT)[-1].decision == "cancelled"
        assert kit.sent(type=Note) == []
        await kit.send(AT, Note(text="next"))
        await kit.quiet()
        assert kit.state(AT).noted == ["next"]


async def test_whoever_swallows_the_cancellation_can_do_nothing_new() -> None:
    refused: list[str] = []

    async def stubborn(self: Worker, ctx: Context) -> None:
        for _ in range(3):
            try:
                await ctx.sleep(1_000)
            except TaskCancelled:
                refused.append("sleep")
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: ctx.step(book, "never"),
            lambda: ctx.ask("test/worker/x", Errand(program="x")),
        ]
        for call in calls:
            with pytest.raises(TaskCancelled):
                await call()
        with pytest.raises(TaskCancelled):
            ctx.send("test/keeper/k", Note(text="never"))
        self.state.noted.append("never")

    async with TestKit(KINDS) as kit:
        task = await kit.give_task(AT, goal=program(stubborn))
        await kit.quiet()
        await cancelled(kit, task)
        assert (refused, Worker.log) == (["sleep"] * 3, [])
        assert kit.state(AT).noted == []
        assert kit.sent(type=Note) == []


async def test_a_compensation_of_a_cancelled_task_may_still_send() -> None:
    async def books(self: Worker, ctx: Context) -> None:
        def undo(name: str) -> None:
            ctx.send("test/keeper/k", Note(text=f"release {name}"))

        ctx.compensate(undo, await ctx.step(book, "flight"))
        await ctx.sleep(1_000)

    async with TestKit(KINDS) as kit:
        task = await kit.give_task(AT, goal=program(books))
        await kit.quiet()
        await cancelled(kit, task)
        assert kit.state("test/keeper/k").notes == ["release flight"]


async def test_what_a_compensation_has_led_to_goes_on_to_its_end_although_the_task_was_cancelled() -> None:
    async def books(self: Worker, ctx: Context) -> None:
        def undo(name: str) -> None:
            ctx.send("test/worker/other", Errand(program="hands_back"))

        ctx.compensate(undo, await ctx.step(book, "flight"))
        await ctx.sleep(1_000)

    async def hands_back(self: Worker, ctx: Context) -> None:
        ctx.send_later("test/keeper/k", Note(text="much later"), delay_s=100)
        ctx.send("test/keeper/k", Note(text=await ctx.ask("test/worker/desk", Errand(program="waits"))))

    async def waits(self: Worker, ctx: Context) -> None:
        await ctx.sleep(50)

    for errand in (hands_back, waits):
        program(errand)
    async with TestKit(KINDS) as kit:
        task = await kit.give_task(AT, goal=program(books))
        await kit.quiet()
        await cancelled(kit, task)
        assert len(kit.store.waits.turns) == 2
        await kit.advance(seconds=200)
        assert kit.state("test/keeper/k").notes == ["waits", "much later"]
        tasks = {o.header.task for o in kit.store.sent if o.agent != f"task/{task}"}
        assert (tasks, leftovers(kit)) == ({f"test/{task}"}, (0, 0, 0, 0))


async def test_what_cannot_be_undone_is_a_dead_letter_and_in_the_log_of_the_cancelled_task() -> None:
    def fails(name: str) -> None:
        raise ValueError("the desk is closed")

    async def books(self: Worker, ctx: Context) -> None:
        ctx.compensate(fails, await ctx.step(book, "flight"), retry=RetryPolicy(attempts=1))
        await ctx.sleep(1_000)

    async with TestKit(KINDS) as kit:
        task = await kit.give_task(AT, goal=program(books))
        await kit.quiet()
        await kit.cancel_task(task)
        await look(kit)
        assert kit.task(task).status == "cancelled"
        [letter] = kit.dead_letters()
        assert (letter.reason, "the desk is closed" in letter.error) == ("not_undone", True)
        assert "trouble" in kinds(kit, task)


# -- once --------------------------------------------------------------------------------------------


async def test_of_completion_and_cancellation_the_first_wins() -> None:
    async def completes(self: Worker, ctx: Context) -> None:
        ctx.complete("done")

    async def both(self: Worker, ctx: Context) -> None:
        ctx.cancel_task("changed my mind")
        ctx.complete("done")

    program(completes)
    async with TestKit(KINDS) as kit:
        first = await kit.give_task(AT, goal="completes")
        second = await kit.give_task(AT, goal=program(both))
        await kit.quiet()
        await kit.cancel_task(first)
        await kit.cancel_task(second)
        await look(kit)
        assert (kit.task(first).status, kit.task(second).status) == ("completed", "cancelled")
        assert kinds(kit, first)[-2:] == ["completed", "late"]
        ends = [kind for kind in kinds(kit, second) if kind in ("completed", "cancelled", "failed")]
        assert ends == ["cancelled"]
        assert (kit.task(second).error or {})["by"] == AT


async def test_a_cancellation_needs_a_reason() -> None:
    async def gives_none(self: Worker, ctx: Context) -> None:
        with pytest.raises(InvalidMessage):
            ctx.cancel_task(" ")
        Worker.log.append("refused")

    async with TestKit(KINDS) as kit:
        await kit.give_task(AT, goal=program(gives_none))
        await kit.quiet()
        assert Worker.log == ["refused"]


async def test_a_task_that_was_never_assigned_is_cancelled() -> None:
    async with TestKit(KINDS) as kit:
        task = "01900000-0000-7000-8000-000000000000"
        kit.store.tasks.add("test", kit.tenant, task)
        await kit.cancel_task(task)
        await look(kit)
        assert kit.task(task).status == "cancelled"


async def test_a_deadline_that_passes_while_a_task_is_cancelled_does_not_end_it_twice() -> None:
    started = threading.Event()
    go_on = threading.Event()

    def in_a_thread() -> None:
        started.set()
        go_on.wait(10)

    async def runs(self: Worker, ctx: Context) -> None:
        await ctx.step(in_a_thread)

    from coordinators.tasks.messages import TaskDeadline

    async with TestKit(KINDS) as kit:
        task = await kit.give_task(AT, goal=program(runs))
        await until(started.is_set)
        await kit.cancel_task(task)
        await until(lambda: kit.task(task).status == "cancelling")
        await kit.send(f"test/task/{task}", TaskDeadline(), task=task)
        await until(lambda: not kit.mailbox(f"test/task/{task}"))
        go_on.set()
        await kit.quiet()
        await look(kit)
        assert kit.task(task).status == "cancelled"
