"""One agent in memory: its instance, the versions that its turns count up, and its cached mailbox."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import deque
from typing import Any

from actors.agent import Agent, AgentType
from actors.journal import Journal
from actors.wake import is_wake
from bus.envelope import Envelope
from storage.records import GENESIS, StoredState

CREATED = "created"
RUNNING = "running"
PAUSED = "paused"
DESTROYED = "destroyed"


class Activation:
    """Lives until it is idle for long, its partition leaves, or one of its turns does not commit.

    `version`, `hash` and `state_json` run ahead of Postgres by the turns that are on their way to the group
    commit. When one of those fails, the activation is dropped (`alive` becomes False), everything that still
    holds it lets go, and a new one starts from committed state.
    """

    __slots__ = (
        "agent", "alive", "apart", "at_work", "blocked_until", "cancelled", "ended", "hash", "held", "held_size", "held_turn", "instance", "journal", "key", "lacks_turn", "lifecycle", "loaded", "more",
        "more_control", "overdue", "parked", "parking", "partition", "queue", "refilling", "running", "scheduled", "schema_version", "size",
        "state_json", "task", "tenant", "type", "uncommitted", "undead", "used_at", "version",
    )  # fmt: skip

    def __init__(self, tenant: str, agent: str, partition: int, type_: AgentType) -> None:
        self.tenant = tenant
        self.agent = agent
        self.key = (tenant, agent)
        self.partition = partition
        self.type = type_
        self.queue: deque[Envelope] = deque()
        self.size = 0  # bytes of its messages that are queued, run or have not committed
        self.held: list[Envelope] = []  # arrived while the mailbox was being read again
        self.held_size = 0
        self.apart: set[int] = set()  # numbers of its messages that run now or wait apart from the queue
        self.undead: set[int] = set()  # the dead letters that its turns have taken back
        self.more = False  # Postgres holds messages that are not in the queue
        self.more_control = False  # and control messages are among them
        self.refilling = False
        self.alive = True
        self.loaded = False
        self.scheduled = False
        self.running = False
        self.overdue = False  # its turn runs too long and is being cancelled
        self.task: asyncio.Task[Any] | None = None  # in which its handler runs
        self.journal: Journal | None = None  # of the turn that runs or waits in memory
        self.parked = False  # one of its turns waits, and is not in memory
        self.held_turn = (
            False  # one of its turns is part of what is paused, or is being given up: it is not woken
        )
        self.lacks_turn = (
            False  # one of its turns is open, and has not been read yet: nothing may run before it
        )
        self.parking = False  # it is being put away
        self.at_work: Envelope | None = None  # the message whose handler is in memory
        self.cancelled: str | None = None  # why that handler has to end: its task was cancelled
        self.ended: int | None = (
            None  # the number of the turn that ended last here, perhaps not committed yet
        )
        self.uncommitted = 0
        self.blocked_until = 0.0  # the head waits for its next try
        self.used_at = 0.0
        self.instance: Agent | None = None
        self.version = 0
        self.schema_version = type_.cls.schema_version
        self.lifecycle = CREATED
        self.state_json: str | None = None
        self.hash = GENESIS

    @property
    def is_idle(self) -> bool:
        waits_on_disk = self.more and self.lifecycle != PAUSED and not self.parked
        return not (
            self.queue
            or self.running
            or self.uncommitted
            or self.apart
            or self.scheduled
            or waits_on_disk
            or self.refilling
        )

    def restore(self, stored: StoredState | None) -> None:
        """Start from committed state; None means that the agent has never had a turn."""
        if stored is not None:
            self.version = stored.version
            self.schema_version = stored.schema_version
            self.lifecycle = stored.lifecycle
            self.state_json = stored.state
            self.hash = stored.hash
            self.parked = stored.turn == "waiting"
            self.lacks_turn = stored.turn == "open" and not any(envelope.open for envelope in self.queue)
            self.more = self.more or stored.turn is not None  # what came meanwhile is on disk
        self.loaded = True

    def make_instance(self) -> Agent:
        """A fresh instance with the state of the last turn that succeeded; raises InvalidPayload."""
        instance = self.type.cls()
        instance.state = (
            self.type.new_state()
            if self.state_json is None
            else self.type.load_state(self.state_json, self.schema_version)
        )
        self.instance = instance
        return instance

    async def activate(self) -> Agent:
        """A fresh instance that its hook has seen; raises InvalidPayload, and what the hook raises."""
        agent = self.make_instance()
        if self.type.has_activated_hook:
            await agent.on_activated()
        return agent

    @property
    def has_open_turn(self) -> bool:
        """Whether its turn has a journal of which something has been committed, or is on its way to be."""
        return self.journal is not None and self.journal.is_open

    @property
    def is_busy(self) -> bool:
        """Whether its handler runs, and not merely waits."""
        return self.running and (self.journal is None or self.journal.branches.running > 0)

    @property
    def is_closed(self) -> bool:
        """Whether only what passes the queue may run."""
        return self.parked or self.lacks_turn or self.lifecycle == PAUSED

    def head(self) -> Envelope | None:
        """What to run next. A wake-up is for a turn that has been put away; one that is about to run again by itself
        takes it along, and an agent that is paused is not woken."""
        queue = self.queue
        if not queue:
            return None
        if queue[0].seq >= 0 or not is_wake(queue[0]):
            return queue[0]
        other = next((envelope for envelope in queue if not is_wake(envelope)), None)
        if self.lifecycle == PAUSED or self.held_turn:
            return other if other is not None and other.is_control else None
        if self.parked or self.lacks_turn or other is None or not (other.is_control or other.open):
            return queue[0]
        return other

    def may_run_at(self, head: Envelope) -> float:
        """When this message may run, seconds since 1970, UTC. A control message waits for its own next try only."""
        if head.is_control and not head.failures:
            return head.retry_at or 0.0
        return max(self.blocked_until, head.retry_at or 0.0)

    def has_queued(self, message: str) -> bool:
        """Whether a message waits in memory, by its id."""
        return any(envelope.header.id == message for envelope in self.queue)

    def insert(self, envelope: Envelope) -> None:
        """Put a message into its place; the queue is sorted by number."""
        queue = self.queue
        if envelope.open:
            self.lacks_turn = False
        if not queue or _order(envelope) > _order(queue[-1]):
            queue.append(envelope)
        else:
            insort(queue, envelope, key=_order)


def _order(envelope: Envelope) -> int:
    """What passes the queue, then an open turn, then the others by their numbers."""
    return 0 if envelope.open else envelope.seq
