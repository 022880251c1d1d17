"""The desk: leads one triage task from its submission to its report."""

from __future__ import annotations

from pydantic import BaseModel, ValidationError

from bus.registry import describe_validation
from callboard import Agent, Context, TaskWork, handler
from secops.messages import (
    CaseInput,
    Expect,
    Follow,
    LinesRead,
    LogRead,
    Look,
    NotFollowed,
    Reported,
    Responding,
)
from secops.places import NO_DEADLINE, reader, reporter
from secops.progress import ALL_READ, STEPS

LOOK_EVERY_S = 60.0
# Judging the largest log takes about a minute, and a host that died is replaced within seconds.
STALLED_AFTER_S = 600.0


class Desk(Agent):
    """Has a log read, tells the task how far it is, and has the findings reported.

    Its key is the task's id. A case from which nothing was heard for long fails: its lines were never fed, or
    one of its messages is a dead letter.
    """

    kind = "desk"

    class State(BaseModel):
        case: CaseInput | None = None
        deadline: float | None = None
        news_at: float = 0.0
        done: bool = False

    state: State

    @handler
    async def on_task(self, task: TaskWork, ctx: Context) -> None:
        try:
            case = CaseInput.model_validate(task.input)
        except ValidationError as error:
            ctx.fail(f"The task's input is no log: {describe_validation(error)}.")
            self.state.done = True
            return
        self.state.case, self.state.deadline, self.state.news_at = case, ctx.deadline, ctx.now
        every = max(1, -(-case.lines // STEPS))
        ctx.send(reader(case.log), Follow(task=task.id, every=every), deadline=NO_DEADLINE)
        ctx.send_later(ctx.address, Look(), delay_s=LOOK_EVERY_S)

    @handler
    async def on_lines_read(self, news: LinesRead, ctx: Context) -> None:
        case = self.state.case
        if case is None or self.state.done:
            return
        self.state.news_at = ctx.now
        if news.lines >= case.lines:  # the reader says so itself once it has seen the log's end
            return
        share = news.lines / case.lines
        ctx.progress(ALL_READ * share, f"{news.lines:,} of {case.lines:,} lines read", task=ctx.address.key)

    @handler
    async def on_log_read(self, news: LogRead, ctx: Context) -> None:
        case = self.state.case
        if case is None or self.state.done:
            return
        self.state.news_at = ctx.now
        total = news.facts.lines.total
        ctx.progress(ALL_READ, f"all {total:,} lines read, judging their sources", task=ctx.address.key)
        facts = news.facts.model_copy(update={"name": case.name})
        ctx.send(
            reporter(ctx.address.key), Expect(facts=facts, clerks=news.clerks, deadline=self.state.deadline)
        )

    @handler
    async def on_not_followed(self, news: NotFollowed, ctx: Context) -> None:
        self.state.done = True
        ctx.fail(
            f"{news.limit} tasks wait for this log already. Try again when they are done.",
            task=ctx.address.key,
        )

    @handler
    async def on_responding(self, _: Responding, ctx: Context) -> None:
        """People may take as long as they want."""
        self.state.done = True

    @handler
    async def on_reported(self, _: Reported, ctx: Context) -> None:
        self.state.done = True

    @handler
    async def on_look(self, _: Look, ctx: Context) -> None:
        if self.state.done or self.state.case is None:
            return
        if ctx.now - self.state.news_at < STALLED_AFTER_S:
            ctx.send_later(ctx.address, Look(), delay_s=LOOK_EVERY_S)
            return
        self.state.done = True
        ctx.fail(
            f"Nothing was heard of the log {self.state.case.log[:12]} for {STALLED_AFTER_S / 60:.0f} minutes. "
            "Were all of its lines fed? See also `callboard dead-letters`."
        )
