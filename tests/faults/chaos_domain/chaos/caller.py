"""An agent that acts on the world outside, through tools of every effect."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel

from actors.agent import Agent, handler
from actors.context import Context
from actors.retry import RetryPolicy
from actors.secret import Secret
from actors.tool import Happened, NotHappened, tool
from bus.errors import EffectUnknown, NotDone
from bus.registry import message
from tests.faults import judge

Url = Annotated[str, Secret("JUDGE_URL")]


@message("chaos.act.v1")
class Act(BaseModel):
    """Makes one call of each tool; `how` the world answers the at-most-once ones, by their numbers."""

    number: int
    how: list[str]


def look(key: str, how: str, url: Url) -> Happened | NotHappened:
    return Happened(key) if judge.acted(url, key) else NotHappened()


def _act(url: str, key: str, how: str) -> str:
    try:
        return judge.act(url, key, how)
    except judge.Refused as error:
        raise NotDone(str(error)) from error


@tool(effect="at_most_once", on_unknown=look, timeout=20)
def act_verified(key: str, how: str, url: Url) -> str:
    """Act; the world can be asked afterwards."""
    return _act(url, key, how)


@tool(effect="at_most_once", on_unknown="fail", timeout=20)
def act_blindly(key: str, how: str, url: Url) -> str:
    """Act; nobody can be asked afterwards."""
    return _act(url, key, how)


@tool(effect="idempotent", retry=RetryPolicy(attempts=4, first_delay_s=0.01), timeout=20)
def act_by_key(key: str, how: str, idempotency_key: str, url: Url) -> str:
    """Act once for each idempotency key, however often it is called."""
    return judge.act(url, f"{key}/{idempotency_key}", how, once=True)


class Caller(Agent):
    kind = "caller"
    retry = RetryPolicy(attempts=6, first_delay_s=0.02, factor=2.0)

    class State(BaseModel):
        done: list[str] = []
        unknown: list[str] = []

    state: State

    @handler
    async def on_act(self, act: Act, ctx: Context) -> None:
        key = f"{ctx.address.key}-{act.number}"
        for n, how in enumerate(act.how):
            self.state.done.append(await ctx.call(act_verified, f"{key}-v{n}", how))
            self.state.done.append(await ctx.call(act_by_key, f"{key}-k{n}", "ok"))
            try:
                self.state.done.append(await ctx.call(act_blindly, f"{key}-b{n}", how))
            except EffectUnknown:
                self.state.unknown.append(f"{key}-b{n}")
