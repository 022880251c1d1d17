"""What mends a task is said of one that waits for it."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from callboard.cli.task_view import trouble_lines
from storage.inspect import DeadLetterView, TaskView

AT = datetime(2026, 11, 1, tzinfo=UTC)
LETTER = DeadLetterView(
    domain="d", tenant="default", id=7, agent="a/k", message="m", at=AT, reason="error", error="no", failures=1,
    frames="", type="t.v1", sender="d/b/k", task="d/x", was=None,
)  # fmt: skip


def task(status: str) -> TaskView:
    return TaskView(
        domain="d", tenant="default", id="x", status=status, goal="g", priority=5, policy=None, assignee="d/b/k",
        progress=0.0, deadline=None, created_at=AT, updated_at=AT, finished_at=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("status", "is_to_be_mended"), [("stuck", True), ("paused", True), ("running", False)]
)
def test_a_dead_letter_is_to_be_mended_unless_its_task_goes_on(status: str, is_to_be_mended: bool) -> None:
    lines = trouble_lines(task(status), [LETTER])
    assert lines[0] == "dead letter 7 for d/a/k: t.v1: no"
    assert any("callboard dead-letters retry 7" in line for line in lines) is is_to_be_mended


def test_what_mends_a_stuck_task_is_the_letter_that_no_asker_was_told_of() -> None:
    asked = msgspec.structs.replace(LETTER, id=3, asked=True)
    lines = trouble_lines(task("stuck"), [asked, LETTER])
    assert [line.split(" for ")[0] for line in lines[:2]] == ["dead letter 3", "dead letter 7"]
    assert any("callboard dead-letters retry 7" in line for line in lines)
    assert not any("callboard dead-letters retry 3" in line for line in lines)
