"""Group commit: the turns that ended meanwhile go to Postgres together, one commit in flight."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from actors.activation import Activation
from actors.written import Written
from bus import faultpoints
from bus.envelope import Envelope
from bus.errors import CallboardError, Fenced, InvalidData, SchemaMismatch, StaleTurn, StorageUnavailable
from storage.journal import Flush
from storage.records import Fence, Mark, TurnRecord
from storage.store import TurnStore

_logger = logging.getLogger("callboard.commit")

GROUP_BYTES = 8 * 1024 * 1024  # keeps one statement well below Postgres' limit of 1 GiB, and its latency low
ROOM_BYTES = 4 * GROUP_BYTES  # on their way to the commit; past that no further turn begins
GATHER_PASSES = 2  # of the event loop before a commit: turns that the last one has made ready come along
_RETRY_S = (0.02, 0.1, 0.25, 0.5, 1.0)


class Entry:
    """One turn (or the mark of a failed one) on its way to the commit."""

    __slots__ = ("activation", "envelope", "outcome", "size", "written")

    def __init__(
        self,
        activation: Activation,
        envelope: Envelope,
        outcome: TurnRecord | Mark | Flush,
        written: Written | None = None,
    ) -> None:
        self.activation = activation
        self.envelope = envelope
        self.outcome = outcome
        self.written = written
        self.size = _size_of(outcome)
        """About how many bytes the commit will send for it."""

    def settle(self, committed: bool) -> None:
        if self.written is not None:
            self.written.settle(committed)


class CommitEvents(Protocol):
    """What the committer tells the host. None of it may raise."""

    def committed(self, entries: Sequence[Entry], numbers: list[int | None] | None) -> None:
        """These are durable. `numbers` are those of the messages sent, or None if they are not known."""

    def discarded(self, entries: Sequence[Entry], *, perhaps_committed: bool = False) -> None:
        """These will not commit from here: their agents must start again from committed state.

        After an unknown outcome they may have been committed before; then nobody has published their sends.
        """

    def refused(self, entry: Entry, error: InvalidData) -> None:
        """Postgres refuses this very turn for its data; nothing of it was written."""

    async def fenced(self) -> bool:
        """Find out what is still owned; True to go on with that, False when this incarnation has ended."""
        ...


class Committer:
    """Takes entries in order and commits them in order.

    Turns of an agent follow each other into the same or a later group, so a group that fails takes the later
    turns of its agents with it: the host drops those activations, and `_take` leaves dead ones out.
    """

    def __init__(self, fence: Fence, store: TurnStore, events: CommitEvents, *, group_limit: int) -> None:
        self._fence = fence
        self._store = store
        self._events = events
        self._group_limit = group_limit
        self._pending: deque[Entry] = deque()
        self._bytes = 0  # of what is pending
        self._wanted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.has_room = True
        self._room = asyncio.Event()
        self._room.set()
        self._is_stale = False  # whether anything in the group that was committed last was out of date
        self._stale = 0  # such groups in a row
        self.commits = 0
        self.turns = 0

    def submit(self, entry: Entry) -> None:
        entry.activation.uncommitted += 1
        if not self._pending:
            self._wanted.set()
            self._idle.clear()
        self._pending.append(entry)
        self._bytes += entry.size
        if len(self._pending) >= 4 * self._group_limit or self._bytes >= ROOM_BYTES:
            self.has_room = False
            self._room.clear()

    def drop_dead(self) -> None:
        """Let go of the turns of activations that were dropped."""
        dead = [entry for entry in self._pending if not entry.activation.alive]
        if dead:
            self._pending = deque(entry for entry in self._pending if entry.activation.alive)
            self._bytes -= sum(entry.size for entry in dead)
            self._events.discarded(dead)

    async def room(self) -> None:
        """Wait while more turns are on their way than the next few commits can take."""
        await self._room.wait()

    @property
    def is_idle(self) -> bool:
        return self._idle.is_set()

    async def drained(self) -> None:
        """Wait until nothing is on its way."""
        await self._idle.wait()

    async def run(self) -> None:
        """Runs until this incarnation has ended (returns) or is cancelled."""
        while True:
            await self._wanted.wait()
            for _ in range(GATHER_PASSES):
                await asyncio.sleep(0)
            group = self._take()
            self._is_stale = False
            if group and not await self._commit(group):
                return
            self._stale = self._stale + 1 if self._is_stale else 0
            if self._is_stale:  # not a hot loop, whatever the cause
                await asyncio.sleep(_RETRY_S[min(self._stale, len(_RETRY_S)) - 1])
            if not self._pending:
                self._wanted.clear()
                self._idle.set()
            if len(self._pending) < 2 * self._group_limit and self._bytes < ROOM_BYTES // 2:
                self.has_room = True
                self._room.set()

    def _take(self) -> list[Entry]:
        group: list[Entry] = []
        dead: list[Entry] = []
        size = 0
        while self._pending and len(group) < self._group_limit and size < GROUP_BYTES:
            entry = self._pending.popleft()
            (group if entry.activation.alive else dead).append(entry)
            size += entry.size
        self._bytes -= size
        if dead:
            self._events.discarded(dead)
        return group

    async def _commit(self, group: list[Entry], *, ambiguous: bool = False) -> bool:
        """Commit the group, whatever it takes; False when this incarnation has ended. `ambiguous`: whether that may have
        been done before."""
        failures = 0
        while group:
            outcomes = [entry.outcome for entry in group]
            writes = [outcome for outcome in outcomes if not isinstance(outcome, Mark)]
            marks = (
                [outcome for outcome in outcomes if isinstance(outcome, Mark)]
                if len(writes) < len(outcomes)
                else []
            )
            try:
                numbers: list[int | None] | None = await self._store.commit(self._fence, writes, marks)
            except Fenced:
                if not await self._events.fenced():
                    self._events.discarded(group)
                    return False
                group = self._living(group, perhaps_committed=ambiguous)
                continue
            except (StaleTurn, InvalidData) as error:
                if len(group) > 1:  # narrowed down to the turn that it is about
                    middle = len(group) // 2
                    if not await self._commit(group[:middle], ambiguous=ambiguous):
                        self._events.discarded(group[middle:])
                        return False
                    rest = self._living(group[middle:], perhaps_committed=ambiguous)
                    return await self._commit(rest, ambiguous=ambiguous)
                if isinstance(error, InvalidData):
                    self._events.refused(group[0], error)
                    return True
                agent = group[0].activation.agent
                _logger.warning("%s %s starts again from committed state.", error.message, agent)
                self._events.discarded(group, perhaps_committed=ambiguous)
                self._is_stale = True
                return True
            except StorageUnavailable as error:
                _logger.warning("the outcome of a commit is unknown: %s", error.message)
                ambiguous = True
                settled = await self._settle(group)
                if settled is None:
                    self._events.discarded(group)
                    return False
                if not settled:
                    await asyncio.sleep(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
                    failures += 1
                    # A partition may have left meanwhile, and have come back: its turns run again from what is
                    # committed, so what they had recorded before must not follow.
                    group = self._living(group, perhaps_committed=True)
                    continue
                numbers = None
            except SchemaMismatch:
                raise  # no further try can succeed: the incarnation ends
            except CallboardError as error:
                _logger.error("a commit failed: %s", error)
                await asyncio.sleep(_RETRY_S[-1])  # it will most likely fail again
                self._events.discarded(group, perhaps_committed=ambiguous)
                return True
            faultpoints.reached("commit.after")
            self.commits += 1
            self.turns += sum(isinstance(write, TurnRecord) for write in writes)
            self._events.committed(group, numbers)
            return True
        return True

    async def _settle(self, group: Sequence[Entry]) -> bool | None:
        """Whether the last attempt was committed after all; None when this incarnation has ended.

        What was dropped meanwhile proves nothing: its agent may have gone on elsewhere, and have written the like.
        """
        attempt = 0
        lost: set[int] = set()  # partitions
        while (proof := _proof(group, lost)) is not None:
            try:
                return await self._store.settle(self._fence, proof)
            except Fenced:
                if not await self._events.fenced():
                    return None
                lost.add(proof.partition)  # what is still ours may have been committed all the same
            except StorageUnavailable:
                await asyncio.sleep(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
                attempt += 1
        return False  # marks alone: writing them once more only counts a failure twice

    def _living(self, group: Sequence[Entry], *, perhaps_committed: bool = False) -> list[Entry]:
        dead = [e for e in group if not e.activation.alive]
        if dead:
            self._events.discarded(dead, perhaps_committed=perhaps_committed)
        return [e for e in group if e.activation.alive]


def _size_of(write: TurnRecord | Mark | Flush) -> int:
    if isinstance(write, Mark):
        return 200
    size = 0
    for send in write.sends:
        size += len(send.payload) + len(send.header_json)
    if isinstance(write, TurnRecord):
        size += len(write.body) + len(write.state or "")
        for _, message in write.accepts:
            size += len(message.payload)
    if write.journal is not None:
        journal = write.journal
        for entry in journal.entries:
            size += 200 + len(entry.value)
        for made in journal.promises:
            size += 200 + len(made.name) + len(made.details or "")
        for call in journal.calls:
            size += 200 + len(call.arguments or "")
    return size


def _proof(group: Sequence[Entry], lost: set[int]) -> TurnRecord | Flush | None:
    """A write that leaves a trace, of an agent whose partition has been ours all the while."""
    for entry in group:
        write = entry.outcome
        if isinstance(write, Mark) or not entry.activation.alive or write.partition in lost:
            continue
        if isinstance(write, TurnRecord) or write.journal.leaves_trace:
            return write
    return None
