"""The examples of the policies as deployments, and what their tests ask of tasks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from bus import subjects
from storage.inspect import TaskEventView
from tests.integration.deployment import Deployment

EXAMPLES = Path(__file__).parents[2] / "examples" / "policies"
SOON_S = 20.0
Open = Callable[..., AbstractAsyncContextManager[Deployment]]


async def log(at: Deployment, task: str) -> list[TaskEventView]:
    """The log as a client sees it: its numbers are 1, 2, 3, ... without a gap."""
    events = [event async for event in at.client.events(task)]
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    return events


async def kinds(at: Deployment, task: str) -> list[str]:
    return [event.kind for event in await log(at, task)]


async def rows_until(at: Deployment, sql: str, expected: list[Any]) -> None:
    async with asyncio.timeout(SOON_S):
        while await at.fetch(sql) != expected:  # noqa: ASYNC110 - Postgres sets no event
            await asyncio.sleep(0.02)


# -- submitting --------------------------------------------------------------------------------------


async def request(at: Deployment, body: Any) -> dict[str, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = await at.transport.request(subjects.task_submit(at.domain.name), data, timeout_s=10)
    answer: dict[str, Any] = json.loads(reply)
    return answer
