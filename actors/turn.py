"""One turn: handle one message by one agent, and put down what is to be committed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from pydantic import BaseModel

from actors.activation import Activation
from actors.agent import Handler
from actors.awaited import require_awaited
from actors.blobs import Blobs, BlobStore, BlobsUnavailable
from actors.context import Context
from actors.control_turn import ControlTurns, DeadLetterReader
from actors.exits import failure_of
from actors.failure import EXPIRED, describe, reason_of
from actors.journal import Journal, TurnGone
from actors.ledger import Ledger, LedgerStore
from actors.open_turns import JournalReader, OpenTurns, TurnHost
from actors.outcomes import Outcome, Outcomes
from actors.refusals import Refusals
from actors.retry import RetryPolicy
from actors.saga import CANCELLED, Ending, outstanding
from actors.scope import Scope
from actors.task_messages import TaskWork
from actors.threads import in_thread
from actors.unwinding import is_cancelled, uncancel, undo
from actors.wake import wake_without_header
from bus.envelope import UNREADABLE, Envelope
from bus.errors import (
    CallboardError,
    DeadlineExceeded,
    InvalidMessage,
    InvalidPayload,
    LimitExceeded,
    NoHandler,
    NonDeterministicHandler,
    TaskCancelled,
    TurnTimeout,
    UnknownKind,
)
from bus.registry import decode_payload


class TurnStorage(BlobStore, DeadLetterReader, JournalReader, LedgerStore, Protocol):
    """What a turn may need of storage before it commits."""


class TurnRunner:
    """Runs turns. It never raises for what a handler does: a failure is an outcome."""

    def __init__(self, scope: Scope, storage: TurnStorage, host: TurnHost, epoch: int) -> None:
        self._scope = scope
        self.blobs = Blobs(scope.domain, storage)
        ledger = Ledger(scope.domain, epoch, storage)
        self.open_turns = OpenTurns(scope, storage, self.blobs, ledger, host)
        self._outcomes = Outcomes(scope, self.blobs)
        self._control = ControlTurns(scope, storage, self._outcomes, self.open_turns)
        self.refusals = Refusals()

    async def run(self, activation: Activation, envelope: Envelope) -> Outcome | None:
        """Handle the message; return the turn to commit, or the mark of a failure that is tried again.

        None when the turn has been put away, or is over for this host. Raises BlobsUnavailable, and InvalidPayload when
        what is stored of an open turn cannot be read.
        """
        if (
            envelope.open
            and activation.journal is None
            and not await self.open_turns.resume(activation, envelope)
        ):
            return None
        journal = activation.journal
        now = self._scope.clock.now() if journal is None else journal.now
        ctx = Context(self._scope, envelope, now, self.open_turns, activation)
        try:
            outcome = await self._attempt(activation, envelope, ctx)
            if isinstance(outcome, Ending):
                outcome = await self._end(activation, envelope, ctx, outcome)
            return outcome
        except TurnGone:
            activation.instance = None
            return None
        except BlobsUnavailable as away:
            activation.instance = None
            away.journaled = activation.has_open_turn
            if activation.journal is not None and away.journaled:
                # It runs again from what is committed: what other branches have on its way there comes first.
                try:
                    await activation.journal.settled()
                    await activation.journal.write_down(ctx.consequences.unsent)
                except TurnGone:
                    return None
            raise
        finally:
            ctx.close()
            if activation.journal is not None:
                self.open_turns.close_journal(activation, activation.journal)

    async def cannot_read(self, activation: Activation, envelope: Envelope, error: InvalidPayload) -> Outcome:
        """What is stored of a turn that waits says nothing that is known here: nothing of it is lost, and its agent is
        paused, or waits for newer code."""
        if await self._scope.is_outdated():
            return self._outcomes.hold_back(activation, envelope, error)
        ctx = Context(self._scope, envelope, self._scope.clock.now(), self.open_turns, activation)
        return self._outcomes.pause(activation, envelope, ctx, error)

    async def _attempt(
        self, activation: Activation, envelope: Envelope, ctx: Context
    ) -> Outcome | Ending | None:
        """Let the handler have it. An Ending when the message is given up, now or before."""
        doomed = self._why_doomed(activation, envelope, ctx)
        handler = None if envelope.is_control else activation.type.handlers.get(envelope.header.type)
        policy = activation.type.cls.retry if handler is None else handler.retry
        error: Exception
        activation.task = asyncio.current_task()
        try:
            try:
                return await self._take(activation, envelope, handler, ctx, doomed)
            finally:
                activation.task = None  # it can be told to end only as long as the handler may run
        except BlobsUnavailable:
            raise
        except TurnGone:
            journal = activation.journal
            if doomed is None or journal is None or journal.is_closed or activation.parking:
                raise
            return doomed
        except (TaskCancelled, LimitExceeded) as cancelled:
            return doomed or _ending(envelope, CANCELLED, cancelled.message)
        except GeneratorExit:
            activation.instance = None
            raise
        except asyncio.CancelledError:
            if activation.overdue:
                limit = self._scope.limits.turn_s
                error = TurnTimeout(f"The turn has run longer than {limit:g} s.")
            elif activation.cancelled is not None:
                error = RuntimeError("its task was cancelled")
            elif is_cancelled():
                if activation.journal is not None:
                    activation.journal.abandon()
                raise
            else:
                error = RuntimeError("something that the handler waited for was cancelled")
        except Exception as raised:  # whatever a handler raises is its failure, never ours
            error = raised
        except BaseException as raised:  # sys.exit(), the panic of a library written in Rust
            error = failure_of(raised)
        try:
            doomed = doomed or _cut_short(activation, envelope)
            if doomed is not None and not _needs_mending(activation, error, doomed):
                return doomed
            return await self._failed(activation, envelope, ctx, error, policy)
        finally:
            del error  # its traceback has this frame, which has it, and the message: only the collector would find them

    async def _take(
        self,
        activation: Activation,
        envelope: Envelope,
        handler: Handler | None,
        ctx: Context,
        doomed: Ending | None,
    ) -> Outcome | Ending:
        """Everything that may fail: the reading, the handler, the record."""
        if doomed is not None:
            journal, words = activation.journal, doomed.error
            is_cancelled = doomed.reason == CANCELLED
            has_done = is_cancelled or (journal is not None and journal.entries.has_results)
            if journal is None or doomed.leaves or self._kills(envelope) or not has_done:
                return doomed
            # The handler only says again what undoes its results.
            why = (lambda: TaskCancelled(words)) if is_cancelled else TurnGone
            journal.branches.end_early(why, children_first=is_cancelled)
        is_readable = envelope.header.type != UNREADABLE
        if handler is None and not (envelope.is_control and is_readable):  # no further try would find one
            return doomed or await self._unhandled(activation, envelope)
        payload = envelope.payload
        if envelope.header.blob is not None:
            payload = await self.blobs.fetch(envelope.tenant, envelope.header.blob)
        try:
            message = decode_payload(envelope.header.type, payload)
        except InvalidMessage as unreadable:
            if await self._scope.is_outdated():
                return self._outcomes.hold_back(activation, envelope, unreadable)
            raise
        if handler is None:
            return await self._control.run(activation, envelope, message, ctx)
        try:
            await self._handle(activation, envelope, handler, message, ctx)
        finally:
            activation.task = None  # the time of the handler is over: for what it has begun it is waited
            if activation.parking:  # whatever the handler has made of that: its turn has not ended
                raise TurnGone
        doomed = doomed or _cut_short(activation, envelope)
        if doomed is not None:
            return doomed
        require_awaited(ctx._begun)
        if activation.journal is not None:
            await activation.journal.settled()
            activation.journal.entries.check_complete()
        return await self._outcomes.succeed(activation, envelope, ctx, "handled")

    def _why_doomed(self, activation: Activation, envelope: Envelope, ctx: Context) -> Ending | None:
        """Why the message is not to be handled at all, or what its handler has begun not to be ended."""
        journal = activation.journal
        refusal = self.refusals.of(envelope.seq)
        if refusal is not None and refusal.of_undoing:
            return msgspec.structs.replace(_ending(envelope, "refused", refusal.words), leaves=True)
        if journal is not None and journal.saga.ending is not None:
            return journal.saga.ending
        if (
            envelope.header.deadline is not None
            and self._is_late(envelope)
            and (journal is None or envelope.failures)
        ):
            return _ending(
                envelope, EXPIRED, f"its deadline passed before its {'next try' if journal else 'turn'}"
            )
        if envelope.header.task is not None:
            why = self._scope.why_cancelled(envelope)
            if why is not None:
                return _ending(envelope, CANCELLED, why)
        if envelope.trials > self._scope.limits.crash_trials:
            return _ending(envelope, "crash_loop", f"its host died {envelope.trials} times while it ran")
        if refusal is None:
            return None
        self.refusals.taken(envelope.seq)
        return _ending(envelope, "refused", refusal.words)

    def _is_late(self, envelope: Envelope) -> bool:
        deadline = envelope.header.deadline
        return deadline is not None and deadline <= self._scope.clock.now()

    def _kills(self, envelope: Envelope) -> bool:
        """Whether its host has died of it even when nothing but what it has done was to be undone."""
        return envelope.trials > 2 * self._scope.limits.crash_trials

    async def _end(self, activation: Activation, envelope: Envelope, ctx: Context, ending: Ending) -> Outcome:
        """Undo what can be undone; then the message leaves."""
        activation.instance = None  # whatever the handler left in it is not the committed state
        if activation.overdue:  # that was the handler; its compensations have a time of their own
            activation.overdue = False
            uncancel()
        journal = activation.journal
        if journal is not None:
            await journal.settled()
            if ending.leaves:
                ending = _left(ending, journal)
            elif not journal.saga.is_empty:
                try:
                    ending = await undo(activation, ctx, ending, for_good=self._kills(envelope))
                except NonDeterministicHandler as error:
                    if await self._scope.is_outdated():
                        return self._outcomes.hold_back(activation, envelope, error)
                    return self._outcomes.pause(activation, envelope, ctx, error)
        envelope = msgspec.structs.replace(envelope, failures=ending.failures)
        if ending.reason == CANCELLED:
            return await self._outcomes.cancel(activation, envelope, ctx, ending)
        if self.refusals.is_of_letter(envelope.seq):
            return await self._outcomes.give_up_plainly(activation, envelope, ctx, ending)
        return await self._outcomes.give_up(activation, envelope, ctx, ending)

    async def _unhandled(self, activation: Activation, envelope: Envelope) -> Outcome | Ending:
        name = activation.agent.partition("/")[0]
        wire_name = envelope.header.type
        error: CallboardError
        if wire_name == UNREADABLE:
            wake = wake_without_header(envelope.payload)
            of = (
                "a message"
                if wake is None
                else f"the wake-up that says how the promise {wake.promise} was settled"
            )
            error = InvalidMessage(f"The header of {of} cannot be read.")
        elif name not in self._scope.kinds:
            error = UnknownKind(f"The domain {self._scope.domain!r} has no agent kind {name!r}.")
        else:
            error = NoHandler(f"{activation.type.cls.__qualname__} has no handler for {wire_name}.")
        if await self._scope.is_outdated():
            return self._outcomes.hold_back(activation, envelope, error)
        return _ending(envelope, reason_of(error), describe(error))

    async def _handle(
        self, activation: Activation, envelope: Envelope, handler: Handler, message: BaseModel, ctx: Context
    ) -> None:
        agent = activation.instance or await activation.activate()
        if activation.state_json is None:
            await agent.on_created(ctx)
        function: Callable[..., Any] = getattr(agent, handler.method)
        answer = await (function(message, ctx) if handler.is_async else in_thread(function, message, ctx))
        if envelope.header.reply_to is not None:
            ctx.answer(answer)
        if message.__class__ is TaskWork and not activation.has_open_turn:
            ctx.report_started()
        if ctx.consequences.destroys:
            await agent.on_destroyed(ctx)

    async def _failed(
        self, activation: Activation, envelope: Envelope, ctx: Context, error: Exception, policy: RetryPolicy
    ) -> Outcome | Ending:
        """A failure of a turn with a journal: what failed for good in it is tried again when the turn is."""
        # A host hears of a new kind later than the coordinator, which may have given it a task.
        new_kind = isinstance(error, UnknownKind) and activation.journal is None
        new_state = activation.schema_version > activation.type.cls.schema_version
        is_behind = new_kind or new_state or isinstance(error, NonDeterministicHandler)
        if is_behind and await self._scope.is_outdated():
            return self._outcomes.hold_back(activation, envelope, error)
        deadline = error.fields.get("deadline") if isinstance(error, DeadlineExceeded) else None
        if deadline is not None and deadline == envelope.header.deadline:  # the next try would come too late
            return _ending(envelope, EXPIRED, describe(error))
        journal = activation.journal
        if journal is not None:
            await journal.settled()
            journal.take_back(error)
            if journal.is_open and journal.is_dirty:
                await self.blobs.store(
                    ctx.consequences.blobs
                )  # of a branch that was ended while it stored one
            await journal.write_down(ctx.consequences.unsent)
        return self._outcomes.fail(activation, envelope, ctx, error, policy)


def _ending(envelope: Envelope, reason: str, error: str) -> Ending:
    return Ending(reason=reason, error=error, failures=envelope.failures)


def _needs_mending(activation: Activation, error: Exception, doomed: Ending) -> bool:
    """Whether a turn that is given up waits for other code, since its handler no longer comes to what undoes it. One that
    is ended by hand, often for that very reason, does so only for what is on record."""
    if not isinstance(error, NonDeterministicHandler):
        return False
    journal = activation.journal
    return not doomed.is_by_hand or (journal is not None and bool(journal.saga.lost()))


def _left(ending: Ending, journal: Journal) -> Ending:
    names = outstanding([*journal.entries])
    if not names:
        return ending
    words = "not undone, as was asked" if ending.is_by_hand else "not undone"
    return msgspec.structs.replace(ending, error=f"{ending.error}; {words}: {', '.join(names)}")


def _cut_short(activation: Activation, envelope: Envelope) -> Ending | None:
    """Whether the turn's task was cancelled while its handler ran, or is above a limit and the turn was told to end; then it
    does not matter how that ended."""
    why = activation.cancelled
    if why is None and activation.journal is not None:
        why = activation.journal.branches.why_stopped
    return None if why is None else _ending(envelope, CANCELLED, why)
