"""An agent that calls tools as a test has told it to, and the world that they act on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel

from actors.retry import RetryPolicy
from callboard import Agent, Context, handler, message, tool
from callboard.testing import TestKit


@message("tools.run.v1")
class Run(BaseModel):
    program: str


class Receipt(BaseModel):
    id: int
    address: str


class Caller(Agent):
    """Runs the program that the test has given it."""

    kind = "caller"
    retry = RetryPolicy(attempts=3, first_delay_s=1.0, jitter=0.0)
    programs: dict[str, Callable[[Caller, Context], Awaitable[Any]]] = {}  # noqa: RUF012  (shared on purpose)

    class State(BaseModel):
        log: list[str] = []

    state: State

    @handler
    async def on_run(self, run: Run, ctx: Context) -> None:
        await Caller.programs[run.program](self, ctx)


AT = "test/caller/a"


KINDS = [Caller]


def program(function: Callable[[Caller, Context], Awaitable[Any]]) -> Run:
    Caller.programs[function.__name__] = function
    return Run(program=function.__name__)


class World:
    """The outside: what has acted in it, by idempotency key."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.gate: asyncio.Event | None = None
        self.begun = asyncio.Event()
        self.fails: list[Exception] = []

    async def act(self, what: str) -> Receipt:
        self.begun.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.fails:
            raise self.fails.pop(0)
        self.calls.append(what)
        return Receipt(id=len(self.calls), address=what)


def blocking(world: World, **options: Any) -> Any:
    @tool(effect="at_most_once", **options)
    async def block_address(address: str, minutes: int = 60) -> Receipt:
        """Block an address."""
        return await world.act(address)

    return block_address


async def run_once(kit: TestKit, function: Callable[[Caller, Context], Awaitable[Any]]) -> None:
    await kit.send(AT, program(function))
    await kit.quiet()


def statuses(kit: TestKit) -> list[tuple[str, str, int]]:
    return [(call.tool, call.status, call.attempts) for call in kit.ledger()]


async def crashed_in_call(
    kit: TestKit, world: World, run: Callable[[Caller, Context], Awaitable[Any]]
) -> None:
    """Kill the host while the tool is called, and bring its agents back."""
    world.gate = asyncio.Event()
    await kit.send(AT, program(run))
    await world.begun.wait()
    await kit.crash()
    world.gate = None
    await kit.recover()
