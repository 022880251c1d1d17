"""What starts, reports on and ends tasks does not wait behind the backlog of a busy domain."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from actors.activation import Activation
from actors.agent import agent_type
from actors.domain import LimitSpec
from actors.mailboxes import Mailboxes
from actors.ready import ReadyQueue
from actors.roster import LOAD_STATES
from actors.task_messages import TROUBLE
from bus.envelope import Envelope, Header, Priority, header_to_json, new_id
from bus.errors import StorageUnavailable
from bus.wire import Item
from callboard import Agent, Context, RetryPolicy, handler
from callboard.testing import TestKit
from storage.memory import MemoryStore
from storage.records import PAGE_BYTES, StoredState
from tests.unit.agents import Keeper, Note


def envelope(seq: int, agent: str, type_: str, priority: Priority = Priority.NORMAL) -> Envelope:
    header = Header(id=new_id(), type=type_, sender="external/test", sent_at=0.0, priority=priority)
    return Envelope(
        seq=seq,
        tenant="default",
        agent=agent,
        header=header,
        header_json=header_to_json(header),
        payload="{}",
    )


def ready_with(queue: ReadyQueue, message: Envelope) -> Activation:
    activation = Activation("default", message.agent, 0, agent_type(Keeper))
    activation.insert(message)
    queue.add(activation)
    return activation


async def test_an_own_message_goes_before_a_thousand_ready_agents() -> None:
    queue = ReadyQueue()
    for seq in range(1_000):
        ready_with(queue, envelope(seq, f"keeper/{seq}", "tests.note.v1"))
    own = ready_with(queue, envelope(2_000, "task/t", TROUBLE, Priority.LOW))
    assert await queue.take() is own


async def test_own_messages_starve_nobody() -> None:
    queue = ReadyQueue()
    low = ready_with(queue, envelope(1, "keeper/low", "tests.note.v1", Priority.LOW))
    for seq in range(2, 102):
        ready_with(queue, envelope(seq, f"task/{seq}", TROUBLE))
    assert low in [await queue.take() for _ in range(16)]


class _CountingStore(MemoryStore):
    """Remembers which states were read in which order; fails the first read if told to."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []
        self.away = False

    async def load_states(
        self, domain: str, agents: Sequence[tuple[str, str]], *, page_bytes: int = PAGE_BYTES
    ) -> tuple[list[StoredState], int]:
        if self.away:
            self.away = False
            raise StorageUnavailable("away")
        self.read += [agent for _, agent in agents]
        return await super().load_states(domain, agents)


@pytest.mark.parametrize("away", [False, True])
async def test_the_state_of_an_agent_with_an_own_message_is_read_before_those_of_a_backlog(
    away: bool,
) -> None:
    async with TestKit([Keeper]) as kit:
        scope = kit._scope
    store = _CountingStore()
    store.away = away
    mailboxes = Mailboxes(scope, store, ReadyQueue())

    def deliver(seq: int, agent: str, type_: str) -> None:
        message = envelope(seq, agent, type_)
        mailboxes.deliver(0, [Item(seq, "default", agent, message.header_json, "{}")])

    for seq in range(1, 2 * LOAD_STATES):
        deliver(seq, f"keeper/{seq}", "tests.note.v1")
    deliver(5_000, "task/by-type", TROUBLE)
    mailboxes.read_named("default", "task/by-nudge", 0)
    loading = asyncio.create_task(mailboxes.roster.load_states())
    await mailboxes.roster.loaded(mailboxes.roster.in_partitions((0,)))
    loading.cancel()
    assert store.read[:3] == ["task/by-nudge", "task/by-type", "keeper/1"]
    assert len(store.read) == len(set(store.read)) == 2 * LOAD_STATES + 1


class Stubborn(Agent):
    """Fails of its first message for an hour, so that a long mailbox waits behind it."""

    kind = "stubborn"
    retry = RetryPolicy(attempts=10, first_delay_s=3_600.0, max_delay_s=3_600.0)

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None:
        raise ValueError("not now")


async def test_a_control_message_reaches_an_agent_with_a_long_mailbox_and_one_that_is_paused() -> None:
    limits = LimitSpec(cached_messages_per_agent=8)
    async with TestKit([Stubborn], limits=limits) as kit:
        for _ in range(30):
            await kit.send("test/stubborn/s", Note(text="x"))
        await kit.quiet()
        await kit.pause("test/stubborn/s")
        await kit.quiet()
        assert kit.lifecycle("test/stubborn/s") == "paused"
        await kit.resume("test/stubborn/s")
        await kit.quiet()
        assert kit.lifecycle("test/stubborn/s") == "running"
        await kit.pause("test/stubborn/s")
        await kit.resume("test/stubborn/s")  # while the nudge before it is being read
        await kit.pause("test/stubborn/s")
        await kit.quiet()
        assert kit.lifecycle("test/stubborn/s") == "paused"
        assert len(kit.mailbox("test/stubborn/s")) == 30
