"""Bytes: a cache stays within its limit, and what it has no room for is read and handled in its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from actors import control
from actors.activation import Activation
from actors.domain import LimitSpec
from actors.mailboxes import Mailboxes
from actors.refills import Refills
from actors.retry import RetryPolicy
from actors.sweep import EVERY_S, ON_ITS_WAY_S
from actors.trials import CHUNK
from bus.envelope import Envelope
from callboard import Agent, Context, handler, message
from callboard.testing import TestKit
from tests.unit.agents import Keeper, Note

KIB = 1024
LARGE = "x" * 50 * KIB
LIMITS = LimitSpec(cached_bytes=1024 * KIB, cached_bytes_per_agent=200 * KIB, concurrent_turns=4)
MOST = 1024 * KIB + 4 * 200 * KIB  # the limit, and what each worker may have in hand besides


@message("room.block.v1")
class Block(BaseModel):
    """Occupies its agent until the test opens the gate."""


@message("room.urgent.v1")
class Urgent(BaseModel):
    """Makes its agent pause another one, by a control message out of its turn."""

    to: str
    delay_s: float | None = None
    plain: bool = False  # only a note, so that what comes next from here is no gap


class Porter(Agent):
    """Counts what it is given."""

    kind = "porter"
    gate: asyncio.Event
    begun: asyncio.Event

    class State(BaseModel):
        numbers: list[str] = []

    state: State

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None:
        await asyncio.sleep(0)
        self.state.numbers.append(note.text[:4])

    @handler
    async def on_block(self, block: Block, ctx: Context) -> None:
        Porter.begun.set()
        await Porter.gate.wait()


class Waiter(Porter):
    """Its messages wait for their next try for a long time, until they may pass."""

    kind = "waiter"
    retry = RetryPolicy(first_delay_s=3_600, max_delay_s=3_600)
    may_pass = False

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None:
        if not Waiter.may_pass:
            raise ValueError("not now")
        self.state.numbers.append(note.text[:4])


class Herald(Agent):
    kind = "herald"

    @handler
    async def on_urgent(self, urgent: Urgent, ctx: Context) -> None:
        if urgent.plain:
            ctx.send(urgent.to, Note(text="warm"))
        elif urgent.delay_s is None:
            ctx.send(urgent.to, control.Pause(reason="urgent"))
        else:
            ctx.send_later(urgent.to, control.Pause(reason="urgent"), delay_s=urgent.delay_s)
        if not urgent.plain:
            sends = ctx.consequences.sends
            sends[-1] = msgspec.structs.replace(sends[-1], control=True)


@pytest.fixture(autouse=True)
def gates() -> None:
    Porter.gate, Porter.begun, Waiter.may_pass = asyncio.Event(), asyncio.Event(), False


class Watch:
    """Looks after each step of a host's mailboxes how much they really hold."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = 0
        for name in ("_queue", "take_head", "_take_in", "put_back"):
            monkeypatch.setattr(Mailboxes, name, self._watched(getattr(Mailboxes, name)))

    def _watched(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def watched(mailboxes: Mailboxes, *arguments: Any) -> Any:
            result = method(mailboxes, *arguments)
            self.most = max(self.most, held(mailboxes))
            return result

        return watched


def held(mailboxes: Mailboxes) -> int:
    """Bytes of payload in the queues, counted one by one."""
    return sum(len(e.payload) for a in mailboxes.roster._activations.values() for e in (*a.queue, *a.held))


def text(number: int) -> Note:
    return Note(text=f"{number:04}{LARGE}")


async def test_much_more_than_the_cache_holds_is_handled_whole_and_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = Watch(monkeypatch)
    async with TestKit([Porter], limits=LIMITS) as kit:
        for worker in range(4):
            await kit.send(f"test/porter/busy{worker}", Block())
        await Porter.begun.wait()
        for number in range(6):
            for agent in range(40):
                await kit.send(f"test/porter/{agent}", text(number))
        for _ in range(50):
            await asyncio.sleep(0)
        [running] = kit._running
        assert held(running.host.mailboxes) > 500 * KIB
        Porter.gate.set()
        await kit.quiet()
        for agent in range(40):
            assert kit.state(f"test/porter/{agent}").numbers == [f"{n:04}" for n in range(6)]
        assert held(running.host.mailboxes) == running.host.mailboxes.books.bytes == 0
        assert running.host.mailboxes.backlog == 0
    assert watch.most < MOST


async def test_what_waits_in_storage_for_a_host_that_starts_does_not_fill_its_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with TestKit([Porter], limits=LIMITS) as kit:
        await kit.crash()
        for number in range(4):
            for agent in range(60):
                await kit.send(f"test/porter/{agent}", text(number))
        watch = Watch(monkeypatch)
        [old] = kit._running
        kit.store.end_host(old.host.fence, "it was stopped")
        kit._running[0] = kit._start(old.partitions)
        await kit.quiet()
        for agent in range(60):
            assert kit.state(f"test/porter/{agent}").numbers == [f"{n:04}" for n in range(4)]
    assert 0 < watch.most < MOST


async def test_after_a_crash_messages_that_there_is_no_room_for_are_tried_like_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries = count_trials(monkeypatch)
    async with TestKit([Porter], limits=LIMITS) as kit:
        await kit.crash()
        for agent in range(200):
            await kit.send(f"test/porter/{agent}", text(0))
        watch = Watch(monkeypatch)
        await kit.recover()
        assert all(kit.state(f"test/porter/{agent}").numbers == ["0000"] for agent in range(200))
    assert tries == [1] * 200
    assert watch.most < MOST + CHUNK * len(LARGE)


async def test_after_a_crash_nobody_waits_for_a_mailbox_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own first message is tried alone as well, once it has been read: the host may have died of it."""
    tries = count_trials(monkeypatch)
    async with TestKit([Porter], limits=LIMITS) as kit:
        await kit.crash()
        for agent in range(200):
            await kit.send(f"test/porter/{agent}", text(0))
        load, broken, failed = kit.store.load_agent, set[str](), asyncio.Event()

        async def read_heads(
            refills: Refills, activations: Sequence[Activation], *, at_last: bool = False
        ) -> None:
            unread = [a.agent for a in activations if (head := a.head()) and not head.payload]
            broken.update(unread[:1] if not broken else ())
            await read(refills, activations, at_last=at_last)

        async def load_agent(*of: Any, **more: Any) -> Any:
            if of[3] in broken and not may_be_read.is_set():
                failed.set()
                raise ValueError("a bug")
            return await load(*of, **more)

        may_be_read, read = asyncio.Event(), Refills.read_heads
        monkeypatch.setattr(Refills, "read_heads", read_heads)
        monkeypatch.setattr(kit.store, "load_agent", load_agent)
        recovering = asyncio.create_task(kit.recover())
        await failed.wait()
        others = [f"test/porter/{agent}" for agent in range(200) if f"porter/{agent}" not in broken]
        async with asyncio.timeout(20):
            while not all(kit.state(at).numbers == ["0000"] for at in others):  # noqa: ASYNC110  # of many agents, none signals
                await asyncio.sleep(0.01)
        assert len(others) == 199
        may_be_read.set()
        await recovering
        assert all(kit.state(f"test/porter/{agent}").numbers == ["0000"] for agent in range(200))
    assert tries == [1] * 200


def count_trials(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The attempts on record as each message was handled."""
    from actors.turn import TurnRunner

    seen: list[int] = []
    run = TurnRunner.run

    async def counted(self: TurnRunner, activation: object, envelope: Envelope) -> object:
        seen.append(envelope.trials)
        assert envelope.payload
        return await run(self, activation, envelope)  # type: ignore[arg-type]

    monkeypatch.setattr(TurnRunner, "run", counted)
    return seen


async def test_messages_that_wait_for_their_next_try_leave_the_room_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = Watch(monkeypatch)
    async with TestKit([Porter, Waiter], limits=LIMITS) as kit:
        for number in range(2):
            for agent in range(30):
                await kit.send(f"test/waiter/{agent}", text(number))
        await kit.quiet()
        for number in range(3):
            for agent in range(30):
                await kit.send(f"test/porter/{agent}", text(number))
        await kit.quiet()
        for agent in range(30):
            assert kit.state(f"test/porter/{agent}").numbers == [f"{n:04}" for n in range(3)]
        Waiter.may_pass = True
        await kit.advance(hours=1)
        for agent in range(30):
            assert kit.state(f"test/waiter/{agent}").numbers == ["0000", "0001"]
    assert watch.most < MOST


async def test_a_paused_agent_gets_its_large_messages_once_it_is_resumed() -> None:
    async with TestKit([Porter], limits=LIMITS) as kit:
        await kit.pause("test/porter/p")
        await kit.quiet()
        for number in range(40):
            await kit.send("test/porter/p", text(number))
        await kit.quiet()
        [running] = kit._running
        assert running.host.mailboxes.books.bytes == 0
        await kit.resume("test/porter/p")
        await kit.quiet()
        assert kit.state("test/porter/p").numbers == [f"{n:04}" for n in range(40)]


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("waiting", [3, 100])
@pytest.mark.parametrize("delay_s", [None, 30.0])
async def test_a_control_message_sent_in_a_turn_passes_the_queue_however_long(
    hosts: int, waiting: int, delay_s: float | None
) -> None:
    limits = LimitSpec(cached_messages_per_agent=8, concurrent_turns=4)
    async with TestKit([Porter, Herald], hosts=hosts, limits=limits) as kit:
        for herald in range(8):
            await kit.send(f"test/herald/{herald}", Urgent(to="test/porter/p", plain=True))
        await kit.quiet()
        await kit.send("test/porter/p", Block())
        await Porter.begun.wait()
        for number in range(waiting):
            await kit.send("test/porter/p", Note(text=f"{number:04}"))
        for herald in range(8):  # on either host
            await kit.send(f"test/herald/{herald}", Urgent(to="test/porter/p", delay_s=delay_s))
        for _ in range(200):
            await asyncio.sleep(0)
        if delay_s is not None:
            kit.clock.move_to(kit.clock.now() + delay_s + 1)
            for _ in range(200):
                await asyncio.sleep(0)
        Porter.gate.set()
        await kit.quiet()
        assert kit.lifecycle("test/porter/p") == "paused"
        assert kit.state("test/porter/p").numbers == ["warm"] * 8
        assert len(kit.mailbox("test/porter/p")) == waiting
        await kit.resume("test/porter/p")
        await kit.quiet()
        assert kit.state("test/porter/p").numbers == ["warm"] * 8 + [f"{n:04}" for n in range(waiting)]


async def test_a_control_message_sent_in_a_turn_reaches_a_paused_agent_that_has_mail_on_disk() -> None:
    async with TestKit([Porter, Herald], limits=LimitSpec(cached_messages_per_agent=8)) as kit:
        await kit.send("test/porter/p", Note(text="0000"))
        await kit.quiet()
        await kit.pause("test/porter/p")
        await kit.quiet()
        for number in range(20):
            await kit.send("test/porter/p", Note(text=f"{number:04}"))
        await kit.send("test/herald/h", Urgent(to="test/porter/p"))
        await kit.quiet()
        assert [step.decision for step in kit.history("test/porter/p")] == ["handled", "paused", "paused"]


async def test_more_control_messages_than_are_cached_keep_their_order() -> None:
    async with TestKit([Porter], limits=LimitSpec(cached_messages_per_agent=8)) as kit:
        await kit.send("test/porter/p", Block())
        await Porter.begun.wait()
        for _ in range(15):
            await kit.pause("test/porter/p")
            await kit.resume("test/porter/p")
        await kit.send("test/porter/p", Note(text="last"))
        Porter.gate.set()
        await kit.quiet()
        decisions = [step.decision for step in kit.history("test/porter/p")]
        assert decisions == ["handled", *["paused", "resumed"] * 15, "handled"]


async def test_what_the_bus_has_lost_is_found_by_the_sweep_in_any_partition() -> None:
    async with TestKit([Keeper], partitions=64, hosts=2) as kit:
        kit.transport.lose = lambda subject: True
        for number in range(50):
            await kit.send(f"test/keeper/{number}", Note(text=str(number)))
        await kit.quiet()
        assert not any(kit.state(f"test/keeper/{number}").notes for number in range(50))
        for seconds in (EVERY_S, ON_ITS_WAY_S) * 2:
            await kit.advance(seconds=seconds)
        assert all(kit.state(f"test/keeper/{n}").notes == [str(n)] for n in range(50))


async def test_the_sweep_reads_no_mailbox_of_which_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    async with TestKit([Waiter, Porter], limits=LimitSpec(cached_messages_per_agent=8)) as kit:
        await kit.send("test/porter/p", Note(text="0000"))
        await kit.pause("test/porter/p")
        for number in range(20):
            await kit.send("test/waiter/w", Note(text=f"{number:04}"))
            await kit.send("test/porter/p", Note(text=f"{number:04}"))
        await kit.quiet()
        reads: list[object] = []
        for name in ("load_partition", "load_agent"):
            monkeypatch.setattr(kit.store, name, reads.append)
        for seconds in (EVERY_S, ON_ITS_WAY_S) * 4:
            await kit.advance(seconds=seconds)
        assert reads == []
