"""Agents that act on the world outside with the leave of people, and undo what they have done; and bells, which ring by
schedule."""

from __future__ import annotations

from pydantic import BaseModel

from actors.agent import Agent, handler
from actors.context import Context
from actors.retry import RetryPolicy
from bus.errors import EffectUnknown, ToolFailed
from bus.registry import message
from chaos.caller import act_blindly, act_by_key, act_verified
from tests.faults import judge
from tests.faults.voyages import LATE_S, Deed, key_of, undoing, voyage

_TOOLS = {"verified": act_verified, "by_key": act_by_key, "blindly": act_blindly}


class Wrecked(Exception):
    """Never goes away."""


@message("chaos.sail.v1")
class Sail(BaseModel):
    """One leg of the voyage `index`."""

    seed: int
    index: int
    leg: int


@message("chaos.ring.v1")
class Ring(BaseModel):
    """Sent by a schedule."""


def undo(key: str) -> None:
    judge.act(judge.noted(), undoing(key), "ok", once=True)


class Sailor(Agent):
    kind = "sailor"
    retry = RetryPolicy(attempts=6, first_delay_s=0.02, factor=2.0, give_up_on=(Wrecked,))

    class State(BaseModel):
        deeds: dict[str, str] = {}  # by key: done, unknown, refused or denied

    state: State

    @handler
    async def on_sail(self, sail: Sail, ctx: Context) -> None:
        leg = voyage(sail.seed, sail.index).legs[sail.leg]
        for n, deed in enumerate(leg.deeds):
            key = key_of(sail.index, sail.leg, n)
            if deed.sleep_s:
                await ctx.sleep(deed.sleep_s)
            outcome = await self._do(deed, key, ctx)
            self.state.deeds[key] = outcome
            if deed.undone and outcome in ("done", "unknown"):
                ctx.compensate(undo, key)
        if leg.hopeless:
            raise Wrecked("a leg that fails for good")
        ctx.complete_part(f"leg-{sail.leg}", len(leg.deeds))

    async def _do(self, deed: Deed, key: str, ctx: Context) -> str:
        if deed.permit:
            timeout = LATE_S if deed.permit == "late" else None
            decision = await ctx.approval("sail", {"key": key}, timeout=timeout)
            if not decision.approved:
                return "denied"
        try:
            done: str = await ctx.call(_TOOLS[deed.tool], key, deed.how)
        except EffectUnknown:
            return "unknown"
        except ToolFailed:
            return "refused"
        assert done.partition("/")[0] == key, f"did {key}, and {done} was answered"
        return "done"


class Bell(Agent):
    kind = "bell"

    class State(BaseModel):
        rang: list[float] = []  # when each message was due

    state: State

    @handler
    async def on_ring(self, ring: Ring, ctx: Context) -> None:
        assert ctx.header.sent_at is not None
        self.state.rang.append(ctx.header.sent_at)
