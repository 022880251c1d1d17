"""Submissions over NATS are bounded in number, in bytes and in time; asking again is not submitting again."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from coordinators.tasks import admission
from coordinators.tasks.admission import RETRY_AFTER_S
from coordinators.tasks.front import TaskFront


class Database:
    """A Postgres that commits when it is let."""

    def __init__(self) -> None:
        self.opens = asyncio.Event()
        self.asked = 0

    async def fetchval(self, sql: str, domain: str, tenant: str, task: str, *more: Any) -> str:
        self.asked += 1
        await self.opens.wait()
        return task


class Transport:
    def publish(self, subject: str, data: bytes) -> None: ...


class Rig:
    """A front with requests under way."""

    def __init__(self) -> None:
        self.db = Database()
        self.front = TaskFront(self.db, Transport(), "desk")  # type: ignore[arg-type]

    def ask(self, **more: Any) -> asyncio.Task[bytes | None]:
        return asyncio.create_task(self.front.submit(json.dumps({"goal": "g"} | more).encode()))

    async def are_asked(self, number: int) -> None:
        async with asyncio.timeout(5):
            while self.db.asked < number:  # noqa: ASYNC110  # the fake sets no event
                await asyncio.sleep(0)


@pytest.fixture
async def rig() -> Rig:
    return Rig()


def answer(asked: asyncio.Task[bytes | None]) -> Any:
    data = asked.result()
    assert data is not None
    return json.loads(data)


async def test_past_the_bound_the_answer_is_overloaded_until_some_have_ended(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "PENDING", 3)
    pending = [rig.ask() for _ in range(3)]
    await rig.are_asked(3)
    refused = rig.ask()
    await asyncio.wait([refused], timeout=5)
    error = answer(refused)["error"]
    assert (error["type"], error["retry_after_s"]) == ("Overloaded", RETRY_AFTER_S)
    assert rig.db.asked == 3
    rig.db.opens.set()
    await asyncio.wait([*pending], timeout=5)
    assert len({answer(asked)["id"] for asked in pending}) == 3
    accepted = rig.ask()
    await asyncio.wait([accepted], timeout=5)
    assert answer(accepted)["id"]


async def test_bytes_are_bounded_too(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "PENDING_BYTES", 1_000)
    rig.ask(input="x" * 900)
    await rig.are_asked(1)
    refused = rig.ask(input="x" * 900)
    await asyncio.wait([refused], timeout=5)
    assert answer(refused)["error"]["type"] == "Overloaded"
    rig.db.opens.set()


async def test_a_submission_that_takes_too_long_is_answered_as_unknown(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "WITHIN_S", 0.05)
    asked = rig.ask()
    await asyncio.wait([asked], timeout=5)
    error = answer(asked)["error"]
    assert error["type"] == "ServiceUnavailable"
    assert "request_key" in error["fix"]
    rig.db.opens.set()
    again = rig.ask()
    await asyncio.wait([again], timeout=5)
    assert answer(again)["id"]


async def test_who_asks_again_gets_the_answer_to_the_first(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "PENDING", 3)
    twins = [rig.ask(request_key="k"), rig.ask(request_key="k")]
    other = rig.ask(request_key="k", tenant="acme")
    await rig.are_asked(2)
    third = rig.ask(request_key="k")
    await asyncio.wait([third], timeout=5)
    assert third.result() is None  # no room, and no reason to say that it is refused
    assert rig.db.asked == 2
    rig.db.opens.set()
    await asyncio.wait([*twins, other], timeout=5)
    assert answer(twins[0]) == answer(twins[1]) != answer(other)
