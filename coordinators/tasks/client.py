"""Submit a task and follow it. NATS says when to look; what is seen comes from Postgres."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from pydantic import BaseModel

from actors.task_messages import CancelTask, PauseTask, ResumeTask, task_agent
from actors.task_outcome import failure
from actors.task_reports import MAX_TEXT
from bus import subjects
from bus.address import DEFAULT_TENANT
from bus.envelope import new_id
from bus.errors import ServiceUnavailable, StorageUnavailable, TaskError
from bus.task_limits import NO_LIMITS, TaskLimits
from bus.transport import Subscription, Transport
from coordinators.tasks.messages import FailTask
from storage.domains import Connection
from storage.inspect import TaskEventView, TaskView, find_task, list_task_events
from storage.intake import OPERATOR, Incoming, accept
from storage.tasks import require_text, submit_task

_logger = logging.getLogger("callboard.tasks")

LOOK_EVERY_S = 1.0  # how late an event is seen when NATS has lost the word of it
LOOK_WITHOUT_NATS_S = 0.25
FINAL = ("completed", "failed", "cancelled")
MAX_REASON_BYTES = 2_000
_PAGE = 1_000
_SUBMIT_TRIES = 5
_RETRY_S = 0.5


class TaskClient:
    """Works while coordinators, hosts or NATS are away; only Postgres is needed. `transport` None polls; `by` is who ends,
    pauses and resumes tasks, as their logs name it."""

    def __init__(
        self,
        db: Connection,
        transport: Transport | None = None,
        *,
        tenant: str = DEFAULT_TENANT,
        by: str = OPERATOR,
    ) -> None:
        self._by = by
        self._db = db
        self._transport = transport
        self._tenant = tenant

    async def submit(
        self,
        domain: str,
        *,
        goal: str,
        input: Any = None,
        priority: int = 5,
        deadline: float | None = None,
        policy: str | None = None,
        request_key: str | None = None,
        limits: TaskLimits = NO_LIMITS,
        task_id: str | None = None,
    ) -> str:
        """Submit a task and return its id; see storage.tasks.submit_task for arguments and errors.

        A failing connection is tried again under the same id, so that the task is accepted once.
        """
        task_id = task_id or new_id()
        for tries_left in reversed(range(_SUBMIT_TRIES)):
            try:
                accepted = await submit_task(
                    self._db,
                    domain,
                    goal=goal,
                    input=input,
                    priority=priority,
                    deadline=deadline,
                    policy=policy,
                    request_key=request_key,
                    limits=limits,
                    tenant=self._tenant,
                    task_id=task_id,
                )
                break
            except StorageUnavailable:
                if not tries_left:
                    raise
                await asyncio.sleep(_RETRY_S)
        if self._transport is not None:
            self._transport.publish(subjects.tasks_waiting(domain), b"submitted")
            await self._transport.flush()
        return accepted

    async def fail(self, task_id: str, reason: str) -> TaskView:
        """Have a task's agent end it as failed; return the task as it stood before.

        What still works on it is not stopped, as `cancel` does it; its reports no longer count. Raises InvalidTask for the reason,
        UnknownTask, or TaskError when the task has ended.
        """
        return await self._order(task_id, reason, FailTask(reason=reason))

    async def _order(self, task_id: str, reason: str, message: BaseModel) -> TaskView:
        require_text("reason for the end", reason, MAX_REASON_BYTES)
        return await self._tell(task_id, message)

    async def _tell(self, task_id: str, message: BaseModel) -> TaskView:
        task = await self.find(task_id)
        if task.finished_at is not None:
            raise TaskError(f"Task {task.id} has ended already: it is {task.status}.")
        order = Incoming(to=task_agent(task.ref), message=message, task=task.ref, sender=self._by)
        await accept(self._db, self._transport, [order], tenant=self._tenant, admitted=True)
        return task

    async def cancel(self, task_id: str, reason: str) -> TaskView:
        """Have a task's agent end it, with everything that it has started; return the task as it stood before.

        It is `cancelled` once nothing of it runs any more: its compensations have run, and what must not be
        interrupted is known. One that is being cancelled, or was, is left alone. Raises InvalidTask for the reason,
        UnknownTask, or TaskError when the task has ended otherwise.
        """
        task = await self.find(task_id)
        if task.status in ("cancelling", "cancelled"):
            return task
        return await self._order(task_id, reason, CancelTask(reason=reason))

    async def pause(self, task_id: str, reason: str = "") -> TaskView:
        """Have no host begin anything more of the task, nor of those that it has started; return it as it stood.

        What runs comes to its next recorded call. Its deadline goes on, and acts when it is resumed. Raises UnknownTask,
        or TaskError when it has ended.
        """
        return await self._tell(task_id, PauseTask(reason=reason[:MAX_TEXT]))

    async def resume(self, task_id: str) -> TaskView:
        """Let a paused task go on; return it as it stood. Raises UnknownTask, or TaskError when it has ended."""
        return await self._tell(task_id, ResumeTask())

    async def find(self, task_id: str) -> TaskView:
        """The task of an id or a reference as it stands; raises UnknownTask."""
        return await find_task(self._db, task_id, tenant=self._tenant)

    async def wait(self, task_id: str, *, timeout_s: float | None = None) -> TaskView:
        """Wait for the task's end and return it, completed or failed; raises UnknownTask or TimeoutError.

        A stuck task has not ended: give a timeout, or a deadline when submitting, where nobody would mend it.
        """
        async with asyncio.timeout(timeout_s), contextlib.aclosing(self.events(task_id)) as events:
            async for _ in events:
                pass
        return await self._patiently(task_id)

    async def result(self, task_id: str, *, timeout_s: float | None = None) -> Any:
        """Wait for the task's result; raises NoBid, DeadlineExceeded or TaskFailed when there is none."""
        return result_of(await self.wait(task_id, timeout_s=timeout_s))

    async def events(self, task_id: str, *, after: int = 0) -> AsyncGenerator[TaskEventView, None]:
        """The lines of the task's log after a number, as they come, in order and without gaps.

        Ends with the line that ends the task, also when that was before `after`. An outage of Postgres or
        NATS delays it. Raises UnknownTask. Close it (contextlib.aclosing) when leaving it early.
        """
        task = await self._patiently(task_id)
        async with self._woken(subjects.task_events(task.domain, task.id)) as (wake, look_every_s):
            while True:
                wake.clear()
                page = await self._page(task, after)
                for event in page:
                    yield event
                    after = event.number
                    if event.kind in FINAL:
                        return
                if len(page) == _PAGE:
                    continue
                if not page and (await self._patiently(task.id)).finished_at is not None:
                    if await self._page(task, after):
                        continue  # it ended between the two looks
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(look_every_s):  # wait_for of 3.11 may swallow a cancellation
                        await wake.wait()

    async def _patiently(self, task_id: str) -> TaskView:
        while True:
            try:
                return await self.find(task_id)
            except StorageUnavailable as error:
                await self._pause(error)

    async def _page(self, task: TaskView, after: int) -> list[TaskEventView]:
        while True:
            try:
                return await list_task_events(
                    self._db, task.domain, task.id, tenant=self._tenant, after=after, limit=_PAGE
                )
            except StorageUnavailable as error:
                await self._pause(error)

    async def _pause(self, error: StorageUnavailable) -> None:
        _logger.warning("following a task waits for storage: %s", error.message)
        await asyncio.sleep(_RETRY_S)

    @contextlib.asynccontextmanager
    async def _woken(self, subject: str) -> AsyncIterator[tuple[asyncio.Event, float]]:
        """An event that is set when something is published on the subject, and how often to look anyway."""
        wake = asyncio.Event()
        subscription: Subscription | None = None
        if self._transport is not None:
            with contextlib.suppress(ServiceUnavailable):
                subscription = await self._transport.subscribe(subject, lambda _: wake.set(), wake.set)
                await self._transport.flush()
        try:
            yield wake, LOOK_EVERY_S if subscription is not None else LOOK_WITHOUT_NATS_S
        finally:
            if subscription is not None:
                await subscription.close()


def result_of(task: TaskView) -> Any:
    """The result of a task that has ended; raises what its failure is."""
    if task.status == "completed":
        return json.loads(task.result or "null")
    if task.status not in ("failed", "cancelled"):
        raise TaskError(f"Task {task.id} has not ended: it is {task.status}.")
    raise failure(task.id, task.status, json.loads(task.error or "{}"))
