"""Agents of two domains that ask each other in circles."""

from __future__ import annotations

from pydantic import BaseModel

from callboard import Agent, AskCycle, Context, handler, message


@message("circles.go.v1")
class Go(BaseModel):
    """Ask these, after a while."""

    ask: list[str]
    after_s: float = 0.0


@message("circles.greeting.v1")
class Greeting(BaseModel):
    pass


class Peer(Agent):
    kind = "peer"

    class State(BaseModel):
        went: int = 0
        greeted: int = 0
        cycles: list[list[str]] = []

    state: State

    @handler
    async def on_go(self, go: Go, ctx: Context) -> None:
        if go.after_s:
            await ctx.sleep(go.after_s)
        try:
            await ctx.gather(*(ctx.ask(address, Greeting()) for address in go.ask))
        except AskCycle as error:
            self.state.cycles.append(list(error.cycle))
        self.state.went += 1

    @handler
    async def on_greeting(self, greeting: Greeting, ctx: Context) -> str:
        self.state.greeted += 1
        return "hello"
