"""The part of Context that speaks to the task of which the message being handled is part."""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from typing import Any, Literal

from pydantic import BaseModel

from actors.consequences import Consequences
from actors.task_messages import (
    MAX_PARTS,
    Bid,
    CancelTask,
    Decline,
    TaskCompleted,
    TaskFailure,
    TaskMended,
    TaskPart,
    TaskProgress,
    TaskSplit,
    TaskStarted,
    TaskTrouble,
    task_agent,
)
from bus.address import Address
from bus.envelope import Header
from bus.errors import CallboardError, InvalidMessage
from bus.task_ref import task_ref

MAX_TEXT = 2_000  # characters of a note or a reason; what is longer is cut


class TaskReports(ABC):
    """Each method sends one message to the task's agent when the turn commits.

    A report goes to the agent that leads the task, whichever domain that is in, and has no deadline, so that
    even a late one is on record. An agent that works for several tasks at once, so that the message being
    handled may be part of another one, names the task that it means: by a reference (what `ctx.task` gave it
    earlier), or by its id alone if it is one of the agent's own domain. All raise InvalidMessage when the
    message being handled is part of no task and none is named, or when an argument is out of range.
    """

    __slots__ = ()

    def progress(self, fraction: float, note: str = "", *, task: str | None = None) -> None:
        """Say how much of the task is done, from 0 to 1."""
        if not 0 <= fraction <= 1:  # NaN is neither
            raise InvalidMessage(f"A progress of {fraction} is not between 0 and 1.")
        self._report(TaskProgress(progress=fraction, note=_cut(note)), task)

    def complete(self, result: Any = None, *, task: str | None = None) -> None:
        """End the task with its result: any JSON value, or a pydantic model. The first end counts."""
        self._report(TaskCompleted(result=result), task)

    def fail(self, reason: str, *, task: str | None = None) -> None:
        """End the task as failed; raise an error instead to have the message tried again."""
        self._report(TaskFailure(reason=_cut(reason)), task)

    def cancel_task(self, reason: str, *, task: str | None = None) -> None:
        """End the task as cancelled, with every turn, ask, step and timer that it has started, this agent's too.

        Compensations run. Raises InvalidMessage without a reason.
        """
        if not reason.strip():
            raise InvalidMessage("A task is cancelled for a reason.", fix="Give one.")
        self._report(CancelTask(reason=_cut(reason)), task)

    def split(self, parts: int) -> None:
        """Let the task complete by itself when so many parts (at most 1,000) have reported their results.

        The task's result is then an object with one field for each part, in the order of their names.
        """
        if not 1 <= parts <= MAX_PARTS:
            raise InvalidMessage(f"A task can have 1 to {MAX_PARTS} parts, not {parts}.")
        self._report(TaskSplit(parts=parts))

    def complete_part(self, part: str, result: Any = None) -> None:
        """Report the result of one part, by a name (1 to 200 characters) of its own."""
        if not 1 <= len(part) <= 200:
            raise InvalidMessage(f"The name of a part has 1 to 200 characters, not {len(part)}.")
        self._report(TaskPart(part=part, result=result))

    def bid(self, score: float, note: str = "") -> None:
        """Answer a CallForBids: the highest score gets the task."""
        if not math.isfinite(score):
            raise InvalidMessage(f"A bid of {score} is not a finite number.")
        self._report(Bid(score=score, note=_cut(note)))

    def decline(self, note: str = "") -> None:
        """Answer a CallForBids with no, so that nobody waits for this agent."""
        self._report(Decline(note=_cut(note)))

    # -- for the turn loop ---------------------------------------------------------------------------

    def report_started(self) -> None:
        """The task was taken up, if this turn has not said anything more telling. Never raises."""
        if self.task is None:
            return
        leader = self._leader(self.task)
        if all((send.domain, send.agent) != (leader.domain, leader.agent) for send in self._puts.sends):
            with contextlib.suppress(CallboardError):
                self._report(TaskStarted())

    def report_trouble(self, wire_name: str, message_id: str, reason: str, error: str, *, told: bool) -> None:
        """A message of the task became a dead letter. Never raises: the dead letter stands on its own."""
        if self.task is not None:
            trouble = TaskTrouble(type=wire_name, id=message_id, reason=reason, error=_cut(error), told=told)
            with contextlib.suppress(CallboardError):
                self._report(trouble)

    def report_mended(
        self, header: Header, letter: int, how: Literal["retried", "dropped"], reason: str = ""
    ) -> None:
        """A dead letter was taken back. Never raises: that stands on its own."""
        if header.task is not None:
            mended = TaskMended(type=header.type, id=header.id, how=how, reason=_cut(reason), letter=letter)
            with contextlib.suppress(CallboardError):
                self._report(mended, header.task)

    def _report(self, message: BaseModel, task: str | None = None) -> None:
        meant = task if task is not None else self.task
        if meant is None:
            raise InvalidMessage(
                "The message being handled is part of no task.",
                fix="Report from the turn that handles TaskWork, from one that descends from it, or name the task.",
            )
        self._send_report(self._leader(meant), message)

    def _leader(self, task: str) -> Address:
        return task_agent(task_ref(task, self.address.domain))

    # -- what Context brings -------------------------------------------------------------------------

    _puts: Consequences

    @property
    @abstractmethod
    def address(self) -> Address:
        """The agent's own address."""

    @property
    @abstractmethod
    def task(self) -> str | None:
        """The task that this message is part of, as `domain/id`."""

    @abstractmethod
    def _send_report(self, to: Address, message: BaseModel) -> None: ...


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
