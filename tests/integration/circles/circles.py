"""Agents of two domains that ask each other in circles."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from callboard import Agent, AskCycle, Context, TaskWork, handler, message


@message("circles.go.v1")
class Go(BaseModel):
    """Ask these, after a while."""

    ask: list[str]
    after_s: float = 0.0


@message("circles.greeting.v1")
class Greeting(BaseModel):
    pass


@message("circles.task.v1")
class Follow(BaseModel):
    """Do as the input of a task says."""

    orders: list[list[Any]]


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
    async def on_task(self, work: TaskWork, ctx: Context) -> None:
        await self.follow(work.input, ctx)

    @handler
    async def on_follow(self, follow: Follow, ctx: Context) -> None:
        await self.follow(follow.orders, ctx)

    async def follow(self, orders: list[list[Any]], ctx: Context) -> None:
        """One after the other; `me` in what another one is to do stands for this agent."""
        try:
            for order in orders:
                match order:
                    case ["sleep", seconds]:
                        await ctx.sleep(seconds)
                    case ["ask", address]:
                        await ctx.ask(address, Greeting())
                    case ["tell", address, others]:
                        ctx.send(address, Follow(orders=others))
                    case ["run", domain, others]:
                        given = json.loads(json.dumps(others).replace('"me"', f'"{ctx.address}"'))
                        ctx.complete(await ctx.run_task(domain, goal="a part", input=given))
                    case ["leave", domain, others]:
                        ctx.submit_task(domain, goal="left behind", input=others)
                    case ["complete", result]:
                        ctx.complete(result)
        except AskCycle as error:
            self.state.cycles.append(list(error.cycle))
            ctx.complete(list(error.cycle))

    @handler
    async def on_greeting(self, greeting: Greeting, ctx: Context) -> str:
        self.state.greeted += 1
        return "hello"
