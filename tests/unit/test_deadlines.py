"""Deadlines of messages whose turns wait: no wait outlasts them, and what was done is undone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic import BaseModel

from actors.retry import RetryPolicy
from bus.errors import AskFailed, DeadlineExceeded, PromiseExpired
from callboard import Agent, Context, NotDone, handler, message, tool
from callboard.testing import TestKit


@message("deadlines.run.v1")
class Run(BaseModel):
    program: str


@message("deadlines.question.v1")
class Question(BaseModel):
    how: str = "silent"


class Clerk(Agent):
    """Runs the program that the test has given it."""

    kind = "clerk"
    retry = RetryPolicy(attempts=3, first_delay_s=30.0, jitter=0.0)
    programs: dict[str, Program] = {}  # noqa: RUF012  (shared on purpose)
    done: list[str] = []  # noqa: RUF012

    class State(BaseModel):
        log: list[str] = []

    state: State

    @handler
    async def on_run(self, run: Run, ctx: Context) -> None:
        await Clerk.programs[run.program](self, ctx)


class Oracle(Agent):
    """Never answers, asks another one of its kind that never does, or fails."""

    kind = "oracle"
    retry = RetryPolicy(attempts=1)

    @handler
    async def on_question(self, question: Question, ctx: Context) -> str | None:
        if question.how == "passes on":
            answer: str = await ctx.ask("test/oracle/last", Question())
            return answer
        ctx.reply_later()
        return None


Program = Callable[[Clerk, Context], Awaitable[Any]]
AT = "test/clerk/c"
KINDS: list[type[Agent]] = [Clerk, Oracle]


def program(function: Program) -> Run:
    Clerk.programs[function.__name__] = function
    return Run(program=function.__name__)


def do(name: str) -> str:
    Clerk.done.append(name)
    return name


def undo(name: str) -> None:
    Clerk.done.append(f"undo {name}")


@tool(effect="at_most_once", requires_approval=True)
def block(address: str) -> str:
    """Block an address."""
    return do(f"block {address}")


@tool(effect="at_most_once")
def vanish(address: str) -> str:
    """Ends so that nobody knows what it did."""
    raise ConnectionError("cut")


@pytest.fixture(autouse=True)
def fresh() -> None:
    Clerk.programs.clear()
    Clerk.done = []


async def promised(ctx: Context) -> Any:
    return await (await ctx.promise("paid"))


WAITS: dict[str, Callable[[Context], Awaitable[Any]]] = {
    "sleep": lambda ctx: ctx.sleep(1_000),
    "ask": lambda ctx: ctx.ask("test/oracle/o", Question()),
    "ask with a timeout": lambda ctx: ctx.ask("test/oracle/o", Question(), timeout=1_000),
    "ask that is handed on": lambda ctx: ctx.ask("test/oracle/o", Question(how="passes on")),
    "promise": promised,
    "approval": lambda ctx: ctx.approval("block", timeout=1_000, on_timeout="approve"),
    "call": lambda ctx: ctx.call(block, "10.0.0.1"),
    "outcome": lambda ctx: ctx.call(vanish, "10.0.0.1"),
    "gather": lambda ctx: ctx.gather(ctx.sleep(1_000), ctx.ask("test/oracle/o", Question())),
    "the first of a gather": lambda ctx: ctx.gather(ctx.sleep(900), ctx.sleep(1_000), first=1),
}


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("wait", WAITS)
async def test_no_wait_outlasts_the_deadline_of_its_message(wait: str, restart: bool) -> None:
    async def run(self: Clerk, ctx: Context) -> None:
        ctx.compensate(undo, await ctx.step(do, "step"))
        self.state.log.append("began")
        await WAITS[wait](ctx)
        self.state.log.append("went on")

    async with TestKit(KINDS) as kit:
        deadline = kit.clock.now() + 100
        await kit.send(AT, program(run), deadline=deadline)
        await kit.advance(seconds=90)
        assert (kit.dead_letters(AT), Clerk.done) == ([], ["step"])
        if restart:
            await kit.crash()
        await kit.advance(seconds=11)
        if restart:
            await kit.recover()
        [letter] = kit.dead_letters(AT)
        assert (letter.reason, letter.error.partition(":")[0]) == ("expired", "DeadlineExceeded")
        assert (kit.state(AT).log, Clerk.done) == ([], ["step", "undo step"])
        await kit.advance(seconds=2_000)
        assert (len(kit.dead_letters(AT)), kit.store.waits.turns) == (1, {})
        assert [row.status for row in kit.store.waits.promises.rows.values() if row.status == "pending"] == []


@pytest.mark.parametrize("restart", [False, True])
async def test_a_handler_may_end_by_itself_once_the_deadline_has_passed_and_waits_for_nothing_more(
    restart: bool,
) -> None:
    async def run(self: Clerk, ctx: Context) -> None:
        waits: list[Callable[[], Awaitable[Any]]] = [
            lambda: ctx.sleep(1_000),
            lambda: ctx.sleep(0),
            lambda: ctx.promise("paid"),
            lambda: ctx.ask("test/oracle/o", Question()),
            lambda: ctx.approval("block"),
        ]
        for place, wait in enumerate(waits):
            try:
                await wait()
            except DeadlineExceeded:
                self.state.log.append(f"too late {place}")
        self.state.log.append(await ctx.step(do, "the rest"))

    async with TestKit(KINDS) as kit:
        await kit.send(AT, program(run), deadline=kit.clock.now() + 100)
        await kit.quiet()
        if restart:
            await kit.crash()
            await kit.recover()
        await kit.advance(seconds=200)
        assert kit.state(AT).log == [*(f"too late {place}" for place in range(5)), "the rest"]
        assert (kit.dead_letters(), Clerk.done, len(kit.store.waits.promises.rows)) == ([], ["the rest"], 0)


async def test_a_timeout_before_the_deadline_is_a_timeout() -> None:
    async def run(self: Clerk, ctx: Context) -> None:
        try:
            await ctx.ask("test/oracle/o", Question(), timeout=10)
        except AskFailed as error:
            self.state.log.append(error.reason)
        try:
            await (await ctx.promise("paid", timeout=10))
        except PromiseExpired:
            self.state.log.append("expired")
        decision = await ctx.approval("block", timeout=10, on_timeout="approve")
        self.state.log.append(f"approved by {decision.by}")

    async with TestKit(KINDS) as kit:
        await kit.send(AT, program(run), deadline=kit.clock.now() + 100)
        await kit.advance(seconds=60)
        assert kit.state(AT).log == ["timeout", "expired", "approved by None"]


async def test_what_a_turn_sends_and_asks_has_its_deadline() -> None:
    async def run(self: Clerk, ctx: Context) -> None:
        ctx.send("test/oracle/sent", Question())
        await ctx.step(do, "between")
        ctx.send("test/oracle/later", Question())
        ctx.send_later("test/oracle/timer", Question(), delay_s=5)
        for timeout in (None, 1_000, 10):
            try:
                await ctx.ask(
                    f"test/oracle/{timeout}", Question(how="passes on"), timeout=timeout, key=f"{timeout}"
                )
            except AskFailed:
                self.state.log.append("timeout")

    async with TestKit(KINDS) as kit:
        began = kit.clock.now()
        await kit.send(AT, program(run), deadline=began + 100)
        await kit.advance(seconds=1)
        handed_on = {
            o.agent: o.header.deadline for o in kit.store.sent if o.header.type == "deadlines.question.v1"
        }
        assert handed_on == dict.fromkeys(
            ("oracle/sent", "oracle/later", "oracle/timer", "oracle/None", "oracle/last"), began + 100
        )


async def test_an_asker_that_hears_at_its_deadline_that_its_ask_was_given_up_is_too_late_as_well() -> None:
    async def run(self: Clerk, ctx: Context) -> None:
        await ctx.ask("test/oracle/o", Question(how="passes on"))

    async with TestKit(KINDS) as kit:
        settle_due = kit.store.waits.promises.settle_due

        def only_of_the_oracle(*arguments: Any) -> Any:
            [mine] = [row for row in kit.store.waits.promises.rows.values() if row.agent == "clerk/c"]
            mine.status = "held back"
            try:
                return settle_due(*arguments)
            finally:
                mine.status = "pending"

        await kit.send(AT, program(run), deadline=kit.clock.now() + 100)
        await kit.advance(seconds=99)
        kit.store.waits.promises.settle_due = only_of_the_oracle  # type: ignore[method-assign,assignment]
        kit.clock.move_to(kit.clock.now() + 1)
        async with asyncio.timeout(10):
            while not kit.dead_letters(AT):  # noqa: ASYNC110  (rows that another task writes)
                await asyncio.sleep(0)
        assert [(letter.address, letter.reason) for letter in kit.dead_letters()] == [
            ("test/oracle/o", "expired"), (AT, "expired"),
        ]  # fmt: skip


async def test_an_ask_whose_message_has_expired_in_its_mailbox_was_not_answered_in_time() -> None:
    async def run(self: Clerk, ctx: Context) -> None:
        try:
            await ctx.ask("test/clerk/busy", Run(program="run"), timeout=50)
        except AskFailed as error:
            self.state.log.append(error.reason)

    async def busy(self: Clerk, ctx: Context) -> None:
        await ctx.sleep(200)

    async with TestKit(KINDS) as kit:
        await kit.send("test/clerk/busy", program(busy))
        await kit.send(AT, program(run))
        await kit.advance(seconds=300)
        assert kit.state(AT).log == ["timeout"]


async def test_a_turn_that_has_failed_is_not_tried_again_after_the_deadline() -> None:
    async def run(self: Clerk, ctx: Context) -> None:
        ctx.compensate(undo, await ctx.step(do, "step"))
        raise NotDone("not now")

    async with TestKit(KINDS) as kit:
        await kit.send(AT, program(run), deadline=kit.clock.now() + 80)
        await kit.advance(seconds=50)  # two tries; the third would be 90 s after the first
        assert Clerk.done == ["step"]
        await kit.advance(seconds=200)
        [letter] = kit.dead_letters()
        assert (letter.reason, Clerk.done) == ("expired", ["step", "undo step"])
