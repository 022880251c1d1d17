"""One call of a tool: what is committed before it is made, and how often it is.

A call that may change the outside world has an intent: an entry in the journal, committed under the fence before the
call begins. Whoever runs the turn again and finds an intent without an outcome knows that the call may have acted. An
idempotent one is made again under the same key; of an at-most-once one somebody finds out, or decides.

The places of a call at P: `P` its outcome, `P!n` the intent of attempt n, `P~n` that attempt n has not acted, `P?n` the
question to a person about attempt n, `P?` the approval.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from actors import values
from actors.approval import question
from actors.branch import inside
from actors.call_record import CALL, CallRecord
from actors.inquiry import INTENT, Inquiry, Intent
from actors.tool import Bound, Tool
from actors.under_way import called
from bus import faultpoints
from bus.errors import (
    ApprovalDenied,
    CallboardError,
    EffectUnknown,
    NonDeterministicHandler,
    NotDone,
    ResultLost,
    ToolFailed,
)
from storage.journal import JournalEntry
from storage.ledger import CallStatus, EarlierCall, Effect

if TYPE_CHECKING:
    from actors.approval import Decision, Question
    from actors.calls import DurableCalls
    from actors.flights import Flight
    from actors.journal import Journal

_logger = logging.getLogger("callboard.effects")

_FINAL: dict[str, type[CallboardError]] = {
    error.__name__: error for error in (ApprovalDenied, EffectUnknown, ResultLost)
}  # no further try of the turn changes these


class Call:
    """A call of `tool` with these arguments at one place of a turn."""

    def __init__(
        self, turn: DurableCalls, journal: Journal, tool: Tool, bound: Bound, place: str, *, is_in_step: bool
    ) -> None:
        self._is_in_step = is_in_step
        self._tool = tool
        self._bound = bound
        self._turn = turn
        self._journal = journal
        self._place = place
        self._record = CallRecord(turn, journal, tool, bound, place)
        self._decision: Decision | None = None
        self._is_left = False  # its branch was given up while it was made
        self._flight: Flight | None = None  # of the attempt that is being made, if it must not be made again

    async def result(self) -> Any:
        """What the tool has returned, now or when the turn ran before.

        Raises ToolFailed, EffectUnknown, ResultLost, ApprovalDenied, MissingSecret, InvalidPayload.
        """
        journal, place = self._journal, self._place
        try:
            entry = journal.recorded(place, CALL, self._record.name)
        except NonDeterministicHandler as changed:
            raise await self._turn._told_apart(changed, f"{place}?", self._question()) from None
        journal.forgive(f"{place}!", f"{place}~", f"{place}?")  # what has led to an outcome on record
        is_replayed = entry is not None
        refused = await self._be_allowed(begun=is_replayed)
        if entry is None:
            make = self._make_freely if self._tool.effect is Effect.PURE else self._make_once
            entry = refused or await make()
        text = await journal.text_of(entry)
        if entry.ok:
            what = f"{CALL} {self._tool.name}"
            return journal.result(text, self._tool.function, place, what, is_replayed=is_replayed)
        error = msgspec.json.decode(text, type=values.Error)
        final = _FINAL.get(error.type)
        if final is not None:
            words = error.message.removesuffix(final.fix).rstrip()  # the error says that itself
            raise final(words, place=place, tool=self._tool.name, decision=self._decision)
        raise ToolFailed(f"{self._tool.name} failed: {error.type}: {error.message.rstrip('.')}.", place=place)

    # -- approval ------------------------------------------------------------------------------------

    def _question(self) -> Question:
        arguments = msgspec.Raw(self._bound.text.encode())
        return question(f"call {self._tool.name}", arguments, self._tool.approvers)

    async def _be_allowed(self, *, begun: bool) -> JournalEntry | None:
        """Wait for the approval, if there must be one; return the outcome if it was refused.

        Whether there must be one is decided once: what that depends on may change while the turn waits. Raises
        MissingSecret.
        """
        journal, tool, place = self._journal, self._tool, f"{self._place}?"
        if not (place in journal.entries or journal.promises.at(place)):
            begun = begun or f"{self._place}!1" in journal.entries
            if begun or not tool.needs_approval(self._bound):
                return None
            self._record.given(tool.injected)  # nobody is asked about a call that cannot be made
        self._decision = decision = await self._turn._approval(
            place, self._question(), tool.approval_timeout_s, "deny"
        )
        self._record.approval = journal.promises.outcomes[place].promise
        if decision.approved or self._place in journal.entries:
            return None
        refused = ApprovalDenied(f"{tool.name} was refused{_by_whom(decision)}.")
        return await self._record.committed(self._record.fail(refused, CallStatus.DENIED, 0))

    # -- making it -----------------------------------------------------------------------------------

    async def _make_freely(self) -> JournalEntry:
        """A call that changes nothing outside is a step with a row in the ledger."""
        await self._journal.branches.proceed()
        entry = await self._until_done(self._record.given(self._tool.injected), 0)
        assert entry is not None  # it ends with its branch
        return await self._record.committed(entry) if entry.ok else entry

    async def _make_once(self) -> JournalEntry:
        """Go through the attempts that are on record, and make the next one."""
        journal, place = self._journal, self._place
        inquiry = Inquiry(self._turn, journal, self._record)
        is_idempotent = self._tool.effect is Effect.IDEMPOTENT
        attempt = 1
        while True:
            given = None
            if f"{place}!{attempt}" in journal.entries:
                intent = self._recorded_intent(attempt)
            else:
                if attempt == 1 and not self._is_in_step:
                    journal.may_act(place, f"{CALL} {self._record.name}")
                await journal.branches.proceed()
                earlier = None
                if attempt == 1:
                    earlier = await self._turn._earlier_call(self._tool.name, self._bound.digest, place)
                if earlier is not None and earlier.status == CallStatus.SUCCEEDED:
                    return await self._taken_over(earlier)
                if earlier is not None:
                    self._record.id = earlier.id
                # Before the intent: without a secret there is no attempt.
                given = self._record.given(self._tool.injected)
                if earlier is not None and not is_idempotent:
                    given = None
                if given is not None and not is_idempotent:
                    await self._take_off()
                try:
                    intent = await self._intend(attempt, earlier)
                    if journal.branches.must_stop:  # since then
                        self._land()
                        await journal.branches.proceed()
                except BaseException:
                    self._is_not_begun(attempt, earlier)
                    raise
            entry = await self._to_its_end(self._known(inquiry, attempt, intent, given))
            if entry is not None:
                return await self._record.committed(entry)
            if inquiry.is_ruled_out(attempt):
                await self._flush_if_dirty()
            elif not is_idempotent:
                entry = await inquiry.ask(attempt)
                if entry is not None:
                    return entry
            attempt += 1

    def _recorded_intent(self, attempt: int) -> Intent:
        entry = self._journal.recorded(f"{self._place}!{attempt}", INTENT, self._record.name, inner=True)
        assert entry is not None
        intent = msgspec.json.decode(entry.value, type=Intent)
        self._record.id = intent.id
        return intent

    async def _intend(self, attempt: int, earlier: EarlierCall | None) -> Intent:
        """Commit that the call is about to be made. A host that has lost the agent does not come past this. Raises
        PayloadTooLarge."""
        intent = Intent(self._record.id, self._turn._ledger.epoch if earlier is None else earlier.epoch)
        self._turn._puts.count_bytes(len(self._record.arguments or ""))
        self._record_intent(attempt, intent)
        unknown = earlier is not None and self._tool.effect is Effect.AT_MOST_ONCE
        self._record.enter(CallStatus.UNKNOWN if unknown else CallStatus.STARTED, attempt)
        await self._turn._flush(begins=True)
        return intent

    def _record_intent(self, attempt: int, intent: Intent) -> None:
        self._journal.record(
            f"{self._place}!{attempt}", INTENT, self._record.name, msgspec.json.encode(intent).decode()
        )

    async def _take_off(self) -> None:
        """Wait while the agent is about to leave this host, unless the call keeps nothing up."""
        flights, partition = self._turn._scope.flights, self._journal.partition
        while (flight := flights.begin(partition, self._tool.timeout_s)) is None:
            with flights.waiting(partition) as stays:
                await self._journal.branches.stop_until(stays)
            await self._journal.branches.proceed()
        self._flight = flight

    def _land(self) -> None:
        """The call is not made, or nobody knows what it has done."""
        if self._flight is not None:
            self._flight.land()

    def _is_not_begun(self, attempt: int, earlier: EarlierCall | None) -> None:
        """Its intent may be on record, or come there, and this run alone can say that nothing has followed."""
        self._land()
        is_recorded = f"{self._place}!{attempt}" in self._journal.entries
        if is_recorded and earlier is None and not self._journal.is_closed:
            self._record.rule_out(attempt, "null")

    async def _flush_if_dirty(self) -> None:
        if self._journal.is_dirty:
            await self._turn._flush()

    async def _known(
        self, inquiry: Inquiry, attempt: int, intent: Intent, given: dict[str, str] | None
    ) -> JournalEntry | None:
        """Make the call with what is `given`, or find out what it has done before; None when it is to be made again, or
        when only a person can say."""
        if self._tool.effect is Effect.IDEMPOTENT:
            return None if given is None else await self._until_done(given, attempt)
        if given is None:
            return await inquiry.look(attempt, intent, "its outcome was not recorded")
        began = time.perf_counter()
        made = await self._at_most_once(given, attempt, began)
        if not isinstance(made, Exception):
            return made
        entry = await inquiry.look(attempt, intent, self._why_unknown(made))
        if entry is None and inquiry.is_ruled_out(attempt):
            return await self._has_not_acted(made, attempt, began)
        return entry

    def _why_unknown(self, error: Exception) -> str:
        if isinstance(error, TimeoutError) and not str(error):
            return f"it has not returned within its timeout of {self._tool.timeout_s:g} s"
        return self._record.line(error)

    async def _to_its_end(self, knowing: Coroutine[Any, Any, JournalEntry | None]) -> JournalEntry | None:
        """It is not cut short when its branch is given up or its turn fails: what the call did is found out first."""
        task = asyncio.create_task(knowing)
        self._journal.branches.enter()
        self._journal.in_flight[task] = self._place
        task.add_done_callback(self._made)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._is_left = True
            raise

    def _made(self, task: asyncio.Task[Any]) -> None:
        del self._journal.in_flight[task]
        self._journal.branches.leave()
        if task.cancelled() or task.exception() is not None:  # whoever was to be told may have been given up
            self._land()  # nothing of it comes on record any more

    async def _until_done(self, given: dict[str, str], attempt: int) -> JournalEntry | None:
        """As often as the policy allows: of a pure call, or of one whose callee knows it by its key. None when it has failed
        and its branch was given up meanwhile: should the turn be tried again, so is it."""
        began = time.perf_counter()
        failures = 0
        while True:
            try:
                returned = await self._attempt(given)
                return await self._record.succeed(returned, max(attempt, 1) + failures, began)
            except Exception as error:
                failures += 1
                may_go_on = await self._may_go_on(error, failures)
                if self._is_left:
                    words = self._tool.name, self._record.line(error)
                    _logger.warning("%s failed, and its branch has been given up: %s", *words)
                    return None
                if not may_go_on:
                    return self._record.fail(error, CallStatus.FAILED, max(attempt, 1) + failures - 1, began)

    async def _may_go_on(self, error: Exception, failures: int) -> bool:
        """Whether the call is made once more, after a pause. Not in a turn or for a branch that is given up."""
        if self._is_left or not self._tool.retry.allows(error, failures):
            return False
        _logger.warning("%s failed (%d): %s", self._tool.name, failures, self._record.line(error))
        await self._pause(failures)
        return not self._journal.branches.must_stop

    async def _at_most_once(
        self, given: dict[str, str], attempt: int, began: float
    ) -> JournalEntry | Exception | None:
        """The error when nobody knows what it did; None when it has not acted, and may be made again."""
        record, flight = self._record, self._flight
        assert flight is not None
        try:
            returned = await self._attempt(given)
        except NotDone as error:
            record.rule_out(attempt, record.error_text(error))
            self._journal.lands(flight)
            return await self._has_not_acted(error, attempt, began)
        except Exception as error:
            self._land()
            _logger.warning(
                "%s: what the call %s did is unknown: %s", self._tool.name, record.id, record.line(error)
            )
            return error
        entry = await record.succeed(returned, attempt, began)
        self._journal.lands(flight)
        return entry

    async def _has_not_acted(self, error: Exception, attempt: int, began: float) -> JournalEntry | None:
        """It has failed so, and is known not to have acted: None, after a pause, when it may be made again."""
        record = self._record
        if not self._tool.retry.allows(error, attempt):
            return record.fail(error, CallStatus.FAILED, attempt, began)
        _logger.warning("%s has not acted (%d): %s", self._tool.name, attempt, record.line(error))
        if not self._is_left:  # else the turn decides what of it goes on record
            await self._flush_if_dirty()  # a long pause is no time in which that may be lost
            await self._pause(attempt)
        return None

    async def _attempt(self, given: dict[str, str]) -> Any:
        """Call the function once. Raises what it raises, and TimeoutError."""
        named = {**self._bound.values, **given}
        faultpoints.reached("call.before")
        with inside(self._place, may_call=False):
            returned = await called(self._tool.function, named, self._tool.timeout_s, self._record.id)
        faultpoints.reached("call.after")
        return returned

    async def _pause(self, failures: int) -> None:
        """Before the next attempt; it ends when the turn is given up. Raises TurnGone where this run of it was dropped."""
        if self._journal.branches.must_stop:
            return
        try:
            with self._journal.branches.cuttable():
                await asyncio.sleep(self._tool.retry.delay_s(failures, self._turn._scope.rng))
        except asyncio.CancelledError:
            if not self._journal.branches.was_cut():
                raise
        self._journal.must_go_on()

    async def _taken_over(self, earlier: EarlierCall) -> JournalEntry:
        """It was made for the same message in a turn that was given up: that is its result. The intent says that it is
        taken: a later call of this turn with the same arguments is another one."""
        self._record.id = earlier.id
        self._record_intent(1, Intent(earlier.id, earlier.epoch))
        if earlier.value is None and earlier.blob is None:
            lost = ResultLost(f"{self._tool.name} has acted, and its result is lost: nothing was kept of it.")
            return await self._record.committed(
                self._record.fail(lost, CallStatus.SUCCEEDED, earlier.attempts)
            )
        value = earlier.value if earlier.blob is None else None
        # Its row goes with this turn, which may be undone.
        self._record.enter(CallStatus.SUCCEEDED, earlier.attempts)
        return await self._record.committed(
            self._journal.record(self._place, CALL, self._record.name, value or "null", blob=earlier.blob)
        )


def _by_whom(decision: Decision) -> str:
    if decision.by is None:
        return ": nobody decided in time"
    return f" by {decision.by}: {decision.comment}" if decision.comment else f" by {decision.by}"
