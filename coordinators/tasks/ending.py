"""How a task ends, and the children that have to end first."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from actors.task_messages import MAX_CHILDREN


class End(BaseModel):
    """The task's end, decided and not reached: something of it has to end first."""

    status: Literal["completed", "failed", "cancelled"]
    by: str
    result: Any = None
    error: dict[str, Any] | None = None
    stops: bool = False  # all that works on it is made to end, and waited for
    stopped: bool = False  # and has ended

    @property
    def facts(self) -> dict[str, Any]:
        """What the log says of it."""
        return self.error if self.error is not None else {"by": self.by}

    def why(self, task: str) -> str:
        """What those are told that work on it."""
        assert self.error is not None
        reason = str(self.error["message"])
        return f"{self.by} has cancelled task {task}: {reason}" if self.status == "cancelled" else reason

    @property
    def can_be_worse(self) -> bool:
        """Whether the task may still fail: nothing but its children keeps it from being completed."""
        return self.status == "completed"


class Paused(BaseModel):
    """Who has paused the task; `late` is the code of what came due meanwhile, and acts when it goes on."""

    by: str
    late: Literal["deadline", "wall_s"] | None = None
    wall_s: float = 0.0


class Children(BaseModel):
    """The tasks that this one has started and that have not ended, by their references."""

    running: list[str] = Field(default_factory=list)
    waiters: dict[str, str] = Field(default_factory=dict)  # the promises of those who wait for one's end
    started: int = 0

    def __bool__(self) -> bool:
        return bool(self.running)

    @property
    def is_full(self) -> bool:
        return len(self.running) >= MAX_CHILDREN

    def add(self, child: str, waiter: str | None) -> None:
        self.running.append(child)
        if waiter is not None:
            self.waiters[child] = waiter
        self.started += 1

    def find(self, id_: str) -> str | None:
        """The reference of a child by its id."""
        return next((child for child in self.running if child.endswith(f"/{id_}")), None)

    def remove(self, child: str) -> bool:
        """False when there is no such child."""
        if child not in self.running:
            return False
        self.running.remove(child)
        self.waiters.pop(child, None)
        return True
