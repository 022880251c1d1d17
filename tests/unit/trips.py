"""A clerk that books as a test has told it, and gives back what it has booked."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel

from actors.retry import RetryPolicy
from callboard import Agent, Context, handler, message
from callboard.testing import TestKit
from tests.unit.agents import Keeper, Note

Program = Callable[["Clerk", Context], Awaitable[Any]]
ONCE = RetryPolicy(attempts=1)
AT = "test/clerk/c"


@message("saga.run.v1")
class Run(BaseModel):
    program: str


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


KINDS: list[type[Agent]] = [Clerk, Keeper]


def calls(kit: TestKit) -> list[tuple[str, str, bool]]:
    """Kind, name and success of what the last turn has recorded."""
    body = json.loads(kit.history(AT)[-1].body)
    return [(c["kind"], c["name"], c["ok"]) for c in body["calls"]]
