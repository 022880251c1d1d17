"""The responder: what should be done about one source by the written policy, and doing it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from callboard import (
    Agent,
    ApprovalDenied,
    Context,
    DeadlineExceeded,
    Decision,
    ResultLost,
    ToolFailed,
    handler,
)
from secops.finding import Finding, decide
from secops.messages import Found, Judged, Respond, Responded
from secops.places import roster, roster_number
from secops.progress import ALL_JUDGED
from secops.response import Outcome, Response
from secops.rulebook import LIMITS, POLICY
from secops.tools import Receipt, block_address, standing_block

_TOO_LATE = "Nobody decided in time."


class Responder(Agent):
    """Proposes an action for a source of a log, or carries a block out for a task. Its key is `source/case`.

    The case is the log's digest or the task's id: what waits for a person holds up no other log and no other task.
    """

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

    @handler
    async def on_respond(self, request: Respond, ctx: Context) -> Responded:
        finding = request.finding
        response = await self._block(finding, ctx)
        ctx.explain(
            f"{finding.action}: {response.outcome.words}",
            address=finding.address,
            decided_by=response.decided_by,
            comment=response.comment,
        )
        if response.needed_approval:
            by = f" by {response.decided_by}" if response.decided_by else ""
            ctx.progress(ALL_JUDGED, f"{finding.action} of {finding.address} {_told(response)}{by}")
        return Responded(response=response)

    async def _block(self, finding: Finding, ctx: Context) -> Response:
        try:
            receipt: Receipt = await ctx.call(
                block_address,
                address=finding.address,
                hours=finding.block_hours,
                severity=finding.severity,
                verdict=finding.verdict,
                why=finding.why,
            )
        except ApprovalDenied as refused:
            return await self._beside(_refused(refused.decision), finding, ctx)
        except DeadlineExceeded:
            return Response(outcome=Outcome.TIMED_OUT, needed_approval=True, error=_TOO_LATE)
        except (ToolFailed, ResultLost) as failed:
            response = Response(outcome=Outcome.FAILED, error=failed.message, **_decided(ctx))
            return await self._beside(response, finding, ctx)
        if receipt.stood:
            return Response(outcome=Outcome.STANDS, **_in_force(receipt), **_decided(ctx))
        return Response(
            outcome=Outcome.EXECUTED,
            extended_from=receipt.earlier_until,
            **_in_force(receipt),
            **_decided(ctx),
        )

    async def _beside(self, response: Response, finding: Finding, ctx: Context) -> Response:
        """What was not carried out may stand all the same: an earlier block is in force until its time is over."""
        earlier: Receipt | None = await ctx.step(standing_block, finding.address)
        return response if earlier is None else response.model_copy(update=_in_force(earlier))


def _in_force(receipt: Receipt) -> dict[str, Any]:
    return {"blocked_at": receipt.since, "blocked_until": receipt.until, "place": receipt.file}


def _refused(decision: Decision) -> Response:
    if decision.by is None:
        return Response(outcome=Outcome.TIMED_OUT, needed_approval=True, error=_TOO_LATE)
    return Response(outcome=Outcome.DENIED, **_fields(decision))


def _decided(ctx: Context) -> dict[str, Any]:
    """Who has allowed the call of this turn, where somebody had to."""
    return _fields(ctx.decisions[-1]) if ctx.decisions else {}


def _fields(decision: Decision) -> dict[str, Any]:
    return {
        "needed_approval": True,
        "decided_by": decision.by,
        "decided_at": datetime.fromtimestamp(decision.at, UTC),
        "comment": decision.comment,
    }


def _told(response: Response) -> str:
    if response.outcome is Outcome.STANDS:
        return "approved, and blocked for longer already"
    return "approved" if response.outcome is Outcome.EXECUTED else response.outcome.words
