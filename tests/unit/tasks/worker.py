"""A worker that runs, as the assignee of a task or for another agent, what a test has given it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel

from callboard import Agent, Context, RetryPolicy, TaskWork, handler, message
from tests.unit.agents import Note


@message("worker.errand.v1")
class Errand(BaseModel):
    """Runs a program in a turn of its own."""

    program: str


Program = Callable[["Worker", Context], Awaitable[Any]]


class Worker(Agent):
    """Does what the goal of its task names."""

    kind = "worker"
    retry = RetryPolicy(attempts=2, first_delay_s=1.0, jitter=0.0)
    programs: dict[str, Program] = {}  # noqa: RUF012  (shared on purpose)
    log: list[str] = []  # noqa: RUF012

    class State(BaseModel):
        noted: list[str] = []

    state: State

    @handler
    async def on_task(self, work: TaskWork, ctx: Context) -> None:
        await Worker.programs[work.goal](self, ctx)

    @handler
    async def on_errand(self, errand: Errand, ctx: Context) -> str:
        await Worker.programs[errand.program](self, ctx)
        return errand.program

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None:
        self.state.noted.append(note.text)


def fresh(*programs: Program) -> None:
    """Nothing has been done yet, and these are known."""
    Worker.log = []
    Worker.programs = {each.__name__: each for each in programs}


def program(function: Program) -> str:
    """Make one more known; its name, for the goal of a task or an errand."""
    Worker.programs[function.__name__] = function
    return function.__name__


def do(name: str) -> str:
    Worker.log.append(name)
    return name


def undo(name: str) -> None:
    Worker.log.append(f"undo {name}")
