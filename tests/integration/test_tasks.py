"""Tasks on real Postgres and NATS while coordinators are away or replaced, and hosts die."""

from __future__ import annotations

import asyncio

import pytest

from bus.errors import (
    Fenced,
    TaskFailed,
)
from coordinators.tasks import assign
from coordinators.tasks.assign import TaskAssigner
from storage.placement import claim_coordinator
from tests.integration.policies import SOON_S, Open, kinds, request, rows_until


async def test_a_task_submitted_while_no_coordinator_runs_waits_for_the_next_one(deployed: Open) -> None:
    async with deployed("direct") as at:
        task = await at.submit(["a b"])
        assert (await at.client.find(task)).status == "submitted"
        await at.coordinate()
        assert await at.client.result(task, timeout_s=SOON_S) == {"page 1": 2}


async def test_without_coordinators_hosts_accept_tasks_over_nats_and_lead_those_they_have(
    deployed: Open,
) -> None:
    async with deployed("least_loaded") as at:
        await at.coordinate()
        led = await at.submit({"photo": "led", "seconds": 2})
        await rows_until(at, "select status from tasks", [("running",)])
        await at.forsake()
        reply = await request(at, {"goal": "print", "input": {"photo": "waits", "seconds": 0}, "priority": 7})
        assert await at.client.result(led, timeout_s=SOON_S) == {"photo": "led", "printed_by": "ann"}
        assert (await at.client.find(reply["id"])).status == "submitted"
        await at.coordinate()
        assert (await at.client.result(reply["id"], timeout_s=SOON_S))["photo"] == "waits"


async def test_a_coordinator_that_was_replaced_assigns_nothing(deployed: Open) -> None:
    async with deployed("direct") as at:
        old = await claim_coordinator(at.pool, at.domain.name, "old")
        await claim_coordinator(at.pool, at.domain.name, "new")
        task = await at.submit(["a"])
        with pytest.raises(Fenced):
            await TaskAssigner(at.pool, at.transport, at.domain.name, old).assign_waiting()
        assert (await at.client.find(task)).status == "submitted"
        assert await at.fetch("select * from mailbox") == []


async def test_two_assigners_of_one_epoch_hand_every_task_over_once(
    deployed: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assign, "ROUND_S", 60.0)
    async with deployed("direct") as at:
        epoch = await claim_coordinator(at.pool, at.domain.name, "test")
        tasks = [await at.submit(["a"]) for _ in range(40)]
        assigners = [TaskAssigner(at.pool, at.transport, at.domain.name, epoch) for _ in range(2)]
        await asyncio.gather(*(assigner.assign_waiting() for assigner in assigners))
        rows = await at.fetch("select agent, count(*)::int from mailbox group by 1")
        assert sorted(rows) == sorted((f"task/{task}", 1) for task in tasks)


async def test_a_round_of_assignment_ends_in_time_and_asks_for_the_next(
    deployed: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assign, "ROUND_S", 0.0)
    async with deployed("direct") as at:
        for _ in range(assign.BATCH + 1):
            await at.submit(["one"])
        epoch = await claim_coordinator(at.pool, at.domain.name, "test")
        assigner = TaskAssigner(at.pool, at.transport, at.domain.name, epoch)
        next_round = asyncio.Event()
        word = await assigner.listen(next_round.set)
        next_round.clear()
        await assigner.assign_waiting()
        assigned = "select count(*)::int from tasks where status <> 'submitted'"
        assert await at.fetch(assigned) == [(assign.BATCH,)]
        assert next_round.is_set()
        next_round.clear()
        await assigner.assign_waiting()
        assert await at.fetch(assigned) == [(assign.BATCH + 1,)]
        assert not next_round.is_set()
        await word.close()


async def test_a_task_that_cannot_be_handed_over_is_refused_alone(deployed: Open) -> None:
    """The domain's new code may allow less than the one under which it was submitted."""
    async with deployed("direct") as at:
        first = await at.client.submit(at.domain.name, goal="x" * 8_000, input=["a"], priority=9)
        others = [await at.submit(["a"]) for _ in range(3)]
        last = await at.submit(["x" * 8_000], priority=1)
        await at.pool.execute(
            "update domains set spec = jsonb_set(spec::jsonb, '{limits,payload_bytes}', '4096')::json"
        )
        await at.coordinate()
        for task in others:
            assert await at.client.result(task, timeout_s=SOON_S) == {"page 1": 1}
        for task in (first, last):
            with pytest.raises(TaskFailed, match="4096 is the limit"):
                await at.client.result(task, timeout_s=SOON_S)


async def test_the_concurrency_of_a_domain_is_kept(deployed: Open) -> None:
    async with deployed("least_loaded", concurrent=3) as at:
        await at.coordinate()
        for n in range(6):
            await at.submit({"photo": f"{n}", "seconds": 600})
        counts = "select count(*)::int from tasks where status = 'running'"
        await rows_until(at, counts, [(3,)])
        await asyncio.sleep(0.6)
        assert await at.fetch(counts) == [(3,)]


# -- hosts that die ----------------------------------------------------------------------------------


async def test_a_task_whose_host_is_killed_half_way_completes_exactly_once(deployed: Open) -> None:
    async with deployed("least_loaded") as at:
        await at.coordinate()
        tasks = [await at.submit({"photo": f"{n}", "seconds": 1}) for n in range(3)]
        await rows_until(at, "select distinct status from tasks", [("running",)])
        await at.kill_hosts()
        results = [await at.client.result(task, timeout_s=30) for task in tasks]
        assert [result["printed_by"] for result in results] == ["ann", "ben", "cyd"]
        for task in tasks:
            assert await kinds(at, task) == ["submitted", "assigned", "running", "progress", "completed"]
        assert await at.fetch(
            "select sum((state ->> 'printed')::int)::int from agents where agent like 'printer/%'"
        ) == [(3,)]
        epochs = await at.fetch("select count(*)::int from hosts")
        assert epochs[0][0] >= 2


async def test_kills_at_any_moment_of_many_tasks_lose_and_double_nothing(deployed: Open) -> None:
    async with deployed("direct") as at:
        await at.coordinate(hosts=2)
        tasks = [await at.submit([f"word {n}" for n in range(4)], priority=i % 11) for i in range(20)]
        for pause in (0.15, 0.4, 0.9):
            await asyncio.sleep(pause)
            await at.kill_hosts()
        for task in tasks:
            assert await at.client.result(task, timeout_s=40) == {f"page {n}": 2 for n in range(1, 5)}
            assert (await kinds(at, task)).count("completed") == 1
        assert await at.fetch("select * from dead_letters") == []
