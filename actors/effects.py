"""One call of a tool: what is committed before it, what is known after it, and what happens when nobody knows.

A call that may change the outside world has an intent: an entry in the journal, committed under the fence before the
call begins. Whoever runs the turn again and finds an intent without an outcome knows that the call may have acted. An
idempotent one is made again under the same key; of an at-most-once one somebody finds out, or decides.

The places of a call at P: `P` its outcome, `P!n` the intent of attempt n, `P~n` that attempt n has not acted, `P?n` the
question to a person about attempt n, `P?` the approval.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from actors import values
from actors.blobs import BlobsUnavailable
from actors.secret import redact, redact_json
from actors.threads import in_thread
from actors.tool import IDEMPOTENCY_KEY, Bound, Happened, Injected, NotHappened, Tool, Verdict
from actors.under_way import UNDER_WAY
from bus import faultpoints
from bus.envelope import new_id
from bus.errors import (
    ApprovalDenied,
    CallboardError,
    EffectUnknown,
    InvalidPayload,
    NotDone,
    PayloadTooLarge,
    ResultLost,
    ToolFailed,
)
from bus.registry import first_line
from storage.journal import JournalEntry, Kind
from storage.ledger import CallStatus, EarlierCall, Effect, LedgerWrite

if TYPE_CHECKING:
    from actors.approval import Decision
    from actors.calls import DurableCalls
    from actors.journal import Journal

_logger = logging.getLogger("callboard.effects")

GONE_WITHIN_S = (
    15.0  # a host that has ended is mostly known to be gone within seconds, a frozen one once it was killed
)
_LOOK_EVERY_S = 0.5
_KEEP_EVERY_S = 0.2

CALL = "call"
INTENT = "intent"
NOT_DONE = "not_done"

_FINAL: dict[str, type[CallboardError]] = {
    error.__name__: error for error in (ApprovalDenied, EffectUnknown, ResultLost)
}  # no further try of the turn changes these


class Intent(msgspec.Struct, frozen=True):
    """What an intent's entry says: the call's id, and the epoch of the host that was about to make it."""

    id: str
    epoch: int


class Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a person says of a call whose outcome is unknown. `again`: whether one that has not acted is to be made
    again; else it has failed."""

    happened: bool
    result: Any = None
    again: bool = True


class Call:
    """A call of `tool` with these arguments at one place of a turn."""

    def __init__(self, turn: DurableCalls, journal: Journal, tool: Tool, bound: Bound, place: str) -> None:
        self.tool = tool
        self.bound = bound
        self.name = f"{tool.name} {bound.digest[:16]}"  # replay compares it: other arguments are another call
        self._turn = turn
        self._journal = journal
        self._place = place
        self._id = new_id()
        self._approval: str | None = None  # the promise
        self._decision: Decision | None = None
        self._secrets: list[tuple[str, str]] = []  # names and values of those that the function was given

    async def result(self) -> Any:
        """What the tool has returned, now or when the turn ran before.

        Raises ToolFailed, EffectUnknown, ResultLost, ApprovalDenied, MissingSecret, InvalidPayload.
        """
        journal, place = self._journal, self._place
        entry = journal.recorded(place, CALL, self.name)
        journal.forgive(f"{place}!", f"{place}~", f"{place}?")  # what has led to an outcome on record
        refused = await self._be_allowed(begun=entry is not None)
        if entry is None:
            make = self._make_freely if self.tool.effect is Effect.PURE else self._make_once
            entry = refused or await make()
        text = entry.value if entry.blob is None else await self._turn._fetch_value(entry.blob)
        if entry.ok:
            return values.decode(text, self.tool.function)
        error = msgspec.json.decode(text, type=values.Error)
        final = _FINAL.get(error.type)
        if final is not None:
            raise final(error.message, place=place, tool=self.tool.name, decision=self._decision)
        raise ToolFailed(f"{self.tool.name} failed: {error.type}: {error.message}.", place=place)

    # -- approval ------------------------------------------------------------------------------------

    async def _be_allowed(self, *, begun: bool) -> JournalEntry | None:
        """Wait for the approval, if there must be one; return the outcome if it was refused.

        Whether there must be one is decided once: what that depends on may change while the turn waits.
        """
        journal, tool, place = self._journal, self.tool, f"{self._place}?"
        if not (place in journal.entries or journal.promises.at(place)):
            begun = begun or f"{self._place}!1" in journal.entries
            if begun or not tool.needs_approval(self.bound):
                return None
        self._decision = decision = await self._turn._approval(
            place, f"call {tool.name}", msgspec.Raw(self.bound.text.encode()), tool.approvers,
            tool.approval_timeout_s, "deny",
        )  # fmt: skip
        self._approval = journal.promises.outcomes[place].promise
        if decision.approved or self._place in journal.entries:
            return None
        why = f": {decision.comment}" if decision.comment else ""
        refused = ApprovalDenied(f"{tool.name} was refused by {decision.by or 'nobody'}{why}.")
        return await self._written(self._fail(refused, CallStatus.DENIED, 0))

    # -- making it -----------------------------------------------------------------------------------

    async def _make_freely(self) -> JournalEntry:
        """A call that changes nothing outside is a step with a row in the ledger."""
        await self._journal.branches.proceed()
        entry = await self._until_done(self._given(self.tool.injected), 0)
        return await self._written(entry) if entry.ok else entry

    async def _make_once(self) -> JournalEntry:
        """Go through the attempts that are on record, and make the next one."""
        journal, place = self._journal, self._place
        is_idempotent = self.tool.effect is Effect.IDEMPOTENT
        attempt = 1
        while True:
            entry = None
            if f"{place}!{attempt}" in journal.entries:
                intent = self._recorded_intent(attempt)
            else:
                await journal.branches.proceed()
                earlier = None
                if attempt == 1:
                    earlier = await self._turn._earlier_call(self.tool.name, self.bound.digest, place)
                if earlier is not None and earlier.status == CallStatus.SUCCEEDED:
                    return await self._taken_over(earlier)
                if earlier is not None:
                    self._id = earlier.id
                given = self._given(
                    self.tool.injected
                )  # before the intent: without a secret there is no attempt
                intent = await self._intend(attempt, earlier)
                if earlier is None or is_idempotent:
                    entry = await self._make(attempt, given)
            if entry is None and not is_idempotent:
                entry = await self._find_out(attempt, intent)
            if entry is not None:
                return entry
            attempt += 1

    def _recorded_intent(self, attempt: int) -> Intent:
        entry = self._journal.recorded(f"{self._place}!{attempt}", INTENT, self.name, inner=True)
        assert entry is not None
        intent = msgspec.json.decode(entry.value, type=Intent)
        self._id = intent.id
        return intent

    async def _intend(self, attempt: int, earlier: EarlierCall | None) -> Intent:
        """Commit that the call is about to be made. A host that has lost the agent does not come past this."""
        intent = Intent(self._id, self._turn._ledger.epoch if earlier is None else earlier.epoch)
        self._journal.record(
            f"{self._place}!{attempt}", INTENT, self.name, msgspec.json.encode(intent).decode()
        )
        unknown = earlier is not None and self.tool.effect is Effect.AT_MOST_ONCE
        self._enter(CallStatus.UNKNOWN if unknown else CallStatus.STARTED, attempt)
        await self._turn._flush(begins=True)
        return intent

    async def _make(self, attempt: int, given: dict[str, str]) -> JournalEntry | None:
        """Make the call; None when it is to be made again, or when nobody knows what it did.

        It is not cut short when its branch is given up or its turn fails: what it did is written down first.
        """
        make = self._until_done if self.tool.effect is Effect.IDEMPOTENT else self._at_most_once
        task = asyncio.create_task(make(given, attempt))
        self._journal.branches.enter()
        self._journal.in_flight.add(task)
        task.add_done_callback(self._made)
        entry = await asyncio.shield(task)
        if entry is not None:
            await self._written(entry)
        return entry

    def _made(self, task: asyncio.Task[Any]) -> None:
        self._journal.in_flight.discard(task)
        self._journal.branches.leave()
        if not task.cancelled():
            task.exception()  # whoever was to be told may have been given up

    async def _until_done(self, given: dict[str, str], attempt: int) -> JournalEntry:
        """As often as the policy allows: of a pure call, or of one whose callee knows it by its key."""
        began = time.perf_counter()
        failures = 0
        while True:
            try:
                returned = await self._attempt(given)
                return await self._succeed(returned, max(attempt, 1) + failures, began)
            except Exception as error:
                failures += 1
                if not await self._may_go_on(error, failures):
                    return self._fail(error, CallStatus.FAILED, max(attempt, 1) + failures - 1, began)

    async def _may_go_on(self, error: Exception, failures: int) -> bool:
        """Whether the call is made once more, after a pause. Not in a turn that is given up."""
        if not self.tool.retry.allows(error, failures):
            return False
        _logger.warning("%s failed (%d): %s", self.tool.name, failures, self._line(error))
        await self._pause(failures)
        return not self._journal.branches.must_stop

    async def _at_most_once(self, given: dict[str, str], attempt: int) -> JournalEntry | None:
        began = time.perf_counter()
        try:
            returned = await self._attempt(given)
        except NotDone as error:
            self._rule_out(attempt, self._error_text(error))
            if not self.tool.retry.allows(error, attempt):
                return self._fail(error, CallStatus.FAILED, attempt, began)
            _logger.warning("%s has not acted (%d): %s", self.tool.name, attempt, self._line(error))
            await self._pause(attempt)
            return None
        except Exception as error:
            _logger.warning(
                "%s: what the call %s did is unknown: %s", self.tool.name, self._id, self._line(error)
            )
            return None
        return await self._succeed(returned, attempt, began)

    async def _attempt(self, given: dict[str, str]) -> Any:
        """Call the function once. Raises what it raises, and TimeoutError."""
        named = {**self.bound.values, **given}
        faultpoints.reached("call.before")
        async with asyncio.timeout(self.tool.timeout_s):
            returned = await _called(self.tool.function, named, self._id)
        faultpoints.reached("call.after")
        return returned

    def _given(self, injected: Injected) -> dict[str, str]:
        """The secrets and the key, by the function's parameters; raises MissingSecret."""
        read = self._turn._scope.secrets.read
        given = {parameter: read(secret.name) for parameter, secret in injected.secrets.items()}
        self._secrets += [(secret.name, given[parameter]) for parameter, secret in injected.secrets.items()]
        if injected.takes_key:
            given[IDEMPOTENCY_KEY] = self._id
        return given

    async def _pause(self, failures: int) -> None:
        """Before the next attempt; it ends when the turn is given up."""
        if self._journal.branches.must_stop:
            return
        try:
            with self._journal.branches.cuttable():
                await asyncio.sleep(self.tool.retry.delay_s(failures, self._turn._scope.rng))
        except asyncio.CancelledError:
            if not self._journal.branches.was_cut():
                raise

    # -- nobody knows --------------------------------------------------------------------------------

    async def _find_out(self, attempt: int, intent: Intent) -> JournalEntry | None:
        """What attempt n has done; None when it has not acted and is to be made again."""
        journal, place = self._journal, self._place
        if f"{place}~{attempt}" in journal.entries:
            return None
        question = f"{place}?{attempt}"
        if not (question in journal.entries or journal.promises.at(question)):
            if self.tool.on_unknown == "fail":
                error = EffectUnknown(f"Whether {self.tool.name} has acted is unknown.")
                return await self._written(self._fail(error, CallStatus.UNKNOWN, attempt))
            if callable(self.tool.on_unknown):
                can_act_no_more = await self._ends_acting(intent)  # first: a look before that proves nothing
                verdict = await self._verified(self.tool.on_unknown)
                if isinstance(verdict, Happened):
                    return await self._written(await self._succeed(verdict.result, attempt))
                if isinstance(verdict, NotHappened) and can_act_no_more:
                    await self._written(self._rule_out(attempt, "null"))
                    return None
        return await self._ask(question, attempt)

    async def _verified(self, look: Callable[..., Any]) -> Verdict:
        try:
            named = {**self.bound.values, **self._given(self.tool.injected_to_verify)}
            async with asyncio.timeout(self.tool.timeout_s):
                verdict = await _called(look, named)
        except Exception as error:
            _logger.warning(
                "%s: the call %s cannot be verified: %s", self.tool.name, self._id, self._line(error)
            )
            return None
        if not isinstance(verdict, Happened | NotHappened | None):
            _logger.warning("%s: %r is no verdict on the call %s", self.tool.name, type(verdict), self._id)
            return None
        return verdict

    async def _ends_acting(self, intent: Intent) -> bool:
        """Wait until nothing is left that could still make the call; False when that takes too long."""
        clock = asyncio.get_running_loop().time
        until = clock() + GONE_WITHIN_S
        while not await self._can_act_no_more(intent):
            if clock() >= until:
                return False
            await asyncio.sleep(_LOOK_EVERY_S)
        return True

    async def _can_act_no_more(self, intent: Intent) -> bool:
        """A frozen process may wake up, a thread may run on."""
        if intent.epoch == self._turn._ledger.epoch:
            return self._id not in UNDER_WAY
        return await self._turn._ledger.is_gone(intent.epoch)

    async def _ask(self, place: str, attempt: int) -> JournalEntry | None:
        """Wait until a person says what has happened."""
        journal = self._journal
        if (
            journal.recorded(place, Kind.OUTCOME, self.name, inner=True) is None
            and journal.promises.at(place) is None
        ):
            details = {
                "tool": self.tool.name, "arguments": msgspec.Raw(self.bound.text.encode()), "call": self._id,
            }  # fmt: skip
            journal.promises.make(
                place, Kind.OUTCOME, self.name, details=msgspec.json.encode(details).decode(),
                due_at=self._turn.deadline,
            )  # fmt: skip
            self._enter(CallStatus.UNKNOWN, attempt)
            await self._turn._flush()
        outcome = await self._turn._outcome(place)
        said = msgspec.json.decode(outcome.value, type=Said)
        if said.happened:
            return await self._written(await self._succeed(said.result, attempt))
        if said.again:
            return None
        error = NotDone(f"{outcome.by or 'somebody'} says that it has not acted, and is not to")
        return await self._written(self._fail(error, CallStatus.FAILED, attempt))

    # -- what is put down ----------------------------------------------------------------------------

    async def _written(self, entry: JournalEntry) -> JournalEntry:
        await self._turn._flush()
        return entry

    async def _taken_over(self, earlier: EarlierCall) -> JournalEntry:
        """It was made for the same message in a turn that was given up: that is its result."""
        self._id = earlier.id
        if earlier.value is None and earlier.blob is None:
            lost = ResultLost(f"{self.tool.name} has acted, and its result is lost: nothing was kept of it.")
            return await self._written(self._fail(lost, CallStatus.SUCCEEDED, earlier.attempts))
        value = earlier.value if earlier.blob is None else None
        return await self._written(
            self._journal.record(self._place, CALL, self.name, value or "null", blob=earlier.blob)
        )

    async def _succeed(self, returned: Any, attempts: int, began: float | None = None) -> JournalEntry:
        """Put the result down. One that cannot be kept changes nothing about that the call has acted."""
        try:
            text = redact_json(values.encode(returned), self._secrets)
            blob = await self._kept(text)
        except (InvalidPayload, PayloadTooLarge) as error:
            if self.tool.effect is Effect.PURE:
                raise
            lost = ResultLost(f"{self.tool.name} has acted, and its result is lost: {error.message}")
            return self._fail(lost, CallStatus.SUCCEEDED, attempts, began)
        self._enter(CallStatus.SUCCEEDED, attempts)
        return self._journal.record(
            self._place, CALL, self.name, "null" if blob else text, took_ms=_ms(began), blob=blob
        )

    async def _kept(self, text: str) -> str | None:
        """Check the result in. That of a call that may have acted waits until storage takes it: as long as this host lives
        it is known, and must not come to be unknown."""
        while True:
            try:
                return await self._turn._check_in_value(text)
            except BlobsUnavailable as away:
                if self.tool.effect is Effect.PURE:
                    raise
                _logger.warning("the result of %s waits for storage: %s", self.tool.name, away)
            await asyncio.sleep(_KEEP_EVERY_S)

    def _fail(
        self, error: Exception, status: CallStatus, attempts: int, began: float | None = None
    ) -> JournalEntry:
        text = self._error_text(error)
        self._enter(status, attempts, error=values.error_line(text))
        return self._journal.record(self._place, CALL, self.name, text, ok=False, took_ms=_ms(began))

    def _rule_out(self, attempt: int, why: str) -> JournalEntry:
        """Attempt n has not acted, and never will."""
        self._enter(CallStatus.FAILED, attempt)
        return self._journal.record(f"{self._place}~{attempt}", NOT_DONE, self.name, why, ok=False)

    def _enter(self, status: CallStatus, attempts: int, *, error: str | None = None) -> None:
        is_large = len(self.bound.text) > self._turn._scope.limits.claim_check_bytes
        header = self._turn.header
        self._journal.note_call(
            LedgerWrite(
                id=self._id, key=self._place, tool=self.tool.name, effect=self.tool.effect, message=header.id,
                task=header.task, digest=self.bound.digest, arguments=None if is_large else self.bound.text,
                status=status, attempts=attempts, error=error, approval=self._approval,
            )
        )  # fmt: skip

    def _error_text(self, error: Exception) -> str:
        return values.encode_error(error, self._hide)

    def _line(self, error: Exception) -> str:
        return f"{type(error).__name__}: {first_line(error, self._hide)}"

    def _hide(self, text: str) -> str:
        return redact(text, self._secrets)


async def _called(function: Callable[..., Any], named: dict[str, Any], call: str | None = None) -> Any:
    """Call it, noted as under way for as long as anything of it runs."""
    if inspect.iscoroutinefunction(function):
        with UNDER_WAY.noted(call):
            return await function(**named)
    # A thread that nobody waits for any more goes on: it says itself when it is done.
    return await in_thread(UNDER_WAY.noting(functools.partial(function, **named), call))


def _ms(began: float | None) -> float:
    return 0.0 if began is None else (time.perf_counter() - began) * 1000
