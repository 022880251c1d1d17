"""An agent that uses of everything that is counted for a task."""

from __future__ import annotations

from pydantic import BaseModel

from actors.agent import Agent, handler
from actors.context import Context
from bus.registry import message

STEPS = 3  # of each message, with as many tokens and messages sent; and one ask


@message("chaos.spend.v1")
class Spend(BaseModel):
    """Use some of it all."""

    number: int


@message("chaos.spent.v1")
class Spent(BaseModel):
    """Nothing is left to do."""


def _count(n: int) -> int:
    return n


class Spender(Agent):
    kind = "spender"

    @handler
    async def on_spend(self, spend: Spend, ctx: Context) -> None:
        for n in range(STEPS):
            await ctx.step(_count, n)
            ctx.charge(tokens=1, cost=0.5)
            ctx.send(f"chaos/spender/sink-{n}", Spent())
        await ctx.ask(f"chaos/spender/asked-{spend.number}", Spent())

    @handler
    async def on_spent(self, _: Spent, ctx: Context) -> None:
        """A message more is handled."""
