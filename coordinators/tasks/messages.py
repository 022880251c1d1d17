"""What a task's agent is told by the coordinator, by operators and by its own timers.

See also actors/task_messages.py.
"""

from __future__ import annotations

from pydantic import BaseModel

from actors.domain import OnDeadLetter
from actors.task_messages import TaskTerms, TaskWork
from bus.registry import encode_payload, message


@message("callboard.task_assigned.v1")
class TaskAssigned(TaskTerms):
    """The coordinator's decision: exactly one of `assignee`, `candidates` (addresses) and `refused` is set."""

    policy: str
    on_dead_letter: OnDeadLetter = "keep"
    assignee: str | None = None
    candidates: tuple[str, ...] = ()
    bid_within_s: float = 0.0
    wall_s: float | None = None
    """It has failed if it has not ended so many seconds after this."""
    refused: str | None = None

    @property
    def work(self) -> TaskWork:
        return TaskWork(
            id=self.id, goal=self.goal, input=self.input, priority=self.priority, deadline=self.deadline
        )

    def payload(self, input: str) -> str:
        """The message as JSON with an input that is JSON already: one of some MiB would take seconds to read and to write,
        in which nobody else is assigned anything."""
        before, after = encode_payload(self).split('"input":null', 1)
        return f'{before}"input":{input}{after}'


@message("callboard.fail_task.v1")
class FailTask(BaseModel):
    """An operator ends the task as failed, also one that nobody has been assigned yet."""

    reason: str


@message("callboard.task_deadline.v1")
class TaskDeadline(BaseModel):
    """A timer: the task should be done by now."""


@message("callboard.wall_time.v1")
class WallTime(BaseModel):
    """A timer: the task has had all of its time."""

    wall_s: float


@message("callboard.bid_deadline.v1")
class BidDeadline(BaseModel):
    """A timer: whoever wants the task has bid by now, of those who were called so often."""

    call: int
