"""One task in a testing kit, with a worker that says what it is told to."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from callboard import Agent, CallForBids, Context, RetryPolicy, TaskWork, handler, message
from callboard.testing import TestKit
from coordinators.tasks.messages import TaskAssigned
from storage.records import TaskWrite

TASK = "0190aaaa-0000-7000-8000-000000000001"


@message("testtasks.say.v1")
class Say(BaseModel):
    """Makes the worker call a method of its Context."""

    method: str
    arguments: list[Any] = []


class Worker(Agent):
    """Does what the task's input says: method calls on its Context, then those of later Say messages."""

    kind = "worker"
    skills = ("work",)
    retry = RetryPolicy(attempts=1)

    @handler
    async def on_task(self, work: TaskWork, ctx: Context) -> None:
        for method, *arguments in work.input if isinstance(work.input, list) else ():
            if method == "raise":
                raise ValueError(*arguments)
            if method == "complete_nested":
                nested: Any = 1
                for _ in range(*arguments):
                    nested = [nested]
                ctx.complete(nested)
                return
            getattr(ctx, method)(*arguments)

    @handler
    async def on_call(self, call: CallForBids, ctx: Context) -> None:
        scores = call.input["bids"]
        if ctx.address.key in scores:
            score = scores[ctx.address.key]
            if score is None:
                ctx.decline("no")
            else:
                ctx.bid(score)

    @handler
    async def on_say(self, say: Say, ctx: Context) -> None:
        getattr(ctx, say.method)(*say.arguments)


class Deaf(Agent):
    """Handles neither calls nor tasks."""

    kind = "deaf"


class Desk:
    """One task in a kit of two hosts."""

    def __init__(self, kit: TestKit) -> None:
        self.kit = kit
        self.task = TASK
        self.row_key = ("test", "default", TASK)
        kit.store.tasks.rows[self.row_key] = TaskWrite(
            id=TASK, status="assigned", assignee=None, progress=0, result=None, error=None, finished=False
        )

    async def assign(self, *calls: Iterable[Any], **changes: Any) -> None:
        given: dict[str, Any] = {
            "id": TASK, "goal": "go", "input": list(calls), "policy": "direct", "assignee": "test/worker/w",
        } | changes  # fmt: skip
        await self.kit.send(f"test/task/{TASK}", TaskAssigned(**given), task=TASK)
        await self.kit.quiet()

    async def call(self, bids: dict[str, Any], candidates: str = "a b c", **changes: Any) -> None:
        names = tuple(name if "/" in name else f"test/worker/{name}" for name in candidates.split())
        await self.assign(
            **{"input": {"bids": bids}, "assignee": None, "candidates": names, "bid_within_s": 2.0,
               "policy": "contract_net"} | changes,
        )  # fmt: skip

    async def say(self, method: str, *arguments: Any, by: str = "w") -> None:
        await self.kit.send(f"test/worker/{by}", Say(method=method, arguments=list(arguments)), task=TASK)
        await self.kit.quiet()

    @property
    def row(self) -> TaskWrite:
        return self.kit.store.tasks.rows[self.row_key]

    @property
    def result(self) -> Any:
        assert self.row.status == "completed", self.row
        return json.loads(self.row.result or "null")

    @property
    def error(self) -> dict[str, str]:
        assert self.row.status == "failed", self.row
        assert self.row.finished
        found: dict[str, str] = json.loads(self.row.error or "{}")
        return found

    @property
    def log(self) -> list[str]:
        """The kinds of the log's lines; their numbers are 2, 3, ... without a gap."""
        lines = sorted((key[3], event.kind) for key, event in self.kit.store.tasks.events.items())
        assert [number for number, _ in lines] == list(range(2, len(lines) + 2))
        return [kind for _, kind in lines]
