"""Submitting a task over NATS: a JSON request on `callboard.tasks.<domain>.submit`, a JSON reply.

Every host and the coordinator of a domain answer in one queue group, so that one of them is enough. NATS does not
see that one of them is frozen: a client that gets no answer asks again with the same `request_key`, as remote.py does.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from bus import subjects
from bus.address import DEFAULT_TENANT
from bus.errors import CallboardError, InvalidTask
from bus.nats import NatsTransport
from bus.registry import describe_validation
from bus.transport import Subscription
from storage.domains import Connection
from storage.tasks import submit_task

_logger = logging.getLogger("callboard.tasks")

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
    tenant: str = DEFAULT_TENANT


class TaskFront:
    """Answers `{"id": ...}` once the task is committed, or `{"error": {"type", "message", "fix", ...}}`."""

    def __init__(self, db: Connection, transport: NatsTransport, domain: str) -> None:
        self._db = db
        self._transport = transport
        self._domain = domain

    async def start(self) -> Subscription:
        """Answer until the subscription is closed."""
        return await self._transport.serve(subjects.task_submit(self._domain), self.answer, queue=QUEUE)

    async def run(self) -> None:
        """Answer until cancelled."""
        subscription = await self.start()
        try:
            await asyncio.Event().wait()
        finally:
            await subscription.close()

    async def answer(self, data: bytes) -> bytes:
        try:
            task = await self._submit(data)
        except CallboardError as error:
            return _error(type(error).__name__, error.message, error.fix, error.fields)
        except Exception:
            _logger.exception("a submission failed")
            return _error("CallboardError", "The submission failed.", "Look into the host's log.", {})
        self._transport.publish(subjects.tasks_waiting(self._domain), b"submitted")
        return json.dumps({"id": task}).encode()

    async def _submit(self, data: bytes) -> str:
        try:
            request = Submission.model_validate_json(data)
        except ValidationError as error:
            raise InvalidTask(
                f"The request is not a submission: {describe_validation(error)}.",
                fix='Send JSON such as {"goal": "...", "input": {...}, "priority": 5}.',
            ) from None
        return await submit_task(
            self._db,
            self._domain,
            goal=request.goal,
            input=request.input,
            priority=request.priority,
            deadline=request.deadline.timestamp() if request.deadline is not None else None,
            policy=request.policy,
            request_key=request.request_key,
            tenant=request.tenant,
        )


def _error(name: str, message: str, fix: str, fields: dict[str, Any]) -> bytes:
    error = {"type": name, "message": message, "fix": fix, **fields}
    return json.dumps({"error": error}, default=str).encode()
