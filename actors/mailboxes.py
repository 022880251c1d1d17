"""The cached mailboxes of one host's agents, kept in step with Postgres.

Longer than most files here: whether a message is queued, held, left on disk or read again is one decision over
one set of books, and apart its halves would have to share all of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Container, Coroutine, Iterable, Sequence
from typing import Any

import msgspec

from actors.activation import PAUSED, Activation
from actors.agent import Agent, agent_type
from actors.ready import ReadyQueue, is_own
from actors.scope import Scope
from bus.envelope import Envelope
from bus.errors import StorageError, StorageUnavailable
from bus.wire import Item, open_item
from storage.records import Share
from storage.store import MailboxStore

_logger = logging.getLogger("callboard.mailboxes")

MAX_SEEN = 262_144  # numbers of messages handled lately, so that a late copy is known (about 20 MB)
PAGE_AGENTS = 500
PAGE_BYTES = 4 * 1024 * 1024
PAGES_AT_ONCE = 2  # read and not merged yet, however many partitions are read
LOAD_STATES = 500  # states read in one query
_RETRY_S = 0.2
_STANDSTILL_S = 0.05  # a full cache of which nothing leaves in that time lets one agent in all the same
_LONGEST_WAIT_S = 3600.0  # then it is looked at anew, lest a callback holds an agent in memory for weeks


class _UnknownKindAgent(Agent):
    """Stands in for a kind that the domain does not have: all its messages become dead letters."""

    kind = "unknown"


class Mailboxes:
    """Every agent that has messages or state in memory, by (tenant, agent).

    `seen` holds the number of every message that is queued, running, uncommitted or handled lately, with the bytes
    that it takes up until it has been handled; a message whose number is in it is a copy. A queue past its limit
    forgets its tail and remembers that there is more on disk; from then on nothing new is queued for that agent
    until its mailbox has been read again, since what is on disk comes first.

    When the bytes of all are used up, the first message of an agent is still known, but not its payload: it is
    "unread". Such agents wait in `hungry`, and are read again as others' messages leave. A message that cannot run
    for a while gives its bytes to them.
    """

    def __init__(self, scope: Scope, store: MailboxStore, ready: ReadyQueue) -> None:
        self._scope = scope
        self._store = store
        self._ready = ready
        limits = scope.limits
        self._limit = limits.cached_messages_per_agent
        self._most = limits.cached_messages
        self._most_bytes = limits.cached_bytes
        self._agent_bytes = min(limits.cached_bytes_per_agent, limits.cached_bytes)
        # Of a nearly full cache each agent gets so little that all the host's workers have something to do.
        self._least_bytes = min(self._agent_bytes, limits.cached_bytes // (2 * limits.concurrent_turns))
        self._unknown = agent_type(_UnknownKindAgent)
        self._activations: OrderedDict[tuple[str, str], Activation] = OrderedDict()
        self._seen: dict[int, int] = {}
        self._handled: deque[int] = deque()
        self._cached = 0
        self._bytes = 0  # of what is queued, runs or has not committed
        self._promised = 0  # bytes that the reads under way may bring
        self._hungry: dict[Activation, bool] = {}  # to be read again, of these only the control messages
        self._later: dict[Activation, None] = {}  # their first message cannot run yet
        self._waiting_for_room: asyncio.TimerHandle | None = None
        self._refills: dict[Activation, asyncio.Task[None]] = {}
        self._asked: set[Activation] = set()  # to be read once more, after the read that is under way
        self._pages = asyncio.Semaphore(PAGES_AT_ONCE)
        self._reads = 0  # reads of Postgres under way: until they end, `seen` forgets nothing
        self._to_load: deque[Activation] = deque()
        self._load_wanted = asyncio.Event()
        self._all_loaded = asyncio.Event()
        self._all_loaded.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.may_run: Callable[[int], bool] = lambda partition: True
        self.on_mail: Callable[[Activation], None] = lambda activation: None
        """Something has come for an agent whose turn is in memory."""
        self.on_dropped: Callable[[Activation], None] = lambda activation: None

    def __len__(self) -> int:
        return len(self._activations)

    @property
    def backlog(self) -> int:
        """Messages cached and not handled."""
        return self._cached

    @property
    def fill(self) -> float:
        """How much of the cache is used: 1 is full."""
        return max(self._cached / self._most, self._bytes / self._most_bytes)

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
        last: dict[tuple[str, str], Envelope] = {}
        for envelope in envelopes:
            if envelope.seq not in self._seen:
                activation = self._of(envelope, partition)
                if not envelope.payload and (activation.queue or activation.scheduled):
                    self._leave(activation, envelope)
                elif self._takes(activation, envelope):
                    self._queue(activation, envelope)
                else:
                    activation.more = True
            if more:
                last[(envelope.tenant, envelope.agent)] = envelope
        for key in more:
            activation_with_more = self._activations.get(key)
            if activation_with_more is not None:
                activation_with_more.more = True
                if key in last and last[key].is_control:
                    activation_with_more.more_control = True

    def put_back(self, activation: Activation, envelope: Envelope) -> None:
        """Return a message that failed to its place; its number is in `seen` already."""
        activation.apart.discard(envelope.seq)
        activation.insert(envelope)
        self._cached += 1

    async def read_partition(self, partition: int) -> None:
        """Read the whole partition from Postgres, page by page; raises StorageUnavailable."""
        self._reads += 1
        try:
            self.merge(partition, await self._store.load_turns(self._scope.domain, partition), set())
            start: tuple[str, str] | None = ("", "")
            while start is not None:
                async with self._pages:
                    each = Share(
                        messages=self._limit if self._cached < self._most else 1,
                        size=self._agent_bytes if self._bytes < self._most_bytes else 0,
                    )
                    found, more, start = await self._store.load_partition(
                        self._scope.domain,
                        partition,
                        after=start,
                        agents=PAGE_AGENTS,
                        each=each,
                        page_bytes=PAGE_BYTES,
                    )
                    self.merge(partition, found, more)
                    del found  # before the next page comes
        finally:
            self._reads -= 1

    def read_agent(self, tenant: str, agent: str, partition: int) -> None:
        """Read one agent's mailbox, into which something was put: what was sent before that may still be on its way
        here. Of an agent that has enough to do, or is paused, only the control messages."""
        activation = self._activation(tenant, agent, partition)
        activation.more = True
        if activation.refilling:
            self._asked.add(activation)
            return
        has_enough = len(activation.queue) > self._limit // 4 or activation.is_closed
        self.refill(activation, control_only=has_enough)

    def knows(self, seq: int) -> bool:
        """Whether a message is queued, running, uncommitted or was handled lately."""
        return seq in self._seen

    def read_named(self, tenant: str, agent: str, partition: int) -> None:
        """Read the mailbox of an agent that a nudge names: a message from outside is in it, perhaps one that passes
        the queue."""
        self._activation(tenant, agent, partition, first=True)
        self.read_agent(tenant, agent, partition)

    def _arrive(self, activation: Activation, envelope: Envelope) -> None:
        is_control = envelope.seq < 0
        if activation.refilling:
            self._hold(activation, envelope)
        elif (activation.more_control if is_control else activation.more) or not self._takes(
            activation, envelope
        ):
            activation.more = True
            if not activation.queue:
                self.refill(activation)
        else:
            self._queue(activation, envelope)

    def _leave(self, activation: Activation, envelope: Envelope) -> None:
        """It was read without its payload, and the agent has others that can run: it stays on disk for now."""
        activation.more = True
        if envelope.is_control:
            activation.more_control = True
            self.refill(activation, control_only=True)

    def _hold(self, activation: Activation, envelope: Envelope) -> None:
        """Its mailbox is being read: it goes behind what is found there, or is found there by the next read."""
        if activation.more and not envelope.is_control:
            return
        activation.held.append(envelope)
        activation.held_size += _size(envelope)
        if len(activation.held) > self._limit or activation.held_size > self._agent_bytes:
            activation.more = True
            activation.more_control = activation.more_control or any(e.is_control for e in activation.held)
            activation.held.clear()
            activation.held_size = 0

    def _takes(self, activation: Activation, envelope: Envelope) -> bool:
        """Whether there is room for it. One message has room always, if perhaps unread: agents whose messages wait
        for their next try may fill the cache for hours, and the others must go on."""
        if envelope.seq < 0:
            return True
        if activation.lifecycle == PAUSED or (activation.is_closed and not envelope.open):
            return False
        return not activation.queue or (
            len(activation.queue) < self._limit
            and self._cached < self._most
            and activation.size < self._agent_bytes
            and self._bytes < self._most_bytes
        )

    def _queue(self, activation: Activation, envelope: Envelope) -> None:
        if self._bytes >= self._most_bytes and not (activation.queue or activation.scheduled):
            envelope = msgspec.structs.replace(envelope, payload="")
        if envelope.payload:
            size = _size(envelope)
            self._seen[envelope.seq] = size
            self._bytes += size
            activation.size += size
        else:
            self._seen[envelope.seq] = 0
            activation.more = True
        self._cached += 1
        activation.insert(envelope)
        if activation.loaded:
            self.schedule(activation)

    # -- running -------------------------------------------------------------------------------------

    def schedule(self, activation: Activation) -> None:
        """Make the agent ready if its head may run now; otherwise see to it that it will."""
        if not activation.alive or not activation.queue or not activation.loaded:
            return
        if activation.journal is not None:
            self.on_mail(activation)
            return
        if activation.is_closed and activation.queue[-1].seq >= 0:
            self._shelve(activation)
            if activation.lacks_turn:
                self.refill(activation)
        head = activation.head()
        if head is None:
            return
        if not head.is_control or head.failures:
            now, until = self._scope.clock.now(), _may_run_at(activation, head)
            if until > now:
                self._scope.clock.call_at(min(until, now + _LONGEST_WAIT_S), self.schedule, activation)
                self._later[activation] = None
                if self._hungry:
                    self._feed()
                return
        if self.may_run(activation.partition):
            if head.payload:
                self._ready.add(activation)
            else:
                self.refill(activation)

    def head_may_run(self, activation: Activation) -> bool:
        """Whether the agent has a message that could run now, its partition apart."""
        head = activation.head()
        if head is None or not (activation.alive and activation.loaded):
            return False
        if head.is_control and not head.failures:
            return True
        paused = activation.lifecycle == PAUSED and not head.is_control
        return not paused and _may_run_at(activation, head) <= self._scope.clock.now()

    async def read_heads(self, activations: Sequence[Activation]) -> None:
        """Wait until the first messages of these can be taken: those that are unread are read, room or not."""
        while unread := [a for a in activations if a.alive and (head := a.head()) and not head.payload]:
            if unread[0] not in self._refills:
                self._start_refill(unread[0], False, 1)
            await asyncio.wait((self._refills[unread[0]],))

    def take_head(self, activation: Activation) -> Envelope:
        if activation.queue[0].seq >= 0:
            self._cached -= 1
            envelope = activation.queue.popleft()
            activation.apart.add(envelope.seq)
            return envelope
        head = activation.head()
        assert head is not None  # or it would not be ready
        return self.take(activation, head)

    def take(self, activation: Activation, envelope: Envelope) -> Envelope:
        """Set a queued message apart: it is run or otherwise used up. It is not unread."""
        self._cached -= 1
        if envelope is activation.queue[0]:
            activation.queue.popleft()
        else:
            activation.queue.remove(envelope)
        activation.apart.add(envelope.seq)
        return envelope

    def handled(self, activation: Activation, seq: int) -> None:
        """A message's turn has committed."""
        self._handled.append(seq)
        size = self._seen.get(seq, 0)
        self._seen[seq] = 0
        activation.size -= size
        self._bytes -= size
        if self._reads == 0:
            while len(self._handled) > MAX_SEEN:
                self._seen.pop(self._handled.popleft(), None)
        if activation.more and len(activation.queue) <= self._limit // 4:
            self.refill(activation)
        if self._hungry:
            self._feed()

    # -- reading again -------------------------------------------------------------------------------

    def refill(self, activation: Activation, *, control_only: bool = False) -> None:
        """Read the agent's mailbox again, because Postgres holds more of it than the queue."""
        if activation.refilling or not activation.alive:
            return
        if activation.parked or activation.lifecycle == PAUSED:
            if not (control_only or activation.more_control):
                return
            control_only = True
        self._hungry[activation] = control_only and self._hungry.get(activation, True)
        self._feed()

    def _feed(self, *, anyway: bool = False) -> None:
        """Begin to read again, in the order they asked, as many agents as there is room for."""
        while self._hungry:
            activation, control_only = next(iter(self._hungry.items()))
            if activation.refilling or not activation.alive:
                del self._hungry[activation]
                continue
            room = self._most_bytes - self._bytes - self._promised
            size = self._agent_bytes if room >= self._agent_bytes else self._least_bytes
            if room < size and not anyway:
                self._make_room()
                if self._most_bytes - self._bytes - self._promised < size:
                    if self._waiting_for_room is None:
                        self._waiting_for_room = asyncio.get_running_loop().call_later(
                            _STANDSTILL_S, self._after_standstill, self._bytes
                        )
                    return
            anyway = False
            del self._hungry[activation]
            self._start_refill(activation, control_only, size)

    def _after_standstill(self, before: int) -> None:
        """Nothing may ever leave a cache that is full of what waits for something else: as long as a worker has
        nothing to do, it gets one agent more."""
        self._waiting_for_room = None
        self._feed(anyway=self._bytes >= before and not self._ready)

    def _make_room(self) -> None:
        """Messages that cannot run yet become unread, as far as others need their bytes."""
        while self._later and self._bytes + self._promised + self._least_bytes > self._most_bytes:
            activation = next(iter(self._later))
            del self._later[activation]
            if activation.alive and activation.queue and not activation.scheduled and not activation.running:
                head = activation.queue[0]
                if not head.is_control and _may_run_at(activation, head) > self._scope.clock.now():
                    self._unload(activation)

    def _unload(self, activation: Activation) -> None:
        """Keep the first message, unread, and leave the others on disk."""
        while len(activation.queue) > 1:
            self._forget(activation, activation.queue.pop().seq)
            self._cached -= 1
        head = activation.queue[0]
        self._forget(activation, head.seq)
        self._seen[head.seq] = 0
        activation.queue[0] = msgspec.structs.replace(head, payload="")
        activation.more = True

    def _start_refill(self, activation: Activation, control_only: bool, size: int) -> None:
        activation.refilling = True
        if not (activation.queue or activation.apart or activation.uncommitted):
            activation.size = 0
        activation.more_control = False
        if not control_only:
            activation.more = False  # set again by whatever turns out not to fit while the read is under way
        self._promised += size
        task = self._spawn(self._refill(activation, control_only, size))
        self._refills[activation] = task

    async def _refill(self, activation: Activation, control_only: bool, size: int) -> None:
        self._reads += 1
        try:
            # What runs or has not committed is found there once more.
            share = Share(
                messages=self._limit + activation.uncommitted + len(activation.apart),
                size=size + activation.size,
            )
            while activation.alive:
                try:
                    found, more = await self._store.load_agent(
                        self._scope.domain, activation.partition, activation.tenant, activation.agent, share,
                        control_only=control_only,
                    )  # fmt: skip
                    break
                except StorageError as error:
                    _logger.warning("a mailbox cannot be read yet: %s", error.message)
                    await asyncio.sleep(_RETRY_S)
            else:
                return
        finally:
            self._reads -= 1
            self._promised -= size
            activation.refilling = False
            self._refills.pop(activation, None)
        if activation.alive:
            self._take_in(activation, found, more, control_only)
        if activation in self._asked:
            self._asked.discard(activation)
            if activation.alive:
                self.read_agent(activation.tenant, activation.agent, activation.partition)
        if self._hungry:
            self._feed()

    def _take_in(self, activation: Activation, found: list[Envelope], more: bool, control_only: bool) -> None:
        """Queue what a read of the mailbox has found, and after it what arrived meanwhile."""
        if more:
            activation.more = True
            activation.more_control = activation.more_control or found[-1].is_control
        if activation.lacks_turn and not control_only and not any(e.open for e in found):
            activation.lacks_turn = False  # it has ended meanwhile
            activation.more = True
        held, activation.held, activation.held_size = activation.held, [], 0
        unread = {e.seq for e in activation.queue if not e.payload}
        fresh = [e for e in found if e.seq not in self._seen or e.seq in unread]
        for envelope in fresh:
            if envelope.seq in unread:
                unread.discard(envelope.seq)
                self._read_in(activation, envelope)
            elif self._takes(activation, envelope):
                self._queue(activation, envelope)
            else:
                activation.more = True
        if unread:
            activation.more = True
            self._drop_vanished(activation, found, unread, control_only)
        for envelope in held:
            if envelope.seq not in self._seen:
                self._arrive(activation, envelope)
        if activation.more and not activation.queue and not activation.uncommitted and not activation.running:
            asyncio.get_running_loop().call_later(_RETRY_S, self.refill, activation)
        self.schedule(activation)

    def _read_in(self, activation: Activation, envelope: Envelope) -> None:
        """An unread message gets its payload; what has become of it here meanwhile stays."""
        for place, unread in enumerate(activation.queue):
            if unread.seq == envelope.seq:
                whole = msgspec.structs.replace(unread, payload=envelope.payload)
                activation.queue[place] = whole
                size = _size(whole)
                self._seen[envelope.seq] = size
                self._bytes += size
                activation.size += size
                return

    def _drop_vanished(
        self, activation: Activation, found: list[Envelope], unread: set[int], control_only: bool
    ) -> None:
        """An unread message that is not where it would be: only an operator's own SQL takes one away."""
        head = activation.queue[0]
        if head.seq in unread and not (control_only and not head.is_control):
            first = min((e.seq for e in found), default=None)
            if first is None or first > head.seq:
                _logger.warning("message %d of %s is gone from its mailbox", head.seq, activation.agent)
                activation.queue.popleft()
                self._cached -= 1
                self._forget(activation, head.seq)

    def _shelve(self, activation: Activation) -> None:
        """The agent is paused, or a turn of it waits: its messages stay on disk, where older ones may be that are not in the queue."""
        while activation.queue and not activation.queue[-1].is_control:
            self._forget(activation, activation.queue.pop().seq)
            self._cached -= 1
        activation.more = True

    def put_away(self, activation: Activation) -> None:
        """Its turn waits, and has left memory; so does the agent, unless something has come for it."""
        activation.parked = True
        for seq in activation.apart:
            self._forget(activation, seq)
        activation.apart.clear()
        self.schedule(activation)
        if activation.is_idle:
            activation.alive = False
            del self._activations[activation.key]
            self._later.pop(activation, None)

    def came_back(self, activation: Activation, seq: int) -> None:
        """Its turn runs again: a copy of that turn's message is none that waits."""
        activation.parked = False
        activation.apart.add(seq)
        self._seen.setdefault(seq, 0)

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
        self.on_dropped(activation)
        if self._activations.get(activation.key) is activation:
            del self._activations[activation.key]
        self._cached -= len(activation.queue)
        for envelope in activation.queue:
            self._forget(activation, envelope.seq)
        for seq in activation.apart:
            self._forget(activation, seq)
        self._hungry.pop(activation, None)
        self._later.pop(activation, None)
        if self._hungry:
            self._feed()

    def forget(self, seq: int) -> None:
        """The message's turn will not commit: a copy of it is welcome again."""
        self._bytes -= self._seen.pop(seq, 0)

    def _forget(self, activation: Activation, seq: int) -> None:
        size = self._seen.pop(seq, 0)
        self._bytes -= size
        activation.size -= size

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
            self._later.pop(activation, None)
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
        return self._all_loaded.is_set() and not (self._tasks or self._reads or self._hungry)

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
        if self._waiting_for_room is not None:
            self._waiting_for_room.cancel()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _size(envelope: Envelope) -> int:
    """About the bytes that a message holds in memory; its texts have one, two or four bytes a character."""
    return envelope.payload.__sizeof__() + envelope.header_json.__sizeof__()


def _may_run_at(activation: Activation, head: Envelope) -> float:
    return max(activation.blocked_until, head.retry_at or 0.0)
