"""Messages that are given up, with a reason and with where it failed; and dead letters that are retried or dropped."""

from __future__ import annotations

import json
import re

import pytest
from pydantic import BaseModel

from actors.retry import RetryPolicy
from callboard import NO_RETRY, Agent, Context, handler, message
from callboard.testing import TestKit
from tests.unit.agents import Forward, Keeper, Note
from tests.unit.trier import AT, Trier, Try


def tangled(depth: int) -> None:
    """What an author's own library may be, with a library's below it: `json` says nothing of whose line it was."""
    tangled(depth - 1) if depth else json.loads("secret")


@message("failures.tangle.v1")
class Tangle(BaseModel):
    in_step: bool


class Knot(Agent):
    kind = "knot"
    retry = NO_RETRY

    @handler
    async def on_tangle(self, tangle: Tangle, ctx: Context) -> None:
        if tangle.in_step:
            await ctx.step(tangled, 1)
        else:
            tangled(9)


# -- dead letters ------------------------------------------------------------------------------------


async def test_an_error_that_is_given_up_on_is_not_tried_again() -> None:
    async with TestKit([Trier]) as kit:
        await kit.send(AT, Try(name="bad"))
        await kit.quiet()
        [letter] = kit.dead_letters()
        assert (letter.reason, letter.error, letter.failures) == ("failed", "Bad: hopeless", 1)


async def test_a_message_without_a_handler_is_given_up_at_once() -> None:
    async with TestKit([Trier]) as kit:
        await kit.send(AT, Forward(to="test/trier/x"))
        await kit.send(AT, Try(name="next"))
        await kit.quiet()
        assert [letter.reason for letter in kit.dead_letters()] == ["no_handler"]
        assert kit.state(AT).done == ["next"]


async def test_a_message_of_an_unknown_type_is_given_up_at_once() -> None:
    async with TestKit([Trier]) as kit:
        await kit.send_json(AT, "nobody.knows.v7", "{}")
        await kit.quiet()
        [letter] = kit.dead_letters()
        assert (letter.reason, letter.message, letter.payload) == ("no_handler", None, "{}")


async def test_a_payload_that_does_not_fit_its_type_is_given_up_at_once() -> None:
    async with TestKit([Trier]) as kit:
        await kit.send_json(AT, "failures.try.v1", '{"name": 7, "secret": "s3cret"}')
        await kit.quiet()
        [letter] = kit.dead_letters()
        assert letter.reason == "invalid_payload"
        assert letter.error.startswith("InvalidPayload: The payload does not fit failures.try.v1: name:")
        assert "s3cret" not in letter.error


async def test_a_message_to_a_kind_that_the_domain_no_longer_has_is_given_up() -> None:
    async with TestKit([Trier, Keeper]) as old:
        await old.crash()
        await old.send("test/keeper/k", Note(text="hello"))
        async with TestKit([Trier]) as new:
            new.store.mail.boxes.update(old.store.mail.boxes)
            await new.crash()
            await new.recover()
            [letter] = new.dead_letters()
            assert (letter.reason, letter.address) == ("unknown_kind", "test/keeper/k")


async def test_a_message_past_its_deadline_is_not_handled() -> None:
    async with TestKit([Trier]) as kit:
        await kit.send(AT, Try(name="first", fails=1))
        await kit.send(AT, Try(name="late"), deadline=kit.clock.now() + 5)
        await kit.send(AT, Try(name="later"), deadline=kit.clock.now() + 15)
        await kit.advance(seconds=10)
        assert kit.state(AT).done == ["first", "later"]
        [letter] = kit.dead_letters()
        assert (letter.reason, letter.message) == ("expired", Try(name="late"))


@pytest.mark.parametrize("text", ["NUL \0 here", "half a pair \ud800", "line one\nline two"])
async def test_any_error_text_can_be_stored(text: str) -> None:
    class Poet(Agent):
        kind = "poet"

        @handler(retry=RetryPolicy(attempts=2, first_delay_s=1, jitter=0))
        async def on_note(self, note: Note, ctx: Context) -> None:
            raise ValueError(text)

    async with TestKit([Poet]) as kit:
        await kit.send("test/poet/p", Note())
        await kit.quiet()
        [waiting] = kit.mailbox("test/poet/p")
        assert waiting.last_error is not None
        await kit.advance(seconds=1)
        [letter] = kit.dead_letters()
        assert letter.error == waiting.last_error
        letter.error.encode()
        assert "\0" not in letter.error
        assert "\n" not in letter.error


async def test_a_dead_letter_can_be_handled_again_after_the_cause_is_gone() -> None:
    broken = True

    class Flaky(Agent):
        kind = "flaky"

        class State(BaseModel):
            notes: list[str] = []

        state: State

        @handler(retry=NO_RETRY)
        async def on_note(self, note: Note, ctx: Context) -> None:
            if broken:
                raise ValueError("the printer is on fire")
            self.state.notes.append(note.text)

    at = "test/flaky/f"
    async with TestKit([Flaky]) as kit:
        await kit.send(at, Note(text="hello"), deadline=kit.clock.now() + 60)
        await kit.advance(hours=1)
        [letter] = kit.dead_letters(at)
        await kit.retry_dead_letter(letter.id)
        await kit.quiet()
        [again] = kit.dead_letters(at)
        assert (again.header.id, again.id > letter.id) == (letter.header.id, True)
        broken = False
        await kit.retry_dead_letter(again.id)
        await kit.quiet()
        assert (kit.dead_letters(), kit.state(at).notes) == ([], ["hello"])
        assert [step.decision for step in kit.history(at)] == [
            "dead_letter", "dead_letter_retried", "dead_letter", "dead_letter_retried", "handled",
        ]  # fmt: skip


async def test_a_dropped_dead_letter_is_gone_and_the_history_says_why() -> None:
    async with TestKit([Trier]) as kit:
        await kit.send(AT, Try(name="bad"))
        await kit.quiet()
        [letter] = kit.dead_letters()
        await kit.drop_dead_letter(letter.id, reason="known")
        await kit.quiet()
        assert kit.dead_letters() == []
        assert kit.mailbox(AT) == []
        assert kit.history(AT)[-1].notes == [
            {
                "decision": "drop_dead_letter", "id": letter.id, "reason": "known", "found": True,
                "message": letter.header.id, "type": "failures.try.v1",
            }
        ]  # fmt: skip


async def test_a_dead_letter_that_is_gone_already_is_dropped_in_peace() -> None:
    async with TestKit([Trier]) as kit:
        await kit.send(AT, Try(name="bad"))
        await kit.quiet()
        [letter] = kit.dead_letters()
        await kit.drop_dead_letter(letter.id)
        await kit.drop_dead_letter(letter.id)
        await kit.send(AT, Try(name="next"))
        await kit.quiet()
        assert kit.state(AT).done == ["next"]
        assert kit.history(AT)[-2].notes[0]["found"] is False


async def test_a_dead_letter_that_two_people_retry_at_once_is_handled_once() -> None:
    broken = True

    class Mended(Agent):
        kind = "mended"

        class State(BaseModel):
            notes: list[str] = []

        state: State

        @handler(retry=NO_RETRY)
        async def on_note(self, note: Note, ctx: Context) -> None:
            if broken:
                raise ValueError("not yet")
            self.state.notes.append(note.text)

    async with TestKit([Mended]) as kit:
        await kit.send("test/mended/m", Note(text="once"))
        await kit.quiet()
        [letter] = kit.dead_letters()
        broken = False
        await kit.retry_dead_letter(letter.id)
        await kit.retry_dead_letter(letter.id)
        await kit.drop_dead_letter(letter.id)
        await kit.quiet()
        assert kit.state("test/mended/m").notes == ["once"]


# -- where it failed ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("in_step", "names"), [(False, ["tangled"] * 5), (True, ["on_tangle", "tangled", "tangled"])]
)
async def test_a_dead_letter_names_the_authors_lines_that_led_to_it(in_step: bool, names: list[str]) -> None:
    async with TestKit([Knot]) as kit:
        await kit.send("test/knot/k", Tangle(in_step=in_step))
        await kit.quiet()
        (letter,) = kit.dead_letters()
    frames = [frame.rsplit(" in ", 1) for frame in letter.frames.splitlines()]
    assert [name for _, name in frames] == names
    assert all(re.fullmatch(re.escape(__file__) + r":\d+", place) for place, _ in frames)
    assert "secret" not in letter.frames


async def test_a_dead_letter_that_no_handler_has_failed_at_names_no_lines_of_code() -> None:
    async with TestKit([Trier]) as kit:
        await kit.send(AT, Tangle(in_step=False))
        await kit.quiet()
        assert [(letter.reason, letter.frames) for letter in kit.dead_letters()] == [("no_handler", "")]
