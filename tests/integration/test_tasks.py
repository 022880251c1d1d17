"""Tasks from end to end, on real Postgres and NATS, with real hosts and a real coordinator."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from actors.retry import RetryPolicy
from bus import subjects
from bus.errors import (
    DeadlineExceeded,
    Fenced,
    InvalidTask,
    NoBid,
    Overloaded,
    PayloadTooLarge,
    ServiceUnavailable,
    TaskFailed,
    UnknownDomain,
    UnknownTask,
)
from callboard.services import Endpoints, ensure_services, find_instance, stop_instance
from callboard.settings import Settings
from coordinators.tasks import assign
from coordinators.tasks.assign import TaskAssigner
from coordinators.tasks.client import TaskClient
from coordinators.tasks.front import QUEUE, Submission
from coordinators.tasks.messages import TaskAssigned
from coordinators.tasks.remote import submit_over_nats
from storage.inspect import TaskEventView
from storage.placement import claim_coordinator
from storage.tasks import MAX_INPUT_BYTES, submit_task
from tests.integration.deployment import Deployment

EXAMPLES = Path(__file__).parents[2] / "examples" / "policies"
SOON_S = 20.0

Open = Callable[..., AbstractAsyncContextManager[Deployment]]


@pytest.fixture
def deployed(services: Endpoints, database: str) -> Open:
    """Opens the example of a policy as a deployment."""
    return lambda policy, **tasks: Deployment.open(EXAMPLES / policy, database, services.nats_url, **tasks)


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


# -- the policies, each on its example ---------------------------------------------------------------


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


# -- without coordinators, without hosts -------------------------------------------------------------


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


# -- submitting --------------------------------------------------------------------------------------


async def request(at: Deployment, body: Any) -> dict[str, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = await at.transport.request(subjects.task_submit(at.domain.name), data, timeout_s=10)
    answer: dict[str, Any] = json.loads(reply)
    return answer


async def test_a_request_key_used_again_is_the_same_task(deployed: Open) -> None:
    async with deployed("direct") as at:
        first = await at.submit(["a"], request_key="k 1")
        again = await asyncio.gather(*(at.submit(["a"], request_key="k 1") for _ in range(5)))
        assert set(again) == {first}
        assert await at.submit(["a"], request_key="k 2") != first
        with pytest.raises(InvalidTask, match="used before"):
            await at.submit(["b"], request_key="k 1")
        assert await at.fetch("select count(*)::int from tasks") == [(2,)]
        assert await at.fetch("select count(*)::int from task_events") == [(2,)]


async def test_a_submission_tried_again_under_its_id_is_accepted_once(deployed: Open) -> None:
    async with deployed("direct") as at:
        given: dict[str, Any] = {"goal": "x", "task_id": "0190aaaa-0000-7000-8000-000000000001"}
        assert await submit_task(at.pool, "wordcount", **given) == given["task_id"]
        assert await submit_task(at.pool, "wordcount", **given) == given["task_id"]
        assert await at.fetch("select count(*)::int from task_events") == [(1,)]


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"priority": 11}, "priority"), ({"priority": -1}, "priority"), ({"priority": True}, "priority"),
        ({"deadline": 1.0}, "deadline"), ({"deadline": float("nan")}, "deadline"),
        ({"deadline": 1e300}, "deadline"), ({"goal": " "}, "goal"), ({"goal": "a\0b"}, "NUL"),
        ({"goal": "\ud800"}, "Unicode"), ({"goal": "x" * 40_000}, "32768"),
        ({"input": {"a": ["\0"]}}, "NUL"), ({"input": {"\0": 1}}, "NUL"), ({"input": float("nan")}, "JSON"),
        ({"input": {1, 2}}, "JSON"), ({"input": "\ud800"}, "JSON"), ({"policy": "lottery"}, "lottery"),
        ({"request_key": ""}, "request key"), ({"request_key": "x" * 300}, "256"), ({"task_id": "7"}, "UUID"),
        ({"input": "x" * MAX_INPUT_BYTES}, "limit"),
        ({"input": json.loads("[" * 120 + "]" * 120)}, "deep"),
    ],
)  # fmt: skip
async def test_what_cannot_be_a_task_is_refused(
    deployed: Open, wrong: dict[str, Any], complaint: str
) -> None:
    async with deployed("direct") as at:
        with pytest.raises(InvalidTask, match=complaint):
            await submit_task(at.pool, "wordcount", **{"goal": "g"} | wrong)
        assert await at.fetch("select * from tasks") == []


async def test_unknown_domains_and_tasks_are_named(deployed: Open) -> None:
    async with deployed("direct") as at:
        with pytest.raises(UnknownDomain, match="nowhere"):
            await at.client.submit("nowhere", goal="x")
        with pytest.raises(UnknownTask):
            await at.client.find("0190aaaa-0000-7000-8000-000000000001")
        with pytest.raises(UnknownTask):
            await at.client.wait("no id at all")


async def test_a_task_that_no_message_of_its_domain_can_carry_is_refused(deployed: Open) -> None:
    async with deployed("direct") as at:
        await at.pool.execute(
            "update domains set spec = jsonb_set(spec::jsonb, '{limits,payload_bytes}', '4096')::json"
        )
        await at.coordinate()
        with pytest.raises(PayloadTooLarge, match="4096 is the limit of wordcount") as caught:
            await at.submit(["é" * 2_000])
        assert "limits.payload_bytes" in caught.value.fix
        with pytest.raises(PayloadTooLarge):
            await submit_over_nats(at.transport, "wordcount", Submission(goal="x" * 4_000))
        assert await at.fetch("select count(*)::int from tasks") == [(0,)]
        largest = await at.submit(["x" * (4_096 - 512 - len('"a test"') - len('[""]'))])
        assert await at.client.result(largest, timeout_s=SOON_S) == {"page 1": 1}


async def test_past_the_limit_of_waiting_tasks_submitting_is_refused(deployed: Open) -> None:
    async with deployed("direct", waiting=3) as at:
        tasks = [await at.submit(["a"], request_key=f"{n}") for n in range(3)]
        with pytest.raises(Overloaded) as caught:
            await at.submit(["a"])
        assert caught.value.retry_after_s > 0
        assert await at.submit(["a"], request_key="1") == tasks[1]
        await at.coordinate()
        await asyncio.gather(*(at.client.wait(task, timeout_s=SOON_S) for task in tasks))
        await at.submit(["a"])


async def test_an_input_of_many_mebibytes_travels_by_claim_check(deployed: Open) -> None:
    async with deployed("direct") as at:
        await at.coordinate()
        task = await at.submit(["word " * 400_000, "word " * 300_000])
        assert await at.client.result(task, timeout_s=30) == {"page 1": 400_000, "page 2": 300_000}


async def test_a_large_input_of_small_values_is_handed_over_however_long_it_takes_to_read(
    deployed: Open,
) -> None:
    """Postgres ends a coordinator that does nothing in its transaction for a second."""
    async with deployed("direct") as at:
        large: list[Any] = [[[]]] * 1_350_000
        task = await at.submit(large, priority=9)
        other = await at.submit(["a"])
        epoch = await claim_coordinator(at.pool, at.domain.name, "test")
        await TaskAssigner(at.pool, at.transport, at.domain.name, epoch).assign_waiting()
        assert [(await at.client.find(id_)).status for id_ in (task, other)] == ["assigned"] * 2
        [(told,)] = await at.fetch("select convert_from(bytes, 'utf8') from blobs")
        read = TaskAssigned.model_validate_json(told)
        assert (read.id, read.goal, read.input == large) == (task, "a test", True)


async def test_any_nats_client_can_submit_and_gets_the_id_or_the_error(deployed: Open) -> None:
    async with deployed("direct") as at:
        await at.coordinate(hosts=2)
        await rows_until(at, "select count(*)::int from hosts where ready_at is not null", [(2,)])
        body = {"goal": "count", "input": ["a b"], "request_key": "once", "deadline": "2999-01-01T00:00:00Z"}
        replies = await asyncio.gather(*(request(at, body) for _ in range(6)))
        assert {tuple(reply) for reply in replies} == {("id",)}
        assert len({reply["id"] for reply in replies}) == 1
        assert await at.client.result(replies[0]["id"], timeout_s=SOON_S) == {"page 1": 2}
        for wrong, name in [
            (b"\xff", "InvalidTask"), (b"[]", "InvalidTask"), ({"goal": "x", "prio": 1}, "InvalidTask"),
            ({"goal": "x", "priority": 99}, "InvalidTask"), ({"goal": "x", "tenant": "No!"}, "InvalidAddress"),
        ]:  # fmt: skip
            error = (await request(at, wrong))["error"]
            assert error["type"] == name
            assert error["message"]
        assert await at.fetch("select count(*)::int from tasks") == [(1,)]


FROZEN = """
import asyncio, sys
from bus.nats import NatsTransport

async def main():
    transport = await NatsTransport.connect(sys.argv[1], name="a host")
    async def answer(data):
        raise AssertionError("it is frozen")
    await transport.serve(sys.argv[2], answer, queue=sys.argv[3])
    await transport.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_frozen_member_of_the_queue_group_loses_no_submission(
    deployed: Open, services: Endpoints
) -> None:
    async with deployed("direct") as at:
        await at.coordinate()
        await rows_until(at, "select count(*)::int from hosts where ready_at is not null", [(1,)])
        arguments = (services.nats_url, subjects.task_submit(at.domain.name), QUEUE)
        frozen = await asyncio.create_subprocess_exec(
            sys.executable, "-c", FROZEN, *arguments, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert frozen.stdout is not None
            assert await asyncio.wait_for(frozen.stdout.readline(), SOON_S) == b"ready\n"
            frozen.send_signal(signal.SIGSTOP)
            submission = Submission(goal="count", input=["a b"])
            tasks = await asyncio.gather(
                *(submit_over_nats(at.transport, at.domain.name, submission, timeout_s=10) for _ in range(40))
            )
            assert len(set(tasks)) == 40
            assert await at.fetch("select count(*)::int from tasks") == [(40,)]
            keyed = Submission(goal="count", input=["a b"], request_key="once")
            again = await asyncio.gather(
                *(submit_over_nats(at.transport, at.domain.name, keyed) for _ in range(10))
            )
            assert len(set(again)) == 1
            with pytest.raises(InvalidTask, match="priority"):
                await submit_over_nats(at.transport, at.domain.name, Submission(goal="x", priority=99))
        finally:
            frozen.kill()
            await frozen.wait()


async def test_a_submission_that_nobody_answers_ends_with_its_time(deployed: Open) -> None:
    async with deployed("direct") as at:
        began = time.monotonic()
        with pytest.raises(ServiceUnavailable, match="Nobody answered"):
            await submit_over_nats(at.transport, at.domain.name, Submission(goal="x"), timeout_s=0.4)
        assert 0.4 <= time.monotonic() - began < SOON_S
        assert await at.fetch("select * from tasks") == []


# -- following ---------------------------------------------------------------------------------------


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
