"""Clerks that ask each other for approval, and decide as a test has told them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel

from actors.retry import RetryPolicy
from bus.errors import DecisionError
from callboard import Agent, ApprovalRequested, Context, handler, message, tool

CHIEF = "test/clerk/chief"
DEPUTY = "test/clerk/deputy"
AT = "test/clerk/c"
DETAILS = {"index": "alerts"}


@message("approvers.run.v1")
class Run(BaseModel):
    program: str
    to: str = ""


class Clerk(Agent):
    """Runs the program that the test has given it, and one for what it is to approve."""

    kind = "clerk"
    retry = RetryPolicy(attempts=1)
    programs: dict[str, Callable[..., Awaitable[Any]]] = {}  # noqa: RUF012  (shared on purpose)
    done: list[str] = []  # noqa: RUF012

    class State(BaseModel):
        log: list[str] = []

    state: State

    @handler
    async def on_run(self, run: Run, ctx: Context) -> None:
        if run.to:
            ctx.send(run.to, Run(program=run.program))
        else:
            await Clerk.programs[run.program](self, ctx)

    @handler
    async def on_request(self, request: ApprovalRequested, ctx: Context) -> None:
        await Clerk.programs["decides"](self, request, ctx)


def program(function: Callable[..., Awaitable[Any]]) -> Run:
    Clerk.programs[function.__name__] = function
    return Run(program=function.__name__)


@tool(effect="at_most_once", requires_approval=True, approvers=["alice", CHIEF])
def delete(index: str) -> str:
    """Delete an index."""
    Clerk.done.append(f"deleted {index}")
    return index


async def asks(self: Clerk, ctx: Context, approvers: tuple[str, ...] = (CHIEF,)) -> None:
    decision = await ctx.approval("delete", DETAILS, approvers=approvers, timeout=600)
    self.state.log.append(f"{decision.approved} by {decision.by}: {decision.comment} ({decision.message})")


def asks_of(*approvers: str) -> Callable[[Clerk, Context], Awaitable[None]]:
    async def asks_them(self: Clerk, ctx: Context) -> None:
        await asks(self, ctx, approvers)

    return asks_them


async def approves(self: Clerk, request: ApprovalRequested, ctx: Context) -> None:
    try:
        await ctx.decide(request.ref, True, comment="go")
        self.state.log.append(f"decided in {ctx.header.id}")
    except DecisionError as error:
        self.state.log.append(type(error).__name__)
