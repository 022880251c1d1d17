"""The cached mailboxes of one host's agents, kept in step with Postgres.

`Roster` has the agents, `Books` what is in memory of their messages, `PartitionReads` and `Refills` the reading from
Postgres. Here stands what becomes of a message that arrives, waits, runs, or leaves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

import msgspec

from actors.activation import PAUSED, Activation
from actors.books import Books, size_of
from actors.held import Held
from actors.partition_reads import PartitionReads
from actors.ready import ReadyQueue, is_own
from actors.refills import RETRY_S, Refills
from actors.roster import Roster
from actors.scope import Scope
from bus.envelope import Envelope
from bus.wire import Item, open_item
from storage.store import MailboxStore

_logger = logging.getLogger("callboard.mailboxes")

_LONGEST_WAIT_S = 3600.0  # then it is looked at anew, lest a callback holds an agent in memory for weeks


class Mailboxes:
    """What is queued of every agent's mailbox.

    A queue past its limit forgets its tail and remembers that there is more on disk; from then on nothing new is
    queued for that agent until its mailbox has been read again, since what is on disk comes first.

    When the bytes of all are used up, the first message of an agent is still known, but not its payload: it is
    "unread", and read again as others' messages leave.
    """

    def __init__(self, scope: Scope, store: MailboxStore, ready: ReadyQueue) -> None:
        self._scope = scope
        self._ready = ready
        self.books = Books(scope.limits)
        self.roster = Roster(scope, store, self.schedule)
        self._refills = Refills(scope, store, self.books, ready, self._take_in, lambda e: self.on_failed(e))
        self.partitions = PartitionReads(scope, store, self.books, self.roster, self.merge)
        self.held = Held(scope, self.schedule)
        self.may_run: Callable[[int], bool] = lambda partition: True
        self.on_mail: Callable[[Activation], None] = lambda activation: None
        """Something has come for an agent whose turn is in memory."""
        self.on_dropped: Callable[[Activation], None] = lambda activation: None
        self.on_failed: Callable[[BaseException], None] = lambda error: None
        """What was read of a mailbox could not be taken in."""

    def __len__(self) -> int:
        return len(self.roster)

    @property
    def backlog(self) -> int:
        """Messages cached and not handled."""
        return self.books.cached

    @property
    def fill(self) -> float:
        """How much of the cache is used: 1 is full."""
        return self.books.fill

    # -- arriving ------------------------------------------------------------------------------------

    def deliver(self, partition: int, items: Iterable[Item]) -> None:
        """Queue messages that came from the bus, in the order they came."""
        seen = self.books.seen
        for item in items:
            if item.seq not in seen:
                envelope = open_item(item)
                self._arrive(self._of(envelope, partition), envelope)

    def merge(self, partition: int, envelopes: Iterable[Envelope], more: set[tuple[str, str]]) -> None:
        """Queue what was read from Postgres; the agents in `more` have further messages there."""
        last: dict[tuple[str, str], Envelope] = {}
        for envelope in envelopes:
            if envelope.seq not in self.books.seen:
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
            activation_with_more = self.roster.find(key)
            if activation_with_more is not None:
                activation_with_more.more = True
                if key in last and last[key].is_control:
                    activation_with_more.more_control = True

    def put_back(self, activation: Activation, envelope: Envelope) -> None:
        """Return a message that failed to its place; its number is in `seen` already."""
        activation.apart.discard(envelope.seq)
        activation.insert(envelope)
        self.books.cached += 1

    def read_agent(self, tenant: str, agent: str, partition: int) -> None:
        """Read one agent's mailbox, into which something was put: what came before that may be on its way here."""
        self._refills.want_new(self.roster.activation(tenant, agent, partition))

    def reopen(self, tenant: str, agent: str, partition: int) -> None:
        """A turn of the agent that may have been put away is to run again, though nothing wakes it."""
        activation = self.roster.activation(tenant, agent, partition, first=True)
        if activation.journal is not None or activation.running or activation.refilling:
            return
        if activation.parked:
            activation.parked, activation.lacks_turn = False, True
        if activation.lacks_turn or not activation.loaded:
            self._refills.want(activation)

    def refill(self, activation: Activation, *, control_only: bool = False) -> None:
        """Read the agent's mailbox again, because Postgres holds more of it than the queue."""
        self._refills.want(activation, control_only=control_only)

    def knows(self, seq: int) -> bool:
        """Whether a message is queued, running, uncommitted or was handled lately."""
        return seq in self.books.seen

    def read_named(self, tenant: str, agent: str, partition: int) -> None:
        """Read the mailbox that a nudge names: a message from outside is in it, perhaps one that passes the queue."""
        self.roster.activation(tenant, agent, partition, first=True)
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
                self._refills.want(activation)
        else:
            self._queue(activation, envelope)

    def _leave(self, activation: Activation, envelope: Envelope) -> None:
        """It was read without its payload, and the agent has others that can run: it stays on disk for now."""
        activation.more = True
        if envelope.is_control:
            activation.more_control = True
            self._refills.want(activation, control_only=True)

    def _hold(self, activation: Activation, envelope: Envelope) -> None:
        """Its mailbox is being read: it goes behind what is found there, or is found there by the next read."""
        if activation.more and not envelope.is_control:
            return
        activation.held.append(envelope)
        activation.held_size += size_of(envelope)
        if len(activation.held) > self.books.per_agent or activation.held_size > self.books.agent_bytes:
            activation.more = True
            activation.more_control = activation.more_control or any(e.is_control for e in activation.held)
            activation.held.clear()
            activation.held_size = 0

    def _takes(self, activation: Activation, envelope: Envelope) -> bool:
        """Whether there is room for it. One message has room always, if perhaps unread: agents whose messages wait
        for their next try may fill the cache for hours, and the others must go on."""
        if envelope.seq < 0:
            return True
        if activation.is_closed and (activation.lifecycle == PAUSED or not envelope.open):
            return False
        return not activation.queue or self.books.has_room(activation)

    def _queue(self, activation: Activation, envelope: Envelope) -> None:
        books = self.books
        if books.bytes >= books.most_bytes and not (activation.queue or activation.scheduled):
            envelope = msgspec.structs.replace(envelope, payload="")
        if envelope.payload:
            books.enter(activation, envelope)
        else:
            books.seen[envelope.seq] = 0
            activation.more = True
        books.cached += 1
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
                self._refills.want(activation)
        head = activation.head()
        if head is None:
            return
        if self._scope.paused and self._scope.is_held(head):
            self.held.add(activation)
            self._refills.cannot_run_yet(activation)
            return
        until = activation.may_run_at(head)
        if until:
            now = self._scope.clock.now()
            if until > now:
                self._scope.clock.call_at(min(until, now + _LONGEST_WAIT_S), self.schedule, activation)
                self._refills.cannot_run_yet(activation)
                return
        if self.may_run(activation.partition):
            if head.payload:
                self._ready.add(activation)
            else:
                self._refills.want(activation)

    def head_may_run(self, activation: Activation) -> bool:
        """Whether the agent has a message that could run now, its partition apart."""
        head = activation.head()
        if head is None or not (activation.alive and activation.loaded) or self._scope.is_held(head):
            return False
        paused = activation.lifecycle == PAUSED and not head.is_control
        return not paused and activation.may_run_at(head) <= self._scope.clock.now()

    async def read_heads(self, activations: Sequence[Activation], *, at_last: bool = False) -> None:
        """Wait until the first messages of these can be taken; `at_last`: however long their mailboxes cannot be read."""
        await self._refills.read_heads(activations, at_last=at_last)

    def take_head(self, activation: Activation) -> Envelope:
        if activation.queue[0].seq >= 0:
            self.books.cached -= 1
            envelope = activation.queue.popleft()
            activation.apart.add(envelope.seq)
            return envelope
        head = activation.head()
        assert head is not None  # or it would not be ready
        return self.take(activation, head)

    def take(self, activation: Activation, envelope: Envelope) -> Envelope:
        """Set a queued message apart: it is run or otherwise used up. It is not unread."""
        self.books.cached -= 1
        if envelope is activation.queue[0]:
            activation.queue.popleft()
        else:
            activation.queue.remove(envelope)
        activation.apart.add(envelope.seq)
        return envelope

    def handled(self, activation: Activation, seq: int) -> None:
        """A message's turn has committed."""
        self.books.handled(activation, seq)
        if activation.more and len(activation.queue) <= self.books.per_agent // 4:
            self._refills.want(activation)
        self._refills.feed()

    # -- after a read --------------------------------------------------------------------------------

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
        fresh = [e for e in found if e.seq not in self.books.seen or e.seq in unread]
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
            if envelope.seq not in self.books.seen:
                self._arrive(activation, envelope)
        if activation.more and not activation.queue and not activation.uncommitted and not activation.running:
            asyncio.get_running_loop().call_later(RETRY_S, self._refills.want, activation)
        self.schedule(activation)

    def _read_in(self, activation: Activation, envelope: Envelope) -> None:
        """An unread message gets its payload; what has become of it here meanwhile stays."""
        for place, unread in enumerate(activation.queue):
            if unread.seq == envelope.seq:
                whole = msgspec.structs.replace(unread, payload=envelope.payload)
                activation.queue[place] = whole
                self.books.enter(activation, whole)
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
                self.books.cached -= 1
                self.books.forget(activation, head.seq)

    def _shelve(self, activation: Activation) -> None:
        """The agent is paused, or a turn of it waits: its messages stay on disk, where older ones may be that are not in the queue."""
        while activation.queue and not activation.queue[-1].is_control:
            self.books.forget(activation, activation.queue.pop().seq)
            self.books.cached -= 1
        activation.more = True

    def put_away(self, activation: Activation) -> None:
        """Its turn waits, and has left memory; so does the agent, unless something has come for it."""
        activation.parked = True
        for seq in activation.apart:
            self.books.forget(activation, seq)
        activation.apart.clear()
        self.schedule(activation)
        if activation.is_idle:
            self.roster.remove(activation)
            self._refills.forget(activation)

    def came_back(self, activation: Activation, seq: int) -> None:
        """Its turn runs again: a copy of that turn's message is none that waits."""
        activation.parked = False
        self.set_apart(activation, seq)

    def set_apart(self, activation: Activation, seq: int) -> None:
        """A message that is on disk only: a copy of it is not queued."""
        activation.apart.add(seq)
        self.books.seen.setdefault(seq, 0)

    def give_back(self, activation: Activation, numbers: Sequence[int]) -> None:
        """Control messages that were set apart, and are not used up: they are on disk, and are read again."""
        for seq in numbers:
            activation.apart.discard(seq)
            self.books.forget(activation, seq)
        activation.more_control = True
        self._refills.want(activation, control_only=True)

    # -- coming and going ----------------------------------------------------------------------------

    def drop(self, activation: Activation) -> None:
        """Forget an agent and all that is cached of it, because its cached versions no longer hold.

        The caller also makes the committer drop what is dead.
        """
        if not activation.alive:
            return
        activation.alive = False
        self.held.discard(activation)
        self.on_dropped(activation)
        self.roster.remove(activation)
        self.books.cached -= len(activation.queue)
        for seq in (*(envelope.seq for envelope in activation.queue), *activation.apart):
            self.books.forget(activation, seq)
        self._refills.forget(activation)
        self._refills.feed()

    def forget(self, seq: int) -> None:
        """The message's turn will not commit: a copy of it is welcome again."""
        self.books.release(seq)

    def restart(self, tenant: str, agent: str, partition: int) -> None:
        """Bring an agent back from committed state after `drop`."""
        activation = self.roster.activation(tenant, agent, partition)
        activation.more = True
        self._refills.want(activation)

    def evict_idle(self, *, older_than: float) -> list[Activation]:
        """Remove agents that have been idle since `older_than`, and the oldest above the limit."""
        evicted = self.roster.evict_idle(older_than=older_than)
        for activation in evicted:
            self._refills.forget(activation)
        return evicted

    def _of(self, envelope: Envelope, partition: int) -> Activation:
        known = self.roster.find((envelope.tenant, envelope.agent))
        if known is not None:
            return known
        return self.roster.activation(envelope.tenant, envelope.agent, partition, first=is_own(envelope))

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is being read from Postgres or about to be."""
        return self.roster.is_loaded and self.partitions.is_at_rest and self._refills.is_at_rest

    def close(self) -> None:
        """The incarnation has ended: stop what still reads."""
        self._refills.close()
