"""The task's agent, led through its whole life by messages alone."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from actors.directory import DomainEntry
from callboard import Agent, Context, InvalidMessage, TaskWork, handler
from callboard.testing import TestKit
from coordinators.tasks.agent import TaskAgent
from coordinators.tasks.leader import MAX_ASIDES
from storage.batch import commit_arguments
from storage.records import Fence, TaskWrite, TurnRecord
from tests.unit.tasks.desk import TASK, Desk, Say


async def test_a_task_completes_with_its_result(desk: Desk) -> None:
    await desk.assign(["complete", {"answer": 42}])
    assert desk.result == {"answer": 42}
    assert desk.row.finished
    assert desk.row.progress == 1
    assert desk.row.assignee == "test/worker/w"
    assert desk.log == ["assigned", "running", "completed"]


async def test_a_task_is_running_once_its_assignee_has_taken_it_up(desk: Desk) -> None:
    await desk.assign()
    assert desk.row.status == "running"
    assert desk.log == ["assigned", "running"]


async def test_progress_shows_in_the_row_and_the_log(desk: Desk) -> None:
    await desk.assign(["progress", 0.25, "a quarter"])
    assert (desk.row.status, desk.row.progress) == ("running", 0.25)
    await desk.say("progress", 0.5)
    assert desk.row.progress == 0.5
    assert desk.log == ["assigned", "running", "progress", "progress"]


async def test_a_failure_says_who_and_why(desk: Desk) -> None:
    await desk.assign(["fail", "out of paper"])
    assert desk.error == {"code": "failed", "message": "out of paper", "by": "test/worker/w"}


async def test_an_agent_that_was_handed_a_part_of_the_work_may_complete_the_task(desk: Desk) -> None:
    await desk.assign()
    await desk.say("complete", "done elsewhere", by="colleague")
    assert desk.result == "done elsewhere"


async def test_a_second_assignment_changes_nothing(desk: Desk) -> None:
    await desk.assign()
    await desk.assign(["complete", 1], assignee="test/worker/other")
    assert desk.row.assignee == "test/worker/w"
    assert desk.log == ["assigned", "running"]


async def test_a_task_whose_assignee_gives_its_message_up_has_failed(desk: Desk) -> None:
    await desk.assign(["raise", "no idea"])
    assert desk.error["code"] == "dead_letter"
    assert "ValueError: no idea" in desk.error["message"]


async def test_a_task_for_an_agent_that_does_not_handle_tasks_has_failed(desk: Desk) -> None:
    await desk.assign(assignee="test/deaf/d")
    assert desk.error["code"] == "dead_letter"


async def test_a_task_for_an_unknown_kind_has_failed(desk: Desk) -> None:
    await desk.assign(assignee="test/nobody/n")
    assert desk.error["code"] == "dead_letter"
    assert "nobody" in desk.error["message"]


async def test_a_task_for_a_kind_that_only_newer_code_has_waits_for_it(desk: Desk) -> None:
    """The coordinator reads what is registered at each round, a host now and then."""
    scope = desk.kit._scope
    known, entry = scope.directory, DomainEntry(partitions=scope.directory.partitions("test", "worker"))
    known.replace({"test": msgspec.structs.replace(entry, kinds=frozenset({"task"}))})
    outdated = True

    async def is_outdated() -> bool:
        return outdated

    scope.is_outdated = is_outdated
    await desk.assign(["complete", 1])
    assert (desk.row.status, desk.log, desk.kit.dead_letters()) == ("assigned", [], [])
    [waits] = desk.kit.mailbox(f"test/task/{TASK}")
    assert waits.failures == 0
    outdated = False
    known.replace({"test": entry})
    await desk.kit.advance(seconds=2)
    assert desk.result == 1


async def test_a_refused_task_has_failed_with_the_reason(desk: Desk) -> None:
    await desk.assign(assignee=None, refused="No agent has the skill.")
    assert desk.error["code"] == "not_assigned"
    assert desk.log == ["failed"]


async def test_a_report_that_the_task_agent_cannot_read_fails_the_task_and_does_not_hang_it(
    desk: Desk,
) -> None:
    await desk.assign(["complete_nested", 220])  # our own writer reaches deeper than our reader
    assert desk.error["code"] == "dead_letter"
    assert "task_completed" in desk.error["message"]


async def test_of_the_rows_that_one_commit_has_for_a_task_the_last_is_written() -> None:
    """One update takes any one of several rows for a task, so the batch holds one."""

    def write(status: str) -> TaskWrite:
        return TaskWrite(
            id=TASK, status=status, assignee=None, progress=0, result=None, error=None, finished=False
        )

    def turn(version: int, *writes: TaskWrite) -> TurnRecord:
        return TurnRecord(
            tenant="default", agent=f"task/{TASK}", partition=0, seq=version, version=version,
            schema_version=1, lifecycle="running", state="{}", body="{}", prev=b"", hash=b"", tasks=writes,
        )  # fmt: skip

    turns = [turn(1, write("assigned")), turn(2, write("running"), write("completed"))]
    rare = json.loads(commit_arguments(Fence(domain="test", epoch=1), turns, [])[-2])
    assert [row["status"] for row in rare["tasks"]] == ["completed"]


# -- the end is the end ------------------------------------------------------------------------------


async def test_what_comes_after_the_end_is_recorded_and_ignored(desk: Desk) -> None:
    await desk.assign(["complete", "first"])
    await desk.say("complete", "second")
    await desk.say("fail", "third")
    await desk.say("progress", 0.1)
    await desk.say("split", 3)
    await desk.say("complete_part", "a", 1)
    assert desk.result == "first"
    assert desk.row.progress == 1
    assert desk.log == ["assigned", "running", "completed", *["late"] * 5]


async def test_late_messages_fill_the_log_only_so_far(desk: Desk) -> None:
    await desk.assign(["complete", 1])
    for _ in range(MAX_ASIDES + 20):
        await desk.kit.send("test/worker/w", Say(method="progress", arguments=[0.5]), task=TASK)
    await desk.kit.quiet()
    assert desk.log.count("late") == MAX_ASIDES


async def test_reports_on_a_task_that_was_never_assigned_are_ignored(desk: Desk) -> None:
    await desk.say("complete", 1)
    assert desk.row.status == "assigned"
    assert desk.log == []


# -- deadlines ---------------------------------------------------------------------------------------


async def test_a_task_that_is_not_done_by_its_deadline_has_failed(desk: Desk) -> None:
    await desk.assign(deadline=desk.kit.clock.now() + 60)
    await desk.kit.advance(seconds=59)
    assert desk.row.status == "running"
    await desk.kit.advance(seconds=2)
    assert desk.error["code"] == "deadline"


async def test_the_deadline_of_a_completed_task_passes_unnoticed(desk: Desk) -> None:
    await desk.assign(["complete", 1], deadline=desk.kit.clock.now() + 60)
    await desk.kit.advance(seconds=61)
    assert desk.result == 1
    assert desk.log == ["assigned", "running", "completed"]
    assert desk.kit.dead_letters() == []


async def test_a_report_that_comes_after_the_deadline_is_on_record(desk: Desk) -> None:
    """Reports do not inherit the work's deadline: else they would become dead letters."""
    await desk.assign(["progress", 0.5], deadline=desk.kit.clock.now() + 60)
    deadlines = {sent.header.type: sent.header.deadline for sent in desk.kit.store.sent}
    assert deadlines["callboard.task.v1"] == desk.kit.clock.now() + 60
    assert deadlines["callboard.task_progress.v1"] is None
    await desk.kit.advance(seconds=61)
    await desk.say("complete", 1)
    assert desk.error["code"] == "deadline"
    assert desk.log[-1] == "late"
    assert desk.kit.dead_letters() == []


async def test_a_task_assigned_after_its_deadline_reaches_nobody(desk: Desk) -> None:
    await desk.assign(["complete", 1], deadline=desk.kit.clock.now() - 1)
    assert desk.error["code"] == "deadline"
    assert desk.kit.sent(type=TaskWork) == []


async def test_a_time_limit_that_nobody_lives_to_see_is_none(desk: Desk) -> None:
    await desk.assign(wall_s=1e12)
    assert desk.row.status == "running"


# -- parts -------------------------------------------------------------------------------------------


async def test_the_parts_results_are_the_tasks_result(desk: Desk) -> None:
    await desk.assign(["split", 2])
    await desk.say("complete_part", "b", 2, by="one")
    assert desk.row.progress == 0.5
    await desk.say("complete_part", "a", {"n": 1}, by="two")
    assert desk.result == {"a": {"n": 1}, "b": 2}
    assert list(desk.result) == ["a", "b"]
    assert desk.log == ["assigned", "running", "split", "part", "part", "completed"]


async def test_parts_may_report_before_anybody_says_how_many_there_are(desk: Desk) -> None:
    await desk.assign()
    await desk.say("complete_part", "a", 1)
    await desk.say("split", 1)
    assert desk.result == {"a": 1}


async def test_a_part_that_reports_twice_counts_once(desk: Desk) -> None:
    await desk.assign(["split", 2])
    await desk.say("complete_part", "a", 1)
    await desk.say("complete_part", "a", 2)
    assert desk.row.status == "running"
    await desk.say("complete_part", "b", 3)
    assert desk.result == {"a": 1, "b": 3}


async def test_an_assignee_may_aggregate_by_itself(desk: Desk) -> None:
    await desk.assign(["split", 2])
    await desk.say("complete_part", "a", 1)
    await desk.say("complete", "enough")
    assert desk.result == "enough"


async def test_parts_larger_than_an_agent_can_keep_fail_the_task(desk: Desk) -> None:
    await desk.assign(["split", 3])
    for name in "abc":
        await desk.say("complete_part", name, "x" * 3_000_000)
    assert desk.error["code"] == "too_many_parts"


# -- crashes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [0, 1])
async def test_a_crash_between_any_two_steps_changes_nothing(desk: Desk, host: int) -> None:
    async def crash() -> None:
        await desk.kit.crash(host)
        await desk.kit.recover()

    await desk.call({"a": 1, "b": 5})
    await crash()
    await desk.kit.advance(seconds=3)
    await crash()
    await desk.say("split", 2, by="b")
    await crash()
    await desk.say("complete_part", "x", 1)
    await crash()
    await desk.say("complete_part", "y", 2)
    await crash()
    assert desk.result == {"x": 1, "y": 2}
    assert desk.log.count("completed") == 1
    assert len(desk.kit.sent(type=TaskWork)) == 1


# -- arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("progress", [1.5]), ("progress", [-0.1]), ("progress", [float("nan")]), ("bid", [float("inf")]),
        ("split", [0]), ("split", [1001]), ("complete_part", [""]), ("complete_part", ["x" * 201]),
    ],
)  # fmt: skip
async def test_arguments_out_of_range_are_refused_in_the_handler(method: str, arguments: list[Any]) -> None:
    caught: list[str] = []

    class Reporter(Agent):
        kind = "reporter"

        @handler
        async def on_say(self, say: Say, ctx: Context) -> None:
            try:
                getattr(ctx, method)(*arguments)
            except InvalidMessage as error:
                caught.append(error.message)

    async with TestKit([Reporter], system_kinds=(TaskAgent,)) as kit:
        await kit.send("test/reporter/r", Say(method=""), task=TASK)
        await kit.quiet()
        assert len(caught) == 1
        assert kit.sent() == []


async def test_a_report_from_a_message_that_is_part_of_no_task_is_refused(desk: Desk) -> None:
    await desk.kit.send("test/worker/w", Say(method="complete"))
    await desk.kit.quiet()
    [letter] = desk.kit.dead_letters()
    assert "part of no task" in letter.error


async def test_a_long_note_is_cut(desk: Desk) -> None:
    await desk.assign(["fail", "x" * 10_000])
    assert len(desk.error["message"]) == 2_000
