"""The part of Context that starts tasks: children of the task of which the message being handled is part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from actors.awaited import to_be_awaited
from actors.task_messages import TASK_KIND, SubmitTask, TaskOutcome, task_agent
from actors.task_outcome import failure
from bus.address import Address
from bus.errors import InvalidMessage
from bus.task_ref import task_ref
from storage.tasks import check_terms

if TYPE_CHECKING:
    from actors.scope import Scope


class ChildTasks(ABC):
    """A child is a task like any other, assigned in its own domain, that ends within its parent.

    The parent is completed once its children have ended. Where it fails or is cancelled, they are cancelled, and it
    ends when they have. Both methods raise InvalidMessage where the message being handled is part of no task,
    InvalidTask, UnknownDomain and PayloadTooLarge.
    """

    __slots__ = ()

    def submit_task(
        self,
        domain: str,
        *,
        goal: str,
        input: Any = None,
        priority: int | None = None,
        deadline: float | None = None,
        policy: str | None = None,
    ) -> str:
        """Start a task in a domain when this turn commits, or before it waits; return its reference `domain/id`.

        `input` is any JSON value, the deadline seconds since 1970, UTC: without one, this turn's. `priority` (0 to 10)
        is the parent's unless it is given, `policy` the domain's. Nobody waits for its result: use `run_task` for that.
        """
        leader, order = self._submission(domain, goal, input, priority, deadline, policy)
        return task_ref(self._send_child(leader, order), domain)

    @to_be_awaited
    async def run_task(
        self,
        domain: str,
        *,
        goal: str,
        input: Any = None,
        priority: int | None = None,
        deadline: float | None = None,
        policy: str | None = None,
        key: str | None = None,
    ) -> Any:
        """Start a task, as `submit_task` does, and wait for its result; holds nothing while it waits.

        Raises TaskFailed when it has failed, WasCancelled, which is one, when it was cancelled (`task` names it),
        DeadlineExceeded when it was not done by its deadline, NoBid when nobody wanted it, AskCycle when it cannot be done
        before this turn has ended. A turn that is cancelled waits for its end before it is undone.
        """
        leader, order = self._submission(domain, goal, input, priority, deadline, policy)
        place, outcome = await self._ask_leader(leader, order, f"task in {domain}", key)
        if outcome.status != "completed":
            raise failure(outcome.task, outcome.status, outcome.error or {}, place=place)
        return outcome.result

    def _submission(
        self,
        domain: str,
        goal: str,
        input: Any,
        priority: int | None,
        deadline: float | None,
        policy: str | None,
    ) -> tuple[Address, SubmitTask]:
        if self.task is None:
            raise InvalidMessage(
                "The message being handled is part of no task, so that none can be started within it.",
                fix="Submit the task from outside, or start it from a turn that descends from TaskWork.",
            )
        self._scope.directory.partitions(domain, TASK_KIND)
        deadline = self.deadline if deadline is None else deadline
        check_terms(goal, input, 5 if priority is None else priority, deadline, policy)
        order = SubmitTask(
            domain=domain, goal=goal, input=input, priority=priority, deadline=deadline, policy=policy
        )
        return task_agent(self.task), order

    # -- what Context brings -------------------------------------------------------------------------

    _scope: Scope

    @property
    @abstractmethod
    def task(self) -> str | None: ...

    @property
    @abstractmethod
    def deadline(self) -> float | None: ...

    @abstractmethod
    def _send_child(self, leader: Address, order: SubmitTask) -> str: ...

    @abstractmethod
    async def _ask_leader(
        self, leader: Address, order: SubmitTask, name: str, key: str | None
    ) -> tuple[str, TaskOutcome]:
        """The place of the ask, and its answer."""
        ...
