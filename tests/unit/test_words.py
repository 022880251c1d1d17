"""What people read in errors and on the terminal: each thing once, and as sentences that end once."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from callboard import Context, PayloadTooLarge
from callboard.cli.status import task_lines
from callboard.cli.task_view import event_line
from callboard.cli.terminal import console
from callboard.cli.waits import show_pause
from storage.inspect import TaskEventView
from storage.standing import Standing
from tests.unit.cli.test_live import TASK
from tests.unit.cli.test_status import DOMAIN
from tests.unit.waiter import AT, Run, Waiter, program, waiters

NAN = float("nan")


async def error_of_a_step(function: Any) -> str:
    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.step(function)

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.advance(minutes=1)
        [letter] = kit.dead_letters()
        return letter.error


async def test_an_error_within_an_error_has_one_full_stop() -> None:
    def too_large() -> None:
        raise PayloadTooLarge("It has 5 bytes.")

    error = await error_of_a_step(too_large)
    assert error.endswith("raise `limits.payload_bytes` in domain.yaml.")
    assert (await error_of_a_step(object)).endswith("Return JSON values or pydantic models.")


@pytest.mark.parametrize("value", [NAN, float("inf"), {"x": [-float("inf")]}])
async def test_a_result_that_is_no_number_is_said_to_be_that(value: Any) -> None:
    error = await error_of_a_step(lambda: value)
    assert "A result cannot be written as JSON: NaN and infinity are no JSON." in error


async def test_an_argument_of_a_compensation_that_cannot_be_recorded_is_called_one() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        ctx.compensate(print, ctx)

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.advance(minutes=1)
        [letter] = kit.dead_letters()
    assert letter.error.startswith("InvalidPayload: An argument cannot be written as JSON: ")
    assert letter.error.endswith("Context'>. Give JSON values or pydantic models.")


def standing(**changed: Any) -> Standing:
    given = Standing(
        address="shop/cook/a", kind="approval", name="bake", status="abandoned", settled_by=None, settled_at=0.0,
        due_at=None, is_due=False, may_approve=True, may_deny=True, details=None, value=None,
    )  # fmt: skip
    return msgspec.structs.replace(given, **changed)


def test_an_approval_that_its_turn_has_let_go_was_withdrawn() -> None:
    error = standing().why_not("approved", "external/ann", None)
    assert str(error) == (
        "bake of shop/cook/a was withdrawn at 1970-01-01 00:00:00 UTC: its turn has ended, or has gone on without it. "
        "Nothing was changed."
    )
    assert error is not None
    assert (error.status, error.by) == ("abandoned", None)
    error = standing(status="expired", settled_by="external/clock").why_not("approved", "external/ann", None)
    assert "bake of shop/cook/a expired at 1970-01-01 00:00:00 UTC. Nothing" in str(error)
    error = standing(status="denied", settled_by="external/bob").why_not("approved", "external/ann", None)
    assert "was denied by bob at 1970" in str(error)


@pytest.mark.parametrize(
    ("paused", "stuck", "said"),
    [
        (0, 0, []),
        (1, 1, ["1 of its tasks is paused", "1 of its tasks waits for dead letters to be mended"]),
        (2, 1_200, ["2 of its tasks are paused", "1,200 of its tasks wait for dead letters to be mended"]),
    ],
)
def test_one_task_is_paused_and_two_are(paused: int, stuck: int, said: list[str]) -> None:
    lines = task_lines(msgspec.structs.replace(DOMAIN, paused_tasks=paused, stuck_tasks=stuck))
    assert [line.split(": ")[1] for line in lines] == said


def test_a_handler_that_has_ended_calls_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    paused = {"at": datetime.now(UTC), "place": "#1", "called": "the end", "recorded": "step charge"}
    show_pause(console(), AT, paused)
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["the", "handler", "ends", "without", "that"] in shown
    assert ["the", "journal", "has", "step", "charge"] in shown


def test_what_lets_a_turn_go_on_whose_handler_does_something_else_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    paused = {"at": datetime.now(UTC), "place": "#1", "called": "step ship", "recorded": "step charge"}
    show_pause(console(), AT, paused)
    last = capsys.readouterr().out.splitlines()[-1]
    assert (
        last
        == f"  Or look at it, `callboard turn show {AT}`, and `turn retry`, `turn edit` or `turn skip` it."
    )
    show_pause(console(), AT, {"at": datetime.now(UTC), "reason": "an audit"})
    assert "turn show" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ({"assignee": "desk/clerk/1"}, "assignee clerk/1"),
        (
            {"text": "desk/clerk/1 waits for desk/judge/j: it is slow"},
            "clerk/1 waits for judge/j: it is slow",
        ),
        ({"child": f"desk/{TASK.id}", "of": "ward/clerk/1"}, "child …  of ward/clerk/1"),
        ({"message": "No such agent: 'desk/nobody/x'"}, "No such agent: 'desk/nobody/x'"),
        ({"message": f"KeyError: 'desk/{TASK.id}'"}, f"KeyError: 'desk/{TASK.id}'"),
        ({"message": "no file /srv/desk/clerk/list"}, "no file /srv/desk/clerk/list"),
    ],
)
def test_a_tasks_log_shortens_the_addresses_that_stand_alone(body: dict[str, str], shown: str) -> None:
    event = TaskEventView(number=1, at=datetime.now(UTC), kind="progress", body=json.dumps(body))
    assert event_line(TASK, event).plain.split("  ", 1)[1] == shown
