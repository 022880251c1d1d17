"""Messages that are tried again, in their place or overtaken, and the policies that say so."""

from __future__ import annotations

import math
import random

import pytest

from actors.domain import LimitSpec
from actors.retry import RetryPolicy
from callboard import NO_RETRY, CallboardError, InvalidMessage
from callboard.testing import TestKit
from tests.unit.trier import AT, STEADY, Hurry, Pass, Trier, Try


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
