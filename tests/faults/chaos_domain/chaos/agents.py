"""The agent that takes the tasks of the random programs, one that kills its process, and one that runs in chains."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time
from typing import Literal

from pydantic import BaseModel

from actors.agent import Agent, handler
from actors.context import Context
from actors.task_messages import TaskWork
from bus.envelope import Priority
from bus.registry import message
from chaos.sailor import Sail
from chaos.walker import Walk
from tests.faults.programs import name, parts
from tests.faults.voyages import sailor, voyage


class Errand(Agent):
    """Takes one task, root number `index` of a program, and splits it."""

    kind = "errand"

    @handler
    async def on_task(self, work: TaskWork, ctx: Context) -> None:
        if "voyage" in work.input:
            self._set_out(work, ctx)
            return
        seed, agents, index = (work.input[key] for key in ("seed", "agents", "index"))
        found = parts(seed, agents, index)
        ctx.split(len(found))
        for part, child in found.items():
            send = Walk(seed=seed, agents=agents, number=child.number, depth=child.depth, nth=0, part=part)
            priority = None if child.priority is None else Priority(child.priority)
            ctx.send(f"chaos/{name(child.agent)}", send, priority=priority)

    def _set_out(self, work: TaskWork, ctx: Context) -> None:
        seed, index = work.input["seed"], work.input["voyage"]
        legs = range(len(voyage(seed, index).legs))
        ctx.split(len(legs))
        for leg in legs:
            ctx.send(f"chaos/{sailor(index, leg)}", Sail(seed=seed, index=index, leg=leg))


@message("chaos.poison.v1")
class Poison(BaseModel):
    """Kills the process that handles it."""


@message("chaos.count.v1")
class Count(BaseModel):
    """Adds one."""


@message("chaos.wait.v1")
class Wait(BaseModel):
    """Takes its time, as a call of a model does."""

    seconds: float


@message("chaos.hold.v1")
class Hold(BaseModel):
    """Holds Python's interpreter lock, as a long call of a library written in C or a hopeless regular expression
    does: no thread of the process runs meanwhile."""

    seconds: float


@message("chaos.stay.v1")
class Stay(BaseModel):
    """Waits, with nothing of it running: for the time to pass, for the answer of the agent `asked`, or for a person."""

    until: Literal["time", "answer", "leave"]
    asked: str = ""
    seconds: float = 0.0


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def hold_interpreter(seconds: float) -> None:
    """Wait in C for a lock that nobody releases: unlike a sleep there, no signal cuts it short."""
    libc = ctypes.PyDLL(None)
    mutex = ctypes.create_string_buffer(64)  # zeros: PTHREAD_MUTEX_INITIALIZER
    libc.pthread_mutex_lock(mutex)
    until = time.time() + seconds
    libc.pthread_mutex_timedlock(mutex, ctypes.byref(_Timespec(int(until), int(until % 1 * 1e9))))


class Poisoned(Agent):
    kind = "poisoned"

    class State(BaseModel):
        count: int = 0

    @handler
    async def poison(self, poison: Poison, ctx: Context) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @handler
    async def wait(self, wait: Wait, ctx: Context) -> None:
        await asyncio.sleep(wait.seconds)
        self.state.count += 1

    @handler
    async def stay(self, stay: Stay, ctx: Context) -> None:
        if stay.until == "time":
            await ctx.sleep(stay.seconds)
        elif stay.until == "answer":
            await ctx.ask(stay.asked, Count())
        else:
            await ctx.approval("go on")
        self.state.count += 1

    @handler
    async def hold(self, hold: Hold, ctx: Context) -> None:
        hold_interpreter(hold.seconds)
        self.state.count += 1

    @handler
    async def add(self, count: Count, ctx: Context) -> None:
        self.state.count += 1


@message("chaos.hop.v1")
class Hop(BaseModel):
    """One hop of an endless chain, over `agents` runners."""

    chain: int
    number: int
    agents: int


class Runner(Agent):
    kind = "runner"

    class State(BaseModel):
        hops: int = 0

    @handler
    async def hop(self, hop: Hop, ctx: Context) -> None:
        self.state.hops += 1
        to = (hop.chain * 7919 + hop.number * 104_729) % hop.agents
        ctx.send(f"chaos/runner/{to}", Hop(chain=hop.chain, number=hop.number + 1, agents=hop.agents))
