"""The durable agent that leads one task: it alone writes the task's row and log, through its turns.

    new -> assigned -> running -> completed | failed
                 |        ^
                 +-> stuck +     a message of the task is a dead letter, until an operator has mended it

    any of these -> cancelling -> cancelled     once nothing runs that is part of the task

Every handler first asks whether the task is under way; what comes after the end is put on record and ignored.
Redelivered messages are the turn loop's matter: each reaches a handler's commit once.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, Field

from actors.agent import Agent, handler
from actors.context import Context
from actors.domain import OnDeadLetter
from actors.retry import RetryPolicy
from actors.task_messages import (
    TASK_KIND,
    Bid,
    CallForBids,
    CancelTask,
    Decline,
    TaskCompleted,
    TaskFailure,
    TaskMended,
    TaskPart,
    TaskProgress,
    TaskSplit,
    TaskStarted,
    TaskStopped,
    TaskTrouble,
    TaskWork,
)
from bus.errors import CallboardError
from bus.registry import wire_name_of
from coordinators.tasks.auction import Auction
from coordinators.tasks.dead_work import DeadWork
from coordinators.tasks.messages import BidDeadline, FailTask, TaskAssigned, TaskDeadline
from coordinators.tasks.parts import Parts, TooManyParts
from storage.records import TaskEvent, TaskWrite

MAX_LOG = 10_000  # lines of one task's log; past that only what changes its status is added
MAX_ASIDES = 100  # of them: late messages and dead letters

WORK = wire_name_of(TaskWork)
CALL = wire_name_of(CallForBids)


class Cancelled(BaseModel):
    """Who has cancelled the task, and why."""

    by: str
    reason: str


class TaskAgent(Agent):
    """Leads the task that its key names, from its assignment to its end."""

    kind = TASK_KIND
    # What Callboard itself refuses (an unknown kind, a payload too large) is no better the next time.
    retry = RetryPolicy(give_up_on=(CallboardError,))

    class State(BaseModel):
        status: Literal[
            "new", "assigned", "running", "stuck", "cancelling", "cancelled", "completed", "failed"
        ] = "new"
        assignee: str | None = None
        progress: float = 0.0
        logged: int = 1  # the log's last number; line 1 was written by whoever submitted the task
        asides: int = 0
        auction: Auction | None = None
        parts: Parts = Field(default_factory=Parts)
        dead: DeadWork = Field(default_factory=DeadWork)
        on_dead_letter: OnDeadLetter = "keep"
        cancelled: Cancelled | None = None

    state: State

    # -- assignment ----------------------------------------------------------------------------------

    @handler
    async def on_assigned(self, task: TaskAssigned, ctx: Context) -> None:
        if self.state.status != "new":
            ctx.explain("assigned_again")
            return
        if task.refused is not None:
            self._fail(ctx, "not_assigned", task.refused)
            return
        if task.deadline is not None and task.deadline <= ctx.now:
            self._fail(ctx, "deadline", "The task's deadline passed before it was assigned.")
            return
        self.state.on_dead_letter = task.on_dead_letter
        if self.state.dead and task.on_dead_letter == "fail":
            self._fail(ctx, "dead_letter", "Messages of the task were dead letters before it was assigned.")
            return
        self.state.status = "stuck" if self.state.dead else "assigned"
        if task.deadline is not None:
            ctx.send_later(ctx.address, TaskDeadline(), at=task.deadline)
        if task.assignee is not None:
            self._award(ctx, task.work, task.assignee, task.policy)
        else:
            self._call_for_bids(ctx, task)

    def _award(self, ctx: Context, work: TaskWork, assignee: str, policy: str) -> None:
        self.state.assignee = assignee
        ctx.send(assignee, work, deadline=work.deadline)
        self._log(ctx, "assigned", assignee=assignee, policy=policy)
        self._write(ctx)

    def _call_for_bids(self, ctx: Context, task: TaskAssigned) -> None:
        bid_by = ctx.now + task.bid_within_s
        self.state.auction = Auction(work=task.work, policy=task.policy, candidates=task.candidates)
        for candidate in task.candidates:
            call = CallForBids(**task.work.model_dump(), bid_by=bid_by)
            ctx.send(candidate, call, deadline=min(bid_by, task.deadline or bid_by))
        ctx.send_later(ctx.address, BidDeadline(), at=bid_by)
        self._log(ctx, "called_for_bids", candidates=task.candidates, bid_by=bid_by)
        self._write(ctx)

    @handler
    async def on_bid(self, bid: Bid, ctx: Context) -> None:
        if self._awaits_answer(ctx):
            assert self.state.auction is not None
            self.state.auction.bids[ctx.sender] = bid.score
            self._log(ctx, "bid", by=ctx.sender, score=bid.score, note=bid.note)
            self._close_auction_if_settled(ctx)

    @handler
    async def on_decline(self, decline: Decline, ctx: Context) -> None:
        if self._awaits_answer(ctx):
            self._decline(ctx, decline.note)

    @handler
    async def on_bid_deadline(self, _: BidDeadline, ctx: Context) -> None:
        if self.state.auction is not None:
            self._close_auction(ctx)

    def _awaits_answer(self, ctx: Context) -> bool:
        if self.state.auction is not None and self.state.auction.awaits(ctx.sender):
            return True
        self._log_aside(ctx, "late", type=ctx.header.type, by=ctx.sender)
        return False

    def _decline(self, ctx: Context, note: str) -> None:
        assert self.state.auction is not None
        self.state.auction.declined.append(ctx.sender)
        self._log(ctx, "declined", by=ctx.sender, note=note)
        self._close_auction_if_settled(ctx)

    def _close_auction_if_settled(self, ctx: Context) -> None:
        if self.state.auction is not None and self.state.auction.is_settled:
            self._close_auction(ctx)

    def _close_auction(self, ctx: Context) -> None:
        auction, self.state.auction = self.state.auction, None
        assert auction is not None
        winner = auction.winner()
        if winner is None:
            asked = len(auction.candidates)
            self._fail(ctx, "no_bid", f"None of the {asked} agents asked has bid before the bid deadline.")
        else:
            self._award(ctx, auction.work, winner, auction.policy)

    # -- work ----------------------------------------------------------------------------------------

    @handler
    async def on_started(self, _: TaskStarted, ctx: Context) -> None:
        if self._is_under_way(ctx):
            self._run(ctx)

    @handler
    async def on_progress(self, report: TaskProgress, ctx: Context) -> None:
        if self._is_under_way(ctx):
            self._run(ctx)
            self.state.progress = report.progress
            self._log(ctx, "progress", progress=report.progress, note=report.note, by=ctx.sender)
            self._write(ctx)

    @handler
    async def on_split(self, split: TaskSplit, ctx: Context) -> None:
        if self._is_under_way(ctx):
            self._run(ctx)
            self.state.parts.expected = split.parts
            self._log(ctx, "split", parts=split.parts, by=ctx.sender)
            self._complete_if_all_parts_are_there(ctx)

    @handler
    async def on_part(self, part: TaskPart, ctx: Context) -> None:
        if not self._is_under_way(ctx):
            return
        self._run(ctx)
        try:
            is_new = self.state.parts.add(part.part, part.result)
        except TooManyParts as error:
            self._fail(ctx, "too_many_parts", str(error))
            return
        if not is_new:
            self._log_aside(ctx, "late", type=ctx.header.type, by=ctx.sender, part=part.part)
            return
        self._log(ctx, "part", part=part.part, by=ctx.sender)
        self._complete_if_all_parts_are_there(ctx)

    def _complete_if_all_parts_are_there(self, ctx: Context) -> None:
        parts = self.state.parts
        self.state.progress = max(self.state.progress, parts.progress or 0.0)
        if parts.is_complete:
            self._complete(ctx, parts.aggregate())
        else:
            self._write(ctx)

    @handler
    async def on_completed(self, report: TaskCompleted, ctx: Context) -> None:
        if self._is_under_way(ctx):
            self._run(ctx)
            self._complete(ctx, report.result)

    @handler
    async def on_failure(self, report: TaskFailure, ctx: Context) -> None:
        if self._is_under_way(ctx):
            self._fail(ctx, "failed", report.reason)

    @handler
    async def on_deadline(self, _: TaskDeadline, ctx: Context) -> None:
        if not self._has_ended and self.state.status != "cancelling":
            self._fail(ctx, "deadline", "The task was not done by its deadline.")

    @handler
    async def on_fail_task(self, order: FailTask, ctx: Context) -> None:
        if self._has_ended:
            self._log_aside(ctx, "late", type=ctx.header.type, by=ctx.sender)
        else:  # also before it is assigned: an assignment that comes later finds it ended
            self._fail(ctx, "operator", order.reason)

    # -- cancellation --------------------------------------------------------------------------------

    @handler
    async def on_cancel(self, order: CancelTask, ctx: Context) -> None:
        """From here on no host begins anything more of the task; what runs is told to end."""
        state = self.state
        if self._has_ended or state.status == "cancelling":
            self._log_aside(ctx, "late", type=ctx.header.type, by=ctx.sender)
            return
        state.status, state.auction = "cancelling", None
        state.cancelled = Cancelled(by=ctx.sender, reason=order.reason)
        ctx.record_cancellation(f"{ctx.sender} has cancelled task {ctx.address.key}: {order.reason}")
        self._log(ctx, "cancelling", by=ctx.sender, reason=order.reason)
        self._write(ctx)

    @handler
    async def on_stopped(self, _: TaskStopped, ctx: Context) -> None:
        cancelled = self.state.cancelled
        if self.state.status == "cancelling" and cancelled is not None:
            error = {"code": "cancelled", "message": cancelled.reason, "by": cancelled.by}
            self._end(ctx, "cancelled", error=json.dumps(error, ensure_ascii=False), facts=error)

    # -- dead letters --------------------------------------------------------------------------------

    @handler
    async def on_trouble(self, trouble: TaskTrouble, ctx: Context) -> None:
        """A message of the task is a dead letter."""
        state = self.state
        words = f"{ctx.sender} could not handle {trouble.type}: {trouble.error}"
        facts = {"message": words, "by": ctx.sender, **trouble.model_dump()}
        if self._has_ended or state.status == "cancelling":
            self._log_aside(ctx, "trouble", **facts)
        elif trouble.type == CALL:  # whoever cannot read the call does not want the task
            if state.auction is not None and state.auction.awaits(ctx.sender):
                self._decline(ctx, trouble.error)
            else:
                self._log_aside(ctx, "trouble", **facts)
        elif self._is_the_end(trouble, ctx):
            self._fail(ctx, "dead_letter", words)
        else:
            state.dead.add(trouble.id)
            if state.status in ("new", "stuck"):
                self._log_aside(ctx, "trouble", **facts)
            else:
                state.status = "stuck"
                self._log(ctx, "stuck", **facts)
                self._write(ctx)

    def _is_the_end(self, trouble: TaskTrouble, ctx: Context) -> bool:
        """Whether nobody could mend it, or the domain does not wait for anybody to."""
        if ctx.sender == str(ctx.address) or (trouble.type == WORK and ctx.sender == self.state.assignee):
            return True
        return self.state.on_dead_letter == "fail" and self.state.status != "new"

    @handler
    async def on_mended(self, mended: TaskMended, ctx: Context) -> None:
        state = self.state
        if self._has_ended or not state.dead.remove(mended.id):
            self._log_aside(ctx, "late", by=ctx.sender, **mended.model_dump())
            return
        self._log_aside(ctx, "mended", by=ctx.sender, **mended.model_dump())
        if state.status == "stuck" and not state.dead:
            state.status = "running"
            self._log(ctx, "running", by=ctx.sender)
            self._write(ctx)

    # -- status --------------------------------------------------------------------------------------

    @property
    def _has_ended(self) -> bool:
        return self.state.status in ("completed", "failed", "cancelled")

    def _is_under_way(self, ctx: Context) -> bool:
        if self.state.status in ("assigned", "running", "stuck"):
            return True
        if self.state.status == "new":
            ctx.explain("no_such_task", type=ctx.header.type)
        else:
            self._log_aside(ctx, "late", type=ctx.header.type, by=ctx.sender)
        return False

    def _run(self, ctx: Context) -> None:
        if self.state.status == "assigned":
            self.state.status = "running"
            self._log(ctx, "running", by=ctx.sender)
            self._write(ctx)

    def _complete(self, ctx: Context, result: Any) -> None:
        self.state.progress = 1.0
        self._end(ctx, "completed", result=json.dumps(result, ensure_ascii=False), facts={"by": ctx.sender})

    def _fail(self, ctx: Context, code: str, reason: str) -> None:
        error = {"code": code, "message": reason, "by": ctx.sender}
        self._end(ctx, "failed", error=json.dumps(error, ensure_ascii=False), facts=error)

    def _end(
        self,
        ctx: Context,
        status: Literal["completed", "failed", "cancelled"],
        *,
        result: str | None = None,
        error: str | None = None,
        facts: dict[str, Any],
    ) -> None:
        self.state.status = status
        self.state.auction, self.state.parts, self.state.dead = None, Parts(), DeadWork()
        self._log(ctx, status, **facts)
        self._write(ctx, result, error)

    # -- rows ----------------------------------------------------------------------------------------

    def _write(self, ctx: Context, result: str | None = None, error: str | None = None) -> None:
        state = self.state
        ctx.record_task(
            TaskWrite(
                id=ctx.address.key,
                status=state.status,
                assignee=state.assignee,
                progress=state.progress,
                result=result,
                error=error,
                finished=self._has_ended,
            ),
            (),
        )

    def _log(self, ctx: Context, kind: str, **facts: Any) -> None:
        if self.state.logged >= MAX_LOG and kind in ("progress", "bid", "declined", "part"):
            return
        self.state.logged += 1
        body = json.dumps(facts, ensure_ascii=False)
        event = TaskEvent(task=ctx.address.key, number=self.state.logged, kind=kind, body=body)
        ctx.record_task(None, (event,))

    def _log_aside(self, ctx: Context, kind: str, **facts: Any) -> None:
        if self.state.asides < MAX_ASIDES:
            self.state.asides += 1
            self._log(ctx, kind, **facts)
