"""Order: between the messages of a pair, between ready agents, and of a mailbox longer than the cache."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from pydantic import BaseModel

from actors.activation import Activation
from actors.agent import agent_type
from actors.domain import LimitSpec
from actors.mailboxes import Mailboxes
from actors.ready import ReadyQueue
from actors.scope import Scope
from actors.sweep import EVERY_S, ON_ITS_WAY_S
from bus.address import parse_address
from bus.envelope import Envelope, Header, Outgoing, Priority, header_to_json, new_id
from bus.errors import CallboardError, InvalidData, StaleTurn
from bus.wire import Item
from callboard import Agent, Context, handler, message
from callboard.testing import TestKit
from storage.memory import MemoryStore
from storage.records import Share
from tests.unit.agents import Forward, Keeper, Note


@message("order.gate.v1")
class Gate(BaseModel):
    """Holds its agent until the test opens the gate."""


class Gatekeeper(Agent):
    """Writes down, for all of its kind together, in which order they were handled."""

    kind = "gatekeeper"
    handled: list[str] = []  # noqa: RUF012  (shared on purpose)
    begun: asyncio.Event
    gate: asyncio.Event

    @handler
    async def on_gate(self, gate: Gate, ctx: Context) -> None:
        Gatekeeper.begun.set()
        await Gatekeeper.gate.wait()

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None:
        self.handled.append(ctx.address.key)


@pytest.fixture
def gates() -> None:
    Gatekeeper.handled.clear()
    Gatekeeper.begun, Gatekeeper.gate = asyncio.Event(), asyncio.Event()


# -- pairs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [StaleTurn, InvalidData])
async def test_what_was_undecided_when_its_agent_started_again_is_handled_before_what_comes_later(
    error: type[CallboardError],
) -> None:
    a, b = "test/keeper/a", "test/keeper/b"
    async with TestKit([Keeper]) as kit:
        commit = kit.store.commit
        refusals = [4, 2, 1]  # the whole group, its first half, and of that the first
        decided = asyncio.Event()

        async def narrowed(fence: Any, writes: Any, marks: Any) -> Any:
            if refusals and len(writes) == refusals[0]:
                refusals.pop(0)
                raise error("Planted.")
            if not refusals and not decided.is_set():  # `a` starts again, and hears of what comes later
                decided.set()
                await kit.send(a, Note(text="3"))
                for _ in range(50):
                    await asyncio.sleep(0)
            return await commit(fence, writes, marks)

        kit.store.commit = narrowed  # type: ignore[method-assign]
        for to, text in ((a, "1"), (b, "x"), (a, "2"), (b, "y")):
            await kit.send(to, Note(text=text))
        await kit.quiet()
        assert refusals == []
        assert (kit.state(a).notes, kit.state(b).notes) == (["1", "2", "3"], ["x", "y"])


@pytest.mark.parametrize("hosts", [1, 2])
async def test_messages_of_a_pair_arrive_in_the_order_sent(hosts: int) -> None:
    async with TestKit([Keeper], hosts=hosts) as kit:
        for receiver in ("a", "b", "c"):
            for number in range(5):
                await kit.send(
                    f"test/keeper/from-{number}",
                    Forward(to=f"test/keeper/to-{receiver}", text=f"{number}.", times=20),
                )
        await kit.quiet()
        for receiver in ("a", "b", "c"):
            state = kit.state(f"test/keeper/to-{receiver}")
            for number in range(5):
                own = [note for note in state.notes if note.startswith(f"{number}.")]
                assert own == [f"{number}.{index}" for index in range(20)]


async def test_priority_never_reorders_the_messages_of_one_agent() -> None:
    async with TestKit([Keeper]) as kit:
        await kit.send("test/keeper/k", Note(text="low"), priority=Priority.LOW)
        await kit.send("test/keeper/k", Note(text="high"), priority=Priority.HIGH)
        await kit.quiet()
        assert kit.state("test/keeper/k").notes == ["low", "high"]


@pytest.mark.parametrize("seed", range(4))
async def test_order_holds_when_the_bus_drops_what_it_likes(seed: int) -> None:
    rng = random.Random(seed)
    async with TestKit([Keeper], hosts=2) as kit:
        kit.transport.lose = lambda subject: rng.random() < 0.5
        for number in range(30):
            await kit.send("test/keeper/from", Forward(to=f"test/keeper/to-{number % 3}", text=str(number)))
            if number % 7 == 0:
                await kit.advance(seconds=0.2)
        kit.transport.lose = lambda subject: False
        for seconds in (EVERY_S, ON_ITS_WAY_S) * 2:  # a sweep looks, waits a moment, and looks again
            await kit.advance(seconds=seconds)
        for receiver in range(3):
            assert kit.state(f"test/keeper/to-{receiver}").notes == [str(n) for n in range(receiver, 30, 3)]


# -- ready agents ------------------------------------------------------------------------------------


async def test_of_the_ready_agents_the_one_with_the_most_urgent_message_goes_first(gates: None) -> None:
    async with TestKit([Gatekeeper], limits=LimitSpec(concurrent_turns=1)) as kit:
        await kit.send("test/gatekeeper/busy", Gate())
        await Gatekeeper.begun.wait()
        await kit.send("test/gatekeeper/low", Note(), priority=Priority.LOW)
        await kit.send("test/gatekeeper/normal", Note())
        await kit.send("test/gatekeeper/high", Note(), priority=Priority.HIGH)
        for _ in range(20):
            await asyncio.sleep(0)
        Gatekeeper.gate.set()
        await kit.quiet()
        assert Gatekeeper.handled == ["high", "normal", "low"]


def activation_with(priority: Priority) -> Activation:
    activation = Activation("default", f"keeper/{priority.name}", 0, agent_type(Keeper))
    activation.queue.append(envelope(1, priority=priority))
    return activation


def envelope(seq: int, *, agent: str = "keeper/k", priority: Priority = Priority.NORMAL) -> Envelope:
    header = Header(id=new_id(), type="tests.note.v1", sender="external/test", sent_at=0.0, priority=priority)
    return Envelope(
        seq=seq,
        tenant="default",
        agent=agent,
        header=header,
        header_json=header_to_json(header),
        payload="{}",
    )


async def test_a_low_priority_is_not_starved_by_a_stream_of_high_ones() -> None:
    ready = ReadyQueue()
    low = activation_with(Priority.LOW)
    ready.add(low)
    turns = 1
    ready.add(activation_with(Priority.HIGH))
    while await ready.take() is not low:
        ready.add(activation_with(Priority.HIGH))
        turns += 1
    assert turns == 16


async def test_an_agent_stands_in_the_queue_once() -> None:
    ready = ReadyQueue()
    activation = activation_with(Priority.NORMAL)
    ready.add(activation)
    ready.add(activation)
    assert len(ready) == 1
    assert await ready.take() is activation
    activation.running = True
    ready.add(activation)
    assert len(ready) == 0


async def test_behind_a_closed_gate_everyone_waits_and_nobody_is_forgotten() -> None:
    ready = ReadyQueue()
    ready.close_gate()
    takers = [asyncio.create_task(ready.take()) for _ in range(2)]
    await asyncio.sleep(0)
    both = [activation_with(Priority.LOW), activation_with(Priority.HIGH)]
    for activation in both:
        ready.add(activation)
    await asyncio.sleep(0)
    assert not any(taker.done() for taker in takers)
    ready.open_gate()
    assert {id(a) for a in await asyncio.gather(*takers)} == {id(a) for a in both}


async def test_a_taker_that_is_cancelled_as_it_is_woken_passes_the_agent_on() -> None:
    ready = ReadyQueue()
    first, second = asyncio.create_task(ready.take()), asyncio.create_task(ready.take())
    await asyncio.sleep(0)
    activation = activation_with(Priority.NORMAL)
    ready.add(activation)
    first.cancel()
    assert await second is activation


# -- mailboxes longer than the cache -----------------------------------------------------------------


async def test_a_mailbox_longer_than_the_cache_is_handled_whole_and_in_order(gates: None) -> None:
    class Slow(Keeper):
        kind = "slow"

        @handler
        async def on_gate(self, gate: Gate, ctx: Context) -> None:
            Gatekeeper.begun.set()
            await Gatekeeper.gate.wait()

    limits = LimitSpec(cached_messages_per_agent=8)
    async with TestKit([Slow], limits=limits, hosts=1) as kit:
        await kit.send("test/slow/s", Gate())
        await Gatekeeper.begun.wait()
        for index in range(100):
            await kit.send("test/slow/s", Note(text=str(index)))
            await asyncio.sleep(0)
        [running] = kit._running
        assert running.host.mailboxes.backlog <= 8
        Gatekeeper.gate.set()
        await kit.quiet()
        assert kit.state("test/slow/s").notes == [str(index) for index in range(100)]


async def test_a_burst_from_agents_beyond_the_whole_cache_is_handled(gates: None) -> None:
    limits = LimitSpec(cached_messages=1_000, cached_messages_per_agent=256)
    async with TestKit([Keeper], limits=limits) as kit:
        for sender in range(3):
            await kit.send(
                f"test/keeper/{sender}", Forward(to="test/keeper/sink", text=f"{sender}.", times=400)
            )
        await kit.quiet()
        notes = kit.state("test/keeper/sink").notes
        for sender in range(3):
            assert [n for n in notes if n.startswith(f"{sender}.")] == [f"{sender}.{i}" for i in range(400)]


class _HeldStore(MemoryStore):
    """A store whose answer about one agent's mailbox is on its way until the test lets it arrive."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.arrive = asyncio.Event()

    async def load_agent(
        self,
        domain: str,
        partition: int,
        tenant: str,
        agent: str,
        share: Share,
        *,
        control_only: bool = False,
    ) -> tuple[list[Envelope], bool]:
        found = await super().load_agent(domain, partition, tenant, agent, share, control_only=control_only)
        self.asked.set()
        await self.arrive.wait()
        return found


async def at_rest(mailboxes: Mailboxes) -> None:
    for _ in range(10):
        await asyncio.sleep(0)
    assert mailboxes.is_at_rest


async def test_what_arrives_in_a_flood_while_a_mailbox_is_read_is_read_again_in_order() -> None:
    async with TestKit([Keeper], limits=LimitSpec(cached_messages_per_agent=8)) as kit:
        scope: Scope = kit._scope
    store = _HeldStore()
    mailboxes = Mailboxes(scope, store, ReadyQueue())
    loading = asyncio.create_task(mailboxes.roster.load_states())
    mailboxes.restart("default", "keeper/k", 0)
    await store.asked.wait()

    def arrives() -> int:
        header = Header(id=new_id(), type="tests.note.v1", sender="external/test", sent_at=0.0)
        posted = store.accept(
            Outgoing(
                domain="test", tenant="default", agent="keeper/k", partition=0, header=header,
                header_json=header_to_json(header), payload="{}",
            )
        )  # fmt: skip
        assert posted is not None
        mailboxes.deliver(0, [Item(posted.seq, "default", "keeper/k", posted.header_json, "{}")])
        return posted.seq

    flood = [arrives() for _ in range(9)]
    store.arrive.set()
    await at_rest(mailboxes)
    last = arrives()
    await at_rest(mailboxes)
    activation = mailboxes.roster.find(("default", "keeper/k"))
    assert activation is not None
    handled: list[int] = []
    while activation.queue:
        envelope = mailboxes.take_head(activation)
        activation.apart.discard(envelope.seq)
        store.mail.remove(("test", "default", 0, "keeper/k"), envelope.seq)
        mailboxes.handled(activation, envelope.seq)
        handled.append(envelope.seq)
        await at_rest(mailboxes)
    loading.cancel()
    assert handled == [*flood, last]


async def test_a_late_copy_is_known_whether_the_message_is_queued_running_or_handled() -> None:
    async with TestKit([Keeper]) as kit:
        scope: Scope = kit._scope
    mailboxes = Mailboxes(scope, MemoryStore(), ReadyQueue())
    item = Item(7, "default", "keeper/k", header_to_json(envelope(7).header), "{}")
    copies = [item, item]
    mailboxes.deliver(0, copies)
    activation = mailboxes.roster.find(("default", "keeper/k"))
    assert activation is not None
    assert [e.seq for e in activation.queue] == [7]
    running = mailboxes.take_head(activation)
    mailboxes.deliver(0, copies)
    mailboxes.merge(0, [running], set())
    activation.apart.discard(7)
    mailboxes.handled(activation, 7)
    mailboxes.deliver(0, copies)
    mailboxes.merge(0, [running], set())
    assert (len(activation.queue), mailboxes.backlog) == (0, 0)


async def test_after_a_turn_that_did_not_commit_the_message_is_welcome_again() -> None:
    async with TestKit([Keeper]) as kit:
        scope: Scope = kit._scope
    mailboxes = Mailboxes(scope, MemoryStore(), ReadyQueue())
    mailboxes.merge(0, [envelope(7), envelope(8)], set())
    activation = mailboxes.roster.find(("default", "keeper/k"))
    assert activation is not None
    running = mailboxes.take_head(activation)
    mailboxes.drop(activation)
    assert (mailboxes.roster.find(("default", "keeper/k")), mailboxes.backlog) == (None, 0)
    mailboxes.merge(0, [running, envelope(8)], set())
    successor = mailboxes.roster.find(("default", "keeper/k"))
    assert successor is not None
    assert [e.seq for e in successor.queue] == [7, 8]


async def test_a_timer_does_not_overtake_what_its_sender_sent_before_and_the_bus_has_lost() -> None:
    first, second = "test/keeper/k1", "test/keeper/k0"
    async with TestKit([Keeper], hosts=2, partitions=2) as kit:
        assert [kit._partition(parse_address(agent)) for agent in (first, second)] == [0, 1]
        await kit.send(first, Forward(to=second, text="known"))
        await kit.quiet()
        kit.transport.lose = lambda subject: subject.endswith(".1")
        await kit.send(first, Forward(to=second, text="lost"))
        await kit.send(first, Forward(to=second, text="timed", delay_s=0.05))
        await kit.advance(seconds=0.1)
        assert kit.state(second).notes == ["known", "lost", "timed"]


def test_a_message_that_comes_back_takes_its_place_by_number() -> None:
    activation = Activation("default", "keeper/k", 0, agent_type(Keeper))
    for seq in (5, 9, 7, -3, 6, 10):
        activation.insert(envelope(seq))
    assert [e.seq for e in activation.queue] == [-3, 5, 6, 7, 9, 10]
