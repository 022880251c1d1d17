"""The cached mailboxes of one host's agents, kept in step with Postgres."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Container, Coroutine, Iterable
from typing import Any

from actors.activation import PAUSED, Activation
from actors.agent import Agent, agent_type
from actors.ready import ReadyQueue, is_own
from actors.scope import Scope
from bus.envelope import Envelope
from bus.errors import StorageError, StorageUnavailable
from bus.wire import Item, open_item
from storage.store import MailboxStore

_logger = logging.getLogger("callboard.mailboxes")

MAX_SEEN = 262_144  # numbers of messages handled lately, so that a late copy is known (about 20 MB)
PAGE_AGENTS = 500
LOAD_STATES = 500  # states read in one query
_RETRY_S = 0.2
_LONGEST_WAIT_S = 3600.0  # then it is looked at anew, lest a callback holds an agent in memory for weeks


class _UnknownKindAgent(Agent):
    """Stands in for a kind that the domain does not have: all its messages become dead letters."""

    kind = "unknown"


class Mailboxes:
    """Every agent that has messages or state in memory, by (tenant, agent).

    `seen` holds the number of every message that is queued, running, uncommitted or handled lately; a message
    whose number is in it is a copy. A queue past its limit forgets its tail and remembers that there is more
    on disk; from then on nothing new is queued for that agent until its mailbox has been read again, since
    what is on disk comes first.
    """

    def __init__(self, scope: Scope, store: MailboxStore, ready: ReadyQueue) -> None:
        self._scope = scope
        self._store = store
        self._ready = ready
        self._limit = scope.limits.cached_messages_per_agent
        self._unknown = agent_type(_UnknownKindAgent)
        self._activations: OrderedDict[tuple[str, str], Activation] = OrderedDict()
        self._seen: dict[int, None] = {}
        self._handled: deque[int] = deque()
        self._cached = 0
        self._reads = 0  # reads of Postgres under way: until they end, `seen` forgets nothing
        self._to_load: deque[Activation] = deque()
        self._asked: set[Activation] = set()  # named by a nudge while they were being read
        self._load_wanted = asyncio.Event()
        self._all_loaded = asyncio.Event()
        self._all_loaded.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.may_run: Callable[[int], bool] = lambda partition: True

    def __len__(self) -> int:
        return len(self._activations)

    @property
    def backlog(self) -> int:
        """Messages cached and not handled."""
        return self._cached

    # -- arriving ------------------------------------------------------------------------------------

    def deliver(self, partition: int, items: Iterable[Item]) -> None:
        """Queue messages that came from the bus, in the order they came."""
        seen = self._seen
        for item in items:
            if item.seq not in seen:
                envelope = open_item(item)
                self._arrive(self._of(envelope, partition), envelope)

    def merge(self, partition: int, envelopes: Iterable[Envelope], more: set[tuple[str, str]]) -> None:
        """Queue what was read from Postgres; the agents in `more` have further messages there."""
        for envelope in envelopes:
            if envelope.seq not in self._seen:
                activation = self._of(envelope, partition)
                if self._takes(activation, envelope):
                    self._queue(activation, envelope)
                else:
                    activation.more = True
        for key in more:
            activation_with_more = self._activations.get(key)
            if activation_with_more is not None:
                activation_with_more.more = True

    def put_back(self, activation: Activation, envelope: Envelope) -> None:
        """Return a message that failed to its place; its number is in `seen` already."""
        activation.apart.discard(envelope.seq)
        activation.insert(envelope)
        self._cached += 1

    async def read_partition(self, partition: int) -> None:
        """Read the whole partition from Postgres, page by page; raises StorageUnavailable."""
        self._reads += 1
        try:
            start: tuple[str, str] | None = ("", "")
            while start is not None:
                found, more, start = await self._store.load_partition(
                    self._scope.domain, partition, after=start, agents=PAGE_AGENTS, each=self._limit
                )
                self.merge(partition, found, more)
        finally:
            self._reads -= 1

    def read_agent(self, tenant: str, agent: str, partition: int) -> None:
        """Read one agent's mailbox, into which this host has itself put something: what was sent before that may
        still be on its way here."""
        activation = self._activation(tenant, agent, partition)
        activation.more = True
        if len(activation.queue) <= self._limit // 4:
            self.refill(activation)

    def read_named(self, tenant: str, agent: str, partition: int) -> None:
        """Read the mailbox of an agent that a nudge names: a message from outside is in it, perhaps one that passes
        the queue or is for an agent that is paused."""
        activation = self._activation(tenant, agent, partition, first=True)
        if activation.refilling:
            self._asked.add(activation)
        else:
            self._read(activation)

    def _arrive(self, activation: Activation, envelope: Envelope) -> None:
        if activation.refilling:
            activation.held.append(envelope)
            if len(activation.held) > self._limit:
                activation.held.clear()
                activation.more = True
        elif activation.more or not self._takes(activation, envelope):
            activation.more = True
            if not activation.queue:
                self.refill(activation)
        else:
            self._queue(activation, envelope)

    def _takes(self, activation: Activation, envelope: Envelope) -> bool:
        """Whether there is room for it. One message has room always: agents whose messages wait for their next
        try may fill the cache for hours, and the others must go on."""
        if envelope.is_control:
            return True
        return (
            activation.lifecycle != PAUSED
            and len(activation.queue) < self._limit
            and (self._cached < self._scope.limits.cached_messages or not activation.queue)
        )

    def _queue(self, activation: Activation, envelope: Envelope) -> None:
        self._seen[envelope.seq] = None
        self._cached += 1
        activation.insert(envelope)
        if activation.loaded:
            self.schedule(activation)

    # -- running -------------------------------------------------------------------------------------

    def schedule(self, activation: Activation) -> None:
        """Make the agent ready if its head may run now; otherwise see to it that it will."""
        if not activation.alive or not activation.queue or not activation.loaded:
            return
        if activation.lifecycle == PAUSED and not activation.queue[-1].is_control:
            self._shelve(activation)
            if not activation.queue:
                return
        head = activation.queue[0]
        if not head.is_control or head.failures:
            now, until = self._scope.clock.now(), _may_run_at(activation, head)
            if until > now:
                self._scope.clock.call_at(min(until, now + _LONGEST_WAIT_S), self.schedule, activation)
                return
        if self.may_run(activation.partition):
            self._ready.add(activation)

    def head_may_run(self, activation: Activation) -> bool:
        """Whether the agent has a message that could run now, its partition apart."""
        if not (activation.alive and activation.loaded and activation.queue):
            return False
        head = activation.queue[0]
        if head.is_control and not head.failures:
            return True
        paused = activation.lifecycle == PAUSED and not head.is_control
        return not paused and _may_run_at(activation, head) <= self._scope.clock.now()

    def take_head(self, activation: Activation) -> Envelope:
        self._cached -= 1
        envelope = activation.queue.popleft()
        activation.apart.add(envelope.seq)
        return envelope

    def handled(self, activation: Activation, seq: int) -> None:
        """A message's turn has committed."""
        self._handled.append(seq)
        if self._reads == 0:
            while len(self._handled) > MAX_SEEN:
                self._seen.pop(self._handled.popleft(), None)
        if activation.more and len(activation.queue) <= self._limit // 4:
            self.refill(activation)

    def refill(self, activation: Activation) -> None:
        """Read the agent's mailbox again, because Postgres holds more of it than the queue."""
        if not activation.refilling and activation.alive and activation.lifecycle != PAUSED:
            self._read(activation)

    def _read(self, activation: Activation) -> None:
        activation.refilling = True
        activation.more = False  # set again by whatever turns out not to fit while the read is under way
        self._spawn(self._refill(activation))

    async def _refill(self, activation: Activation) -> None:
        self._reads += 1
        try:
            each = self._limit + activation.uncommitted + len(activation.apart)
            while activation.alive:
                try:
                    found = await self._store.load_agent(
                        self._scope.domain, activation.partition, activation.tenant, activation.agent, each
                    )
                    break
                except StorageError as error:
                    _logger.warning("a mailbox cannot be read yet: %s", error.message)
                    await asyncio.sleep(_RETRY_S)
            else:
                return
        finally:
            self._reads -= 1
            activation.refilling = False
            asked = activation in self._asked
            self._asked.discard(activation)
        if not activation.alive:
            return
        activation.more = activation.more or len(found) >= each
        held, activation.held = activation.held, []
        fresh = [e for e in found if e.seq not in self._seen]
        for envelope in fresh:
            if self._takes(activation, envelope):
                self._queue(activation, envelope)
            else:
                activation.more = True
        for envelope in held:
            if envelope.seq not in self._seen:
                self._arrive(activation, envelope)
        if activation.more and not activation.queue and not activation.uncommitted and not activation.running:
            asyncio.get_running_loop().call_later(_RETRY_S, self.refill, activation)
        self.schedule(activation)
        if asked:
            self._read(activation)

    def _shelve(self, activation: Activation) -> None:
        """The agent is paused: its messages stay on disk, where older ones may be that are not in the queue."""
        while activation.queue and not activation.queue[-1].is_control:
            del self._seen[activation.queue.pop().seq]
            self._cached -= 1
        activation.more = True

    # -- coming and going ----------------------------------------------------------------------------

    def find(self, tenant: str, agent: str) -> Activation | None:
        return self._activations.get((tenant, agent))

    def in_partitions(self, partitions: Container[int]) -> list[Activation]:
        return [a for a in self._activations.values() if a.partition in partitions]

    def drop(self, activation: Activation) -> None:
        """Forget an agent and all that is cached of it, because its cached versions no longer hold.

        The caller also makes the committer drop what is dead.
        """
        if not activation.alive:
            return
        activation.alive = False
        if self._activations.get(activation.key) is activation:
            del self._activations[activation.key]
        self._cached -= len(activation.queue)
        for envelope in activation.queue:
            self._seen.pop(envelope.seq, None)
        for seq in activation.apart:
            self._seen.pop(seq, None)

    def forget(self, seq: int) -> None:
        """The message's turn will not commit: a copy of it is welcome again."""
        self._seen.pop(seq, None)

    def restart(self, tenant: str, agent: str, partition: int) -> None:
        """Bring an agent back from committed state after `drop`."""
        activation = self._activation(tenant, agent, partition)
        activation.more = True
        self.refill(activation)

    def evict_idle(self, *, older_than: float) -> list[Activation]:
        """Remove idle agents: all not used since `older_than`, and the oldest above the limit."""
        evicted: list[Activation] = []
        excess = len(self._activations) - self._scope.limits.activations
        for activation in self._activations.values():  # the one not used for longest comes first
            if activation.used_at >= older_than and len(evicted) >= excess:
                break
            if activation.is_idle:
                evicted.append(activation)
        for activation in evicted:
            activation.alive = False
            del self._activations[activation.key]
        return evicted

    def touch(self, activation: Activation) -> None:
        activation.used_at = self._scope.clock.now()
        self._activations.move_to_end(activation.key)

    def _of(self, envelope: Envelope, partition: int) -> Activation:
        known = self._activations.get((envelope.tenant, envelope.agent))
        if known is not None:
            return known
        return self._activation(envelope.tenant, envelope.agent, partition, first=is_own(envelope))

    def _activation(self, tenant: str, agent: str, partition: int, *, first: bool = False) -> Activation:
        """The agent in memory; its state is read in its turn, or before those that wait for theirs."""
        activation = self._activations.get((tenant, agent))
        if activation is None:
            kind = self._scope.kinds.get(agent.partition("/")[0], self._unknown)
            activation = Activation(tenant, agent, partition, kind)
            activation.used_at = self._scope.clock.now()
            self._activations[(tenant, agent)] = activation
            if first:
                self._to_load.appendleft(activation)
            else:
                self._to_load.append(activation)
            self._load_wanted.set()
            self._all_loaded.clear()
        return activation

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is being read from Postgres or about to be."""
        return self._all_loaded.is_set() and not self._tasks and not self._reads

    async def states_loaded(self) -> None:
        """Wait until every agent in memory has its committed state."""
        await self._all_loaded.wait()

    async def load_states(self) -> None:
        """Runs for ever: reads the states of agents that came into memory, many in one query."""
        while True:
            await self._load_wanted.wait()
            page = [self._to_load.popleft() for _ in range(min(LOAD_STATES, len(self._to_load)))]
            wanted = [activation for activation in page if activation.alive]
            if not self._to_load:
                self._load_wanted.clear()
            try:
                stored = (
                    await self._store.load_states(self._scope.domain, [a.key for a in wanted])
                    if wanted
                    else []
                )
            except StorageUnavailable as error:
                _logger.warning("states cannot be read yet: %s", error.message)
                self._to_load.extendleft(reversed(wanted))
                self._load_wanted.set()
                await asyncio.sleep(_RETRY_S)
                continue
            found = {(s.tenant, s.agent): s for s in stored}
            for activation in wanted:
                if activation.alive:
                    activation.restore(found.get(activation.key))
                    self.schedule(activation)
            if not self._to_load:
                self._all_loaded.set()

    def close(self) -> None:
        """The incarnation has ended: stop what still reads."""
        for task in self._tasks:
            task.cancel()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _may_run_at(activation: Activation, head: Envelope) -> float:
    return max(activation.blocked_until, head.retry_at or 0.0)
