"""An agent whose tool takes as long as a test wants it to."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from callboard import Agent, Context, handler, message, tool

pressed: list[str] = []
may_end = asyncio.Event()  # all calls wait for it


@message("presses.go.v1")
class Go(BaseModel):
    name: str


@tool(effect="at_most_once", on_unknown="fail", timeout=60)
async def press(name: str) -> str:
    await may_end.wait()
    pressed.append(name)
    return name


class Press(Agent):
    kind = "press"

    class State(BaseModel):
        said: str = ""

    state: State

    @handler
    async def on_go(self, go: Go, ctx: Context) -> None:
        try:
            self.state.said = await ctx.call(press, go.name)
        except Exception as error:
            self.state.said = type(error).__name__
