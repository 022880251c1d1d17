"""An agent that runs what a test has given it, one that it may ask, and what a test wants to know of their turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from pydantic import BaseModel

from actors.retry import RetryPolicy
from callboard import Agent, Context, handler, message
from callboard.testing import TestKit
from tests.unit.agents import Keeper, Note


@message("waiting.run.v1")
class Run(BaseModel):
    program: str


@message("waiting.question.v1")
class Question(BaseModel):
    text: str


@message("waiting.reply.v1")
class Reply(BaseModel):
    text: str


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


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  (of many things, none signals)
        await asyncio.sleep(0)


AT = "test/waiter/w"


KINDS: list[type[Agent]] = [Waiter, Oracle, Keeper]


@asynccontextmanager
async def waiters(**options: Any) -> AsyncIterator[TestKit]:
    """A kit in which no program has run yet."""
    Waiter.programs.clear()
    Waiter.calls, Waiter.starts = [], []
    async with TestKit(KINDS, **options) as kit:
        yield kit


async def put_away(kit: TestKit) -> None:
    """Let the turns that wait leave memory."""
    await kit.advance(seconds=2)
    assert not kit._running[0].host.waiting


def open_turns(kit: TestKit) -> int:
    return len(kit.store.waits.turns)


def leftovers(kit: TestKit) -> tuple[int, int, int]:
    """Open turns, promises and messages."""
    return (
        open_turns(kit),
        len(kit.store.waits.promises.rows),
        sum(len(box) for box in kit.store.mail.boxes.values()),
    )
