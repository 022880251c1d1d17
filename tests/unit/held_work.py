"""Work that is held up until a test lets it end."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from callboard import Agent, Context, handler, message
from tests.unit.agents import Note

AT, SINK = "test/worker/w", "test/keeper/sink"


@message("recovery.work.v1")
class Work(BaseModel):
    """Waits in its handler until the test says what happens next."""

    name: str


class Worker(Agent):
    kind = "worker"
    begun: dict[str, int] = {}  # noqa: RUF012  (shared on purpose)
    hold: asyncio.Event

    class State(BaseModel):
        done: list[str] = []

    state: State

    @handler
    async def on_work(self, work: Work, ctx: Context) -> None:
        Worker.begun[work.name] = Worker.begun.get(work.name, 0) + 1
        self.state.done.append(work.name)
        ctx.send("test/keeper/sink", Note(text=work.name))
        if work.name.startswith("step"):
            await ctx.step(str, work.name)
        if work.name.startswith(("hold", "step")):
            await Worker.hold.wait()


def begun_so_often(name: str, times: int) -> bool:
    return Worker.begun.get(name, 0) == times
