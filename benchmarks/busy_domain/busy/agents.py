"""Sorters work the events off; a clerk answers its task at once."""

from __future__ import annotations

import time

from pydantic import BaseModel

from callboard import Agent, Context, TaskWork, handler, message


@message("busy.event.v1")
class Event(BaseModel):
    """Costs its sorter so many seconds of a processor."""

    work_s: float


class Sorter(Agent):
    kind = "sorter"

    class State(BaseModel):
        sorted: int = 0

    state: State

    @handler
    async def on_event(self, event: Event, ctx: Context) -> None:
        until = time.perf_counter() + event.work_s
        while time.perf_counter() < until:
            pass
        self.state.sorted += 1


class Clerk(Agent):
    kind = "clerk"

    @handler
    async def on_task(self, work: TaskWork, ctx: Context) -> None:
        ctx.complete()
