"""The reporter: one incident report for one task."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel, Field

from callboard import Agent, Context, handler
from secops.markdown import render
from secops.messages import Expect, Gathered, Reported
from secops.places import desk
from secops.progress import ALL_READ
from secops.report import Docket, LogFacts


class Reporter(Agent):
    """Merges what the clerks have gathered and completes the task. Its key is the task's id.

    The result is the report (see IncidentReport) with its page under `markdown`.
    """

    kind = "reporter"

    class State(BaseModel):
        docket: Docket = Field(default_factory=Docket)
        facts: LogFacts | None = None
        clerks: int = 0
        came: list[int] = []
        done: bool = False

    state: State

    @handler
    async def on_expect(self, expect: Expect, ctx: Context) -> None:
        self.state.facts, self.state.clerks = expect.facts, expect.clerks
        self._report_if_complete(ctx)

    @handler
    async def on_gathered(self, gathered: Gathered, ctx: Context) -> None:
        state = self.state
        if gathered.clerk in state.came:
            return
        state.came.append(gathered.clerk)
        state.docket.merge(gathered.docket)
        self._tell(ctx)
        self._report_if_complete(ctx)

    def _tell(self, ctx: Context) -> None:
        state = self.state
        came, of = len(state.came), state.clerks
        if came < of:
            judged = sum(state.docket.verdicts.values())
            share = ALL_READ + (1 - ALL_READ) * came / of
            ctx.progress(
                share, f"{judged:,} {'source' if judged == 1 else 'sources'} judged", task=ctx.address.key
            )

    def _report_if_complete(self, ctx: Context) -> None:
        state = self.state
        if state.done or state.facts is None or len(state.came) < state.clerks:
            return
        task = ctx.address.key
        report = state.docket.report(
            state.facts, report_id=task, generated_at=datetime.fromtimestamp(ctx.now, UTC)
        )
        ctx.complete(report.model_dump(mode="json") | {"markdown": render(report)}, task=task)
        ctx.send(desk(task), Reported())
        state.done, state.docket = True, Docket()
