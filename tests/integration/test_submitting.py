"""Submitting tasks: once, within limits, from any NATS client."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from typing import Any

import pytest

from bus import subjects
from bus.errors import (
    InvalidTask,
    Overloaded,
    PayloadTooLarge,
    ServiceUnavailable,
    UnknownDomain,
    UnknownTask,
)
from callboard.services import Endpoints
from coordinators.tasks.assign import TaskAssigner
from coordinators.tasks.front import QUEUE, Submission
from coordinators.tasks.messages import TaskAssigned
from coordinators.tasks.remote import submit_over_nats
from storage.placement import claim_coordinator
from storage.tasks import MAX_INPUT_BYTES, submit_task
from tests.integration.policies import SOON_S, Open, request, rows_until


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
