"""Following tasks by their events, with NATS and without."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from bus import subjects
from callboard.services import ensure_services, find_instance, stop_instance
from callboard.settings import Settings
from coordinators.tasks.client import TaskClient
from tests.integration.deployment import Deployment
from tests.integration.policies import EXAMPLES, SOON_S, Open


async def test_events_come_as_they_happen_in_order_and_end_with_the_task(deployed: Open) -> None:
    async with deployed("least_loaded") as at:
        await at.coordinate()
        task = await at.submit({"photo": "x", "seconds": 1.5})
        seen: list[tuple[str, float]] = [
            (event.kind, time.monotonic()) async for event in at.client.events(task)
        ]
        assert [kind for kind, _ in seen] == ["submitted", "assigned", "running", "progress", "completed"]
        assert seen[-1][1] - seen[-2][1] > 0.8  # the others were not held back until the end


async def test_the_log_is_published_as_it_grows(deployed: Open) -> None:
    async with deployed("direct") as at:
        task = await at.submit(["a"])
        heard: list[Any] = []
        done = asyncio.Event()

        def hear(data: bytes) -> None:
            heard.append(json.loads(data))
            if heard[-1]["kind"] == "completed":
                done.set()

        await at.transport.subscribe(subjects.task_events("wordcount", task), hear, lambda: None)
        await at.coordinate()
        await asyncio.wait_for(done.wait(), SOON_S)
        assert [line["number"] for line in heard] == list(range(2, len(heard) + 2))
        assert heard[0]["kind"] == "assigned"
        assert heard[0]["body"]["assignee"] == f"wordcount/counter/{task}"


@pytest.mark.parametrize("loses", ["everything", "nats"])
async def test_following_misses_nothing_without_nats(deployed: Open, loses: str) -> None:
    async with deployed("direct") as at:
        client = TaskClient(at.pool, None if loses == "nats" else Deaf(at.transport))
        await at.coordinate()
        task = await client.submit("wordcount", goal="x", input=["a", "b"])
        async with asyncio.timeout(SOON_S):
            events = [event.number async for event in client.events(task)]
        assert events == list(range(1, 8))


async def test_following_and_the_task_go_on_when_nats_is_killed_and_started_again(home: Path) -> None:
    settings = Settings(home=home)
    try:
        urls = (await ensure_services(settings)).endpoints
        async with Deployment.open(EXAMPLES / "least_loaded", urls.postgres_url, urls.nats_url) as at:
            await at.coordinate()
            task = await at.submit({"photo": "x", "seconds": 1})
            seen: list[str] = []
            async with asyncio.timeout(SOON_S):
                async for event in at.client.events(task):
                    seen.append(event.kind)
                    if event.kind == "progress":
                        instance = find_instance(settings)
                        assert instance is not None
                        assert instance.nats_pid is not None
                        os.kill(instance.nats_pid, signal.SIGKILL)
                        await ensure_services(settings)
            assert seen == ["submitted", "assigned", "running", "progress", "completed"]
            again = await at.submit({"photo": "y", "seconds": 0})
            assert (await at.client.result(again, timeout_s=SOON_S))["photo"] == "y"
    finally:
        await stop_instance(settings)


async def test_following_from_the_middle_or_after_the_end_ends(deployed: Open) -> None:
    async with deployed("direct") as at:
        await at.coordinate()
        task = await at.submit(["a"])
        await at.client.wait(task, timeout_s=SOON_S)
        async with asyncio.timeout(SOON_S):
            assert [e.number async for e in at.client.events(task, after=4)] == [5, 6]
            assert [e.number async for e in at.client.events(task, after=6)] == []


async def test_a_wait_that_takes_too_long_times_out_and_leaves_the_task_alone(deployed: Open) -> None:
    async with deployed("direct") as at:
        task = await at.submit(["a"])
        with pytest.raises(TimeoutError):
            await at.client.wait(task, timeout_s=0.3)
        assert (await at.client.find(task)).status == "submitted"


class Deaf:
    """A transport of which nothing arrives."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def publish(self, subject: str, data: bytes) -> None:
        return

    async def subscribe(self, subject: str, receive: Any, on_loss: Any) -> Any:
        return await self._transport.subscribe(subject, lambda data: None, lambda: None)

    async def flush(self) -> None:
        return
