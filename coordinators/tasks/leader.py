"""What every leader of a task does, whatever the work is: its state, its row and log, its children, its end.

new -> assigned -> running -> [ending ->] completed | failed      `ending` while its children go on
             |        ^
             +-> stuck +     a message of the task is a dead letter (no ask whose asker was told), until it is mended

any of these -> cancelling -> cancelled     once nothing runs that is part of the task or of its children
"""

from __future__ import annotations

import contextlib
import json
from typing import Any, Literal

from pydantic import BaseModel, Field

from actors.agent import Agent, handler
from actors.context import Context
from actors.domain import OnDeadLetter
from actors.task_messages import (
    GONE,
    MAX_CHILDREN,
    MAX_DEPTH,
    CancelChild,
    CancelTask,
    ChildEnded,
    LimitReached,
    PauseTask,
    ResumeTask,
    SubmitTask,
    TaskOutcome,
    TaskStopped,
    TaskSubmitted,
    task_agent,
)
from actors.task_reports import MAX_TEXT
from bus.errors import CallboardError, UnknownDomain, UnknownKind
from bus.task_limits import WALL
from bus.task_ref import task_ref
from coordinators.tasks.auction import Auction
from coordinators.tasks.dead_work import DeadWork
from coordinators.tasks.ending import Children, End, Paused
from coordinators.tasks.parts import Parts
from storage.records import NewTask, PauseWrite, TaskEvent, TaskWrite

MAX_LOG = 10_000  # lines of one task's log; past that only what changes its status is added
MAX_ASIDES = 100  # of them: late messages and dead letters
_MANY = ("progress", "bid", "declined", "part", "child", "child_ended")


class Leader(Agent):
    """A task's agent, without the handlers of the work itself."""

    class State(BaseModel):
        status: Literal[
            "new", "assigned", "running", "stuck", "ending", "cancelling", "cancelled", "completed", "failed"
        ] = "new"
        assignee: str | None = None
        priority: int = 5
        progress: float = 0.0
        logged: int = 1  # the log's last number; line 1 was written by whoever submitted the task
        asides: int = 0
        auction: Auction | None = None
        parts: Parts = Field(default_factory=Parts)
        dead: DeadWork = Field(default_factory=DeadWork)
        on_dead_letter: OnDeadLetter = "keep"
        parent: str | None = None
        root: str | None = None  # when it has a parent
        depth: int = 0
        waiter: str | None = None  # the promise of who waits for its end
        children: Children = Field(default_factory=Children)
        end: End | None = None
        paused: Paused | None = None

    state: State

    # -- children ------------------------------------------------------------------------------------

    @handler
    async def on_submitted(self, task: TaskSubmitted, ctx: Context) -> None:
        """It is a child: its row begins here, and its domain's coordinator assigns it as any other."""
        state = self.state
        if state.parent is not None:
            ctx.explain("submitted_again")
            return
        state.parent, state.root, state.depth, state.waiter = task.parent, task.root, task.depth, task.waiter
        new = NewTask(
            id=task.id, goal=task.goal, input=_json(task.input), priority=task.priority, policy=task.policy,
            deadline=task.deadline, parent=task.parent, root=task.root,
        )  # fmt: skip
        facts = {
            "goal": task.goal[:1000],
            "priority": task.priority,
            "parent": task.parent,
            "by": task.by,
        }
        ctx.consequences.start_task(
            new, TaskEvent(task=task.id, number=1, kind="submitted", body=_json(facts))
        )

    @handler
    async def on_submit(self, order: SubmitTask, ctx: Context) -> None:
        """An agent that works for the task starts another one within it."""
        waiter = ctx.reply_later() if ctx.header.reply_to is not None else None
        child = task_ref(ctx.header.id, order.domain)
        refused = self._why_no_child()
        try:
            if refused is None:
                self._submit_child(ctx, order, child, waiter)
                return
        except CallboardError as error:  # its domain has gone meanwhile, say
            refused = error.message
        self._log_aside(ctx, "child_refused", task=child, message=refused, by=ctx.sender)
        if waiter is not None:
            error_ = {"code": "not_accepted", "message": refused}
            ctx.resolve(waiter, TaskOutcome(task=child, status="failed", error=error_))

    def _why_no_child(self) -> str | None:
        state = self.state
        if state.status not in ("assigned", "running", "stuck"):
            return f"The task that would be its parent is {state.status}."
        if state.children.is_full:
            return f"The task that would be its parent has {MAX_CHILDREN:,} children at work."
        if state.depth >= MAX_DEPTH:
            return f"The task that would be its parent has {MAX_DEPTH} others above it."
        return None

    def _submit_child(self, ctx: Context, order: SubmitTask, child: str, waiter: str | None) -> None:
        state = self.state
        me = task_ref(ctx.address.key, ctx.address.domain)
        submitted = TaskSubmitted(
            id=ctx.header.id, goal=order.goal, input=order.input, deadline=order.deadline, policy=order.policy,
            priority=state.priority if order.priority is None else order.priority, parent=me,
            root=state.root or me, depth=state.depth + 1, by=ctx.sender, waiter=waiter,
        )  # fmt: skip
        ctx.send(task_agent(child), submitted)
        state.children.add(child, waiter)
        if state.paused is not None:  # the turn that has started it was under way
            ctx.send(task_agent(child), PauseTask(reason="its parent is paused"))
        self._run(ctx)
        self._log(ctx, "child", task=child, goal=order.goal[:200], by=ctx.sender)

    @handler
    async def on_cancel_child(self, order: CancelChild, ctx: Context) -> None:
        child = self.state.children.find(order.id)
        if child is None:
            ctx.explain("no_such_child", task=order.id)
            return
        self._tell_child(ctx, child, CancelTask(reason=order.reason))
        self._end_if_at_rest(ctx)

    @handler
    async def on_child_ended(self, report: ChildEnded, ctx: Context) -> None:
        if report.task not in self.state.children.running:
            ctx.explain("no_such_child", task=report.task)
            return
        if report.status == GONE:
            self._lose_child(ctx, report.task)
        else:
            self.state.children.remove(report.task)
            self._log(ctx, "child_ended", task=report.task, status=report.status)
        self._end_if_at_rest(ctx)

    # -- pauses --------------------------------------------------------------------------------------

    @handler
    async def on_pause(self, order: PauseTask, ctx: Context) -> None:
        """No host begins anything more of the task. This agent goes on: the task can still be cancelled."""
        state = self.state
        if state.paused is not None:
            return
        if self._has_ended or not (state.end is None or state.end.can_be_worse):
            self._log_aside(ctx, "late", type=ctx.header.type, by=ctx.sender)
            return
        state.paused = Paused(by=ctx.sender)
        ctx.consequences.pause_task(
            PauseWrite(task=ctx.address.key, paused=True, by=ctx.sender, why=order.reason)
        )
        self._tell_children(ctx, PauseTask(reason=order.reason))
        self._log(ctx, "paused", by=ctx.sender, reason=order.reason)
        self._write(ctx)
        self._end_if_at_rest(ctx)

    @handler
    async def on_resume(self, _: ResumeTask, ctx: Context) -> None:
        paused = self.state.paused
        if paused is None:
            self._log_aside(ctx, "late", type=ctx.header.type, by=ctx.sender)
            return
        self._let_go(ctx)
        self._tell_children(ctx, ResumeTask())
        self._log(ctx, "resumed", by=ctx.sender)
        self._write(ctx)
        if paused.late == "deadline":
            self._miss_deadline(ctx)
        elif paused.late == WALL:
            self._stop_at(ctx, LimitReached.of_time(paused.wall_s))
        elif self.state.auction is not None:  # its calls were held
            self._call(ctx, self.state.auction)
        else:
            self._end_if_at_rest(ctx)

    def _call(self, ctx: Context, auction: Auction) -> None:
        auction.call(ctx)
        self._log(ctx, "called_for_bids", candidates=auction.candidates, bid_by=auction.bid_by)

    def _let_go(self, ctx: Context) -> None:
        self.state.paused = None
        ctx.consequences.pause_task(PauseWrite(task=ctx.address.key, paused=False, by=ctx.sender))

    def _miss_deadline(self, ctx: Context) -> None:
        end = self.state.end
        if not self._has_ended and (end is None or end.can_be_worse):
            self._fail(ctx, "deadline", "The task was not done by its deadline.")

    # -- the end -------------------------------------------------------------------------------------

    @handler
    async def on_cancel(self, order: CancelTask, ctx: Context) -> None:
        """From here on no host begins anything more of the task; what runs is told to end."""
        if self._has_ended or self.state.status == "cancelling":
            self._log_aside(ctx, "late", type=ctx.header.type, by=ctx.sender)
            return
        error = {"code": "cancelled", "message": order.reason, "by": ctx.sender}
        self._end(ctx, End(status="cancelled", by=ctx.sender, error=error, stops=True))

    @handler
    async def on_limit(self, reached: LimitReached, ctx: Context) -> None:
        self._stop_at(ctx, reached)

    def _stop_at(self, ctx: Context, reached: LimitReached) -> None:
        """The task fails, with all that it has started, and what there is of its result."""
        end = self.state.end
        if self._has_ended or (end is not None and not end.can_be_worse):
            self._log_aside(ctx, "late", type=ctx.header.type, by=ctx.sender)
            return
        error = {
            "code": "limit",
            "message": reached.words,
            "by": ctx.sender,
            **reached.model_dump(mode="json"),
        }
        partial = self.state.parts.aggregate() or (None if end is None else end.result)
        self._end(ctx, End(status="failed", by=ctx.sender, error=error, result=partial, stops=True))

    @handler
    async def on_stopped(self, _: TaskStopped, ctx: Context) -> None:
        if self.state.end is not None and not self._has_ended:
            self.state.end.stopped = True
            self._end_if_at_rest(ctx)

    def _complete(self, ctx: Context, result: Any) -> None:
        self.state.progress = 1.0
        self._end(ctx, End(status="completed", by=ctx.sender, result=result))

    def _fail(self, ctx: Context, code: str, reason: str, *, at_once: bool = False) -> None:
        """`at_once` also when something of it that cannot be reached goes on."""
        error = {"code": code, "message": reason, "by": ctx.sender}
        self._end(ctx, End(status="failed", by=ctx.sender, error=error), at_once=at_once)

    def _end(self, ctx: Context, end: End, *, at_once: bool = False) -> None:
        state = self.state
        state.end, state.auction = end, None
        if end.error is not None:
            why = f"task {ctx.address.key}, which has started it, {'was cancelled' if end.status == 'cancelled' else 'has failed'}: {end.error['message']}"
            self._tell_children(ctx, CancelTask(reason=why[:MAX_TEXT]))
        if end.stops:
            ctx.consequences.cancel_task(ctx.address.key, end.why(ctx.address.key))
        if at_once:
            self._conclude(ctx, end)
        elif not self._end_if_at_rest(ctx):
            state.status = "cancelling" if end.stops else "ending"
            facts = {"by": end.by, "reason": end.facts["message"]} if end.stops else {"as": end.status}
            self._log(ctx, state.status, **facts, **self._whom_it_waits_for())
            self._write(ctx)

    def _tell_children(self, ctx: Context, message: BaseModel) -> None:
        for child in list(self.state.children.running):
            self._tell_child(ctx, child, message)

    def _tell_child(self, ctx: Context, child: str, message: BaseModel) -> None:
        try:
            ctx.send(task_agent(child), message)
        except UnknownDomain:
            self._lose_child(ctx, child)

    def _lose_child(self, ctx: Context, child: str) -> None:
        """It has gone with its domain: nobody else would ever tell whoever waits for it."""
        waiter = self.state.children.waiters.get(child)
        self.state.children.remove(child)
        self._log(ctx, "child_ended", task=child, status=GONE)
        if waiter is not None:
            error = {"code": "domain_gone", "message": f"The domain {child.partition('/')[0]!r} was removed."}
            with contextlib.suppress(UnknownDomain, UnknownKind):
                ctx.resolve(waiter, TaskOutcome(task=child, status="failed", error=error))

    def _whom_it_waits_for(self) -> dict[str, Any]:
        return {"children": len(self.state.children.running)} if self.state.children else {}

    def _end_if_at_rest(self, ctx: Context) -> bool:
        end = self.state.end
        if end is None or self.state.children or (end.stops and not end.stopped):
            return False
        self._conclude(ctx, end)
        return True

    def _conclude(self, ctx: Context, end: End) -> None:
        state = self.state
        state.status, state.end = end.status, None
        if state.paused is not None:
            self._let_go(ctx)
        state.parts, state.dead, state.children = (
            Parts(),
            DeadWork(),
            Children(started=state.children.started),
        )
        self._log(ctx, end.status, **end.facts)
        result = _json(end.result) if end.status == "completed" or end.result is not None else None
        self._write(ctx, result, None if end.error is None else _json(end.error))
        me = task_ref(ctx.address.key, ctx.address.domain)
        gone = contextlib.suppress(UnknownDomain, UnknownKind)  # whoever was to hear of it, with their domain
        if state.parent is not None:
            with gone:
                ctx.send(task_agent(state.parent), ChildEnded(task=me, status=end.status))
        if state.waiter is not None:
            with gone:
                outcome = TaskOutcome(task=me, status=end.status, result=end.result, error=end.error)
                ctx.resolve(state.waiter, outcome)

    # -- status --------------------------------------------------------------------------------------

    @property
    def _has_ended(self) -> bool:
        return self.state.status in ("completed", "failed", "cancelled")

    @property
    def _shown_status(self) -> str:
        """What the row says."""
        status = self.state.status
        if self.state.paused is not None and not (self._has_ended or status == "cancelling"):
            return "paused"
        return "submitted" if status == "new" else status

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

    # -- rows ----------------------------------------------------------------------------------------

    def _write(self, ctx: Context, result: str | None = None, error: str | None = None) -> None:
        state = self.state
        ctx.consequences.write_task(
            TaskWrite(
                id=ctx.address.key,
                status=self._shown_status,
                assignee=state.assignee,
                progress=state.progress,
                result=result,
                error=error,
                finished=self._has_ended,
            ),
            (),
        )

    def _log(self, ctx: Context, kind: str, **facts: Any) -> None:
        if self.state.logged >= MAX_LOG and kind in _MANY:
            return
        self.state.logged += 1
        event = TaskEvent(task=ctx.address.key, number=self.state.logged, kind=kind, body=_json(facts))
        ctx.consequences.write_task(None, (event,))

    def _log_aside(self, ctx: Context, kind: str, **facts: Any) -> None:
        if self.state.asides < MAX_ASIDES:
            self.state.asides += 1
            self._log(ctx, kind, **facts)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
