"""Messages that fail: tried again in their place, given up with a reason, or left while their agent is paused."""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
from typing import Literal

import pytest
from pydantic import BaseModel

from actors.domain import LimitSpec
from actors.retry import RetryPolicy
from actors.supervision import Directive, Supervision
from callboard import NO_RETRY, Agent, CallboardError, Context, InvalidMessage, handler, message
from callboard.testing import TestKit
from tests.unit.agents import Forward, Keeper, Note

STEADY = RetryPolicy(attempts=4, first_delay_s=10, factor=2, max_delay_s=30, jitter=0)
AT_ONCE = RetryPolicy(attempts=4, first_delay_s=0, jitter=0)


@message("failures.try.v1")
class Try(BaseModel):
    """Fails until it has failed so often."""

    name: str
    fails: int = 0


@message("failures.pass.v1")
class Pass(BaseModel):
    """As Try, and others may overtake it."""

    name: str
    fails: int = 0


@message("failures.hurry.v1")
class Hurry(BaseModel):
    """As Try, without a delay between its tries."""

    name: str
    fails: int = 0


class Bad(Exception):
    """An error that is not worth another try."""


class Stop(Exception):
    """An error for which the agent is paused."""


class Trier(Agent):
    kind = "trier"
    retry = STEADY
    supervision = Supervision(rules=((Stop, Directive.PAUSE), (Bad, Directive.DEAD_LETTER)))

    class State(BaseModel):
        done: list[str] = []

    state: State

    def attempt(self, name: str, fails: int, ctx: Context) -> None:
        self.state.done.append(name)
        if name == "bad":
            raise Bad("hopeless")
        if name == "stop" and fails > ctx.failures:
            raise Stop("look at me")
        if ctx.failures < fails:
            raise ValueError(f"not yet: {ctx.failures}")

    @handler
    async def on_try(self, attempt: Try, ctx: Context) -> None:
        self.attempt(attempt.name, attempt.fails, ctx)

    @handler(overtake=True)
    async def on_pass(self, attempt: Pass, ctx: Context) -> None:
        self.attempt(attempt.name, attempt.fails, ctx)

    @handler(retry=AT_ONCE)
    async def on_hurry(self, attempt: Hurry, ctx: Context) -> None:
        self.attempt(attempt.name, attempt.fails, ctx)


AT = "test/trier/t"


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


# -- retries -----------------------------------------------------------------------------------------


async def test_a_message_that_is_tried_again_keeps_its_place() -> None:
    async with TestKit([Trier]) as kit:
        await kit.send(AT, Try(name="first", fails=2))
        await kit.send(AT, Try(name="second"))
        await kit.quiet()
        assert [(m.failures, m.retry_at) for m in kit.mailbox(AT)] == [(1, kit.clock.now() + 10), (0, None)]
        await kit.advance(seconds=10)
        assert kit.state(AT).done == []
        assert kit.mailbox(AT)[0].last_error == "ValueError: not yet: 1"
        await kit.advance(seconds=19)
        assert kit.state(AT).done == []
        await kit.advance(seconds=1)
        assert kit.state(AT).done == ["first", "second"]
        assert [step.header.type for step in kit.history(AT)] == ["failures.try.v1"] * 2


async def test_a_message_that_arrives_while_another_waits_for_its_next_try_waits_too() -> None:
    async with TestKit([Trier]) as kit:
        await kit.send(AT, Try(name="first", fails=1))
        await kit.quiet()
        await kit.send(AT, Try(name="second"))
        await kit.advance(seconds=9)
        assert kit.state(AT).done == []
        await kit.advance(seconds=1)
        assert kit.state(AT).done == ["first", "second"]


async def test_the_wait_for_the_next_try_survives_a_crash() -> None:
    async with TestKit([Trier]) as kit:
        await kit.send(AT, Try(name="first", fails=1))
        await kit.send(AT, Try(name="second"))
        await kit.quiet()
        await kit.crash()
        await kit.recover()
        await kit.advance(seconds=9)
        assert kit.state(AT).done == []
        await kit.advance(seconds=1)
        assert kit.state(AT).done == ["first", "second"]


async def test_with_overtake_later_messages_are_handled_meanwhile() -> None:
    async with TestKit([Trier]) as kit:
        await kit.send(AT, Pass(name="first", fails=1))
        await kit.send(AT, Try(name="second"))
        await kit.quiet()
        assert kit.state(AT).done == ["second"]
        await kit.advance(seconds=10)
        assert kit.state(AT).done == ["second", "first"]


async def test_of_large_messages_only_so_many_are_overtaken_and_the_others_keep_their_place() -> None:
    large, limits = "x" * 100_000, LimitSpec(cached_bytes=1024 * 1024)
    agents = [f"test/trier/{n}" for n in range(8)]
    async with TestKit([Trier], limits=limits) as kit:
        for agent in agents:
            await kit.send(agent, Pass(name=large, fails=1))
            await kit.send(agent, Try(name="second"))
        await kit.quiet()
        assert sorted(len(kit.mailbox(agent)) for agent in agents) == [1] * 2 + [2] * 6
        await kit.advance(seconds=10)
        assert [sorted(kit.state(agent).done) for agent in agents] == [["second", large]] * 8
        await kit.send(agents[0], Pass(name=large, fails=1))  # there is room again
        await kit.send(agents[0], Try(name="third"))
        await kit.quiet()
        assert len(kit.mailbox(agents[0])) == 1


async def test_an_agent_whose_overtaken_message_waits_for_long_is_not_forgotten() -> None:
    class Patient(Trier):
        kind = "patient"
        retry = RetryPolicy(first_delay_s=3_600, max_delay_s=3_600, jitter=0)

    async with TestKit([Patient]) as kit:
        await kit.send("test/patient/p", Pass(name="first", fails=1))
        await kit.send("test/patient/p", Try(name="second"))
        await kit.advance(minutes=30)  # past the time after which idle agents leave memory
        await kit.advance(minutes=31)
        assert kit.state("test/patient/p").done == ["second", "first"]


async def test_tries_without_a_delay_between_them_are_all_counted() -> None:
    async with TestKit([Trier]) as kit:
        await kit.send(AT, Hurry(name="first", fails=3))
        await kit.send(AT, Hurry(name="never", fails=9))
        await kit.send(AT, Try(name="last"))
        await kit.quiet()
        assert kit.state(AT).done == ["first", "last"]
        [letter] = kit.dead_letters()
        assert (letter.failures, letter.reason) == (4, "failed")


async def test_the_last_try_leaves_a_dead_letter_and_the_next_message_goes_on() -> None:
    async with TestKit([Trier]) as kit:
        await kit.send(AT, Try(name="first", fails=99))
        await kit.send(AT, Try(name="second"))
        await kit.advance(seconds=10 + 20 + 30)
        assert kit.state(AT).done == ["second"]
        [letter] = kit.dead_letters(AT)
        assert letter.message == Try(name="first", fails=99)
        assert (letter.failures, letter.error) == (4, "ValueError: not yet: 3")
        assert kit.history(AT)[0].decision == "dead_letter"


def test_delays_grow_to_their_limit_and_jitter_only_shortens_them() -> None:
    rng = random.Random(1)
    assert [STEADY.delay_s(n, rng) for n in (1, 2, 3, 4)] == [10, 20, 30, 30]
    loose = RetryPolicy(first_delay_s=10, factor=2, max_delay_s=30, jitter=0.5)
    delays = [loose.delay_s(1, rng) for _ in range(100)]
    assert 5 <= min(delays) < 6
    assert 9 < max(delays) <= 10


@pytest.mark.parametrize(
    ("policy", "error", "failures", "allowed"),
    [
        (RetryPolicy(attempts=3), ValueError(), 2, True),
        (RetryPolicy(attempts=3), ValueError(), 3, False),
        (NO_RETRY, ValueError(), 1, False),
        (RetryPolicy(), InvalidMessage("no"), 1, False),
        (RetryPolicy(give_up_on=(ValueError,)), ValueError(), 1, False),
        (RetryPolicy(give_up_on=(ValueError,)), OSError(), 1, True),
        (RetryPolicy(retry_on=(OSError,)), ValueError(), 1, False),
        (RetryPolicy(retry_on=(OSError,)), ConnectionError(), 1, True),
    ],
)
def test_the_policy_says_which_errors_are_tried_again(
    policy: RetryPolicy, error: Exception, failures: int, allowed: bool
) -> None:
    assert policy.allows(error, failures) is allowed


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


# -- supervision and control -------------------------------------------------------------------------


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


def test_a_policy_of_countless_attempts_has_a_delay_and_an_end() -> None:
    policy = RetryPolicy(attempts=1_000_000, jitter=0)
    assert policy.delay_s(2_000, random.Random()) == policy.max_delay_s
    assert policy.allows(ValueError(), 31_999)
    assert not policy.allows(ValueError(), 32_000)  # mailbox.failures is a smallint


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_delay_s": math.inf},  # a delay that Postgres refuses, and with it the mark of a failure
        {"max_delay_s": 1e18},
        {"first_delay_s": math.nan},
        {"first_delay_s": -1.0},
        {"factor": math.inf},
        {"jitter": 1.5},
    ],
    ids=str,
)
def test_a_policy_without_a_delay_that_can_be_stored_is_refused_where_it_is_made(
    wrong: dict[str, float],
) -> None:
    with pytest.raises(CallboardError, match="a year"):
        RetryPolicy(attempts=1_000, **wrong)  # type: ignore[arg-type]


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
    assert "test_failures.py" in said
    assert ", in attempt\n" in said


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
