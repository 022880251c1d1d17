"""The benchmark's agents: each message counts one hop and goes on to the next agent."""

from __future__ import annotations

from pydantic import BaseModel

from actors.agent import Agent, handler
from actors.context import Context
from bus.registry import message


@message("hops.hop.v1")
class Hop(BaseModel):
    """One message of a chain; `text` makes it 200 characters long."""

    chain: int
    remaining: int
    agents: int
    text: str


class Runner(Agent):
    """Counts hops, and passes each message on to another agent."""

    kind = "runner"

    class State(BaseModel):
        hops: int = 0

    state: State

    @handler
    async def on_hop(self, hop: Hop, ctx: Context) -> None:
        self.state.hops += 1
        if hop.remaining > 1:
            following = (int(ctx.address.key) * 31 + hop.chain * 7 + hop.remaining) % hop.agents
            ctx.send(
                f"hops/runner/{following}",
                Hop(chain=hop.chain, remaining=hop.remaining - 1, agents=hop.agents, text=hop.text),
            )
