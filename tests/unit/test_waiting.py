"""Turns that wait: what is recorded is not computed again, what is awaited arrives once, and waiting holds nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel

from actors import host
from actors.domain import LimitSpec
from actors.journal import Journal
from actors.retry import RetryPolicy
from bus.errors import (
    AskFailed,
    InvalidMessage,
    JournalFull,
    PromiseExpired,
    StaleTurn,
    StepFailed,
    StorageUnavailable,
    UnknownKind,
)
from callboard import Agent, Context, handler, message
from callboard.testing import TestKit
from storage.journal import Does
from tests.unit.agents import Forward, Keeper, Note


@message("waiting.run.v1")
class Run(BaseModel):
    program: str


@message("waiting.question.v1")
class Question(BaseModel):
    text: str


@message("waiting.reply.v1")
class Reply(BaseModel):
    text: str


class Place(BaseModel):
    city: str
    floor: int = 0


class Waiter(Agent):
    """Runs the program that the test has given it."""

    kind = "waiter"
    retry = RetryPolicy(attempts=3, first_delay_s=1.0, jitter=0.0)
    programs: dict[str, Callable[[Waiter, Context], Awaitable[Any]]] = {}  # noqa: RUF012  (shared on purpose)
    calls: list[str] = []  # noqa: RUF012
    starts: list[str] = []  # noqa: RUF012

    class State(BaseModel):
        log: list[str] = []

    state: State

    @handler
    async def on_run(self, run: Run, ctx: Context) -> Any:
        Waiter.starts.append(run.program)
        return await Waiter.programs[run.program](self, ctx)

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None:
        self.state.log.append(f"note {note.text}")


class Oracle(Agent):
    kind = "oracle"
    retry = RetryPolicy(attempts=1)

    class State(BaseModel):
        open: dict[str, str] = {}

    state: State

    @handler
    async def on_question(self, question: Question, ctx: Context) -> Reply | None:
        if question.text == "fail":
            raise ValueError("no idea")
        if question.text == "later":
            self.state.open["later"] = ctx.reply_later()
            return None
        if question.text == "explicit":
            ctx.reply(Reply(text="by hand"))
            return None
        return Reply(text=f"re {question.text}")

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None:
        ctx.resolve(self.state.open["later"], Reply(text=note.text))


def program(function: Callable[[Waiter, Context], Awaitable[Any]]) -> str:
    name = function.__name__
    Waiter.programs[name] = function
    return name


def counted(value: Any = None) -> Callable[[str], Any]:
    def call(name: str) -> Any:
        Waiter.calls.append(name)
        return value if value is not None else name.upper()

    return call


call = counted()


@pytest.fixture(autouse=True)
def fresh() -> None:
    Waiter.programs.clear()
    Waiter.calls, Waiter.starts = [], []


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  (of many things, none signals)
        await asyncio.sleep(0)


AT = "test/waiter/w"
MIB = 1024 * 1024
KINDS: list[type[Agent]] = [Waiter, Oracle, Keeper]


async def put_away(kit: TestKit) -> None:
    """Let the turns that wait leave memory."""
    await kit.advance(seconds=2)
    assert not kit._running[0].host.waiting


def open_turns(kit: TestKit) -> int:
    return len(kit.store.waits.turns)


def leftovers(kit: TestKit) -> tuple[int, int, int]:
    """Open turns, promises and messages."""
    return open_turns(kit), len(kit.store.waits.promises), sum(len(box) for box in kit.store.mail.values())


# -- steps -------------------------------------------------------------------------------------------


async def test_steps_are_computed_once_although_the_handler_runs_again() -> None:
    crashed = asyncio.Event()
    go_on = asyncio.Event()

    async def run(self: Waiter, ctx: Context) -> None:
        for name in ("a", "b"):
            self.state.log.append(await ctx.step(call, name))
        if not go_on.is_set():
            crashed.set()
            await asyncio.Event().wait()
        self.state.log.append(await ctx.step(call, "c"))

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        await crashed.wait()
        await kit.crash()
        go_on.set()
        await kit.recover()
        assert kit.state(AT).log == ["A", "B", "C"]
        assert Waiter.calls == ["a", "b", "c"]
        assert len(Waiter.starts) == 2
        assert leftovers(kit) == (0, 0, 0)


async def test_results_come_back_as_the_annotation_says_and_as_json_without_one() -> None:
    def find(city: str) -> Place:
        return Place(city=city, floor=2)

    async def find_all(*cities: str) -> list[Place]:
        return [Place(city=city) for city in cities]

    def plain() -> Any:
        return {"place": Place(city="x")}

    seen: list[Any] = []

    async def run(self: Waiter, ctx: Context) -> None:
        seen.append(await ctx.step(find, "Riga"))
        seen.append(await ctx.step(find_all, "Bonn", "Oslo"))
        seen.append(await ctx.step(plain))
        await ctx.sleep(5)

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=10)
        once = [
            Place(city="Riga", floor=2), [Place(city="Bonn"), Place(city="Oslo")],
            {"place": {"city": "x", "floor": 0}},
        ]  # fmt: skip
        assert seen == once * 2  # it was put away while it slept, and ran again


async def test_a_step_is_tried_again_as_its_policy_says() -> None:
    failures = [ValueError("once"), ValueError("twice")]

    def flaky() -> str:
        Waiter.calls.append("flaky")
        if failures:
            raise failures.pop()
        return "done"

    async def run(self: Waiter, ctx: Context) -> None:
        self.state.log.append(await ctx.step(flaky, retry=RetryPolicy(attempts=3, first_delay_s=0.01)))

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.advance(seconds=10)
        assert kit.state(AT).log == ["done"]
        assert Waiter.calls == ["flaky"] * 3


async def test_a_failure_that_the_handler_goes_on_from_is_recorded_and_stays() -> None:
    def broken() -> str:
        Waiter.calls.append("broken")
        raise ValueError("no such thing")

    async def run(self: Waiter, ctx: Context) -> None:
        try:
            await ctx.step(broken)
        except StepFailed as error:
            self.state.log.append(error.message)
        await ctx.sleep(5)
        self.state.log.append(await ctx.step(call, "after"))

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=10)
        assert kit.state(AT).log[0].endswith("broken failed: ValueError: no such thing.")
        assert kit.state(AT).log[1] == "AFTER"
        assert Waiter.calls == ["broken", "after"]
        assert len(Waiter.starts) == 2


async def test_a_failed_turn_keeps_its_results_and_tries_only_the_failed_step_again() -> None:
    failures = [ValueError("not yet")]

    def flaky() -> str:
        Waiter.calls.append("flaky")
        if failures:
            raise failures.pop()
        return "done"

    async def run(self: Waiter, ctx: Context) -> None:
        self.state.log.append(await ctx.step(call, "first"))
        self.state.log.append(await ctx.step(flaky))

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.advance(seconds=10)
        assert kit.state(AT).log == ["FIRST", "done"]
        assert Waiter.calls == ["first", "flaky", "flaky"]
        assert kit.dead_letters() == []


async def test_a_turn_that_keeps_failing_becomes_a_dead_letter_and_leaves_nothing_open() -> None:
    def broken() -> str:
        raise ValueError("for good")

    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.step(call, "first")
        await ctx.step(broken)

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.send(AT, Note(text="next"))
        await kit.advance(seconds=30)
        [letter] = kit.dead_letters()
        assert (letter.reason, letter.failures) == ("failed", 3)
        assert "StepFailed" in letter.error
        assert kit.state(AT).log == ["note next"]
        assert Waiter.calls == ["first"]
        assert leftovers(kit) == (0, 0, 0)


@pytest.mark.parametrize("value", [object(), float("nan"), {1: b"\xff"}, "a\0b"])
async def test_a_result_that_json_cannot_carry_is_a_failure_of_the_step(value: Any) -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        try:
            await ctx.step(lambda: value)
        except StepFailed as error:
            self.state.log.append(error.message)

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        assert "InvalidPayload" in kit.state(AT).log[0]


async def test_a_large_result_goes_to_blob_storage_and_a_too_large_one_is_refused() -> None:
    sizes: list[int] = []

    async def run(self: Waiter, ctx: Context) -> None:
        sizes.append(len(await ctx.step(lambda: "x" * 5_000)))
        try:
            await ctx.step(lambda: "x" * 50_000)
        except StepFailed as error:
            self.state.log.append(error.message)
        await ctx.sleep(5)

    async with TestKit(KINDS, limits=LimitSpec(claim_check_bytes=2_000, payload_bytes=20_000)) as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=10)
        assert sizes == [5_000, 5_000]
        assert "PayloadTooLarge" in kit.state(AT).log[0]
        [recorded] = [e for entries in kit.store.waits.journal.values() for e in entries if e.blob]
        assert recorded.value == "null"


async def test_a_result_of_20_mib_is_refused_and_one_below_the_limit_comes_back() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        try:
            await ctx.step(lambda: "x" * (20 * MIB))
        except StepFailed as error:
            self.state.log.append(error.message)
        text = await ctx.step(lambda: "x" * (15 * MIB))
        await ctx.sleep(5)
        self.state.log.append(f"{len(text)}")

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.advance(seconds=10)
        refused, came_back = kit.state(AT).log
        assert "PayloadTooLarge" in refused
        assert came_back == f"{15 * MIB}"


async def test_a_turn_that_records_without_end_is_refused_its_next_call_and_given_up() -> None:
    errors: list[str] = []

    async def run(self: Waiter, ctx: Context) -> None:
        n = 0
        while True:
            try:
                await ctx.step(call, f"{n}")
            except JournalFull as error:
                errors.append(str(error))
                raise
            n += 1
            if n == 3:  # from here on it runs again, and what is recorded counts
                await ctx.sleep(5)

    async with TestKit(KINDS, limits=LimitSpec(journal_entries=10)) as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=10)
        assert Waiter.calls == [str(n) for n in range(9)]  # and the sleep is the tenth
        assert errors == [
            "The turn has recorded 10 calls, the most that `limits.journal_entries` allows. Split the work into several "
            "turns, or raise `limits.journal_entries` or `limits.journal_bytes` in domain.yaml."
        ]
        [dead] = kit.dead_letters(AT)
        assert "JournalFull" in dead.error
        await kit.send(AT, Note(text="goes on"))
        await kit.quiet()
        assert kit.state(AT).log == ["note goes on"]
        assert leftovers(kit) == (0, 0, 0)


async def test_a_turn_may_record_so_many_bytes() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        for n in range(10):
            await ctx.step(counted("x" * 400), f"{n}")

    async with TestKit(KINDS, limits=LimitSpec(journal_bytes=1_024)) as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        assert Waiter.calls == ["0", "1", "2"]
        [dead] = kit.dead_letters(AT)
        assert "limits.journal_bytes" in dead.error


async def test_a_key_used_twice_or_a_call_in_a_task_of_its_own_is_refused() -> None:
    errors: list[str] = []

    async def twice(self: Waiter, ctx: Context) -> None:
        await ctx.step(call, "a", key="k")
        try:
            await ctx.step(call, "b", key="k")
        except InvalidMessage as error:
            errors.append(error.message)

    async def beside(self: Waiter, ctx: Context) -> None:
        try:
            await asyncio.create_task(ctx.step(call, "c", key="c"))
        except InvalidMessage as error:
            errors.append(error.message)
        await ctx.gather(ctx.step(call, "d", key="d"), ctx.step(call, "e"))

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(twice)))
        await kit.send(AT, Run(program=program(beside)))
        await kit.quiet()
        assert "is used twice" in errors[0]
        assert "in a task of its own" in errors[1]
        assert sorted(Waiter.calls) == ["a", "d", "e"]


# -- sends -------------------------------------------------------------------------------------------


async def test_what_was_sent_before_a_wait_goes_out_before_it_and_once() -> None:
    ids: list[str] = []

    async def run(self: Waiter, ctx: Context) -> None:
        ids.append(ctx.send("test/keeper/k", Note(text="before")))
        await ctx.step(call, "a")
        ids.append(ctx.send("test/keeper/k", Note(text="between")))
        await ctx.sleep(60)
        ctx.send("test/keeper/k", Note(text="after"))

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        assert kit.state("test/keeper/k").notes == ["before", "between"]
        await kit.crash()
        await kit.recover()
        await kit.advance(seconds=61)
        assert kit.state("test/keeper/k").notes == ["before", "between", "after"]
        assert ids[:2] == ids[2:]
        [step] = kit.history(AT)
        assert [sent["type"] for sent in step.sends] == ["tests.note.v1"] * 3


# -- asks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["who", "explicit"])
async def test_an_ask_is_answered(text: str) -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        reply = await ctx.ask("test/oracle/o", Question(text=text))
        self.state.log.append(reply.text)

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        assert kit.state(AT).log == ["re who" if text == "who" else "by hand"]
        assert len(Waiter.starts) == 1
        assert leftovers(kit) == (0, 0, 0)


async def test_an_answer_that_comes_after_the_asker_was_put_away_and_crashed_finds_it() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        reply = await ctx.ask("test/oracle/o", Question(text="later"))
        self.state.log.append(reply.text)

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.send(AT, Note(text="waits"))
        await put_away(kit)
        await kit.crash()
        await kit.recover()
        assert len(Waiter.starts) == 1  # a restart costs nothing for what is not due
        assert kit.state(AT).log == []
        await kit.send("test/oracle/o", Note(text="at last"))
        await kit.quiet()
        assert kit.state(AT).log == ["at last", "note waits"]
        assert leftovers(kit) == (0, 0, 0)


async def test_an_ask_whose_message_is_given_up_fails_at_once() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        try:
            await ctx.ask("test/oracle/o", Question(text="fail"))
        except AskFailed as error:
            self.state.log.append(error.message)

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        [line] = kit.state(AT).log
        assert "ValueError: no idea" in line


async def test_an_ask_times_out_by_database_time_and_a_late_answer_changes_nothing() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        try:
            await ctx.ask("test/oracle/o", Question(text="later"), timeout=30)
        except AskFailed as error:
            self.state.log.append(error.reason)

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.advance(seconds=29)
        assert kit.state(AT).log == []
        await kit.advance(seconds=2)
        assert kit.state(AT).log == ["timeout"]
        await kit.send("test/oracle/o", Note(text="too late"))
        await kit.quiet()
        assert kit.state(AT).log == ["timeout"]
        assert leftovers(kit) == (0, 0, 0)


async def test_many_asks_are_gathered_in_order_and_the_first_of_several_wins_for_good() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        replies = await ctx.gather(*(ctx.ask("test/oracle/o", Question(text=f"{n}")) for n in range(5)))
        self.state.log += [reply.text for reply in replies]
        first = await ctx.gather(
            ctx.ask("test/oracle/p", Question(text="later")),
            ctx.ask("test/oracle/q", Question(text="quick")),
            first=1,
        )
        self.state.log += [reply.text for reply in first]
        await ctx.sleep(60)

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.send("test/oracle/p", Note(text="slow"))
        await kit.advance(seconds=61)
        assert kit.state(AT).log == [f"re {n}" for n in range(5)] + ["re quick"]
        assert len(Waiter.starts) > 1
        assert leftovers(kit) == (0, 0, 0)


# -- sleeps and promises -----------------------------------------------------------------------------


async def test_a_turn_that_sleeps_for_days_holds_nothing_and_goes_on() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        self.state.log.append(f"{ctx.now:.0f}")
        await ctx.sleep(3 * 86_400)
        self.state.log.append(f"{ctx.now:.0f}")

    async with TestKit(KINDS) as kit:
        began = kit.clock.now()
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        assert len(kit._running[0].host.mailboxes) == 0
        await kit.advance(seconds=2 * 86_400)
        assert len(Waiter.starts) == 1
        await kit.advance(seconds=86_400)
        assert kit.state(AT).log == [f"{began:.0f}"] * 2  # what the handler takes for now stays the same
        assert leftovers(kit) == (0, 0, 0)


@pytest.mark.parametrize("when", ["before the wait", "while it lingers", "when it was put away"])
async def test_a_promise_is_resolved_once_whenever_that_happens(when: str) -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        promise = await ctx.promise("payment")
        ctx.send("test/keeper/k", Note(text=promise.ref))
        if when == "before the wait":
            await ctx.sleep(60)
        self.state.log.append(await promise)
        await ctx.sleep(60)

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        if when == "when it was put away":
            await put_away(kit)
        [ref] = kit.state("test/keeper/k").notes
        assert await kit.resolve(ref, "paid")
        assert not await kit.resolve(ref, "paid twice")
        await kit.advance(seconds=130)
        assert kit.state(AT).log == ["paid"]
        assert (open_turns(kit), len(kit.store.waits.promises)) == (0, 1)  # its row stays as history


async def test_a_promise_that_nobody_resolves_expires() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        promise = await ctx.promise("payment", timeout=60)
        try:
            await promise
        except PromiseExpired:
            self.state.log.append("expired")

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.advance(seconds=61)
        assert kit.state(AT).log == ["expired"]


# -- the host ----------------------------------------------------------------------------------------


async def test_turns_that_wait_hold_no_worker() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.sleep(60)

    async with TestKit(KINDS, limits=LimitSpec(concurrent_turns=1, linger_s=1_000)) as kit:
        for n in range(20):
            await kit.send(f"test/waiter/{n}", Run(program=program(run)))
        await kit.send("test/keeper/k", Note(text="next"))
        await kit.quiet()
        host = kit._running[0].host
        assert kit.state("test/keeper/k").notes == ["next"]
        assert len(host.waiting) == 20
        await kit.advance(seconds=61)
        assert open_turns(kit) == 0
        await kit.send("test/keeper/k", Note(text="more"))
        await kit.quiet()
        assert host._workers == 1


async def test_only_so_many_turns_wait_in_memory() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.sleep(6_000)
        self.state.log.append("slept")

    async with TestKit(KINDS, limits=LimitSpec(waiting_in_memory=5, linger_s=1_000)) as kit:
        for n in range(20):
            await kit.send(f"test/waiter/{n}", Run(program=program(run)))
        await kit.advance(seconds=1)
        assert len(kit._running[0].host.waiting) == 5
        assert len(kit._running[0].host.mailboxes) == 5
        await kit.advance(seconds=6_001)
        assert all(kit.state(f"test/waiter/{n}").log == ["slept"] for n in range(20))


async def test_a_paused_agent_is_not_woken_and_goes_on_when_it_is_resumed() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        reply = await ctx.ask("test/oracle/o", Question(text="later"))
        self.state.log.append(reply.text)

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        await kit.pause(AT)
        await kit.advance(seconds=1)
        assert kit.lifecycle(AT) == "paused"
        await kit.send("test/oracle/o", Note(text="answer"))
        await kit.advance(seconds=5)
        assert (kit.state(AT).log, len(Waiter.starts)) == ([], 1)
        await kit.resume(AT)
        await kit.quiet()
        assert kit.state(AT).log == ["answer"]


async def test_later_messages_wait_for_the_turn_that_waits_also_when_it_is_tried_again() -> None:
    failures = [ValueError("not yet")]

    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.step(call, "a")
        await ctx.sleep(5)
        if failures:
            raise failures.pop()
        self.state.log.append("done")

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        for n in range(3):
            await kit.send(AT, Note(text=f"{n}"))
        await kit.advance(seconds=30)
        assert kit.state(AT).log == ["done", "note 0", "note 1", "note 2"]


async def test_a_handler_that_does_something_else_than_before_is_parked_with_both_keys_shown() -> None:
    turns: list[int] = []

    async def run(self: Waiter, ctx: Context) -> None:
        turns.append(1)
        if len(turns) == 1:
            await ctx.step(call, "a")
        else:
            await ctx.sleep(1)
        await ctx.sleep(5)

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=60)
        assert kit.lifecycle(AT) == "paused"
        assert "calls sleep sleep; the journal has step" in str(kit.history(AT)[-1].notes)
        assert (open_turns(kit), kit.dead_letters()) == (1, [])
        turns.clear()  # the code is mended
        await kit.resume(AT)
        await kit.quiet()
        assert (open_turns(kit), kit.lifecycle(AT)) == (0, "running")
        assert Waiter.calls == ["a"]


@pytest.mark.parametrize("crash_at", range(1, 9))
@pytest.mark.parametrize("point", ["commit.before", "commit.after"])
async def test_a_crash_on_either_side_of_a_flush_neither_loses_nor_doubles(point: str, crash_at: int) -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        for n in range(4):
            ctx.send("test/keeper/k", Note(text=f"{n}"))
            reply = await ctx.ask("test/oracle/o", Question(text=f"{n}"))
            self.state.log.append(reply.text)

    async with TestKit(KINDS) as kit:
        commits = 0
        fatal = asyncio.Event()

        def passing(reached: str) -> None:
            nonlocal commits
            commits += reached == point
            if commits == crash_at:
                kit.store.passing = lambda point: None
                fatal.set()
                raise asyncio.CancelledError  # the process is gone: nobody learns of the outcome

        kit.store.passing = passing
        await kit.send(AT, Run(program=program(run)))
        async with asyncio.timeout(5):
            await fatal.wait()
        await kit.crash()
        await kit.recover()
        assert kit.state(AT).log == [f"re {n}" for n in range(4)]
        assert kit.state("test/keeper/k").notes == [f"{n}" for n in range(4)]
        assert leftovers(kit) == (0, 0, 0)


async def test_a_wake_up_that_comes_while_a_failure_is_written_down_is_there_for_the_next_try() -> None:
    refs: list[str] = []
    failed = asyncio.Event()

    async def resolve(ref: str, value: str) -> None:
        assert await kit.resolve(ref, value)
        for _ in range(20):  # until the wake-up has reached the host
            await asyncio.sleep(0)

    async def fails_once() -> str:
        if not failed.is_set():
            await resolve(refs[0], "one")  # so there is something to write down when the turn fails
            failed.set()
            raise ValueError("not yet")
        return "done"

    async def run(self: Waiter, ctx: Context) -> None:
        promises = [await ctx.promise("one"), await ctx.promise("two")]
        refs[:] = [promise.ref for promise in promises]
        self.state.log.append(await ctx.step(fails_once))
        self.state.log += [await promise for promise in promises]

    async with TestKit(KINDS) as kit:
        commit = kit.store.commit
        resolved = False

        async def slow(fence: Any, writes: Any, marks: Any) -> Any:
            nonlocal resolved
            written = await commit(fence, writes, marks)
            if failed.is_set() and not resolved:
                resolved = True
                await resolve(refs[1], "two")
            return written

        kit.store.commit = slow  # type: ignore[method-assign]
        await kit.send(AT, Run(program=program(run)))
        await kit.advance(seconds=30)
        assert kit.state(AT).log == ["done", "one", "two"]
        assert open_turns(kit) == 0


async def test_a_wake_up_for_a_turn_whose_end_is_on_its_way_does_not_run_it_again() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        promise = await ctx.promise("payment")
        Waiter.calls.append(promise.ref)

    async with TestKit(KINDS) as kit:
        commit = kit.store.commit

        async def slow(fence: Any, writes: Any, marks: Any) -> Any:
            if any(write.journal is not None and write.journal.does is Does.END for write in writes):
                assert await kit.resolve(Waiter.calls[0], "paid")
                for _ in range(20):  # until the wake-up has reached the host
                    await asyncio.sleep(0)
            return await commit(fence, writes, marks)

        kit.store.commit = slow  # type: ignore[method-assign]
        await kit.send(AT, Run(program=program(run)))
        await kit.advance(seconds=5)
        assert len(Waiter.starts) == 1
        assert (open_turns(kit), sum(len(box) for box in kit.store.mail.values())) == (0, 0)


async def test_a_turn_that_waits_for_its_blobs_runs_again_after_what_its_other_branch_has_flushed() -> None:
    flushing, is_away = asyncio.Event(), asyncio.Event()

    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.gather(ctx.step(call, "a"), ctx.step(large))
        self.state.log.append("done")

    async def large() -> str:
        await flushing.wait()
        return "y" * 5_000

    async with TestKit(KINDS, limits=LimitSpec(claim_check_bytes=2_000)) as kit:
        put_blob, commit = kit.store.put_blob, kit.store.commit

        async def fails_once(*arguments: Any) -> None:
            if not is_away.is_set():
                is_away.set()
                raise StorageUnavailable("Away.")
            await put_blob(*arguments)

        async def slow(fence: Any, writes: Any, marks: Any) -> Any:
            if not is_away.is_set() and any(w.journal is not None and w.journal.entries for w in writes):
                flushing.set()
                await is_away.wait()
                await asyncio.sleep(
                    3 * host._BLOB_RETRY_S
                )  # time enough for a second run to read the journal
            return await commit(fence, writes, marks)

        kit.store.put_blob, kit.store.commit = fails_once, slow  # type: ignore[method-assign,assignment]
        await kit.send(AT, Run(program=program(run)))
        async with asyncio.timeout(10):
            while not kit.state(AT).log:  # noqa: ASYNC110  (rows that another task writes)
                await asyncio.sleep(0.01)
        assert (kit.state(AT).log, Waiter.calls) == (["done"], ["a"])
        (journal,) = kit.store.waits.journal.values()
        assert [entry.number for entry in journal] == list(range(1, len(journal) + 1))


async def test_an_ask_that_waits_for_another_branchs_blob_is_sent_when_the_turn_runs_again() -> None:
    storing: list[str] = []

    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.step(call, "before")

        async def ask() -> Any:
            await until(lambda: storing)
            return await ctx.ask("test/oracle/o", Question(text="now"))

        _, answer = await ctx.gather(ctx.step(large), ask())
        self.state.log.append(answer.text)

    async def large() -> str:
        return "y" * 5_000

    async with TestKit(KINDS, limits=LimitSpec(claim_check_bytes=2_000)) as kit:
        put_blob = kit.store.put_blob

        async def away_for_two(domain: str, tenant: str, digest: str, data: bytes) -> None:
            storing.append(digest)
            if len(storing) <= 2:
                await until(
                    lambda: len(storing) >= 2
                )  # the step's, and the ask's, which flushes what is there
                raise StorageUnavailable("Away.")
            await put_blob(domain, tenant, digest, data)

        kit.store.put_blob = away_for_two  # type: ignore[method-assign]
        await kit.send(AT, Run(program=program(run)))
        async with asyncio.timeout(10):
            while not kit.state(AT).log:  # noqa: ASYNC110  (rows that another task writes)
                await asyncio.sleep(0.01)
        assert len(storing) >= 3


async def test_a_second_run_that_flushes_the_same_is_refused_and_the_turn_goes_on_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flushing, is_away = asyncio.Event(), asyncio.Event()

    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.step(call, "before")
        await ctx.gather(ctx.step(call, "a"), ctx.step(large))
        self.state.log.append(await ctx.step(call, "after"))

    async def large() -> str:
        await flushing.wait()
        return "y" * 5_000

    async def nothing(journal: Journal) -> None:
        """Planted: a turn that is to run again does not wait for what its other branch has on its way."""

    async with TestKit(KINDS, limits=LimitSpec(claim_check_bytes=2_000)) as kit:
        put_blob, commit = kit.store.put_blob, kit.store.commit
        refused: list[str] = []

        async def fails_once(*arguments: Any) -> None:
            if not is_away.is_set():
                is_away.set()
                raise StorageUnavailable("Away.")
            await put_blob(*arguments)

        async def slow(fence: Any, writes: Any, marks: Any) -> Any:
            if "a" in Waiter.calls and not is_away.is_set():
                flushing.set()
                await is_away.wait()
                await until(lambda: Waiter.calls == ["before", "a", "a"])
            try:
                return await commit(fence, writes, marks)
            except StaleTurn as error:
                refused.append(error.message)
                raise

        kit.store.put_blob, kit.store.commit = fails_once, slow  # type: ignore[method-assign,assignment]
        monkeypatch.setattr(Journal, "settled", nothing)
        monkeypatch.setattr(Journal, "write_down", nothing)
        await kit.send(AT, Run(program=program(run)))
        async with asyncio.timeout(10):
            while not kit.state(AT).log:  # noqa: ASYNC110  (rows that another task writes)
                await asyncio.sleep(0.01)
        assert kit.state(AT).log == ["AFTER"]
        assert set(refused) == {"Others have recorded something in an open turn."}
        (journal,) = kit.store.waits.journal.values()
        assert [entry.number for entry in journal] == list(range(1, len(journal) + 1))
        assert len({entry.key for entry in journal}) == len(journal)


async def test_what_one_branch_flushes_refers_to_no_blob_that_another_has_not_stored_yet() -> None:
    missing: list[str] = []
    may_store = asyncio.Event()

    async def slow() -> str:
        return "x" * 5_000

    async def later() -> str:
        await storing.wait()  # the result of the other is recorded
        asyncio.get_running_loop().call_later(0.01, may_store.set)
        return "y" * 5_000

    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.gather(ctx.step(slow), ctx.step(later))

    storing = asyncio.Event()
    async with TestKit(KINDS, limits=LimitSpec(claim_check_bytes=2_000)) as kit:
        put_blob, commit = kit.store.put_blob, kit.store.commit

        async def slow_put(*arguments: Any) -> None:
            storing.set()
            await may_store.wait()
            for _ in range(20 * arguments[-1].startswith(b'"y')):
                await asyncio.sleep(0)
            await put_blob(*arguments)

        async def watched(fence: Any, writes: Any, marks: Any) -> Any:
            entries = [entry for write in writes if write.journal for entry in write.journal.entries]
            stored = {digest for _, _, digest in kit.store.blobs}
            missing.extend(entry.key for entry in entries if entry.blob and entry.blob not in stored)
            return await commit(fence, writes, marks)

        kit.store.put_blob, kit.store.commit = slow_put, watched  # type: ignore[method-assign,assignment]
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        assert missing == []
        assert open_turns(kit) == 0


async def test_a_message_sent_after_the_turn_keeps_its_order_behind_what_was_flushed() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        ctx.send("test/keeper/k", Note(text="1"))
        ctx.send("test/keeper/f", Forward(to="test/keeper/k", text="far"))
        await ctx.step(call, "a")
        ctx.send("test/keeper/k", Note(text="2"))

    async with TestKit(KINDS, hosts=2) as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        notes = kit.state("test/keeper/k").notes
        assert [note for note in notes if note != "far"] == ["1", "2"]


# -- what an attack has found ------------------------------------------------------------------------


async def test_an_ask_that_is_refused_leaves_nothing_behind() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        try:
            await ctx.ask("test/nobody/x", Question(text="?"), timeout=30)
        except UnknownKind:
            self.state.log.append("refused")
        ctx.send("test/keeper/k", Note(text="once"))
        await ctx.sleep(60)

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=61)
        assert kit.state(AT).log == ["refused"]
        assert kit.state("test/keeper/k").notes == ["once"]
        assert leftovers(kit) == (0, 0, 0)


async def test_an_answer_above_the_claim_check_arrives_whole() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        reply = await ctx.ask("test/oracle/o", Question(text="x" * 5_000))
        self.state.log.append(str(len(reply.text)))
        await ctx.sleep(60)

    async with TestKit(KINDS, limits=LimitSpec(claim_check_bytes=2_000)) as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=61)
        assert kit.state(AT).log == [str(5_000 + len("re "))]


async def test_a_promise_that_has_expired_stays_expired_however_often_the_turn_is_tried() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        await (await ctx.promise("ok", timeout=10))

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=60)
        [letter] = kit.dead_letters()
        assert (letter.failures, "PromiseExpired" in letter.error) == (3, True)
        assert open_turns(kit) == 0


async def test_a_dead_letter_that_is_tried_again_starts_with_a_journal_of_its_own() -> None:
    good: list[bool] = []

    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.step(call, "a")
        promise = await ctx.promise("person")
        ctx.send("test/keeper/k", Note(text=promise.ref))
        await ctx.step(call, "b")
        if not good:
            raise ValueError("bad times")
        self.state.log.append(await promise)

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.advance(seconds=30)
        [letter] = kit.dead_letters()
        good.append(True)
        await kit.retry_dead_letter(letter.id)
        await kit.quiet()
        assert await kit.resolve(kit.state("test/keeper/k").notes[-1], "yes")
        await kit.quiet()
        assert kit.state(AT).log == ["yes"]
        assert Waiter.calls == ["a", "b", "a", "b"]


async def test_branches_that_were_given_up_are_not_called_for_again() -> None:
    async def slow(ctx: Context) -> str:
        for name in ("s1", "s2", "s3"):
            await asyncio.sleep(0)
            await ctx.step(call, name)
        await ctx.sleep(1_000)
        return "slow"

    async def run(self: Waiter, ctx: Context) -> None:
        [first] = await ctx.gather(ctx.sleep(30), slow(ctx), first=1)
        self.state.log.append(str(first))
        await ctx.sleep(30)

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=31)
        await put_away(kit)
        await kit.advance(seconds=31)
        assert kit.state(AT).log == ["None"]
        assert Waiter.calls == ["s1", "s2", "s3"]
        assert leftovers(kit) == (0, 0, 0)


async def test_a_ref_with_a_wrong_owner_settles_nothing() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        promise = await ctx.promise("payment")
        ctx.send("test/keeper/k", Note(text=promise.ref))
        self.state.log.append(await promise)

    async def resolve(self: Waiter, ctx: Context) -> None:
        ref = refs[0]
        ctx.resolve(ref.replace("waiter/w", "waiter/other"), "wrong")
        ctx.resolve(ref, "right")

    refs: list[str] = []
    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        refs += kit.state("test/keeper/k").notes
        await kit.send("test/waiter/third", Run(program=program(resolve)))
        await kit.quiet()
        assert kit.state(AT).log == ["right"]


async def test_what_is_sent_later_counts_from_now_and_not_from_the_turns_beginning() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.sleep(1_000)
        ctx.send_later("test/keeper/k", Note(text="later"), delay_s=100)

    async with TestKit(KINDS) as kit:
        began = kit.clock.now()
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=1_001)
        assert kit.state("test/keeper/k").notes == []
        assert kit.history(AT)[-1].at >= began + 1_000
        await kit.advance(seconds=101)
        assert kit.state("test/keeper/k").notes == ["later"]


async def test_an_agent_that_is_destroyed_while_a_turn_waits_takes_that_turn_along() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        self.state.log.append("before")
        await ctx.sleep(60)

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.destroy(AT)
        await kit.send(AT, Note(text="after"))
        await kit.advance(seconds=61)
        [letter] = kit.dead_letters()
        assert letter.reason == "destroyed"
        assert kit.state(AT).log == ["note after"]
        assert leftovers(kit) == (0, 0, 0)


async def test_a_turn_whose_blob_cannot_be_stored_goes_on_from_its_journal() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.step(call, "a")
        await ctx.step(lambda: "x" * 5_000)
        self.state.log.append("done")

    async with TestKit(KINDS, limits=LimitSpec(claim_check_bytes=2_000)) as kit:
        put_blob, failures = kit.store.put_blob, [StorageUnavailable("Away.")]

        async def flaky(*arguments: Any) -> None:
            if failures:
                raise failures.pop()
            await put_blob(*arguments)

        kit.store.put_blob = flaky  # type: ignore[method-assign,assignment]
        await kit.send(AT, Run(program=program(run)))
        async with asyncio.timeout(10):
            while not kit.state(AT).log:  # noqa: ASYNC110  (it tries again by real time)
                await asyncio.sleep(0.05)
        assert Waiter.calls == ["a"]
        assert kit.dead_letters() == []


async def test_nothing_overtakes_an_open_turn_after_a_crash() -> None:
    gate = asyncio.Event()

    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.step(call, "a")
        await gate.wait()
        self.state.log.append("run")

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        await until(lambda: Waiter.calls)
        await kit.send(AT, Note(text="1"))
        await kit.crash()
        recovery = asyncio.create_task(kit.recover())
        await until(lambda: len(Waiter.starts) == 2)
        for n in (2, 3):
            await kit.send("test/keeper/s", Forward(to=AT, text=str(n)))
        for _ in range(50):
            await asyncio.sleep(0)
        gate.set()
        await recovery
        assert kit.state(AT).log[:2] == ["run", "note 1"]
        assert kit.state(AT).log[2:] == ["note 2", "note 3"]


async def test_a_turn_that_makes_progress_is_no_crash_loop() -> None:
    gates = [asyncio.Event() for _ in range(8)]
    reached: list[int] = []

    async def run(self: Waiter, ctx: Context) -> None:
        for n, gate in enumerate(gates):
            await ctx.step(call, f"{n}")
            reached.append(n)
            await gate.wait()
        self.state.log.append("done")

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        for n, gate in enumerate(gates):
            await until(partial(reached.__contains__, n))
            await kit.crash()
            gate.set()
            kit.store.end_host(kit._running[0].host.fence, "it crashed")
            everything = kit._running[0].partitions
            kit._hosts.running[0] = kit._hosts.start(everything, suspect=everything)
        await kit.quiet()
        assert (kit.state(AT).log, kit.dead_letters()) == (["done"], [])


async def test_what_a_read_of_the_partition_leaves_out_for_an_open_turn_keeps_its_place() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.ask("test/oracle/o", Question(text="later"))

    async with TestKit(KINDS) as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        holdings, post = kit._running[0].host.holdings, kit._post
        post._nudge = lambda *_: None  # type: ignore[method-assign]  # the bus loses the first one
        await kit.send(AT, Note(text="1"))
        del post._nudge
        for partition in holdings.all_partitions():
            holdings.read_again(partition)
        await kit.quiet()
        await kit.send("test/keeper/f", Forward(to=AT, text="2"))
        await kit.quiet()
        await kit.send("test/oracle/o", Note(text="now"))
        await kit.quiet()
        assert kit.state(AT).log == ["note 1", "note 2"]
