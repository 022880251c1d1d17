"""Who gets a task, and until when: each policy on its example, deadlines and priorities."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from actors.retry import RetryPolicy
from bus.errors import (
    DeadlineExceeded,
    NoBid,
    TaskFailed,
)
from tests.integration.policies import SOON_S, Open, kinds, log, rows_until


async def test_direct_an_agent_of_its_own_splits_the_task_and_the_parts_make_the_result(
    deployed: Open,
) -> None:
    async with deployed("direct") as at:
        await at.coordinate()
        task = await at.submit(["one two three", "four five", "six"])
        result = await at.client.result(task, timeout_s=SOON_S)
        assert result == {"page 1": 3, "page 2": 2, "page 3": 1}
        found = await at.client.find(task)
        assert (found.status, found.progress, found.policy) == ("completed", 1, "direct")
        assert found.assignee == f"wordcount/counter/{task}"
        assert await kinds(at, task) == [
            "submitted", "assigned", "running", "split", "part", "part", "part", "completed",
        ]  # fmt: skip


async def test_a_failure_that_an_agent_reports_is_the_clients_error(deployed: Open) -> None:
    async with deployed("direct") as at:
        await at.coordinate()
        with pytest.raises(TaskFailed, match="nothing to count"):
            await at.client.result(await at.submit([]), timeout_s=SOON_S)


async def test_a_handler_that_gives_up_fails_the_task(
    deployed: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RetryPolicy, "delay_s", lambda policy, failures, rng: 0.01)
    async with deployed("direct") as at:
        await at.coordinate()
        with pytest.raises(TaskFailed, match="counter") as caught:
            await at.client.result(await at.submit(7), timeout_s=SOON_S)
        assert caught.value.code == "dead_letter"


async def test_least_loaded_spreads_tasks_over_the_members_by_what_is_unfinished(deployed: Open) -> None:
    async with deployed("least_loaded") as at:
        await at.coordinate()
        slow = [await at.submit({"photo": f"{n}", "seconds": 600}) for n in range(4)]
        counts = "select assignee, count(*)::int from tasks where finished_at is null group by 1 order by 1"
        await rows_until(
            at,
            counts,
            [("darkroom/printer/ann", 2), ("darkroom/printer/ben", 1), ("darkroom/printer/cyd", 1)],
        )
        for task, name in zip(slow, ["ann", "ben", "cyd", "ann"], strict=True):
            assert (await at.client.find(task)).assignee == f"darkroom/printer/{name}"
        quick = await at.submit({"photo": "quick", "seconds": 0})
        assert await at.client.result(quick, timeout_s=SOON_S) == {"photo": "quick", "printed_by": "ben"}
        again = await at.submit({"photo": "again", "seconds": 0})  # ben has finished one
        assert (await at.client.result(again, timeout_s=SOON_S))["printed_by"] == "ben"
        assert await kinds(at, quick) == ["submitted", "assigned", "running", "progress", "completed"]


async def test_contract_net_the_best_bid_gets_the_task(deployed: Open) -> None:
    async with deployed("contract_net") as at:
        await at.coordinate()
        task = await at.submit({"km": 70})  # as near to east as to north: the name decides
        assert await at.client.result(task, timeout_s=SOON_S) == {"delivered_by": "east"}
        task = await at.submit({"km": 60})
        assert await at.client.result(task, timeout_s=SOON_S) == {"delivered_by": "north"}
        events = await log(at, task)
        assert [e.kind for e in events[:2]] == ["submitted", "called_for_bids"]
        bids = {json.loads(e.body)["by"]: json.loads(e.body)["score"] for e in events if e.kind == "bid"}
        assert bids == {"couriers/courier/east": -30, "couriers/courier/north": -10}


async def test_contract_net_without_a_bid_the_task_fails_clearly(deployed: Open) -> None:
    async with deployed("contract_net") as at:
        await at.coordinate()
        task = await at.submit({"km": 1000})
        with pytest.raises(NoBid, match="None of the 3 agents asked has bid"):
            await at.client.result(task, timeout_s=SOON_S)


async def test_a_bid_deadline_is_kept_when_agents_are_silent(deployed: Open) -> None:
    async with deployed("contract_net", bid_deadline_s=0.4) as at:
        await at.coordinate()
        task = await at.submit("not what a courier understands")  # every call becomes a dead letter, later
        began = time.monotonic()
        with pytest.raises(NoBid):
            await at.client.result(task, timeout_s=SOON_S)
        assert time.monotonic() - began < 8


async def test_a_skill_that_nobody_has_fails_the_task_with_the_mend(deployed: Open) -> None:
    async with deployed("least_loaded", skill="flying") as at:
        await at.coordinate()
        with pytest.raises(TaskFailed, match="No agent has the skill 'flying'"):
            await at.client.result(await at.submit(), timeout_s=SOON_S)


# -- deadlines and priorities ------------------------------------------------------------------------


async def test_a_task_that_is_not_done_by_its_deadline_fails_once_and_stays_failed(deployed: Open) -> None:
    async with deployed("least_loaded") as at:
        await at.coordinate()
        task = await at.submit({"photo": "late", "seconds": 3}, deadline=time.time() + 1.5)
        with pytest.raises(DeadlineExceeded):
            await at.client.result(task, timeout_s=SOON_S)
        found = await at.client.find(task)
        assert found.finished_at is not None
        assert found.deadline is not None
        assert 0 <= (found.finished_at - found.deadline).total_seconds() < 5


async def test_a_deadline_that_passes_while_nobody_assigns_fails_the_task(deployed: Open) -> None:
    async with deployed("direct") as at:
        task = await at.submit(["a"], deadline=time.time() + 0.3)
        await asyncio.sleep(0.4)
        await at.coordinate()
        with pytest.raises(DeadlineExceeded):
            await at.client.result(task, timeout_s=SOON_S)


async def test_tasks_are_assigned_by_priority_and_then_by_age(deployed: Open) -> None:
    async with deployed("least_loaded", concurrent=1) as at:
        priorities = [3, 9, 0, 9, 10, 3]
        tasks = [await at.submit({"photo": f"{p}", "seconds": 0}, priority=p) for p in priorities]
        await at.coordinate()
        await asyncio.gather(*(at.client.wait(task, timeout_s=60) for task in tasks))
        rows = await at.fetch("select task::text from task_events where kind = 'assigned' order by at")
        assert [tasks.index(row[0]) for row in rows] == [4, 1, 3, 0, 5, 2]
