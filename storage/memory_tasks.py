"""Tasks in memory, for tests: their rows, which they have started, and their logs."""

from __future__ import annotations

from collections.abc import Sequence

from bus.errors import InvalidData
from storage.records import NewTask, TaskEvent, TaskWrite, TurnRecord

TaskKey = tuple[str, str, str]  # domain, tenant, id


class MemoryTasks:
    """The tables `tasks` and `task_events` of all domains."""

    def __init__(self) -> None:
        self.rows: dict[TaskKey, TaskWrite] = {}
        self.children: dict[TaskKey, NewTask] = {}
        self.events: dict[tuple[str, str, str, int], TaskEvent] = {}
        self.places: dict[TaskKey, int] = {}
        """The partitions of the agents that lead them."""

    def add(self, domain: str, tenant: str, task: str, submitted: NewTask | None = None) -> None:
        """A task that was submitted, by another one if that is said, and that its agent has not written yet."""
        row = TaskWrite(
            id=task, status="submitted", assignee=None, progress=0.0, result=None, error=None, finished=False
        )
        if self.rows.setdefault((domain, tenant, task), row) is row and submitted is not None:
            self.children[(domain, tenant, task)] = submitted

    def ended(self, tenant: str, task: str) -> str | None:
        """How a task (`domain/id`) has ended; see BuriedMessage."""
        domain, _, id_ = task.partition("/")
        row = self.rows.get((domain, tenant, id_))
        if row is None:
            return "forgotten"
        return row.status if row.finished or row.status == "cancelling" else None

    def check(self, domain: str, turns: Sequence[TurnRecord]) -> None:
        events = [(domain, t.tenant, e.task, e.number) for t in turns for e in t.task_events]
        if len(set(events)) < len(events) or not self.events.keys().isdisjoint(events):
            raise InvalidData("A task event's number is taken.")

    def apply(self, domain: str, turns: Sequence[TurnRecord]) -> None:
        for turn in turns:
            for new in turn.new_tasks:
                self.add(domain, turn.tenant, new.id, new)
            for write in turn.tasks:
                self.places[(domain, turn.tenant, write.id)] = turn.partition
                if (domain, turn.tenant, write.id) in self.rows:
                    self.rows[(domain, turn.tenant, write.id)] = write
            for event in turn.task_events:
                self.events[(domain, turn.tenant, event.task, event.number)] = event
