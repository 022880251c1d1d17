"""`tasks`, `task` and `tasks fail` on a domain at work, and what `status` says of stuck tasks."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import pytest

from bus.address import parse_address
from bus.errors import ServiceUnavailable
from callboard.cli import follow
from callboard.cli.asked import login_name
from callboard.cli.follow import snapshots
from callboard.cli.following import _Lines
from callboard.cli.terminal import short_id
from storage.connect import create_pool
from storage.intake import Incoming, accept
from tests.integration.cli import Cli, until
from tests.integration.deployment import Deployment


async def stuck_task(desk: Deployment) -> str:
    """A task that waits for one note, and got one that is poison."""
    from desk.agents import Note

    task = await desk.submit({"lines": 1})
    await status(desk, task, "running")
    note = Note(task=task, number=1, text="poison")
    to = parse_address(f"desk/clerk/{task}")
    await accept(desk.pool, desk.transport, [Incoming(to=to, message=note, task=task)])
    await status(desk, task, "stuck")
    return task


async def nothing_waits(domain: str, *, now: bool) -> int | None:
    return 0


async def status(desk: Deployment, task: str, wanted: str) -> None:
    async def is_so() -> bool:
        return (await desk.client.find(task)).status == wanted

    await until(is_so)


async def test_a_stuck_task_is_shown_with_its_dead_letter_and_the_commands_that_mend_it(
    cli: Cli, desk: Deployment
) -> None:
    task = await stuck_task(desk)
    shown = await cli.json("task", task)
    assert shown["status"] == "stuck"
    [letter] = shown["dead_letters"]
    assert letter["address"] == f"desk/clerk/{task}"
    text = await cli("task", f"desk/{task}")
    assert (
        f"dead letter {letter['id']} for desk/clerk/{task}: desk.note.v1: ValueError: cannot be read" in text
    )
    for command in (
        f"callboard dead-letters show {letter['id']}",
        f"callboard dead-letters retry {letter['id']}",
        f"callboard dead-letters drop {letter['id']}",
        f"callboard tasks fail {task} --reason",
    ):
        assert command in text
    [listed] = (await cli.json("tasks", "--stuck"))["tasks"]
    assert (listed["id"], listed["status"]) == (task, "stuck")
    assert "stuck" in await cli("tasks")
    [domain] = (await cli.json("status"))["domains"]
    assert (domain["open_tasks"], domain["stuck_tasks"]) == (1, 1)
    assert "1 of its tasks" in await cli("status")
    assert "callboard tasks --stuck" in cli.out


async def test_a_failed_task_points_to_the_code_that_it_failed_in(cli: Cli, desk: Deployment) -> None:
    task = await stuck_task(desk)
    [letter] = (await cli.json("task", task))["dead_letters"]
    await cli("tasks", "fail", task, "--reason", "as it is")
    told = f"  callboard dead-letters show {letter['id']}    the code that it failed in\n"
    assert told in await cli("task", task, code=1)
    assert "Error: the task ended as failed" in await cli.error("task", task, "--follow")
    assert told in cli.err


async def test_a_task_that_waits_for_a_paused_agent_says_so(cli: Cli, desk: Deployment) -> None:
    task = await desk.submit({"lines": 1})
    await status(desk, task, "running")
    clerk = f"desk/clerk/{task}"
    said = f"{clerk} is paused; `callboard resume {clerk}`"
    assert "is paused" not in await cli("task", task)
    assert (await cli.json("status"))["paused"] == []
    assert (await cli.json("pause", clerk))["done"] is True
    assert said in await cli("task", task)
    assert (await cli.json("task", task))["paused"] == [{"address": clerk, "unfit": False}]
    assert (await cli.json("status"))["paused"] == [{"address": clerk, "unfit": False}]
    assert said in await cli("status")
    watch: Any = snapshots(
        desk.pool, desk.transport, "desk", task, "default", gone=lambda: None, waiting=nothing_waits
    )
    async with aclosing(watch):
        snapshot = await anext(watch)
    cli.discard()
    show = _Lines()
    show(snapshot)
    show(snapshot)
    assert cli.discard().count(said) == 1  # once, however long it lasts
    await cli("resume", clerk)
    assert "is paused" not in await cli("status")
    assert (await cli.json("task", task))["paused"] == []


async def test_the_last_view_counts_the_events_as_they_are_at_the_end(desk: Deployment) -> None:
    task = await desk.submit({"lines": 0})
    await status(desk, task, "completed")
    asked: list[tuple[str, bool]] = []

    async def waiting(domain: str, *, now: bool) -> int | None:
        asked.append((domain, now))
        return 0

    watch: Any = snapshots(
        desk.pool, desk.transport, "desk", task, "default", gone=lambda: None, waiting=waiting
    )
    async with aclosing(watch):
        assert [snapshot.has_ended async for snapshot in watch] == [True]
    assert asked == [("desk", True)]


async def test_following_ends_when_the_database_is_gone_and_callboard_with_it(
    desk: Deployment, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "GIVEN_UP_S", 0.3)
    task = await desk.submit({"lines": 1})
    db = await create_pool(database, application="callboard-test", size=1)
    gone = ["Callboard was stopped", None, None]  # it restarts twice, and then it is gone
    watch: Any = snapshots(db, desk.transport, "desk", task, "default", gone=gone.pop, waiting=nothing_waits)
    async with aclosing(watch):
        await anext(watch)
        db.terminate()
        with pytest.raises(ServiceUnavailable, match=f"stopped while .* `callboard task {task} --follow`"):
            async for _ in watch:
                pass
    assert gone == []


async def test_the_command_that_drops_the_dead_letter_sets_the_task_going(cli: Cli, desk: Deployment) -> None:
    task = await stuck_task(desk)
    [letter] = (await cli.json("task", task))["dead_letters"]
    await cli("dead-letters", "drop", str(letter["id"]))
    await status(desk, task, "running")
    assert (await cli.json("tasks", "--stuck"))["tasks"] == []
    assert (await cli.json("task", task))["dead_letters"] == []


async def test_a_task_is_ended_by_hand(cli: Cli, desk: Deployment) -> None:
    task = await stuck_task(desk)
    assert await cli("tasks", "fail", task, "--reason", "not worth it") == f"Task {task} has ended.\n"
    shown = await cli.json("task", task, code=1)
    assert shown["status"] == "failed"
    assert shown["error"] == {"code": "operator", "message": "not worth it", "by": f"external/{login_name()}"}
    assert "failed: not worth it" in await cli("task", task, code=1)
    assert "callboard tasks fail" not in cli.out
    assert "has ended already" in await cli.error("tasks", "fail", task, "--reason", "again")
    assert (await cli.json("tasks", "--open"))["tasks"] == []


async def test_of_a_long_log_the_end_is_shown_and_what_is_left_out_is_said(
    cli: Cli, desk: Deployment
) -> None:
    task = await desk.submit({"lines": 1})
    await status(desk, task, "running")
    await desk.pool.execute(
        "insert into task_events (domain, tenant, task, number, kind, body)"
        " select 'desk', 'default', $1::uuid, n, 'progress', json_build_object('message', 'line ' || n)"
        " from generate_series(1000, 2500) n",
        task,
    )
    shown = await cli.json("task", task)
    assert [event["number"] for event in shown["events"]] == list(range(1501, 2501))
    first = len(await desk.fetch("select from task_events where number < 1000"))
    assert shown["events_left_out"] == first + 501
    text = await cli("task", task)
    assert f"… {first + 501} earlier\n" in text
    assert "line 2500" in text
    assert "line 1500\n" not in text


async def test_a_task_is_cancelled_and_says_who_did_it_and_why(cli: Cli, desk: Deployment) -> None:
    task = await desk.submit({"lines": 1})
    await status(desk, task, "running")
    assert await cli("cancel", task, "--reason", "not needed") == f"Task {task} is cancelled.\n"
    shown = await cli.json("task", task, code=1)
    assert shown["status"] == "cancelled"
    assert shown["error"] == {"code": "cancelled", "message": "not needed", "by": f"external/{login_name()}"}
    assert [event["kind"] for event in shown["events"]][-2:] == ["cancelling", "cancelled"]
    assert "cancelled: not needed" in await cli("task", task, code=1)
    await cli("task", task, "--timeline", code=1)
    assert (await cli.json("cancel", task))["status"] == "cancelled"
    assert "is not the id of a task" in await cli.error("cancel", "nonsense")


async def test_a_task_is_named_by_either_end_of_its_id_wherever_one_is(cli: Cli, desk: Deployment) -> None:
    task, other = [await desk.submit({"lines": 1}) for _ in range(2)]
    for each in (task, other):
        await status(desk, each, "running")
    end = short_id(task)
    assert (await cli.json("task", end))["id"] == task
    assert (await cli.json("task", f"desk/{end}"))["id"] == task
    assert (await cli.json("task", task[-8:], "--timeline"))["task"] == f"desk/{task}"
    assert (await cli.json("pause", end))["id"] == task
    assert (await cli.json("resume", f"desk/{end}"))["id"] == task
    assert (await cli.json("pause", task[-6:]))["id"] == task
    assert (await cli.json("resume", task[:30]))["id"] == task
    assert (await cli.json("ledger", "--task", end))["calls"] == []
    assert (await cli.json("cancel", end))["id"] == task
    assert (await cli.json("tasks", "fail", short_id(other), "--reason", "x"))["id"] == other
    both = await cli.error("task", task[:4])
    assert f"Several ids begin or end with {task[:4]}: desk/{other}, desk/{task}. Give more of it." in both
    assert "There is no task …0000000" in await cli.error("cancel", "…0000000")
    assert "There is no task" in await cli.error("pause", "vigil/" + end)
    assert "There is no domain 'nowhere'" in await cli.error("pause", "nowhere")
    assert "domain/kind/key" in await cli.error("pause", "desk/clerk")


async def test_the_beginning_of_an_id_is_not_taken_for_its_end_where_only_that_is_meant(
    cli: Cli, desk: Deployment
) -> None:
    task = await desk.submit({"lines": 1})
    assert (await cli.json("task", task[:13]))["id"] == task
    assert "There is no task" in await cli.error("task", f"…{task[:13]}")


async def test_what_cannot_be_failed_is_refused(cli: Cli, desk: Deployment) -> None:
    assert "is not the id of a task" in await cli.error("tasks", "fail", "nonsense", "--reason", "x")
    assert "There is no task" in await cli.error("task", "desk/0190aaaa-0000-7000-8000-000000000001")
    assert "--reason" in await cli.error("tasks", "fail", "0190aaaa-0000-7000-8000-000000000001", code=2)


async def test_the_error_that_has_ended_a_task_is_said_once(cli: Cli, desk: Deployment) -> None:
    task = await desk.submit({})
    await status(desk, task, "failed")
    text = await cli("task", task, code=1)
    assert text.count("KeyError: 'lines'") == 1
    [letter] = (await cli.json("task", task, code=1))["dead_letters"]
    assert f"dead letter {letter['id']} for desk/clerk/{task}: callboard.task.v1\n" in text
    assert f"failed: desk/clerk/{task} could not handle callboard.task.v1: KeyError: 'lines'\n" in text


async def test_a_dead_letter_of_a_task_that_has_ended_is_retried_only_by_force(
    cli: Cli, desk: Deployment
) -> None:
    task = await stuck_task(desk)
    [letter] = (await cli.json("task", task))["dead_letters"]
    number = str(letter["id"])
    await cli("tasks", "fail", task, "--reason", "nobody wants it")
    refused = await cli.error("dead-letters", "retry", number)
    assert f"is part of the task desk/{task}, which failed " in refused
    assert "count for nothing" in refused
    assert f"`callboard dead-letters drop {number}`" in refused
    assert "--force" in refused
    assert "which failed " in await cli.error("dead-letters", "retry", number, "--json")
    assert (await cli.json("agent", f"desk/clerk/{task}"))["history"][0]["body"]["decision"] == "dead_letter"

    retried = await cli.json("dead-letters", "retry", number, "--force")
    assert (retried["done"], retried["letter"]) == (True, letter["message"])
    assert "what the message does is done, and does not count for it" in cli.err

    async def has_died_again() -> Any:
        return (await cli.json("task", task, code=1))["dead_letters"]

    [again] = await until(has_died_again)
    assert again["was"] == letter["id"]
    text = await cli("task", task, code=1)
    assert f"late  dead letter {number} of clerk/… is retried: desk.note.v1" in text
    assert f"dead letter {again['id']} (retried, before it was {number}) for desk/clerk/{task}" in text


async def test_a_dead_letter_of_a_cancelled_task_is_not_retried_for_no_host_would_handle_it(
    cli: Cli, desk: Deployment
) -> None:
    task = await stuck_task(desk)
    [letter] = (await cli.json("task", task))["dead_letters"]
    await cli("cancel", task, "--reason", "enough")
    await status(desk, task, "cancelled")
    refused = await cli.error("dead-letters", "retry", str(letter["id"]), "--force")
    assert "which is cancelled: no host handles it. `callboard dead-letters drop" in refused
    await cli("dead-letters", "drop", str(letter["id"]))
