"""The durable agent that leads one task: it alone writes the task's row and log, through its turns.

Every handler first asks whether the task is under way; what comes after the end is put on record and ignored.
Redelivered messages are the turn loop's matter: each reaches a handler's commit once.
"""

from __future__ import annotations

from actors.agent import handler
from actors.context import Context
from actors.retry import RetryPolicy
from actors.task_messages import (
    TASK_KIND,
    Bid,
    CallForBids,
    Decline,
    LimitReached,
    TaskCompleted,
    TaskFailure,
    TaskMended,
    TaskPart,
    TaskProgress,
    TaskSplit,
    TaskStarted,
    TaskTrouble,
    TaskWork,
)
from bus.errors import CallboardError
from bus.moment import LAST_MOMENT
from bus.registry import wire_name_of
from coordinators.tasks.auction import Auction
from coordinators.tasks.leader import Leader
from coordinators.tasks.messages import BidDeadline, FailTask, TaskAssigned, TaskDeadline, WallTime
from coordinators.tasks.parts import TooManyParts

WORK = wire_name_of(TaskWork)
CALL = wire_name_of(CallForBids)


class TaskAgent(Leader):
    """Leads the task that its key names, from its assignment to its end."""

    kind = TASK_KIND
    # What Callboard itself refuses (an unknown kind, a payload too large) is no better the next time.
    retry = RetryPolicy(give_up_on=(CallboardError,))

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
        self.state.on_dead_letter, self.state.priority = task.on_dead_letter, task.priority
        if self.state.dead and task.on_dead_letter == "fail":
            self._fail(ctx, "dead_letter", "Messages of the task were dead letters before it was assigned.")
            return
        self.state.status = "stuck" if self.state.dead else "assigned"
        if task.deadline is not None:
            ctx.send_later(ctx.address, TaskDeadline(), at=task.deadline)
        if task.wall_s is not None and ctx.now + task.wall_s <= LAST_MOMENT:
            ctx.send_later(ctx.address, WallTime(wall_s=task.wall_s), delay_s=task.wall_s)
        if task.assignee is not None:
            self._award(ctx, task.work, task.assignee, task.policy)
        else:
            self._call_for_bids(ctx, task)

    def _award(self, ctx: Context, work: TaskWork, assignee: str, policy: str) -> None:
        waiter = self.state.waiter
        if waiter is not None and waiter.rpartition("#")[0] == assignee:
            self._fail(ctx, "circle", f"{assignee} waits for this task, and would be the one to do it.")
            return
        self.state.assignee = assignee
        ctx.send(assignee, work, deadline=work.deadline)
        self._log(ctx, "assigned", assignee=assignee, policy=policy)
        self._write(ctx)

    def _call_for_bids(self, ctx: Context, task: TaskAssigned) -> None:
        self.state.auction = Auction(
            work=task.work, policy=task.policy, candidates=task.candidates, within_s=task.bid_within_s
        )
        self._call(ctx, self.state.auction)
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
    async def on_bid_deadline(self, deadline: BidDeadline, ctx: Context) -> None:
        auction = self.state.auction
        if auction is None or deadline.call != auction.calls or self.state.paused is not None:
            return  # they are called again when it is resumed
        if auction.was_held_up(ctx.now):
            self._call(ctx, auction)
        else:
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
        end = self.state.end
        if end is not None and end.status == "failed" and end.stops and end.result is None:
            end.result = report.result  # what there is of it, by an agent that has noticed the limit
        if self._is_under_way(ctx):
            self._run(ctx)
            self._complete(ctx, report.result)

    @handler
    async def on_failure(self, report: TaskFailure, ctx: Context) -> None:
        if self._is_under_way(ctx):
            self._fail(ctx, "failed", report.reason)

    @handler
    async def on_deadline(self, _: TaskDeadline, ctx: Context) -> None:
        if self.state.paused is not None:
            self.state.paused.late = "deadline"
        else:
            self._miss_deadline(ctx)

    @handler
    async def on_wall_time(self, time: WallTime, ctx: Context) -> None:
        if self.state.paused is None:
            self._stop_at(ctx, LimitReached.of_time(time.wall_s))
        elif self.state.paused.late is None:
            self.state.paused.late, self.state.paused.wall_s = "wall_s", time.wall_s

    @handler
    async def on_fail_task(self, order: FailTask, ctx: Context) -> None:
        if self._has_ended:
            self._log_aside(ctx, "late", type=ctx.header.type, by=ctx.sender)
        else:  # also before it is assigned: an assignment that comes later finds it ended
            end = self.state.end  # one that cannot come to its end is ended all the same
            self._fail(ctx, "operator", order.reason, at_once=end is not None and not end.can_be_worse)

    # -- dead letters --------------------------------------------------------------------------------

    @handler
    async def on_trouble(self, trouble: TaskTrouble, ctx: Context) -> None:
        """A message of the task is a dead letter."""
        state = self.state
        words = f"{ctx.sender} could not handle {trouble.type}: {trouble.error}"
        if trouble.told:
            words += " (who asked was told)"
        facts = {"message": words, "by": ctx.sender, **trouble.model_dump()}
        if self._has_ended or state.end is not None:
            self._log_aside(ctx, "trouble", **facts)
        elif trouble.type == CALL:  # whoever cannot read the call does not want the task
            if state.auction is not None and state.auction.awaits(ctx.sender):
                self._decline(ctx, trouble.error)
            else:
                self._log_aside(ctx, "trouble", **facts)
        elif self._is_the_end(trouble, ctx):
            self._fail(ctx, "dead_letter", words)
        elif trouble.told:
            self._log_aside(ctx, "trouble", **facts)
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
        return self.state.on_dead_letter == "fail" and self.state.status != "new" and not trouble.told

    @handler
    async def on_mended(self, mended: TaskMended, ctx: Context) -> None:
        state = self.state
        words = f"dead letter {mended.letter} of {ctx.sender} is {mended.how}: {mended.type}"
        facts = {"message": words, "by": ctx.sender, **mended.model_dump()}
        if self._has_ended:
            self._log_aside(ctx, "late", **facts)
            return
        self._log_aside(ctx, "mended", **facts)
        state.dead.remove(mended.id)
        if state.status == "stuck" and not state.dead:
            state.status = "running"
            self._log(ctx, "running", by=ctx.sender)
            self._write(ctx)
