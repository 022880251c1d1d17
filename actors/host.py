"""A host: owns partitions and runs the turns of the agents in them. It knows nothing of Ray.

The main flow: `Inbox` and `Mailboxes` bring messages, `Workers` handle one message of one agent after another,
`Committer` makes the turns durable in groups, `Settling` takes note of what is durable, `Outbound` publishes what was
sent. `Holdings` keeps the partitions in step with what Postgres says this incarnation owns.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from actors.activation import Activation
from actors.blobs import BlobsUnavailable
from actors.cancelling import Cancelling
from actors.committer import Committer, Entry
from actors.cycles import CycleWatch
from actors.eviction import evict_idle
from actors.holdings import Holdings
from actors.mailboxes import Mailboxes
from actors.next_tries import STORAGE_RETRY_S, NextTries
from actors.outbound import Outbound
from actors.outcomes import Outcome
from actors.pausing import Pausing
from actors.ready import ReadyQueue
from actors.schedules import Schedules
from actors.scope import Scope
from actors.settling import Settling
from actors.spending import learn
from actors.sweep import Sweep
from actors.task_messages import task_agent
from actors.timers import Timers
from actors.trials import Trials
from actors.turn import TurnRunner
from actors.unwinding import uncancel
from actors.waiting import WaitingTurns
from actors.wake import is_wake
from actors.workers import Workers
from actors.written import Written
from bus.envelope import Envelope
from bus.errors import Fenced, InvalidPayload, SchemaMismatch, StorageUnavailable
from bus.transport import Transport
from storage.intake import nudge
from storage.journal import Does, Flush, JournalWrite
from storage.records import Fence, Mark, TurnRecord
from storage.spent import Reached
from storage.store import HostStore

_logger = logging.getLogger("callboard.host")

_LEAVE_S = 5.0  # what still runs when the incarnation ends has so long to notice


class Host:
    """One incarnation. `run` returns when its epoch has ended or `stop` was called."""

    def __init__(
        self, scope: Scope, fence: Fence, partitions: int, store: HostStore, transport: Transport
    ) -> None:
        self.scope = scope
        self.fence = fence
        self.partitions = partitions
        self.store = store
        self.ready = ReadyQueue()
        self.mailboxes = Mailboxes(scope, store, self.ready)
        self.turns = TurnRunner(scope, store, self, fence.epoch)
        self.waiting = WaitingTurns(self)
        self.cancelling = Cancelling(self)
        self.pausing = Pausing(self)
        self.settling = Settling(self)
        self.committer = Committer(fence, store, self.settling, group_limit=scope.limits.turns_per_commit)
        self.outbound = Outbound(fence.epoch, transport, self._deliver_local)
        self.trials = Trials(
            self.mailboxes, self.ready, self.committer, self.run_turn, self.waiting.put_away,
            most_beside=scope.limits.concurrent_turns,
        )  # fmt: skip
        self.cycles = CycleWatch(scope, store, transport)
        self.holdings = Holdings(self, transport)
        self.schedules = Schedules(
            scope, fence, partitions, store, transport, self.holdings, self.settling.fenced
        )
        self.timers = Timers(scope, fence, store, self.holdings, self.settling.fenced)
        self.workers = Workers(self)
        self.next_tries = NextTries(scope, self.mailboxes)
        self.sweep = Sweep(scope, store, self.mailboxes, self.holdings.open_partitions)
        self.mailboxes.may_run = self.holdings.may_run
        self.mailboxes.on_mail = self.waiting.mail
        self.mailboxes.on_dropped = self.waiting.dropped
        self.mailboxes.on_failed = self._failed
        scope.flights.on_room.append(self.mailboxes.held.let_go)
        self.on_task_events: Callable[[TurnRecord], None] = lambda turn: None
        self.extra_work: list[Callable[[], Awaitable[None]]] = []
        self.ended_why: str | None = None
        store.on_limit = self._limit_reached
        self._transport = transport
        self._stopped = asyncio.Event()
        self._closing = False

    async def run(self) -> str:
        """Work until this incarnation ends; return why it ended."""
        await self.cancelling.begin()
        await self.pausing.begin()
        services = [
            self.committer.run(), self.mailboxes.roster.load_states(), self.holdings.run(),
            self.timers.run(), self.sweep.run(), evict_idle(self.scope, self.mailboxes), self.workers.end_overdue(),
            self.waiting.run(), self.cycles.run(), self.schedules.run(), self.cancelling.run(),
            self.pausing.run(),
            *(work() for work in self.extra_work),
        ]  # fmt: skip
        tasks = {asyncio.create_task(self.guarded(c)) for c in services}
        self.workers.begin()
        try:
            await self._stopped.wait()
        finally:
            self._closing = True
            self.workers.close()
            self.waiting.close()
            tasks |= self.workers.tasks
            for task in tasks:
                task.cancel()
            _, stubborn = await asyncio.wait(tasks, timeout=_LEAVE_S)
            if stubborn:  # a handler that swallows its cancellation; whatever it does, it commits nothing
                _logger.error("%d turns go on although their host has ended", len(stubborn))
            self.mailboxes.close()
        return self.ended_why or "stopped"

    def end(self, why: str) -> None:
        """Stop at once: nothing more may be committed, or nothing more is wanted."""
        if not self._stopped.is_set():
            self.ended_why = why
            _logger.info("epoch %d of %s ends: %s", self.fence.epoch, self.fence.domain, why)
            self._stopped.set()

    @property
    def has_ended(self) -> bool:
        return self._stopped.is_set()

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is left to do before a message, a change of ownership or a later time comes."""
        return self.workers.is_at_rest and (
            not self.ready
            and self.committer.is_idle
            and self.mailboxes.is_at_rest
            and self.trials.is_at_rest(self.waiting.holds)
            and self.cycles.is_at_rest
            and self.holdings.is_at_rest
        )

    async def guarded(self, coroutine: Awaitable[Any]) -> None:
        """Run a part of the host; when it fails, the incarnation ends, and another takes its place."""
        try:
            await coroutine
        except (Fenced, SchemaMismatch) as error:
            self.end(error.message)
        except asyncio.CancelledError:
            if not self.has_ended and not self._closing:
                _logger.error("a part of the host was cancelled by what it ran; the incarnation ends")
                self.end("a part of the host was cancelled")
            raise
        except BaseException as error:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        _logger.error("a part of the host failed; the incarnation ends", exc_info=error)
        self.end("a part of the host failed")

    # -- turns ---------------------------------------------------------------------------------------

    async def run_turn(self, activation: Activation, envelope: Envelope) -> Entry | None:
        """Run one turn of an agent that is marked running; None when there is nothing to commit."""
        self.workers.entered(activation)
        outcome: Outcome | None = None
        try:
            if is_wake(envelope):
                wake, turn = envelope, await self.turns.open_turns.reopen(activation, envelope)
                if turn is None:
                    outcome = _unwanted(activation, wake)
                elif self.scope.is_held(turn):
                    self._hold_turn(activation, wake)
                    return None
                else:
                    envelope = turn
                    self.mailboxes.came_back(activation, turn.seq)
            if outcome is None:
                activation.at_work = envelope
                outcome = await self.turns.run(activation, envelope)
        except InvalidPayload as error:
            outcome = await self.turns.cannot_read(activation, envelope, error)
        except BlobsUnavailable as error:
            _logger.warning("a turn of %s waits for storage: %s", activation.agent, error)
            self._storage_was_away(activation, envelope, error.journaled)
        finally:
            activation.running = False
            activation.at_work = None
            put_away = activation.parking
            if activation.overdue or put_away or activation.cancelled is not None:
                activation.cancelled = None
                activation.overdue = activation.parking = False
                uncancel()
            if self.waiting:
                self.waiting.runs(activation)
            self.workers.left(activation)
        if not activation.alive:
            return None
        if put_away:
            self.mailboxes.put_away(activation)
            return None
        if outcome is None:  # it waits for storage, or has ended meanwhile
            if envelope.seq in activation.apart:
                activation.apart.discard(envelope.seq)
                self.mailboxes.forget(envelope.seq)
            self.mailboxes.schedule(activation)
            return None
        self.mailboxes.roster.touch(activation)
        if isinstance(outcome, Mark):
            self.next_tries.after_failure(activation, envelope, outcome)
        elif isinstance(outcome, TurnRecord):
            activation.apart.discard(envelope.seq)
            if outcome.mark is not None:  # paused by its supervision: the message stays on disk
                self.mailboxes.forget(envelope.seq)
                activation.more = True
                activation.more_control |= envelope.is_control
        return Entry(activation, envelope, outcome)

    def _hold_turn(self, activation: Activation, wake: Envelope) -> None:
        """The turn that a wake-up is for is part of what is paused: both stay where they are."""
        assert activation.journal is not None
        activation.journal.close()
        activation.journal = None
        activation.parked = True
        self.mailboxes.put_back(activation, wake)
        self.mailboxes.held.hold_turn(activation)

    def _storage_was_away(self, activation: Activation, envelope: Envelope, journaled: bool) -> None:
        """The turn runs again. One with a journal starts from what is committed of it."""
        if not activation.alive:
            return
        if journaled or envelope.open or is_wake(envelope):
            self.drop(activation)
        else:
            self.next_tries.after_storage_was_away(activation, envelope)

    def drop(self, activation: Activation) -> None:
        """Let go of an agent whose turn cannot go on, and bring it back from committed state a little later."""
        self.mailboxes.drop(activation)
        self.committer.drop_dead()
        asyncio.get_running_loop().call_later(STORAGE_RETRY_S, self.settling.restart, activation)

    # -- turns that wait (TurnHost) -------------------------------------------------------------------

    def flush(self, activation: Activation, envelope: Envelope, flush: Flush) -> Written:
        written = Written()
        self.committer.submit(Entry(activation, envelope, flush, written))
        if activation.journal is not None and activation.journal.branches.running == 1:
            self.workers.flushing(written)
        return written

    def waits(self, activation: Activation) -> None:
        self.workers.left(activation)
        self.waiting.waits(activation)
        self.trials.waits(activation)
        self.workers.fill_places()

    def runs(self, activation: Activation) -> None:
        self.waiting.runs(activation)
        self.workers.entered(activation)

    async def withdraw(self, activation: Activation, message: str) -> int | None:
        on_disk: int | None = None
        if not activation.has_queued(message):
            try:
                on_disk = await self.store.find_mail(
                    self.fence.domain, activation.partition, activation.tenant, activation.agent, message
                )
            except StorageUnavailable as error:
                raise BlobsUnavailable(error.message) from error
        for envelope in activation.queue:  # perhaps it has just been read
            if envelope.header.id == message:
                return self.mailboxes.take(activation, envelope).seq
        if on_disk is None or self.mailboxes.knows(on_disk):  # it runs, or has been handled
            return None
        self.mailboxes.set_apart(activation, on_disk)
        return on_disk

    def give_back(self, activation: Activation, numbers: Sequence[int]) -> None:
        self.mailboxes.give_back(activation, numbers)

    def in_memory(self) -> list[Activation]:
        """Those whose handlers run or wait in memory."""
        return [*self.workers.running, *self.waiting]

    def _limit_reached(self, reached: Reached) -> None:
        """A commit of this host's has found a task above one of its limits."""
        learn(self.scope, reached)
        if reached.told is not None:
            leader = task_agent(reached.task)
            nudge(self._transport, [(leader.domain, reached.told, reached.tenant, leader.agent)])

    def _deliver_local(self, domain: str, parcel: Any) -> bool:
        return domain == self.fence.domain and self.holdings.take(parcel)


def _unwanted(activation: Activation, wake: Envelope) -> Flush:
    """A wake-up whose turn has ended: it leaves the mailbox, and that is all."""
    return Flush(
        tenant=activation.tenant, partition=activation.partition, agent=activation.agent,
        journal=JournalWrite(seq=wake.seq, turn=wake.header.id, does=Does.NONE, consumed=(wake.seq,)),
    )  # fmt: skip
