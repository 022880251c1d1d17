"""The reporter: one incident report for one task."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel, Field

from callboard import Agent, AskFailed, Context, handler
from secops.finding import Finding
from secops.grouping import NOT_COMPARED, Likeness, suspicious, texts_of
from secops.markdown import render
from secops.messages import (
    Compare,
    Compared,
    Conclude,
    Expect,
    Gathered,
    Reported,
    Respond,
    Responded,
    Responding,
)
from secops.places import analyst, desk, responder
from secops.progress import ALL_JUDGED, ALL_READ
from secops.report import Docket, LogFacts
from secops.response import Outcome, Response
from secops.rulebook import LIMITS, POLICY
from secops.rules import plural

MAX_BLOCKS = 500  # of one report, the gravest; what comes on top stays a proposal
_OTHERS_S = (
    30.0  # what the analyst may take beyond its model: hosts that start or die, another task on the same log
)


class Reporter(Agent):
    """Merges what the clerks have gathered, has the blocks carried out and the sources compared, and completes the task.

    Its key is the task's id.

    The result is the report (see IncidentReport) with its page under `markdown`.
    """

    kind = "reporter"

    class State(BaseModel):
        docket: Docket = Field(default_factory=Docket)
        facts: LogFacts | None = None
        clerks: int = 0
        came: list[int] = []
        deadline: float | None = None
        is_complete: bool = False
        responses: dict[str, Response] = {}
        """What became of each block, by address."""
        likeness: Likeness = NOT_COMPARED

    state: State

    @handler
    async def on_expect(self, expect: Expect, ctx: Context) -> None:
        self.state.facts, self.state.clerks = expect.facts, expect.clerks
        self.state.deadline = expect.deadline
        await self._respond_if_complete(ctx)

    @handler
    async def on_gathered(self, gathered: Gathered, ctx: Context) -> None:
        state = self.state
        if gathered.clerk in state.came:
            return
        state.came.append(gathered.clerk)
        state.docket.merge(gathered.docket)
        self._tell(ctx)
        await self._respond_if_complete(ctx)

    @handler
    async def on_conclude(self, _: Conclude, ctx: Context) -> None:
        """In a turn of its own, since one that has waited keeps the time at which it began."""
        state, task = self.state, ctx.address.key
        assert state.facts is not None
        report = state.docket.report(
            state.facts,
            report_id=task,
            generated_at=datetime.fromtimestamp(ctx.now, UTC),
            responses=state.responses,
            likeness=state.likeness,
        )
        ctx.complete(report.model_dump(mode="json") | {"markdown": render(report)}, task=task)
        ctx.send(desk(task), Reported())
        state.docket, state.responses, state.likeness = Docket(), {}, NOT_COMPARED

    def _tell(self, ctx: Context) -> None:
        state = self.state
        came, of = len(state.came), state.clerks
        if came < of:
            judged = sum(state.docket.verdicts.values())
            share = ALL_READ + (ALL_JUDGED - ALL_READ) * came / of
            ctx.progress(share, f"{plural(judged, 'source')} judged", task=ctx.address.key)

    async def _respond_if_complete(self, ctx: Context) -> None:
        state = self.state
        if state.is_complete or state.facts is None or len(state.came) < state.clerks:
            return
        state.is_complete = True
        blocks = [each for each in state.docket.findings if each.block_hours is not None][:MAX_BLOCKS]
        told = f"{plural(sum(state.docket.verdicts.values()), 'source')} judged"
        if blocks:
            ctx.send(desk(ctx.address.key), Responding())
            asked = sum(POLICY.approval.is_needed(each.severity) for each in blocks)
            told += f", {plural(len(blocks), 'block')} proposed, {asked} to be approved"
        ctx.progress(ALL_JUDGED, told, task=ctx.address.key)
        compared, *responses = await ctx.gather(
            self._compare(state.facts.digest, ctx), *(self._respond(each, ctx) for each in blocks)
        )
        state.likeness = compared
        state.responses = {each.address: one for each, one in zip(blocks, responses, strict=True)}
        ctx.send(ctx.address, Conclude())

    async def _respond(self, finding: Finding, ctx: Context) -> Response:
        """What becomes of one block, which may take days; no longer than the task may."""
        try:
            answer: Responded = await ctx.ask(
                responder(ctx.address.key, finding.address),
                Respond(finding=finding),
                timeout=self._left_s(ctx),
            )
        except AskFailed as failed:
            outcome = Outcome.TIMED_OUT if failed.reason == "timeout" else Outcome.FAILED
            return Response(outcome=outcome, error=failed.message)
        return answer.response

    async def _compare(self, log: str, ctx: Context) -> Likeness:
        """Which of the gravest sources behaved alike: beside the blocks, which it does not hold up."""
        by, sources = POLICY.grouping, suspicious(self.state.docket.findings)
        if by is None:
            return Likeness(note="policy.yaml names no model for it.")
        texts = texts_of(sources[: by.sources], LIMITS)
        if len(texts) < 2:
            return Likeness(alike=())
        within_s, left_s = by.within_s + _OTHERS_S, self._left_s(ctx)
        if left_s is not None:
            within_s = min(within_s, left_s / 2)  # a report in time is worth more than its groups
        try:
            answer: Compared = await ctx.ask(analyst(log), Compare(by=by, texts=texts), timeout=within_s)
        except AskFailed as failed:
            return Likeness(note=failed.message)
        likeness = answer.likeness
        if likeness.alike is not None and len(texts) < len(sources):
            note = f"Of {plural(len(sources), 'source')} the {len(texts)} gravest were compared."
            return likeness.model_copy(update={"note": note})
        return likeness

    def _left_s(self, ctx: Context) -> float | None:
        deadline = self.state.deadline
        return None if deadline is None else max(deadline - ctx.now, 0.001)
