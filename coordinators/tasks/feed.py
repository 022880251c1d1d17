"""The task's log on the bus as it grows, for whoever follows a task without reading Postgres."""

from __future__ import annotations

from bus import subjects
from bus.transport import Transport
from coordinators.tasks.assign import FINISHED, SUBMITTED
from storage.records import TurnRecord


class TaskFeed:
    """Publishes what a host has just committed; lossy, as all of the bus."""

    def __init__(self, transport: Transport, domain: str) -> None:
        self._transport = transport
        self._domain = domain

    def publish(self, turn: TurnRecord) -> None:
        """One JSON object a line of the log: task, number, kind, body. Must not raise."""
        for event in turn.task_events:
            line = (
                f'{{"task":"{event.task}","number":{event.number},"kind":"{event.kind}","body":{event.body}}}'
            )
            self._transport.publish(subjects.task_events(self._domain, event.task), line.encode())
        if turn.new_tasks or any(row.status == "submitted" for row in turn.tasks):
            self._transport.publish(subjects.tasks_waiting(self._domain), SUBMITTED)
        if any(
            row.finished or row.status in ("stuck", "paused") for row in turn.tasks
        ):  # room for another one
            self._transport.publish(subjects.tasks_waiting(self._domain), FINISHED)
