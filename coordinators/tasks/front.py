"""Tasks over NATS: a JSON request on `callboard.tasks.<domain>.submit` or `.cancel`, a JSON reply.

Every host and the coordinator of a domain answer in one queue group, so that one of them is enough. NATS does not
see that one of them is frozen: a client that gets no answer asks again with the same `request_key`, as remote.py does.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from bus import subjects
from bus.address import DEFAULT_TENANT
from bus.errors import InvalidTask
from bus.nats import NatsTransport
from bus.registry import describe_validation
from bus.task_limits import NO_LIMITS, TaskLimits
from bus.task_ref import task_ref
from bus.transport import Subscription
from coordinators.tasks.admission import Admission, error_answer
from coordinators.tasks.client import TaskClient
from storage.domains import Connection
from storage.tasks import submit_task

QUEUE = "callboard-tasks"


class Submission(BaseModel):
    """The request. The deadline is an ISO 8601 time with its zone, or seconds since 1970, UTC."""

    model_config = ConfigDict(extra="forbid")

    goal: str
    input: Any = None
    priority: int = 5
    deadline: AwareDatetime | None = None
    policy: str | None = None
    request_key: str | None = None
    limits: TaskLimits = NO_LIMITS
    tenant: str = DEFAULT_TENANT


class CancelRequest(BaseModel):
    """The request to cancel a task, by its id."""

    model_config = ConfigDict(extra="forbid")

    id: str
    reason: str
    tenant: str = DEFAULT_TENANT


class TaskFront:
    """Answers `{"id": ...}` once the task, or the order to cancel it, is committed, or
    `{"error": {"type", "message", "fix", ...}}`."""

    def __init__(self, db: Connection, transport: NatsTransport, domain: str) -> None:
        self._db = db
        self._transport = transport
        self._domain = domain
        self._admission = Admission(domain)

    async def start(self) -> list[Subscription]:
        """Answer until the subscriptions are closed."""
        serve = self._transport.serve
        return [
            await serve(subjects.task_submit(self._domain), self.submit, queue=QUEUE),
            await serve(subjects.task_cancel(self._domain), self.cancel, queue=QUEUE),
        ]

    async def run(self) -> None:
        """Answer until cancelled."""
        subscriptions = await self.start()
        try:
            await asyncio.Event().wait()
        finally:
            for subscription in subscriptions:
                await subscription.close()

    async def submit(self, data: bytes) -> bytes | None:
        try:
            request = Submission.model_validate_json(data)
        except ValidationError as error:
            wrong = InvalidTask(
                f"The request is not a submission: {describe_validation(error)}.",
                fix='Send JSON such as {"goal": "...", "input": {...}, "priority": 5}.',
            )
            return error_answer(wrong)
        key = ("submit", request.tenant, request.request_key) if request.request_key is not None else None
        return await self._admission.answer(key, len(data), partial(self._submit, request))

    async def _submit(self, request: Submission) -> str:
        task = await submit_task(
            self._db,
            self._domain,
            goal=request.goal,
            input=request.input,
            priority=request.priority,
            deadline=request.deadline.timestamp() if request.deadline is not None else None,
            policy=request.policy,
            request_key=request.request_key,
            limits=request.limits,
            tenant=request.tenant,
        )
        self._transport.publish(subjects.tasks_waiting(self._domain), b"submitted")
        return task

    async def cancel(self, data: bytes) -> bytes | None:
        try:
            request = CancelRequest.model_validate_json(data)
        except ValidationError as error:
            wrong = InvalidTask(
                f"The request does not name a task to cancel: {describe_validation(error)}.",
                fix='Send JSON such as {"id": "...", "reason": "..."}.',
            )
            return error_answer(wrong)
        key = "cancel", request.tenant, request.id
        return await self._admission.answer(key, len(data), partial(self._cancel, request))

    async def _cancel(self, request: CancelRequest) -> str:
        client = TaskClient(self._db, self._transport, tenant=request.tenant)
        return (await client.cancel(task_ref(request.id, self._domain), request.reason)).id
