"""Messages that fail: supervision says whether their agent is paused, and no odd error harms others."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest
from pydantic import BaseModel

from actors.domain import LimitSpec
from actors.supervision import Directive
from callboard import NO_RETRY, Agent, CallboardError, Context, handler, message
from callboard.testing import TestKit
from tests.unit.agents import Keeper, Note
from tests.unit.trier import AT, STEADY, Bad, Stop, Trier, Try


async def test_a_paused_agent_keeps_the_message_that_it_was_paused_for() -> None:
    async with TestKit([Trier]) as kit:
        await kit.send(AT, Try(name="stop", fails=1))
        await kit.send(AT, Try(name="next"))
        await kit.quiet()
        assert kit.lifecycle(AT) == "paused"
        assert [m.failures for m in kit.mailbox(AT)] == [1, 0]
        [step] = kit.history(AT)
        assert step.notes == [{"decision": "pause", "reason": "Stop: look at me", "failures": 1}]
        await kit.advance(days=2)
        assert len(kit.mailbox(AT)) == 2
        await kit.resume(AT)
        await kit.quiet()
        assert kit.state(AT).done == ["stop", "next"]


async def test_a_paused_agent_is_still_paused_after_a_crash_and_a_resume_finds_all_its_mail() -> None:
    async with TestKit([Trier]) as kit:
        await kit.pause(AT, reason="maintenance")
        await kit.quiet()
        for name in ("a", "b", "c"):
            await kit.send(AT, Try(name=name))
        await kit.quiet()
        await kit.crash()
        await kit.recover()
        await kit.send(AT, Try(name="d"))
        await kit.quiet()
        assert (kit.lifecycle(AT), len(kit.mailbox(AT))) == ("paused", 4)
        await kit.resume(AT)
        await kit.quiet()
        assert kit.state(AT).done == ["a", "b", "c", "d"]


async def test_a_control_message_passes_the_queue_even_while_the_head_waits_for_its_next_try() -> None:
    async with TestKit([Trier]) as kit:
        await kit.send(AT, Try(name="first", fails=1))
        await kit.send(AT, Try(name="second"))
        await kit.quiet()
        await kit.pause(AT)
        await kit.quiet()
        assert kit.lifecycle(AT) == "paused"
        await kit.advance(minutes=5)
        assert len(kit.mailbox(AT)) == 2
        await kit.resume(AT)
        await kit.quiet()
        assert kit.state(AT).done == ["first", "second"]


# -- errors that are not like others -----------------------------------------------------------------


class Mute(Exception):
    """An error whose own words fail."""

    def __str__(self) -> str:
        raise ValueError("no words")


@message("failures.odd.v1")
class Odd(BaseModel):
    """Fails in an odd way."""

    way: Literal["cancelled", "mute"]


@message("failures.next.v1")
class Next(BaseModel):
    """Takes the next of nothing, in a thread."""


class Oddity(Agent):
    kind = "oddity"
    retry = NO_RETRY

    @handler
    async def on_odd(self, odd: Odd, ctx: Context) -> None:
        if odd.way == "mute":
            raise Mute
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task

    @handler
    def on_next(self, _: Next, ctx: Context) -> None:
        next(iter(()))


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (Odd(way="cancelled"), "RuntimeError: something that the handler waited for was cancelled"),
        (Odd(way="mute"), "Mute: it cannot be put into words"),
        (Next(), "RuntimeError: the function raised StopIteration"),
    ],
)
async def test_an_odd_error_fails_its_message_alone(odd: BaseModel, words: str) -> None:
    async with TestKit([Oddity, Keeper], partitions=1, limits=LimitSpec(concurrent_turns=1)) as kit:
        await kit.send("test/oddity/o", odd)
        await kit.send("test/keeper/k", Note(text="next"))
        await kit.quiet(timeout_s=5)
        assert [letter.error for letter in kit.dead_letters()] == [words]
        assert kit.state("test/keeper/k").notes == ["next"]


class Rash(Agent):
    kind = "rash"

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None:
        worker = asyncio.current_task()
        assert worker is not None
        worker.cancel()
        await asyncio.sleep(60)


async def test_a_handler_that_cancels_its_own_host_ends_it_instead_of_leaving_it_lame() -> None:
    async with TestKit([Rash]) as kit:
        await kit.send("test/rash/r", Note(text="x"))
        with pytest.raises(CallboardError, match="a part of the host was cancelled"):
            await kit.quiet(timeout_s=5)


async def test_a_destroyed_agent_starts_anew_with_what_was_waiting() -> None:
    async with TestKit([Trier]) as kit:
        await kit.send(AT, Try(name="a"))
        await kit.send(AT, Try(name="b", fails=1))
        await kit.quiet()
        await kit.destroy(AT)
        await kit.quiet()
        assert kit.lifecycle(AT) == "destroyed"
        await kit.advance(seconds=10)
        assert (kit.lifecycle(AT), kit.state(AT).done) == ("running", ["b"])


@pytest.mark.parametrize(
    ("error", "failures", "directive"),
    [
        (Stop(), 1, Directive.PAUSE),
        (Bad(), 1, Directive.DEAD_LETTER),
        (ValueError(), 1, Directive.RETRY),
        (ValueError(), 4, Directive.DEAD_LETTER),
        (Stop(), 99, Directive.PAUSE),
    ],
)
def test_the_first_rule_that_fits_decides(error: Exception, failures: int, directive: Directive) -> None:
    assert Trier.supervision.decide(error, failures, STEADY) is directive


@pytest.mark.parametrize(("name", "fails"), [("late", 1), ("bad", 0), ("stop", 1)])
async def test_the_log_says_whose_message_has_failed_and_where(
    name: str, fails: int, caplog: pytest.LogCaptureFixture
) -> None:
    """However it goes on: with another try, a dead letter, or a pause."""
    async with TestKit([Trier], domain="test") as kit:
        await kit.send("test/trier/t", Try(name=name, fails=fails))
        await kit.quiet()
        [said] = [record.getMessage() for record in caplog.records if record.name == "callboard.agent"]
    assert said.startswith("trier/t")
    assert "failures.try.v1" in said
    assert "trier.py" in said
    assert ", in attempt\n" in said
