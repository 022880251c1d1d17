"""An ask whose message was given up is its asker's to handle, who is told: it makes no task stuck."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from actors.domain import OnDeadLetter, TaskSpec
from callboard import AskFailed, Context
from callboard.testing import TestKit
from tests.unit.agents import Note
from tests.unit.tasks.desk import Deaf
from tests.unit.tasks.family import given, log
from tests.unit.tasks.worker import Errand, Worker, fresh


@pytest.fixture(params=["keep", "fail"])
async def kit(request: pytest.FixtureRequest) -> AsyncIterator[TestKit]:
    wanted: OnDeadLetter = request.param
    fresh()
    tasks = TaskSpec(to="worker/{task}", on_dead_letter=wanted)
    async with TestKit([Worker, Deaf], hosts=2, tasks=tasks) as running:
        yield running


async def without_it(self: Worker, ctx: Context) -> None:
    try:
        await ctx.ask("test/deaf/d", Note(text="?"))
    except AskFailed:
        await ctx.sleep(45)
        ctx.complete("without it")


async def test_a_task_whose_asker_was_told_goes_on_and_the_log_says_what_happened(kit: TestKit) -> None:
    task = await given(kit, without_it)
    assert kit.task(task).status == "running"
    assert log(kit, task)[-2:] == ["running", "trouble"]
    [line] = [e.body for e in kit.store.tasks.events.values() if e.kind == "trouble"]
    assert "NoHandler" in line
    assert "who asked was told" in line
    await kit.advance(seconds=46)
    assert (kit.task(task).status, kit.task(task).result) == ("completed", "without it")


async def test_the_mend_of_such_a_letter_changes_nothing_but_the_log(kit: TestKit) -> None:
    task = await given(kit, without_it)
    [letter] = kit.dead_letters()
    await kit.drop_dead_letter(letter.id)
    await kit.quiet()
    assert kit.task(task).status == "running"
    assert log(kit, task)[-2:] == ["trouble", "mended"]


async def test_what_the_asker_does_not_handle_is_tried_again_and_then_ends_its_task(kit: TestKit) -> None:
    async def asks(self: Worker, ctx: Context) -> None:
        await ctx.ask("test/deaf/d", Note(text="?"))

    task = await given(kit, asks)
    assert kit.task(task).status in ("assigned", "running")
    assert "stuck" not in log(kit, task)
    await kit.advance(seconds=2)
    error = kit.task(task).error or {}
    assert (error["code"], "AskFailed" in error["message"]) == ("dead_letter", True)


async def test_what_is_given_up_after_it_has_answered_is_known_to_nobody_and_counts() -> None:
    async def answers_and_fails(self: Worker, ctx: Context) -> None:
        ctx.reply(Note(text="yes"))
        await ctx.sleep(1)
        raise ValueError("not done after all")

    async def asks(self: Worker, ctx: Context) -> None:
        await ctx.ask("test/worker/other", Errand(program="answers_and_fails"))

    fresh(answers_and_fails)
    async with TestKit([Worker], hosts=2, tasks=TaskSpec(to="worker/{task}")) as kit:
        task = await given(kit, asks)
        await kit.advance(seconds=10)
        assert kit.task(task).status == "stuck"
