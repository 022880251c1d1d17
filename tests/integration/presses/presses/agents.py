"""An agent whose tool takes longer than any hand-over waits for a turn."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from callboard import Agent, Context, handler, message, tool

CALL_S = 4.0

pressed: list[str] = []


@message("presses.go.v1")
class Go(BaseModel):
    name: str


@tool(effect="at_most_once", on_unknown="fail", timeout=60)
async def press(name: str) -> str:
    await asyncio.sleep(CALL_S)
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
