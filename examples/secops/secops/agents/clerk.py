"""The clerk: gathers the findings of a few rosters for one task's reporter."""

from __future__ import annotations

from pydantic import BaseModel, Field

from callboard import Agent, Context, handler
from secops.messages import Findings, Gathered
from secops.places import reporter
from secops.report import Docket


class Clerk(Agent):
    """Hands the gravest findings of its rosters on when all of them have reported. Its key is `task/number`.

    A state is written whole after each message: gathered in one place alone, the findings of n sources would be
    written n times.
    """

    kind = "clerk"

    class State(BaseModel):
        docket: Docket = Field(default_factory=Docket)
        came: list[int] = []

    state: State

    @handler
    async def on_findings(self, findings: Findings, ctx: Context) -> None:
        state = self.state
        if findings.roster in state.came:
            return
        state.came.append(findings.roster)
        state.docket.add(findings.findings)
        state.docket.left_out += findings.left_out
        if len(state.came) == findings.peers:
            task, _, number = ctx.address.key.rpartition("/")
            ctx.send(reporter(task), Gathered(clerk=int(number), docket=state.docket.model_copy()))
            state.docket = Docket()
