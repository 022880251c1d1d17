"""What a task's agent is told by the coordinator and by its own timers; see also actors/task_messages.py."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from actors.task_messages import TaskWork
from bus.registry import message


@message("callboard.task_assigned.v1")
class TaskAssigned(BaseModel):
    """The coordinator's decision: exactly one of `assignee`, `candidates` (addresses) and `refused` is set."""

    id: str
    goal: str
    input: Any = None
    priority: int = 5
    deadline: float | None = None
    policy: str
    assignee: str | None = None
    candidates: tuple[str, ...] = ()
    bid_within_s: float = 0.0
    refused: str | None = None

    @property
    def work(self) -> TaskWork:
        return TaskWork(
            id=self.id, goal=self.goal, input=self.input, priority=self.priority, deadline=self.deadline
        )


@message("callboard.task_deadline.v1")
class TaskDeadline(BaseModel):
    """A timer: the task should be done by now."""


@message("callboard.bid_deadline.v1")
class BidDeadline(BaseModel):
    """A timer: whoever wants the task has bid by now."""
