"""An agent that takes a while for each message."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from callboard import Agent, Context, handler, message


@message("slow.nap.v1")
class Nap(BaseModel):
    """How long to sleep, seconds."""

    seconds: float


class Sleeper(Agent):
    kind = "sleeper"

    class State(BaseModel):
        naps: int = 0

    state: State

    @handler
    async def on_nap(self, nap: Nap, ctx: Context) -> None:
        await asyncio.sleep(nap.seconds)
        self.state.naps += 1
