"""A host: owns partitions and runs the turns of the agents in them. It knows nothing of Ray.

The main flow: `Inbox` and `Mailboxes` bring messages, `_work` handles one message of one agent after another,
`Committer` makes the turns durable in groups, `Outbound` publishes what they sent. `Holdings` keeps the
partitions in step with what Postgres says this incarnation owns.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from time import monotonic
from typing import Any

import msgspec

from actors.activation import Activation
from actors.blobs import BlobsUnavailable
from actors.books import size_of
from actors.cancelling import Cancelling
from actors.committer import Committer, Entry
from actors.cycles import CycleWatch
from actors.eviction import evict_idle
from actors.holdings import Holdings
from actors.mailboxes import Mailboxes
from actors.outbound import Outbound
from actors.outcomes import Outcome
from actors.pausing import Pausing
from actors.ready import ReadyQueue
from actors.schedules import Schedules
from actors.scope import Scope
from actors.slice import Slice
from actors.spending import learn
from actors.sweep import Sweep
from actors.task_messages import task_agent
from actors.timers import Timers
from actors.trials import Trials
from actors.turn import TurnRunner
from actors.unwinding import uncancel
from actors.waiting import WaitingTurns
from actors.wake import is_wake
from bus.envelope import Envelope, Outgoing
from bus.errors import Fenced, InvalidData, SchemaMismatch, StorageUnavailable
from bus.transport import Transport
from storage.intake import nudge
from storage.journal import Does, Flush, JournalWrite
from storage.records import Fence, Mark, TurnRecord
from storage.spent import Reached
from storage.store import HostStore

_logger = logging.getLogger("callboard.host")

_BLOB_RETRY_S = 0.5
_LOOK_AGAIN_S = 0.2
_OVERDUE_EVERY_S = 1.0
_ASIDE_SHARE = 0.25  # of the cache, for messages that are overtaken; past that they keep their place
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
        self.committer = Committer(fence, store, self, group_limit=scope.limits.turns_per_commit)
        self.outbound = Outbound(fence.epoch, transport, self._deliver_local)
        self.trials = Trials(
            self.mailboxes, self.ready, self.committer, self._run_turn,
            most_beside=scope.limits.concurrent_turns,
        )  # fmt: skip
        self.cycles = CycleWatch(scope, store, transport)
        self.holdings = Holdings(self, transport)
        self.schedules = Schedules(scope, fence, partitions, store, transport, self.holdings, self.fenced)
        self.timers = Timers(scope, fence, store, self.holdings, self.fenced)
        self.sweep = Sweep(scope, store, self.mailboxes, self.holdings.open_partitions)
        self.mailboxes.may_run = self.holdings.may_run
        self.mailboxes.on_mail = self.waiting.mail
        self.mailboxes.on_dropped = self.waiting.dropped
        self.on_task_events: Callable[[TurnRecord], None] = lambda turn: None
        self.extra_work: list[Callable[[], Awaitable[None]]] = []
        self.ended_why: str | None = None
        store.on_limit = self._limit_reached
        self._transport = transport
        self._slice = Slice()
        self._stopped = asyncio.Event()
        self._closing = False
        self._running: dict[Activation, float] = {}  # since when, by the monotonic clock
        self._workers = 0
        self._flushing = 0  # turns of which nothing runs until a commit has ended
        self._aside = 0  # bytes of what others overtake while it waits for its next try
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_quiet_awaited = False
        self._quiet = asyncio.Event()

    async def run(self) -> str:
        """Work until this incarnation ends; return why it ended."""
        await self.cancelling.begin()
        await self.pausing.begin()
        services = [
            self.committer.run(), self.mailboxes.roster.load_states(), self.holdings.run(),
            self.timers.run(), self.sweep.run(), evict_idle(self.scope, self.mailboxes), self._end_overdue(),
            self.waiting.run(), self.cycles.run(), self.schedules.run(), self.cancelling.run(),
            self.pausing.run(),
            *(work() for work in self.extra_work),
        ]  # fmt: skip
        tasks = self._tasks = {asyncio.create_task(self.guarded(c)) for c in services}
        for _ in range(self.scope.limits.concurrent_turns):
            self._add_worker()
        try:
            await self._stopped.wait()
        finally:
            self._closing = True
            self.waiting.close()
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
        return not self._running and (
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
        except BaseException:
            _logger.exception("a part of the host failed; the incarnation ends")
            self.end("a part of the host failed")

    # -- turns ---------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """One of several workers: take a ready agent, run one turn, hand it to the commit."""
        task = asyncio.current_task()
        while not self._closing and self._is_wanted():
            if not self.committer.has_room:
                await self.committer.room()
            if self._slice.is_over:
                self._slice.ask()
                activation = await self.ready.take_later()
            else:
                activation = self.ready.take_now() or await self.ready.take()
            if self.scope.paused and self.mailboxes.is_held(activation):
                continue
            activation.running = True
            activation.task = task
            entry = await self._run_turn(activation, self.mailboxes.take_head(activation))
            if entry is not None:
                self.committer.submit(entry)
                if activation.queue:
                    self.mailboxes.schedule(activation)
        self._workers -= 1

    def _is_wanted(self) -> bool:
        """Whether there is not one worker more than turns may run, those not counted that wait or are being flushed.

        Those go on without waiting for a place: for a moment more may run.
        """
        most = self.scope.limits.concurrent_turns
        return self._workers <= most or self._workers - len(self.waiting) - self._flushing <= most

    def _fill_places(self) -> None:
        if self._workers - len(self.waiting) - self._flushing < self.scope.limits.concurrent_turns:
            self._add_worker()

    def _add_worker(self) -> None:
        self._workers += 1
        # A context of its own: this may be called by a handler, in the context of one of its branches.
        task = asyncio.create_task(self.guarded(self._work()), context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_turn(self, activation: Activation, envelope: Envelope) -> Entry | None:
        """Run one turn of an agent that is marked running; None when there is nothing to commit."""
        self._enter(activation)
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
        except BlobsUnavailable as error:
            _logger.warning("a turn of %s waits for storage: %s", activation.agent, error)
            self._again_later(activation, envelope, error.journaled)
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
            self._leave(activation)
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
            self._wait_for_retry(activation, envelope, outcome)
        elif isinstance(outcome, TurnRecord):
            activation.apart.discard(envelope.seq)
            if outcome.mark is not None:  # paused by its supervision: the message stays on disk
                self.mailboxes.forget(envelope.seq)
                activation.more = True
        return Entry(activation, envelope, outcome)

    def _hold_turn(self, activation: Activation, wake: Envelope) -> None:
        """The turn that a wake-up is for is part of what is paused: both stay where they are."""
        assert activation.journal is not None
        activation.journal.close()
        activation.journal = None
        activation.parked = True
        self.mailboxes.put_back(activation, wake)
        self.mailboxes.hold(activation)

    def _wait_for_retry(self, activation: Activation, envelope: Envelope, mark: Mark) -> None:
        delay = mark.delay_s or 0.0
        again = msgspec.structs.replace(envelope, failures=envelope.failures + mark.failed, open=mark.open)
        handler = activation.type.handlers.get(envelope.header.type)
        size = size_of(again)
        # An open turn keeps its place.
        may_be_overtaken = handler is not None and handler.overtake and not mark.open
        if may_be_overtaken and self._aside + size <= self.scope.limits.cached_bytes * _ASIDE_SHARE:
            self._aside += size
            self.scope.clock.call_at(self.scope.clock.now() + delay, self._try_again, activation, again, size)
            if activation.more:  # no commit of this turn brings the next messages
                self.mailboxes.refill(activation)
        else:
            activation.blocked_until = self.scope.clock.now() + delay
            self.mailboxes.put_back(activation, again)

    def _try_again(self, activation: Activation, envelope: Envelope, size: int) -> None:
        self._aside -= size
        if activation.alive:
            self.mailboxes.put_back(activation, envelope)
            self.mailboxes.schedule(activation)

    def _again_later(self, activation: Activation, envelope: Envelope, journaled: bool) -> None:
        """Storage was away: run the turn again. One with a journal starts from what is committed of it."""
        if not activation.alive:
            return
        if journaled or envelope.open or is_wake(envelope):
            self.drop(activation)
        else:
            activation.blocked_until = self.scope.clock.now() + _BLOB_RETRY_S
            self.mailboxes.put_back(activation, envelope)

    def drop(self, activation: Activation) -> None:
        """Let go of an agent whose turn cannot go on, and bring it back from committed state a little later."""
        self.mailboxes.drop(activation)
        self.committer.drop_dead()
        asyncio.get_running_loop().call_later(_BLOB_RETRY_S, self._restart, activation)

    # -- turns that wait (TurnHost) -------------------------------------------------------------------

    def flush(self, activation: Activation, envelope: Envelope, flush: Flush) -> asyncio.Future[bool]:
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.committer.submit(Entry(activation, envelope, flush, done))
        if activation.journal is not None and activation.journal.branches.running == 1:
            # Nothing else of the turn runs: another one may, and what that records goes along with the next commit.
            self._flushing += 1
            done.add_done_callback(self._flushed)
            self._fill_places()
        return done

    def _flushed(self, done: asyncio.Future[bool]) -> None:
        self._flushing -= 1

    def waits(self, activation: Activation) -> None:
        self._leave(activation)
        self.waiting.waits(activation)
        self._fill_places()

    def runs(self, activation: Activation) -> None:
        self.waiting.runs(activation)
        self._enter(activation)

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

    def _enter(self, activation: Activation) -> None:
        """The activation's handler runs, in the task that began it."""
        self._running[activation] = monotonic()

    def _leave(self, activation: Activation) -> None:
        self._running.pop(activation, None)
        if self._is_quiet_awaited and not self._running:
            self._is_quiet_awaited = False
            self._quiet.set()

    def in_memory(self) -> list[Activation]:
        """Those whose handlers run or wait in memory."""
        return [*self._running, *self.waiting]

    async def quiet(self, timeout_s: float) -> None:
        """Wait until no turn runs, at most so long."""
        if not self._running:
            return
        self._quiet.clear()
        self._is_quiet_awaited = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._quiet.wait()

    # -- what the committer reports (CommitEvents) -----------------------------------------------------

    def committed(self, entries: Sequence[Entry], numbers: list[int | None] | None) -> None:
        sends: list[Outgoing] = []
        for entry in entries:
            activation = entry.activation
            activation.uncommitted -= 1
            outcome = entry.outcome
            if not isinstance(outcome, Mark):
                for send in outcome.sends:
                    if send.visible_at is None:
                        sends.append(send)  # noqa: PERF401  # a comprehension is one more call
                if outcome.journal is not None:
                    self._journaled(activation, outcome.journal)
                if isinstance(outcome, TurnRecord):
                    if outcome.seq is not None:
                        self.mailboxes.handled(activation, outcome.seq)
                    if outcome.tasks or outcome.task_events:
                        self.on_task_events(outcome)
            if entry.done is not None:
                entry.settle(True)
        if numbers is None:
            self.outbound.skip({(send.domain, send.partition) for send in sends})
        elif sends:
            self.outbound.publish(zip(sends, numbers, strict=True))

    def _journaled(self, activation: Activation, journal: JournalWrite) -> None:
        if journal.promises or journal.given_up:
            self.cycles.committed(activation, journal)
        if journal.does in (Does.OPEN, Does.END):
            self.mailboxes.turn_opened_or_ended(activation)
        for seq in journal.consumed:
            activation.apart.discard(seq)
            self.mailboxes.handled(activation, seq)
        if journal.does is Does.END:
            activation.apart.discard(journal.seq)
            self.mailboxes.handled(activation, journal.seq)

    def discarded(self, entries: Sequence[Entry], *, perhaps_committed: bool = False) -> None:
        for entry in entries:
            activation = entry.activation
            activation.uncommitted -= 1
            if isinstance(entry.outcome, TurnRecord):
                self.mailboxes.forget(entry.envelope.seq)
            if perhaps_committed and not isinstance(entry.outcome, Mark):
                self.outbound.skip({(send.domain, send.partition) for send in entry.outcome.sends})
            entry.settle(False)
        fallen = {id(a): a for a in map(self._must_start_again, entries) if a is not None}
        for activation in fallen.values():
            self.mailboxes.drop(activation)
        if fallen:
            self.committer.drop_dead()
        for activation in fallen.values():
            self._restart(activation)

    def _must_start_again(self, entry: Entry) -> Activation | None:
        """The entry's activation, or the one that has come in its place while this commit was undecided: that one has
        left out the message, which was known here as one that is about to have been handled."""
        if entry.activation.alive or not isinstance(entry.outcome, TurnRecord):
            return entry.activation if entry.activation.alive else None
        return self.mailboxes.roster.find(entry.activation.key)

    def refused(self, entry: Entry, error: InvalidData) -> None:
        """The turn's data is refused for good: its message becomes a dead letter, the agent goes on."""
        activation = entry.activation
        activation.uncommitted -= 1
        _logger.error("a turn of %s cannot be stored: %s", activation.agent, error)
        turn = entry.outcome
        if isinstance(turn, Mark) or (
            isinstance(turn, TurnRecord) and turn.dead is not None
        ):  # not even the plain words can be stored
            self.mailboxes.drop(activation)
            self.end(f"Postgres refuses a dead letter: {error.message}")
            return
        self.turns.condemned[entry.envelope.seq] = error.message
        self.mailboxes.forget(entry.envelope.seq)
        self.mailboxes.drop(activation)
        self.committer.drop_dead()
        self._restart(activation)
        entry.settle(False)

    def _limit_reached(self, reached: Reached) -> None:
        """A commit of this host's has found a task above one of its limits."""
        learn(self.scope, reached)
        if reached.told is not None:
            leader = task_agent(reached.task)
            nudge(self._transport, [(leader.domain, reached.told, reached.tenant, leader.agent)])

    async def fenced(self) -> bool:
        """Look at what is still owned; the partitions that are not leave now, with all that is cached."""
        while True:
            try:
                return await self.holdings.refresh()
            except StorageUnavailable as error:
                _logger.warning("ownership cannot be read: %s", error.message)
                await asyncio.sleep(_LOOK_AGAIN_S)

    def _restart(self, activation: Activation) -> None:
        if not self.has_ended and self.holdings.owns(activation.partition):
            self.mailboxes.restart(activation.tenant, activation.agent, activation.partition)

    def _deliver_local(self, domain: str, parcel: Any) -> bool:
        return domain == self.fence.domain and self.holdings.take(parcel)

    # -- the clockwork ---------------------------------------------------------------------------------

    async def _end_overdue(self) -> None:
        """Cancel handlers that run longer than the domain allows, so that none holds a worker for ever."""
        while True:
            await asyncio.sleep(_OVERDUE_EVERY_S)
            since = monotonic() - self.scope.limits.turn_s
            for activation, began in list(self._running.items()):
                if began < since and activation.task is not None:
                    activation.overdue = True
                    activation.task.cancel()


def _unwanted(activation: Activation, wake: Envelope) -> Flush:
    """A wake-up whose turn has ended: it leaves the mailbox, and that is all."""
    return Flush(
        tenant=activation.tenant, partition=activation.partition, agent=activation.agent,
        journal=JournalWrite(seq=wake.seq, turn=wake.header.id, does=Does.NONE, consumed=(wake.seq,)),
    )  # fmt: skip
