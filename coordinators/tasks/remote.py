"""Submitting a task, and cancelling one, from where there is no Postgres: over NATS, answered by any host or coordinator of the domain."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from bus import errors, subjects
from bus.envelope import new_id
from bus.errors import CallboardError, Overloaded, ServiceUnavailable
from bus.nats import NatsTransport
from coordinators.tasks.front import CancelRequest, Submission

AGAIN_S = 0.5  # a host that is frozen is asked as well, until its domain's coordinator has replaced it


async def submit_over_nats(
    transport: NatsTransport, domain: str, submission: Submission, *, timeout_s: float = 10.0
) -> str:
    """Submit a task and return its id; when this returns, the task is committed.

    It is asked for again and again, always under one request key, so that it is accepted once. Raises what
    storage.tasks.submit_task raises, Overloaded also for too many submissions at once, or ServiceUnavailable when
    nobody answers in time: it may then have been accepted. A submission with the `request_key` that these two errors
    bear finds out.
    """
    if submission.request_key is None:
        submission = submission.model_copy(update={"request_key": new_id()})
    try:
        return await _ask(transport, subjects.task_submit(domain), submission, timeout_s)
    except (Overloaded, ServiceUnavailable) as error:
        error.fields["request_key"] = submission.request_key
        raise


async def cancel_over_nats(
    transport: NatsTransport, domain: str, request: CancelRequest, *, timeout_s: float = 10.0
) -> None:
    """Have a task cancelled; when this returns, the order is committed. Raises what TaskClient.cancel raises, or
    ServiceUnavailable when nobody answers in time: it may be asked for again."""
    await _ask(transport, subjects.task_cancel(domain), request, timeout_s)


async def _ask(transport: NatsTransport, subject: str, request: BaseModel, timeout_s: float) -> str:
    data = request.model_dump_json().encode()
    answer: dict[str, Any] = json.loads(
        await transport.ask_until_answered(subject, data, again_s=AGAIN_S, timeout_s=timeout_s)
    )
    if "error" in answer:
        raise _raised(answer["error"])
    return str(answer["id"])


def _raised(error: dict[str, Any]) -> CallboardError:
    found = getattr(errors, error.pop("type"), None)
    kind = found if isinstance(found, type) and issubclass(found, CallboardError) else CallboardError
    return kind(error.pop("message"), fix=error.pop("fix", ""), **error)
