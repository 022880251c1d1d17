"""The secops domain on the testing kit: feed logs, submit tasks, and compare reports with the pure reference."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from actors.models import ModelClient
from actors.task_messages import TaskCompleted, TaskFailure, TaskProgress
from callboard import Asked
from callboard.testing import TestKit
from coordinators.tasks.agent import TaskAgent
from coordinators.tasks.messages import TaskAssigned

EXAMPLE = Path(__file__).parents[3] / "examples" / "secops"
sys.path.insert(0, str(EXAMPLE))
SAMPLE = EXAMPLE / "sample" / "auth.log"


def task_id(number: int) -> str:
    return str(UUID(int=number))


class Triage:
    """One cluster of the kit with the secops domain on it."""

    def __init__(self, *, hosts: int = 2, models: ModelClient | None = None) -> None:
        self.kit = TestKit(EXAMPLE, hosts=hosts, system_kinds=(TaskAgent,), models=models)
        self._hosts = hosts

    async def __aenter__(self) -> Triage:
        await self.kit.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.kit.__aexit__(*error)

    async def publish(
        self, name: str, payload: BaseModel, *, key: str | None = None, task: str | None = None
    ) -> None:
        await self.kit.publish_event(name, payload, key=key, task=task)

    async def feed(self, path: Path, task: str) -> dict[str, Any]:
        from secops.feed import feed

        return await feed(str(path), partial(self.publish, task=task), task)

    async def submit(self, task: str, given: Any, *, deadline: float | None = None) -> None:
        """What the coordinator of the domain does with a submitted task."""
        await self.kit.send(
            f"secops/task/{task}",
            TaskAssigned(
                id=task,
                goal="triage",
                input=given,
                deadline=deadline,
                policy="direct",
                assignee=f"secops/desk/{task}",
            ),
            task=task,
        )

    async def run(self, path: Path, *tasks: str) -> None:
        for task in tasks:
            await self.submit(task, await self.feed(path, task))
        await self.decided()

    async def decided(self) -> None:
        """Let the written policy decide what waits, as `callboard run --approve policy` does."""
        from secops.approving import decide

        await self.kit.quiet(timeout_s=60)
        while waiting := self.kit.approvals():
            for asked in waiting:
                ruling = decide(
                    Asked(
                        id=asked.id,
                        address=asked.address,
                        task="",
                        action=asked.details["action"],
                        details=asked.details["details"],
                    )
                )
                assert ruling is not None
                assert await (self.kit.approve if ruling.approved else self.kit.deny)(
                    asked.id, by=ruling.by, comment=ruling.comment
                )

    async def crash_at_random(self, seed: int, times: int) -> int:
        """Kill a host and bring its partitions back, again and again; return how often it was at work."""
        rng = random.Random(seed)
        at_work = 0
        async with asyncio.TaskGroup() as recoveries:
            for _ in range(times):
                for _ in range(rng.randrange(1, 40)):
                    await asyncio.sleep(0)
                struck = rng.randrange(self._hosts)
                at_work += not self.kit._running[struck].host.is_at_rest
                await self.kit.crash(struck)
                # It waits for quiet, and the next crash must not.
                recoveries.create_task(self.kit.recover())
        return at_work

    def lose_deliveries(self, rng: random.Random, share: float) -> list[str]:
        """Let the bus lose this share of what it carries from now on; return the subjects of what is lost."""
        lost: list[str] = []

        def lose(subject: str) -> bool:
            if rng.random() >= share:
                return False
            lost.append(subject)
            return True

        self.kit.transport.lose = lose
        return lost

    async def until_reported(self, *tasks: str) -> None:
        """Let time pass in small steps, since a host looks for what was lost at one partition after another."""
        for _ in range(500):
            await self.kit.advance(seconds=1)
            await self.decided()
            if all(self.completions(task) for task in tasks):
                return

    def completions(self, task: str) -> list[dict[str, Any]]:
        return [each.result for each in self._reports(task, TaskCompleted)]

    def report(self, task: str) -> dict[str, Any]:
        """The report that completed the task, without its id and time."""
        [result] = self.completions(task)
        return comparable(result)

    def failures(self, task: str) -> list[str]:
        return [each.reason for each in self._reports(task, TaskFailure)]

    def notes(self, task: str) -> list[str]:
        return [each.note for each in self._reports(task, TaskProgress)]

    def fractions(self, task: str) -> list[float]:
        return [each.progress for each in self._reports(task, TaskProgress)]

    def _reports(self, task: str, kind: type[BaseModel]) -> Sequence[Any]:
        return self.kit.sent(to=f"secops/task/{task}", type=kind)


def comparable(result: dict[str, Any]) -> dict[str, Any]:
    """The report but for ids, times, why no model was asked, and the file that blocks are written into."""
    own = ("id", "generated_at", "markdown", "groups_note")
    kept = {name: each for name, each in result.items() if name not in own}
    kept["addresses"] = [
        each
        | {"response": each["response"] and {n: v for n, v in each["response"].items() if n not in _LOCAL}}
        for each in kept["addresses"]
    ]
    return kept


_LOCAL = ("decided_at", "blocked_at", "blocked_until", "extended_from", "place")


def reference(path: Path) -> dict[str, Any]:
    """What the same rules say without agents, where the written policy decides and every block is carried out."""
    found = proposals(path)
    for each in found["addresses"]:
        if each["action"].startswith("block"):
            each["response"] |= _executed(each["severity"])
            found["responses"]["proposed"] -= 1
            found["responses"]["executed"] += 1
    return found


def _executed(severity: str) -> dict[str, Any]:
    from secops.rulebook import POLICY_NAME

    if severity == "medium":
        return {"outcome": "executed"}
    comment = "a block at high for at most 24 hours"
    return {"outcome": "executed", "needed_approval": True, "decided_by": POLICY_NAME, "comment": comment}


def proposals(path: Path) -> dict[str, Any]:
    """What the same rules say without agents: nothing is carried out."""
    from secops.lines import open_log
    from secops.policy import load_policy
    from secops.triage import triage

    with open_log(path) as log:
        report = triage(
            log,
            load_policy(EXAMPLE / "policy.yaml"),
            report_id="r",
            generated_at=datetime(2024, 1, 1, tzinfo=UTC),
        )
    return comparable(report.model_dump(mode="json"))


def real_log() -> Path | None:
    path = os.environ.get("CALLBOARD_OPENSSH_LOG")
    return Path(path) if path else None
