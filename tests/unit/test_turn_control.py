"""What operators do to a turn that is open: skip it, change what it has recorded."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from actors.control import EditTurn
from callboard import Context, NotHappened, tool
from callboard.testing import TestKit
from tests.unit.agents import Note
from tests.unit.shopping import AT, Run, Worker, at_the_sleep, made, program

pytestmark = pytest.mark.usefixtures("nothing_made")


async def test_a_turn_that_is_skipped_is_a_dead_letter_and_the_agent_goes_on() -> None:
    async with TestKit([Worker]) as kit:
        await at_the_sleep(kit)
        await kit.send(AT, Note(text="next"))
        await kit.skip_turn(AT, "no longer wanted")
        await kit.quiet()
        (letter,) = kit.dead_letters(AT)
        assert (letter.reason, letter.error) == ("skipped", "skipped by operator: no longer wanted")
        assert isinstance(letter.message, Run)
        assert kit.state(AT).log == ["created", "next"]
        await kit.advance(hours=2)
        assert kit.state(AT).log == ["created", "next"]
        assert not kit.store.waits.turns
        await kit.retry_dead_letter(letter.id)
        await kit.advance(hours=2)
        assert kit.state(AT).log == ["created", "next", "paid 10"]


async def test_what_a_step_has_returned_is_changed_and_the_record_keeps_both() -> None:
    async with TestKit([Worker]) as kit:
        await at_the_sleep(kit)
        await kit.edit_turn(AT, "#1", "7")
        await kit.advance(hours=2)
        assert kit.state(AT).log == ["created", "paid 7"]
        assert made == ["apples"]
        (journal,) = kit.store.waits.journal.values()
        assert [(e.kind, e.value) for e in journal if e.kind in ("step", "void")] == [
            ("step", "10"), ("void", "null"), ("step", "7"),
        ]  # fmt: skip
        edit = next(step for step in kit.history(AT) if step.decision == "turn_edited")
        assert edit.notes[0]["done"] is True


async def test_a_step_that_is_forgotten_is_made_again() -> None:
    async with TestKit([Worker]) as kit:
        await at_the_sleep(kit)
        await kit.edit_turn(AT, "#1", None)
        await kit.advance(hours=2)
        assert (kit.state(AT).log, made) == (["created", "paid 10"], ["apples", "apples"])


@pytest.mark.parametrize(("key", "value"), [("#9", "1"), ("#2", "1"), ("#2", None)])
async def test_what_cannot_be_edited_stays(key: str, value: str | None) -> None:
    async with TestKit([Worker]) as kit:
        await at_the_sleep(kit)
        await kit.edit_turn(AT, key, value)
        await kit.advance(hours=2)
        assert kit.state(AT).log == ["created", "paid 10"]
        edit = next(step for step in kit.history(AT) if step.decision == "turn_edited")
        assert edit.notes[0]["done"] is False


async def test_a_call_of_a_tool_may_be_given_a_result_and_is_never_forgotten() -> None:
    @tool(on_unknown=lambda what: NotHappened())
    async def act(what: str) -> str:
        made.append(what)
        return "done"

    async def run(self: Worker, ctx: Context) -> None:
        result = await ctx.call(act, "it")
        await ctx.sleep(3600)
        self.state.log.append(result)

    async with TestKit([Worker]) as kit:
        await kit.send(AT, program(run))
        await kit.advance(minutes=1)
        await kit.edit_turn(AT, "#1", None)
        await kit.edit_turn(AT, "#1", json.dumps("done otherwise"))
        await kit.advance(hours=2)
        assert (kit.state(AT).log, made) == (["created", "done otherwise"], ["it"])


async def test_a_pause_leaves_an_agent_uncreated_whose_first_turn_is_open() -> None:
    async with TestKit([Worker]) as kit:
        await at_the_sleep(kit)
        await kit.pause(AT, "a look")
        await kit.quiet()
        assert kit.lifecycle(AT) == "paused"
        await kit.resume(AT)
        await kit.advance(hours=2)
        assert kit.state(AT).log == ["created", "paid 10"]
        assert kit.dead_letters() == []
        assert (
            len(kit.state("test/worker/log").log) == 3
        )  # it has created itself, told itself, and heard it of a once


@pytest.mark.parametrize(
    "value", ["{", "NaN", "[-Infinity]", "1e999", '"\\ud800"', '"\ud800"', '"\\u0000"', "[" * 100_000]
)
def test_a_value_that_no_journal_can_hold_is_refused(value: str) -> None:
    with pytest.raises(ValidationError):
        EditTurn(key="#1", value=value)
