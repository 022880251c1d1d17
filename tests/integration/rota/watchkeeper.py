"""Somebody who makes rounds when a schedule says so."""

from __future__ import annotations

from pydantic import BaseModel

from callboard import Agent, Context, handler, message


@message("rota.round.v1")
class Round(BaseModel):
    floor: int = 0


class Watchkeeper(Agent):
    kind = "watchkeeper"

    class State(BaseModel):
        rounds: list[float] = []
        floors: list[int] = []

    state: State

    @handler
    async def on_round(self, round_: Round, ctx: Context) -> None:
        self.state.rounds.append(ctx.header.sent_at)
        self.state.floors.append(round_.floor)
