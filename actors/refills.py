"""Which agents' mailboxes are read again from Postgres, and when there is room for what is found."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from actors.activation import PAUSED, Activation
from actors.books import Books
from actors.ready import ReadyQueue
from actors.scope import Scope
from bus.envelope import Envelope
from bus.errors import StorageError
from storage.records import Share

_logger = logging.getLogger("callboard.refills")

RETRY_S = 0.2
_RETRY_LATER_S = 10.0  # at most, after errors that are nobody's outage: each is a traceback in the log
_STANDSTILL_S = 0.05  # a full cache of which nothing leaves in that time lets one agent in all the same


class MailboxReader(Protocol):
    async def load_agent(
        self,
        domain: str,
        partition: int,
        tenant: str,
        agent: str,
        share: Share,
        *,
        control_only: bool = False,
    ) -> tuple[list[Envelope], bool]: ...


TakeIn = Callable[[Activation, list[Envelope], bool, bool], None]
"""Queues what was found: the agent, its messages, whether there are more, whether only control messages were read."""


class Refills:
    """Agents that wait in `hungry` are read as others' messages leave, in the order they asked. A message that cannot
    run for a while gives its bytes to them."""

    def __init__(
        self,
        scope: Scope,
        store: MailboxReader,
        books: Books,
        ready: ReadyQueue,
        take_in: TakeIn,
        on_failed: Callable[[BaseException], None],
    ) -> None:
        self._scope = scope
        self._store = store
        self._books = books
        self._ready = ready
        self._take_in = take_in
        self._on_failed = on_failed
        self._hungry: dict[Activation, bool] = {}  # to be read again, of these only the control messages
        self._later: dict[Activation, None] = {}  # their first message cannot run yet
        self._asked: set[Activation] = set()  # to be read once more, after the read that is under way
        self._promised = 0  # bytes that the reads under way may bring
        self._waiting_for_room: asyncio.TimerHandle | None = None
        self._reading: dict[Activation, asyncio.Task[None]] = {}
        self._failing: set[Activation] = set()  # whose mailboxes cannot be read, and not for an outage
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def is_at_rest(self) -> bool:
        return not (self._tasks or self._hungry)

    def want(self, activation: Activation, *, control_only: bool = False) -> None:
        """Read the agent's mailbox again, because Postgres holds more of it than the queue."""
        if activation.refilling or not activation.alive:
            return
        if activation.parked or activation.lifecycle == PAUSED:
            if not (control_only or activation.more_control):
                return
            control_only = True
        self._hungry[activation] = control_only and self._hungry.get(activation, True)
        self.feed()

    def want_new(self, activation: Activation) -> None:
        """Read it because something was put into it, also when a read is under way that may have come too early. Of
        an agent that has enough to do, or is paused, only the control messages."""
        activation.more = True
        if activation.refilling:
            self._asked.add(activation)
            return
        has_enough = len(activation.queue) > self._books.per_agent // 4 or activation.is_closed
        self.want(activation, control_only=has_enough)

    def cannot_run_yet(self, activation: Activation) -> None:
        """Its first message waits for a time: the bytes are others' if they need them."""
        self._later[activation] = None
        self.feed()

    def forget(self, activation: Activation) -> None:
        """The agent leaves memory."""
        self._hungry.pop(activation, None)
        self._later.pop(activation, None)

    async def read_heads(self, activations: Sequence[Activation], *, at_last: bool = False) -> None:
        """Wait until the first messages of these can be taken: those that are unread are read, room or not. Those of
        mailboxes that cannot be read stay unread, since nobody else waits for them: `at_last` waits for these, too."""
        while unread := [
            a for a in activations if self._is_unread(a) and (at_last or a not in self._failing)
        ]:
            if unread[0] not in self._reading:
                self._start(unread[0], False, 1)
            await asyncio.wait((self._reading[unread[0]],), timeout=RETRY_S)

    def feed(self, *, anyway: bool = False) -> None:
        """Begin to read again, in the order they asked, as many agents as there is room for."""
        books = self._books
        while self._hungry and not self._is_closed:
            activation, control_only = next(iter(self._hungry.items()))
            if activation.refilling or not activation.alive:
                del self._hungry[activation]
                continue
            room = self._room()
            size = books.agent_bytes if room >= books.agent_bytes else books.least_bytes
            if room < size and not anyway:
                self._make_room()
                if self._room() < size:
                    if self._waiting_for_room is None:
                        self._waiting_for_room = asyncio.get_running_loop().call_later(
                            _STANDSTILL_S, self._after_standstill, books.bytes
                        )
                    return
            anyway = False
            del self._hungry[activation]
            self._start(activation, control_only, size)

    def close(self) -> None:
        """The incarnation has ended: stop what still reads, and begin nothing more, whatever still comes in."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        if self._waiting_for_room is not None:
            self._waiting_for_room.cancel()

    @staticmethod
    def _is_unread(activation: Activation) -> bool:
        return bool(activation.alive and (head := activation.head()) and not head.payload)

    def _room(self) -> int:
        return self._books.most_bytes - self._books.bytes - self._promised

    def _after_standstill(self, before: int) -> None:
        """Nothing may ever leave a cache that is full of what waits for something else: as long as a worker has
        nothing to do, it gets one agent more."""
        self._waiting_for_room = None
        self.feed(anyway=self._books.bytes >= before and not self._ready)

    def _make_room(self) -> None:
        """Messages that cannot run yet become unread, as far as others need their bytes."""
        while self._later and self._room() < self._books.least_bytes:
            activation = next(iter(self._later))
            del self._later[activation]
            if activation.alive and activation.queue and not activation.scheduled and not activation.running:
                head = activation.queue[0]
                waits = activation.may_run_at(head) > self._scope.clock.now() or self._scope.is_held(head)
                if waits and not head.is_control:
                    self._unload(activation)

    def _unload(self, activation: Activation) -> None:
        """Keep the first message, unread, and leave the others on disk."""
        while len(activation.queue) > 1:
            self._books.forget(activation, activation.queue.pop().seq)
            self._books.cached -= 1
        head = activation.queue[0]
        self._books.forget(activation, head.seq)
        self._books.seen[head.seq] = 0
        activation.queue[0] = msgspec.structs.replace(head, payload="")
        activation.more = True

    def _start(self, activation: Activation, control_only: bool, size: int) -> None:
        activation.refilling = True
        if not (activation.queue or activation.apart or activation.uncommitted):
            activation.size = 0
        activation.more_control = False
        if not control_only:
            activation.more = False  # set again by whatever turns out not to fit while the read is under way
        self._promised += size
        task = asyncio.get_running_loop().create_task(self._read(activation, control_only, size))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        self._reading[activation] = task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_failed(error)

    async def _read(self, activation: Activation, control_only: bool, size: int) -> None:
        try:
            # What runs or has not committed is found there once more.
            share = Share(
                messages=self._books.per_agent + activation.uncommitted + len(activation.apart),
                size=size + activation.size,
            )
            retry_s = RETRY_S
            while activation.alive:
                try:
                    with self._books.reading():  # not between the tries, of which there may be no end
                        found, more = await self._store.load_agent(
                            self._scope.domain, activation.partition, activation.tenant, activation.agent, share,
                            control_only=control_only,
                        )  # fmt: skip
                    break
                except StorageError as error:
                    _logger.warning("a mailbox cannot be read yet: %s", error.message)
                except Exception:  # whatever is wrong with this mailbox, its neighbours are read
                    _logger.exception("the mailbox of %s cannot be read", activation.agent)
                    self._failing.add(activation)
                    retry_s = min(2 * retry_s, _RETRY_LATER_S)
                await asyncio.sleep(retry_s)
            else:
                return
        finally:
            self._promised -= size
            activation.refilling = False
            self._failing.discard(activation)
            self._reading.pop(activation, None)
        if activation.alive:
            self._take_in(activation, found, more, control_only)
        if activation in self._asked:
            self._asked.discard(activation)
            if activation.alive:
                self.want_new(activation)
        self.feed()
