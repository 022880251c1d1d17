"""The task's agent while it waits for bids."""

from __future__ import annotations

from callboard import TaskWork
from callboard.testing import TestKit
from tests.unit.tasks.desk import TASK, Desk


async def test_the_best_bid_gets_the_task_as_soon_as_all_have_answered(desk: Desk) -> None:
    await desk.call({"a": 1, "b": 5, "c": None})
    assert desk.row.assignee == "test/worker/b"
    assert desk.row.status in ("assigned", "running")
    assert sorted(desk.log[1:4]) == ["bid", "bid", "declined"]
    assert desk.log[4] == "assigned"


async def test_an_agent_that_is_silent_is_waited_for_until_the_bid_deadline(desk: Desk) -> None:
    await desk.call({"a": 1, "b": 5})
    assert desk.row.assignee is None
    await desk.kit.advance(seconds=3)
    assert desk.row.assignee == "test/worker/b"


async def test_without_a_bid_the_task_has_failed(desk: Desk) -> None:
    await desk.call({})
    await desk.kit.advance(seconds=3)
    assert desk.error["code"] == "no_bid"
    assert "3 agents" in desk.error["message"]


async def test_when_all_decline_the_task_fails_at_once(desk: Desk) -> None:
    await desk.call({"a": None, "b": None, "c": None})
    assert desk.error["code"] == "no_bid"


async def test_an_agent_that_cannot_handle_the_call_has_declined(desk: Desk) -> None:
    await desk.call({"a": 1}, candidates="a test/deaf/d")
    assert desk.row.assignee == "test/worker/a"


async def test_a_bid_after_the_deadline_is_recorded_and_ignored(desk: Desk) -> None:
    await desk.call({"a": 1})
    await desk.kit.advance(seconds=3)
    await desk.say("bid", 99, by="c")
    assert desk.row.assignee == "test/worker/a"
    assert desk.log[-1] == "late"


async def test_a_second_bid_and_a_strangers_bid_do_not_count(desk: Desk) -> None:
    await desk.call({"a": 1, "b": 5})
    await desk.say("bid", 9, by="a")
    await desk.say("bid", 99, by="stranger")
    await desk.kit.advance(seconds=3)
    assert desk.row.assignee == "test/worker/b"


async def look(kit: TestKit) -> None:
    """Let every host see what is paused."""
    for _ in range(4):
        await kit.advance(seconds=0.25)


async def test_whoever_was_called_for_a_paused_task_is_called_again_when_it_goes_on(desk: Desk) -> None:
    await desk.kit.pause_task(TASK)
    await look(desk.kit)
    await desk.call({"a": 1, "b": 5, "c": None})
    await desk.kit.advance(seconds=60)
    assert desk.row.status == "paused"
    await desk.kit.resume_task(TASK)
    await look(desk.kit)
    await desk.kit.advance(seconds=1)
    assert desk.row.assignee == "test/worker/b"
    assert desk.log[-2:] == ["assigned", "running"]


async def test_whoever_was_called_in_a_paused_domain_is_called_again_when_it_goes_on(desk: Desk) -> None:
    desk.kit.pause_domain()
    await look(desk.kit)
    await desk.call({"a": 1, "b": 5})
    await desk.kit.advance(seconds=60)
    desk.kit.resume_domain()
    await look(desk.kit)
    await desk.kit.advance(seconds=1)
    assert desk.row.assignee is None  # c is silent
    await desk.kit.advance(seconds=3)
    assert desk.row.assignee == "test/worker/b"


async def test_a_deadline_that_passes_in_a_paused_domain_ends_the_call(desk: Desk) -> None:
    desk.kit.pause_domain()
    await look(desk.kit)
    await desk.call({"a": 1, "b": 5, "c": 3}, deadline=desk.kit.clock.now() + 30)
    await desk.kit.advance(seconds=60)
    desk.kit.resume_domain()
    await look(desk.kit)
    await desk.kit.advance(seconds=5)
    assert desk.error["code"] == "deadline"
    assert desk.kit.sent(type=TaskWork) == []


async def test_a_deadline_before_the_bid_deadline_ends_the_call(desk: Desk) -> None:
    await desk.call({"a": 1}, deadline=desk.kit.clock.now() + 1)
    await desk.kit.advance(seconds=5)
    assert desk.error["code"] == "deadline"
    assert desk.kit.sent(type=TaskWork) == []
