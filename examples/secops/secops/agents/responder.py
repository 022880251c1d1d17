"""The responder: what should be done about one source, by the written policy."""

from __future__ import annotations

from pydantic import BaseModel

from callboard import Agent, Context, handler
from secops.finding import decide
from secops.messages import Found, Judged
from secops.places import roster, roster_number
from secops.rulebook import LIMITS, POLICY


class Responder(Agent):
    """Proposes an action per source, and carries none out. Its key is the source."""

    kind = "responder"

    class State(BaseModel):
        proposed: str = ""
        """Its latest proposal; the earlier ones stand in its history."""

    state: State

    @handler
    async def on_judged(self, judged: Judged, ctx: Context) -> None:
        finding = decide(judged.watch, judged.judgement, POLICY, LIMITS, judged.network)
        self.state.proposed = finding.action
        ctx.explain(finding.action_why, log=judged.log, action=finding.action, verdict=finding.verdict)
        ctx.send(roster(judged.log, roster_number(finding.address)), Found(log=judged.log, finding=finding))
