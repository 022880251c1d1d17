"""Two domains for tests of tasks: the office takes them and has the depot do the work."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import BaseModel

from callboard import NO_RETRY, Agent, Context, RetryPolicy, TaskWork, handler, message, tool

broken: set[str] = set()
"""Items that the depot cannot fetch at the moment; tests put them in and take them out."""


done: list[str] = []
"""What was done and undone, in order."""
gate = asyncio.Event()
"""What a slow errand waits for, in whatever loop the test runs."""


@message("errands.fetch.v1")
class Fetch(BaseModel):
    """Get a thing; whose task it is, is in the header."""

    item: str
    last: bool = True


def _count_once() -> None:
    """Something that takes a step."""


def do(what: str) -> str:
    done.append(what)
    return what


@tool(timeout=60)
async def carry(item: str) -> str:
    """Carry a thing, which takes as long as the gate is closed."""
    done.append(f"carries {item}")
    await gate.wait()
    return do(f"carried {item}")


def undo(what: str) -> None:
    done.append(f"undoes: {what}")


class Clerk(Agent):
    """Sends one errand for each item of the task's input to the depot."""

    kind = "clerk"
    retry = RetryPolicy(attempts=3, first_delay_s=0.02)

    @handler
    async def on_task(self, work: TaskWork, ctx: Context) -> None:
        items: list[Any] = work.input
        if isinstance(work.input, dict) and "office" in work.input:
            inner = work.input["office"]
            ctx.complete(await ctx.run_task("office", goal=f"part of {work.goal}", input=inner))
            return
        if isinstance(work.input, dict) and "book" in work.input:
            ctx.compensate(undo, await ctx.step(do, "booked"))
            await ctx.run_task("depot", goal="carry it", input={"carry": work.input["book"]})
        if isinstance(work.input, dict) and "lose" in work.input:
            ctx.send("depot/porter/main", Fetch(item=work.input["lose"]))
            if "approve" in work.input:
                await ctx.approval("go on without it")
            await ctx.sleep(work.input["sleep_s"])
            ctx.complete("without it")
            return
        if isinstance(work.input, dict) and "ask" in work.input:
            ctx.complete(await ctx.ask("depot/porter/asked", Fetch(item=work.input["ask"])))
            return
        if isinstance(work.input, dict):
            ctx.complete(await ctx.run_task("depot", goal=f"hire for {work.goal}", input=work.input["hire"]))
            return
        for number, item in enumerate(items, 1):
            ctx.send("depot/porter/main", Fetch(item=item, last=number == len(items)))


class Porter(Agent):
    """Does the errands, and reports on tasks of which it knows nothing but that they are there."""

    kind = "porter"
    retry = NO_RETRY

    @handler
    async def on_task(self, work: TaskWork, ctx: Context) -> None:
        if work.input == "spend":
            for _ in range(100):
                ctx.charge(tokens=10)
                await ctx.step(_count_once)
        if isinstance(work.input, dict):
            ctx.compensate(undo, await ctx.call(carry, work.input["carry"]))
            await ctx.sleep(3_600)
        if work.input == "wait":
            await ctx.sleep(3_600)
        if work.input == "fail":
            ctx.fail("nobody is there")
        ctx.complete(f"hired: {work.input}")

    @handler
    async def on_fetch(self, fetch: Fetch, ctx: Context) -> None:
        if fetch.item == "wait":
            await ctx.sleep(3_600)
        if fetch.item in broken:
            raise ValueError(f"the {fetch.item} is locked away")
        ctx.progress(0.5, f"has the {fetch.item}")
        if fetch.last:
            ctx.complete({"fetched": fetch.item, "for": ctx.task})
