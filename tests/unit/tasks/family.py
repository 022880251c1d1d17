"""What tasks and the tasks that they have started do, and what is seen of them."""

from __future__ import annotations

from callboard import (
    Context,
)
from callboard.testing import TestKit
from tests.unit.tasks.worker import Program, Worker, do, program, undo


async def answers(self: Worker, ctx: Context) -> None:
    ctx.complete({"by": await ctx.step(do, "answered")})


async def fails(self: Worker, ctx: Context) -> None:
    ctx.fail("no paper")


async def waits(self: Worker, ctx: Context) -> None:
    ctx.compensate(undo, await ctx.step(do, "waits"))
    await ctx.sleep(1_000)
    ctx.complete("waited")


async def given(kit: TestKit, parent: Program) -> str:
    task = await kit.give_task("test/worker/parent", goal=program(parent))
    await kit.quiet()
    return task


def children(kit: TestKit) -> list[str]:
    return [id_ for _, _, id_ in kit.store.tasks.children]


def log(kit: TestKit, task: str) -> list[str]:
    events = sorted((n, e.kind) for (_, _, of, n), e in kit.store.tasks.events.items() if of == task)
    return [kind for _, kind in events]


async def breaks(address: str) -> str:
    """The line breaks while it acts."""
    do("acts")
    raise ConnectionError("no route")
