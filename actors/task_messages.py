"""The messages between a task's agent and the agents that work on the task."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from bus.registry import message

TASK_KIND = "task"  # the kind of the durable agent that leads a task; its key is the task's id
MAX_PARTS = 1_000  # of one task; their results wait in the task agent's state


def task_agent(task_id: str) -> str:
    """The agent (`kind/key`) that leads a task."""
    return f"{TASK_KIND}/{task_id}"


# -- what an assignee is sent ------------------------------------------------------------------------


@message("callboard.task.v1")
class TaskWork(BaseModel):
    """A task for you: answer with `ctx.complete(result)` or `ctx.fail(why)`, in this turn or a later one."""

    id: str
    goal: str
    input: Any = None
    priority: int = 5
    """From 0 to 10, higher first."""
    deadline: float | None = None
    """Seconds since 1970, UTC; a task that is not done by then has failed."""


@message("callboard.call_for_bids.v1")
class CallForBids(BaseModel):
    """Who wants this task? Answer with `ctx.bid(score)` or `ctx.decline()` before `bid_by`."""

    id: str
    goal: str
    input: Any = None
    priority: int = 5
    deadline: float | None = None
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


TROUBLE = "callboard.task_trouble.v1"


@message(TROUBLE)
class TaskTrouble(BaseModel):
    """A message of the task became a dead letter; sent by the turn loop for the agent that had it."""

    type: str
    id: str
    reason: str
    error: str
