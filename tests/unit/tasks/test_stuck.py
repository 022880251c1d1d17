"""A task of which a message was given up: stuck until somebody mends it, or failed, as the domain wishes."""

from __future__ import annotations

import json

import pytest

from coordinators.tasks.dead_work import MAX_KNOWN, DeadWork
from coordinators.tasks.messages import FailTask
from tests.unit.tasks.desk import TASK, Desk, Say


async def lose(desk: Desk, *, by: str = "d") -> int:
    """A message of the task becomes a dead letter of an agent that handles nothing; its number."""
    await desk.kit.send(f"test/deaf/{by}", Say(method="complete"), task=TASK)
    await desk.kit.quiet()
    return desk.kit.dead_letters()[-1].id


def lines(desk: Desk, kind: str) -> list[dict[str, str]]:
    return [json.loads(e.body) for e in desk.kit.store.tasks.events.values() if e.kind == kind]


async def test_a_task_whose_message_was_given_up_is_stuck_and_says_by_what(desk: Desk) -> None:
    await desk.assign()
    await lose(desk)
    assert (desk.row.status, desk.row.finished) == ("stuck", False)
    assert desk.log == ["assigned", "running", "stuck"]
    [line] = lines(desk, "stuck")
    assert line["by"] == "test/deaf/d"
    assert line["message"].startswith("test/deaf/d could not handle testtasks.say.v1: NoHandler")


async def test_a_dead_letter_that_is_retried_and_dies_again_leaves_the_task_stuck(desk: Desk) -> None:
    await desk.assign()
    number = await lose(desk)
    await desk.kit.retry_dead_letter(number)
    await desk.kit.quiet()
    assert desk.row.status == "stuck"
    assert desk.log == ["assigned", "running", "stuck", "mended", "running", "stuck"]


async def test_a_dead_letter_that_is_retried_and_succeeds_sets_the_task_going(desk: Desk) -> None:
    await desk.assign()
    await desk.say("progress", "not a number")
    assert desk.row.status == "stuck"
    [letter] = desk.kit.dead_letters("test/worker/w")
    mended = letter.payload.replace('"not a number"', "0.5")
    row = desk.kit.store.agents.dead_letters[("default", letter.id)]
    desk.kit.store.agents.dead_letters[("default", letter.id)] = type(row)(
        **{name: getattr(row, name) for name in row.__struct_fields__} | {"payload": mended}
    )
    await desk.kit.retry_dead_letter(letter.id)
    await desk.kit.quiet()
    assert (desk.row.status, desk.row.progress) == ("running", 0.5)
    assert desk.log == ["assigned", "running", "stuck", "mended", "running", "progress"]
    await desk.say("complete", 1)
    assert desk.result == 1


async def test_every_one_of_several_dead_letters_must_be_mended(desk: Desk) -> None:
    await desk.assign()
    first = await lose(desk)
    second = await lose(desk, by="e")
    assert desk.log == ["assigned", "running", "stuck", "trouble"]
    await desk.kit.drop_dead_letter(first)
    await desk.kit.quiet()
    assert desk.row.status == "stuck"
    await desk.kit.drop_dead_letter(second, "not needed")
    await desk.kit.quiet()
    assert desk.row.status == "running"
    assert [line["how"] for line in lines(desk, "mended")] == ["dropped", "dropped"]
    assert lines(desk, "mended")[1]["reason"] == "not needed"


async def test_a_stuck_task_still_takes_reports_and_may_complete(desk: Desk) -> None:
    await desk.assign()
    await lose(desk)
    await desk.say("progress", 0.5)
    assert (desk.row.status, desk.row.progress) == ("stuck", 0.5)
    await desk.say("complete", "it was not needed")
    assert desk.result == "it was not needed"


async def test_a_stuck_task_fails_at_its_deadline(desk: Desk) -> None:
    await desk.assign(deadline=desk.kit.clock.now() + 60)
    await lose(desk)
    await desk.kit.advance(seconds=61)
    assert desk.error["code"] == "deadline"


async def test_a_dead_letter_that_comes_before_the_assignment_is_not_forgotten(desk: Desk) -> None:
    """`callboard run` publishes a file's events first, and submits the task then."""
    number = await lose(desk)
    await desk.assign()
    assert desk.row.status == "stuck"
    await desk.kit.drop_dead_letter(number)
    await desk.kit.quiet()
    assert desk.row.status == "running"


async def test_where_the_domain_says_fail_a_dead_letter_ends_the_task(desk: Desk) -> None:
    await desk.assign(on_dead_letter="fail")
    await lose(desk)
    assert desk.error["code"] == "dead_letter"
    assert "testtasks.say.v1" in desk.error["message"]
    assert desk.log == ["assigned", "running", "failed"]


async def test_where_the_domain_says_fail_an_earlier_dead_letter_ends_the_task_too(desk: Desk) -> None:
    await lose(desk)
    await desk.assign(on_dead_letter="fail")
    assert desk.error["code"] == "dead_letter"


async def test_a_mend_after_the_end_is_on_record_and_changes_nothing(desk: Desk) -> None:
    await desk.assign(on_dead_letter="fail")
    await desk.kit.drop_dead_letter(await lose(desk))
    await desk.kit.quiet()
    assert desk.error["code"] == "dead_letter"
    assert desk.log[-1] == "late"


async def test_a_crash_forgets_no_dead_letter(desk: Desk) -> None:
    await desk.assign()
    number = await lose(desk)
    for host in (0, 1):
        await desk.kit.crash(host)
    await desk.kit.recover()
    assert desk.row.status == "stuck"
    await desk.kit.drop_dead_letter(number)
    await desk.kit.quiet()
    assert desk.row.status == "running"


def test_past_its_limit_only_the_number_of_dead_letters_is_kept() -> None:
    dead = DeadWork()
    for n in range(MAX_KNOWN + 5):
        dead.add(f"{n}")
        dead.add(f"{n % MAX_KNOWN}")
    assert (len(dead.known), dead.more) == (MAX_KNOWN, 5)
    for n in range(MAX_KNOWN + 5):
        assert dead
        assert dead.remove(f"{n}")
    assert not dead
    assert not dead.remove("0")


# -- an operator -------------------------------------------------------------------------------------


async def fail(desk: Desk) -> None:
    await desk.kit.send(f"test/task/{TASK}", FailTask(reason="enough"), sender="external/operator", task=TASK)
    await desk.kit.quiet()


async def test_an_operator_ends_a_task_that_is_under_way(desk: Desk) -> None:
    await desk.assign()
    await lose(desk)
    await fail(desk)
    assert desk.error == {"code": "operator", "message": "enough", "by": "external/operator"}
    await desk.say("complete", 1)
    assert desk.error["message"] == "enough"
    assert desk.log[-2:] == ["failed", "late"]


async def test_a_task_that_an_operator_ended_before_its_assignment_reaches_nobody(desk: Desk) -> None:
    await fail(desk)
    await desk.assign(["complete", 1])
    assert desk.error["message"] == "enough"
    assert desk.log == ["failed"]


async def test_an_end_by_an_operator_after_the_end_does_not_count(desk: Desk) -> None:
    await desk.assign(["complete", 1])
    await fail(desk)
    assert desk.result == 1


async def test_a_dead_letter_whose_task_has_ended_meanwhile_goes_back_only_by_force(desk: Desk) -> None:
    await desk.assign()
    number = await lose(desk)
    await desk.kit.fail_task(TASK, "nobody wants it")
    await desk.kit.quiet()
    await desk.kit.retry_dead_letter(number)
    await desk.kit.quiet()
    assert [letter.id for letter in desk.kit.dead_letters()] == [number]
    kept = desk.kit.history("test/deaf/d")[-1]
    assert (kept.decision, kept.notes[0]["refused"]) == ("dead_letter_kept", "its task is failed")
    await desk.kit.retry_dead_letter(number, force=True)
    await desk.kit.quiet()
    [again] = desk.kit.dead_letters()
    assert (again.id != number, again.header.letter) == (True, number)


@pytest.mark.parametrize("force", [False, True])
async def test_a_dead_letter_of_a_cancelled_task_does_not_go_back_for_no_host_would_handle_it(
    desk: Desk, force: bool
) -> None:
    await desk.assign()
    number = await lose(desk)
    await desk.kit.cancel_task(TASK, "enough")
    await desk.kit.advance(seconds=2)
    await desk.kit.retry_dead_letter(number, force=force)
    await desk.kit.quiet()
    assert [letter.id for letter in desk.kit.dead_letters()] == [number]
    assert desk.kit.history("test/deaf/d")[-1].notes[0]["refused"] == "its task is cancelled"
