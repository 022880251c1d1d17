"""Handlers that do what no handler should: their message is found, and nobody else pays for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from actors import eviction, host, workers
from actors.domain import LimitSpec
from actors.ready import ReadyQueue
from actors.retry import RetryPolicy
from actors.supervision import Directive, Supervision
from bus.envelope import Priority
from bus.errors import InvalidMessage, InvalidPayload, PayloadTooLarge, StorageUnavailable
from callboard import Agent, Context, handler, message
from callboard.testing import TestKit
from tests.unit.agents import Keeper, Note
from tests.unit.test_order import activation_with


class Panic(BaseException):
    """What a library written in Rust raises."""


@message("stubborn.do.v1")
class Do(BaseModel):
    what: str
    number: float = 0.0


class Oddball(Agent):
    kind = "oddball"
    retry = RetryPolicy(attempts=2, first_delay_s=0.0, jitter=0.0)
    seen: list[str] = []  # noqa: RUF012  (shared on purpose)
    left_behind: list[Context] = []  # noqa: RUF012
    refused: list[Exception] = []  # noqa: RUF012
    hold: asyncio.Event

    class State(BaseModel):
        done: list[str] = []
        number: float = 0.0

    state: State

    @handler
    async def on_do(self, do: Do, ctx: Context) -> None:
        Oddball.seen.append(do.what)
        await getattr(self, "_" + do.what)(do, ctx)
        self.state.done.append(do.what)

    async def _work(self, do: Do, ctx: Context) -> None: ...

    async def _panic(self, do: Do, ctx: Context) -> None:
        raise Panic("index out of bounds")

    async def _exit(self, do: Do, ctx: Context) -> None:
        raise SystemExit(3)

    async def _group(self, do: Do, ctx: Context) -> None:
        raise BaseExceptionGroup("several", [Panic("one")])

    async def _not_finite(self, do: Do, ctx: Context) -> None:
        self.state.number = float("nan")

    async def _not_a_number(self, do: Do, ctx: Context) -> None:
        self.state.number = "three"  # type: ignore[assignment]

    async def _send_not_finite(self, do: Do, ctx: Context) -> None:
        ctx.send("test/keeper/k", Do(what="work", number=float("inf")))

    async def _storage(self, do: Do, ctx: Context) -> None:
        raise StorageUnavailable("My own database is away.")

    async def _hang(self, do: Do, ctx: Context) -> None:
        await Oddball.hold.wait()

    async def _swallow(self, do: Do, ctx: Context) -> None:
        while not Oddball.hold.is_set():
            try:
                await Oddball.hold.wait()
            except asyncio.CancelledError:
                continue

    async def _leave_behind(self, do: Do, ctx: Context) -> None:
        Oddball.left_behind.append(ctx)

    async def _send_much(self, do: Do, ctx: Context) -> None:
        for _ in range(10):
            ctx.send("test/keeper/k", Note(text="x" * 1_000))

    async def _explain_much(self, do: Do, ctx: Context) -> None:
        ctx.explain("much", text="x" * 9_000)

    async def on_passivated(self) -> None:
        if "hang_when_evicted" in self.state.done:
            await Oddball.hold.wait()

    async def _hang_when_evicted(self, do: Do, ctx: Context) -> None: ...


class Touchy(Agent):
    """Fails when it is paused."""

    kind = "touchy"
    retry = RetryPolicy(attempts=3, first_delay_s=5.0, jitter=0.0)
    tries = 0

    async def on_paused(self, ctx: Context) -> None:
        Touchy.tries += 1
        raise ValueError("not now")

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None: ...


class Sulky(Touchy):
    """Its supervision would pause it for that."""

    kind = "sulky"
    supervision = Supervision(rules=((ValueError, Directive.PAUSE),))


@pytest.fixture(autouse=True)
def fresh() -> None:
    Oddball.seen, Oddball.left_behind = [], []
    Oddball.hold = asyncio.Event()
    Touchy.tries = 0


AT = "test/oddball/a"


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  (of many things, none signals)
        await asyncio.sleep(0)


@pytest.mark.parametrize("what", ["panic", "exit", "group"])
async def test_what_is_no_exception_is_a_failure_like_any_other(what: str) -> None:
    async with TestKit([Oddball], limits=LimitSpec(concurrent_turns=1)) as kit:
        await kit.send(AT, Do(what=what))
        await kit.send(AT, Do(what="work"))
        await kit.send("test/oddball/b", Do(what="work"))
        await kit.quiet()
        assert [letter.reason for letter in kit.dead_letters()] == ["failed"]
        assert Oddball.seen.count(what) == 2
        assert kit.state(AT).done == kit.state("test/oddball/b").done == ["work"]


@pytest.mark.parametrize("what", ["not_finite", "not_a_number"])
async def test_a_state_that_could_not_be_loaded_again_is_not_committed(what: str) -> None:
    async with TestKit([Oddball]) as kit:
        await kit.send(AT, Do(what="work"))
        await kit.send(AT, Do(what=what))
        await kit.quiet()
        [letter] = kit.dead_letters()
        assert letter.reason == "invalid_payload"
        await kit.crash()
        await kit.send(AT, Do(what="work"))
        await kit.recover()
        assert kit.state(AT).done == ["work", "work"]


async def test_a_message_with_a_number_that_is_not_finite_is_its_senders_failure() -> None:
    async with TestKit([Oddball, Keeper]) as kit:
        await kit.send(AT, Do(what="send_not_finite"))
        await kit.quiet()
        [letter] = kit.dead_letters()
        assert (letter.address, letter.reason) == (AT, "invalid_payload")
        with pytest.raises(InvalidPayload, match="not finite"):
            await kit.send(AT, Do(what="work", number=float("nan")))


async def test_a_handlers_own_storage_that_is_away_counts_as_its_failure() -> None:
    async with TestKit([Oddball]) as kit:
        await kit.send(AT, Do(what="storage"))
        await kit.send(AT, Do(what="work"))
        await kit.quiet()
        [letter] = kit.dead_letters()
        assert (letter.reason, letter.failures) == ("failed", 2)
        assert kit.state(AT).done == ["work"]


async def test_a_handler_that_runs_too_long_is_cancelled_and_its_agent_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "_OVERDUE_EVERY_S", 0.01)
    async with TestKit([Oddball], limits=LimitSpec(turn_s=0.05, concurrent_turns=1)) as kit:
        await kit.send(AT, Do(what="hang"))
        await kit.send(AT, Do(what="work"))
        await kit.quiet()
        [letter] = kit.dead_letters()
        assert letter.reason == "failed"
        assert "TurnTimeout: The turn has run longer than 0.05 s" in letter.error
        assert kit.state(AT).done == ["work"]


async def test_a_handler_that_swallows_its_cancellation_does_not_keep_an_ended_host_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host, "_LEAVE_S", 0.05)
    async with TestKit([Oddball], limits=LimitSpec(concurrent_turns=1)) as kit:
        await kit.send(AT, Do(what="swallow"))
        await kit.send("test/oddball/b", Do(what="work"))
        await until(lambda: Oddball.seen)
        ended = kit._running[0]
        ended.host.end("taken over")
        async with asyncio.timeout(5):
            assert await ended.task == "taken over"
        Oddball.hold.set()
        for _ in range(20):
            await asyncio.sleep(0)
        assert Oddball.seen == ["swallow"]  # nothing further was begun
        assert kit.state(AT).done == []


async def test_a_context_that_a_task_keeps_after_the_turn_refuses_what_it_cannot_do() -> None:
    async with TestKit([Oddball, Keeper]) as kit:
        await kit.send(AT, Do(what="leave_behind"))
        await kit.quiet()
        [ctx] = Oddball.left_behind
        late: list[Callable[[], Any]] = [
            lambda: ctx.send("test/keeper/k", Note()),
            lambda: ctx.send_later("test/keeper/k", Note(), delay_s=1),
            lambda: ctx.explain("late"),
            ctx.destroy,
        ]
        for ask in late:
            with pytest.raises(InvalidMessage, match="The turn has ended"):
                ask()


@pytest.mark.parametrize("what", ["send_much", "explain_much"])
async def test_one_turn_puts_only_so_many_bytes_into_a_commit(what: str) -> None:
    async with TestKit([Oddball, Keeper], limits=LimitSpec(turn_bytes=8_000)) as kit:
        await kit.send(AT, Do(what=what))
        await kit.quiet()
        [letter] = kit.dead_letters()
        assert PayloadTooLarge.__name__ in letter.error
        assert kit.state("test/keeper/k").notes == []


async def test_a_hook_that_never_returns_does_not_end_eviction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eviction, "_PASSIVATE_S", 0.05)
    async with TestKit([Oddball], limits=LimitSpec(idle_s=10)) as kit:
        await kit.send(AT, Do(what="hang_when_evicted"))
        await kit.quiet()
        await kit.advance(seconds=12)
        await asyncio.sleep(0.1)  # the hook's real time
        await kit.send("test/oddball/b", Do(what="work"))
        await kit.quiet()
        await kit.advance(seconds=12)
        await until(lambda: len(kit._running[0].host.mailboxes) == 0)


# -- control messages --------------------------------------------------------------------------------


async def test_a_control_message_that_fails_waits_for_its_next_try() -> None:
    async with TestKit([Touchy]) as kit:
        await kit.send("test/touchy/t", Note())
        await kit.quiet()
        await kit.pause("test/touchy/t")
        await kit.quiet()
        assert Touchy.tries == 1
        await kit.advance(seconds=6)
        assert Touchy.tries == 2
        await kit.advance(seconds=20)
        assert Touchy.tries == 3
        assert [letter.reason for letter in kit.dead_letters()] == ["failed"]


async def test_a_control_message_that_fails_is_not_held_up_by_a_pause() -> None:
    async with TestKit([Sulky]) as kit:
        await kit.send("test/sulky/t", Note())
        await kit.quiet()
        await kit.pause("test/sulky/t")
        await kit.quiet()
        assert [letter.reason for letter in kit.dead_letters()] == ["failed"]
        assert kit.lifecycle("test/sulky/t") == "running"


async def test_a_dead_letter_of_a_kind_that_is_gone_is_dropped_without_touching_the_state() -> None:
    async with TestKit([Oddball]) as kit:
        await kit.send(AT, Do(what="work"))
        await kit.quiet()
        await kit.crash()
        await kit.send(AT, Do(what="work"))
        kind = kit._scope.kinds.pop("oddball")
        await kit.recover()
        [letter] = kit.dead_letters()
        assert letter.reason == "unknown_kind"
        await kit.drop_dead_letter(letter.id)
        await kit.quiet()
        assert kit.dead_letters() == []
        kit._scope.kinds["oddball"] = kind
        assert kit.state(AT).done == ["work"]


# -- priorities --------------------------------------------------------------------------------------


async def test_no_priority_starves_between_streams_of_the_others() -> None:
    kit_ready = ReadyQueue()
    served = dict.fromkeys(Priority, 0)
    for priority in Priority:
        kit_ready.add(activation_with(priority))
    for _ in range(1_600):
        taken = await kit_ready.take()
        priority = Priority[taken.agent.partition("/")[2]]
        served[priority] += 1
        kit_ready.add(activation_with(priority))
    assert served == {Priority.HIGH: 1_400, Priority.NORMAL: 100, Priority.LOW: 100}
