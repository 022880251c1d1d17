"""The messages between a task's agent and the agents that work on the task."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from bus.address import Address
from bus.amount import Amount, figure
from bus.registry import message
from bus.task_limits import WALL
from bus.task_ref import split_task_ref

TASK_KIND = "task"  # the kind of the durable agent that leads a task; its key is the task's id
LEADS = f"{TASK_KIND}/"  # the name of such an agent (`kind/key`) begins so
MAX_PARTS = 1_000  # of one task; their results wait in the task agent's state
MAX_CHILDREN = 1_000  # tasks that one task has started and that have not ended
MAX_DEPTH = 32  # levels of tasks that start tasks; more is an endless recursion


def task_agent(ref: str) -> Address:
    """The agent that leads the task of a reference (`domain/id`)."""
    domain, task = split_task_ref(ref)
    return Address(domain, TASK_KIND, task)


class TaskTerms(BaseModel):
    """What was submitted; the id is that of the task within its domain."""

    id: str
    goal: str
    input: Any = None
    priority: int = 5
    """From 0 to 10, higher first."""
    deadline: float | None = None
    """Seconds since 1970, UTC; a task that is not done by then has failed."""


# -- what an assignee is sent ------------------------------------------------------------------------


TASK_WORK = "callboard.task.v1"


@message(TASK_WORK)
class TaskWork(TaskTerms):
    """A task for you: answer with `ctx.complete(result)` or `ctx.fail(why)`, in this turn or a later one."""


@message("callboard.call_for_bids.v1")
class CallForBids(TaskTerms):
    """Who wants this task? Answer with `ctx.bid(score)` or `ctx.decline()` before `bid_by`."""

    bid_by: float


# -- what the task's agent is told (Context has a method for each) -----------------------------------


@message("callboard.task_started.v1")
class TaskStarted(BaseModel):
    """The assignee has taken the task up; sent by itself after a turn that reported nothing else."""


@message("callboard.task_progress.v1")
class TaskProgress(BaseModel):
    progress: float = Field(ge=0, le=1)
    note: str = ""


@message("callboard.task_completed.v1")
class TaskCompleted(BaseModel):
    result: Any = None


@message("callboard.task_failed.v1")
class TaskFailure(BaseModel):
    reason: str


@message("callboard.task_split.v1")
class TaskSplit(BaseModel):
    """The task's result will be those of so many parts, which may have come already."""

    parts: int = Field(ge=1, le=MAX_PARTS)


@message("callboard.task_part.v1")
class TaskPart(BaseModel):
    """The result of one part; a part that comes twice counts once."""

    part: str = Field(min_length=1, max_length=200)
    result: Any = None


@message("callboard.bid.v1")
class Bid(BaseModel):
    """The highest score gets the task."""

    score: float = Field(allow_inf_nan=False)
    note: str = ""


@message("callboard.decline.v1")
class Decline(BaseModel):
    note: str = ""


@message("callboard.cancel_task.v1")
class CancelTask(BaseModel):
    """End the task, and everything that it has started."""

    reason: str


@message("callboard.pause_task.v1")
class PauseTask(BaseModel):
    """Begin no further turn of the task, nor of those that it has started, until it is resumed."""

    reason: str = ""


@message("callboard.resume_task.v1")
class ResumeTask(BaseModel):
    """Let a paused task go on, with those that it has started."""


@message("callboard.task_stopped.v1")
class TaskStopped(BaseModel):
    """Nothing of a cancelled task runs any more, and none of its turns is open."""


# -- tasks that tasks start --------------------------------------------------------------------------


SUBMIT = "callboard.submit_task.v1"


@message(SUBMIT)
class SubmitTask(BaseModel):
    """Start a task as a child of the one that this is sent to; its id is that of this message."""

    domain: str
    goal: str
    input: Any = None
    priority: int | None = None
    """None is that of the parent."""
    deadline: float | None = None
    policy: str | None = None


@message("callboard.cancel_child.v1")
class CancelChild(BaseModel):
    """To the parent: nobody waits any more for the child that was submitted with this id."""

    id: str
    reason: str


@message("callboard.task_submitted.v1")
class TaskSubmitted(TaskTerms):
    """To the agent of a new child: what it is to do, and for whom. `waiter` is the promise of who waits for its end."""

    policy: str | None = None
    parent: str
    root: str
    depth: int
    by: str
    waiter: str | None = None


@message("callboard.limit_reached.v1")
class LimitReached(BaseModel):
    """The task, with all that it has started, is above one of its limits."""

    limit: str
    used: Amount
    allowed: Amount

    @classmethod
    def of_time(cls, wall_s: float) -> Self:
        """All of its time is over."""
        return cls.model_validate({"limit": WALL, "used": wall_s, "allowed": wall_s})

    @property
    def words(self) -> str:
        if self.limit == WALL:
            return f"The task has run for {figure(self.allowed)} s, its limit ({WALL})."
        return f"The task has used {figure(self.used)} {self.limit}; its limit is {figure(self.allowed)}."


GONE = "gone"  # of a child: with its domain, in whatever state it was


@message("callboard.child_ended.v1")
class ChildEnded(BaseModel):
    """To the parent: a child (`domain/id`) has ended, and nothing of it goes on. One that is `gone` could not say so."""

    task: str
    status: str


@message("callboard.task_outcome.v1")
class TaskOutcome(BaseModel):
    """How a child has ended, for who waits for it; `error` has a `code` and a `message`."""

    task: str
    status: Literal["completed", "failed", "cancelled"]
    result: Any = None
    error: dict[str, Any] | None = None


TROUBLE = "callboard.task_trouble.v1"


@message(TROUBLE)
class TaskTrouble(BaseModel):
    """A message of the task became a dead letter; sent by the turn loop for the agent that had it."""

    type: str
    id: str
    reason: str
    error: str
    told: bool = False
    """It was an ask, and who asked was told: the task goes on with what that one makes of it."""


@message("callboard.task_mended.v1")
class TaskMended(BaseModel):
    """A dead letter of the task is none any more: an operator had it tried again, or dropped it."""

    type: str
    id: str
    how: Literal["retried", "dropped"]
    reason: str = ""
    letter: int | None = None  # its number
