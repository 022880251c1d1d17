"""A worker whose turn has bought something and sleeps, for operators to end or to edit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel

from actors.retry import RetryPolicy
from callboard import Agent, Context, handler, message
from callboard.testing import TestKit
from tests.unit.agents import Note

AT = "test/worker/a"
made: list[str] = []


@message("turns.run.v1")
class Run(BaseModel):
    program: str


class Worker(Agent):
    kind = "worker"
    retry = RetryPolicy(attempts=2, first_delay_s=1.0, jitter=0.0)
    programs: dict[str, Callable[[Worker, Context], Awaitable[Any]]] = {}  # noqa: RUF012  (shared on purpose)

    class State(BaseModel):
        log: list[str] = []

    state: State

    async def on_created(self, ctx: Context) -> None:
        self.state.log.append("created")
        ctx.send("test/worker/log", Note(text="created"))

    @handler
    async def on_run(self, run: Run, ctx: Context) -> None:
        await Worker.programs[run.program](self, ctx)

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None:
        self.state.log.append(note.text)


def program(function: Callable[[Worker, Context], Awaitable[Any]]) -> Run:
    Worker.programs["it"] = function
    return Run(program="it")


def price(of: str) -> int:
    made.append(of)
    return 10


async def shop(self: Worker, ctx: Context) -> None:
    paid = await ctx.step(price, "apples")
    await ctx.sleep(3600)
    self.state.log.append(f"paid {paid}")


async def at_the_sleep(kit: TestKit) -> None:
    await kit.send(AT, program(shop))
    await kit.advance(minutes=1)
    assert kit.state(AT).log == []
