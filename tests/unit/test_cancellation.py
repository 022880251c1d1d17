"""A cancelled task ends with all that it has started, once, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from actors.cancelling import _end
from actors.domain import LimitSpec
from actors.retry import RetryPolicy
from bus.errors import InvalidMessage, TaskCancelled
from callboard import Agent, Context, tool
from callboard.testing import TestKit
from storage.journal import Kind
from storage.records import Fence, MailPlace
from tests.unit.agents import Keeper, Note
from tests.unit.tasks.worker import Errand, Worker, fresh, program


def book(name: str) -> str:
    Worker.log.append(f"book {name}")
    return name


def release(name: str) -> None:
    Worker.log.append(f"release {name}")


@pytest.fixture(autouse=True)
def anew() -> None:
    fresh()


AT = "test/worker/w"
KINDS: list[type[Agent]] = [Worker, Keeper]


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  (of many things, none signals)
        await asyncio.sleep(0)


def kinds(kit: TestKit, task: str) -> list[str]:
    return [event.kind for (_, _, of, _), event in kit.store.tasks.events.items() if of == task]


def leftovers(kit: TestKit) -> tuple[int, int, int, int]:
    """Open turns, promises, messages and timers."""
    waits, store = kit.store.waits, kit.store
    return (
        len(waits.turns),
        len(waits.promises.rows),
        sum(map(len, store.mail.boxes.values())),
        len(store.timers),
    )


async def look(kit: TestKit, times: int = 10) -> None:
    """Let every host look for cancellations so often."""
    for _ in range(times):
        await kit.advance(seconds=0.1)


async def cancelled(kit: TestKit, task: str) -> None:
    await kit.cancel_task(task, "not needed")
    await look(kit)
    assert kit.task(task).status == "cancelled"
    assert kit.task(task).error == {"code": "cancelled", "message": "not needed", "by": "external/test"}
    assert kinds(kit, task)[-2:] == ["cancelling", "cancelled"]


async def cancelling(kit: TestKit, task: str) -> None:
    """Cancel it, and let every host look for that while what is under way goes on."""
    await kit.cancel_task(task, "not needed")
    await until(lambda: kit.task(task).status == "cancelling")
    for _ in range(3):
        kit.clock.move_to(kit.clock.now() + 1)
        for _ in range(20):
            await asyncio.sleep(0)


async def sleeps(self: Worker, ctx: Context) -> None:
    ctx.compensate(release, await ctx.step(book, ctx.address.key))
    try:
        await ctx.sleep(1_000)
    except TaskCancelled as error:
        by = error.message.partition(" has cancelled task ")[0]
        Worker.log.append(f"told {ctx.address.key} by {by}")
        raise
    finally:
        Worker.log.append(f"left {ctx.address.key}")


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


async def test_an_async_step_is_cut_short_and_a_thread_is_waited_for() -> None:
    started = threading.Event()
    go_on = threading.Event()
    cut: list[bool] = []

    def in_a_thread() -> str:
        started.set()
        go_on.wait(10)
        return "thread"

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cut.append(True)
            raise

    async def threads(ctx: Context) -> None:
        ctx.compensate(release, await ctx.step(in_a_thread))
        await ctx.step(book, "never")

    async def runs(self: Worker, ctx: Context) -> None:
        await ctx.gather(ctx.step(endless, key="endless"), threads(ctx))

    async with TestKit(KINDS) as kit:
        task = await kit.give_task(AT, goal=program(runs))
        await until(started.is_set)
        await cancelling(kit, task)
        assert cut == [True]
        assert kit.task(task).status == "cancelling"  # as long as the thread runs
        go_on.set()
        await kit.quiet()
        await look(kit)
        assert kit.task(task).status == "cancelled"
        assert Worker.log == ["release thread"]
        assert leftovers(kit) == (0, 0, 0, 0)


async def test_the_function_of_a_step_is_cut_short_also_after_a_step_within_it() -> None:
    begun = asyncio.Event()

    async def short() -> None:
        Worker.log.append("short")

    async def endless(ctx: Context) -> None:
        await ctx.step(short)
        begun.set()
        await asyncio.Event().wait()

    async def runs(self: Worker, ctx: Context) -> None:
        await ctx.step(endless, ctx)

    async with TestKit(KINDS) as kit:
        task = await kit.give_task(AT, goal=program(runs))
        await begun.wait()
        await cancelling(kit, task)
        await look(kit)
        assert kit.task(task).status == "cancelled"
        assert Worker.log == ["short"]
        assert leftovers(kit) == (0, 0, 0, 0)


@pytest.mark.parametrize("beside", ["nothing", "another", "one before it"])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_thread_within_the_function_of_a_step_is_waited_for(beside: str, fails: bool) -> None:
    started = threading.Event()
    go_on = threading.Event()

    def in_a_thread() -> None:
        started.set()
        go_on.wait(10)
        Worker.log.append("thread")
        if fails:
            raise SystemExit(1)

    async def outer(ctx: Context) -> None:
        calls = [ctx.step(in_a_thread)]
        if beside != "nothing":
            calls.insert(beside == "another", ctx.step(asyncio.sleep, 60))
        await ctx.gather(*calls)

    async def runs(self: Worker, ctx: Context) -> None:
        ctx.compensate(release, "all")
        await ctx.step(outer, ctx)

    async with TestKit(KINDS) as kit:
        task = await kit.give_task(AT, goal=program(runs))
        await until(started.is_set)
        await cancelling(kit, task)
        assert kit.task(task).status == "cancelling"
        go_on.set()
        await kit.quiet()
        await look(kit)
        assert kit.task(task).status == "cancelled"
        assert Worker.log == ["thread", "release all"]
        assert leftovers(kit) == (0, 0, 0, 0)


async def test_a_branch_that_is_cut_short_and_given_up_at_once_does_not_wait_for_the_others() -> None:
    """One beside it had failed: what runs them waits for it, and it would wait for that."""

    async def runs(self: Worker, ctx: Context) -> None:
        await ctx.gather(ctx.step(fails), ctx.step(endless))

    async def fails() -> None:
        [activation] = kit._running[0].host.workers.running
        branch = asyncio.current_task()
        assert branch is not None
        # Called after what has the gather end the other branch, and before that has heard of it.
        branch.add_done_callback(lambda _: _end(activation, "not needed"))
        raise ValueError("no")

    async def endless() -> None:
        await asyncio.Event().wait()

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Errand(program=program(runs)))
        await kit.quiet(timeout_s=5)
        assert [step.decision for step in kit.history(AT)] == ["cancelled"]
        assert leftovers(kit) == (0, 0, 0, 0)


async def test_a_call_of_a_tool_is_waited_for_until_it_is_known_and_then_undone() -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    @tool(effect="at_most_once")
    async def pay(amount: int) -> str:
        """Pay so much."""
        Worker.log.append(f"pay {amount}")
        started.set()
        await go_on.wait()
        return f"receipt {amount}"

    async def pays(self: Worker, ctx: Context) -> None:
        ctx.compensate(release, await ctx.call(pay, 7))
        await ctx.call(pay, 8)

    async with TestKit(KINDS) as kit:
        task = await kit.give_task(AT, goal=program(pays))
        await started.wait()
        await kit.cancel_task(task, "not needed")
        await until(lambda: kit.task(task).status == "cancelling")
        for _ in range(3):
            kit.clock.move_to(kit.clock.now() + 1)
            for _ in range(20):
                await asyncio.sleep(0)
        assert kit.task(task).status == "cancelling"
        go_on.set()
        await kit.quiet()
        await look(kit)
        assert kit.task(task).status == "cancelled"
        assert Worker.log == ["pay 7", "release receipt 7"]


@pytest.mark.parametrize("effect", ["pure", "idempotent"])
async def test_a_call_that_fails_is_not_made_again_once_its_task_is_cancelled(effect: Any) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    @tool(effect=effect, retry=RetryPolicy(attempts=50, first_delay_s=0.0))
    async def pay(amount: int, idempotency_key: str) -> None:
        """Pay so much."""
        Worker.log.append(f"pay {amount}")
        started.set()
        await go_on.wait()
        raise ConnectionError("the bank is away")

    async def pays(self: Worker, ctx: Context) -> None:
        await ctx.call(pay, 7)

    async with TestKit(KINDS) as kit:
        task = await kit.give_task(AT, goal=program(pays))
        await started.wait()
        await kit.cancel_task(task, "not needed")
        await until(lambda: kit.task(task).status == "cancelling")
        kit.clock.move_to(kit.clock.now() + 1)
        for _ in range(20):
            await asyncio.sleep(0)
        go_on.set()
        await kit.quiet()
        await look(kit)
        assert kit.task(task).status == "cancelled"
        assert Worker.log == ["pay 7"]


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


# -- crashes -----------------------------------------------------------------------------------------


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
