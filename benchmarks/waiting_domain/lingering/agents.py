"""Sleepers wait for a time, listeners for a word."""

from __future__ import annotations

from pydantic import BaseModel

from callboard import Agent, Context, handler, message


@message("lingering.nap.v1")
class Nap(BaseModel):
    seconds: float


@message("lingering.listen.v1")
class Listen(BaseModel):
    """Wait until somebody says a word."""


class Sleeper(Agent):
    kind = "sleeper"

    @handler
    async def on_nap(self, nap: Nap, ctx: Context) -> None:
        await ctx.sleep(nap.seconds)


class Listener(Agent):
    kind = "listener"

    @handler
    async def on_listen(self, listen: Listen, ctx: Context) -> None:
        await (await ctx.promise("word"))
