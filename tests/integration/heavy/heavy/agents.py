"""Agents that count what they carry."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from pydantic import BaseModel

from callboard import Agent, Context, RetryPolicy, handler, message


@message("heavy.load.v1")
class Load(BaseModel):
    """Something large."""

    text: str


class Porter(Agent):
    """Takes a while for each."""

    kind = "porter"

    class State(BaseModel):
        carried: int = 0

    state: State

    @handler
    async def on_load(self, load: Load, ctx: Context) -> None:
        await asyncio.sleep(0.03)
        self.state.carried += len(load.text)


class Parked(Porter):
    """Puts off all that it is given, until it may go on."""

    kind = "parked"
    retry = RetryPolicy(attempts=1_000, first_delay_s=0.5, max_delay_s=1.0)
    may_go_on: ClassVar[bool] = False

    @handler
    async def on_load(self, load: Load, ctx: Context) -> None:
        if not Parked.may_go_on:
            raise ValueError("not yet")
        self.state.carried += len(load.text)
