"""Clerks that compute, ask an archive, sleep and wait; an archive that answers in a later turn."""

from __future__ import annotations

from pydantic import BaseModel

from callboard import Agent, Context, handler, message


@message("patience.case.v1")
class Case(BaseModel):
    """What a clerk works on; it sleeps so many seconds in between."""

    number: int
    sleep_s: float


@message("patience.lookup.v1")
class Lookup(BaseModel):
    number: int


@message("patience.found.v1")
class Found(BaseModel):
    number: int
    text: str


@message("patience.search_ended.v1")
class SearchEnded(BaseModel):
    ref: str
    number: int


def squared(number: int) -> int:
    return number * number


class Clerk(Agent):
    kind = "clerk"

    class State(BaseModel):
        results: list[str] = []

    state: State

    @handler
    async def on_case(self, case: Case, ctx: Context) -> None:
        square = await ctx.step(squared, case.number)
        here, there = await ctx.gather(
            ctx.ask("patience/archive/here", Lookup(number=square)),
            ctx.ask("patience/archive/there", Lookup(number=square + 1)),
        )
        await ctx.sleep(case.sleep_s)
        self.state.results.append(f"{case.number}: {here.text} {there.text}")


class Archive(Agent):
    kind = "archive"

    class State(BaseModel):
        lookups: int = 0

    state: State

    @handler
    async def on_lookup(self, lookup: Lookup, ctx: Context) -> None:
        self.state.lookups += 1
        ctx.send_later(
            str(ctx.address), SearchEnded(ref=ctx.reply_later(), number=lookup.number), delay_s=0.3
        )

    @handler
    async def on_search_ended(self, ended: SearchEnded, ctx: Context) -> None:
        ctx.resolve(ended.ref, Found(number=ended.number, text=f"<{ended.number}>"))
