"""Finding out what a call of an at-most-once tool has done when nobody knows: by a look at the world, or by a person."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from actors import values
from actors.retry import RetryPolicy
from actors.tool import Happened, NotHappened, Verdict
from actors.under_way import UNDER_WAY, called
from bus.errors import EffectUnknown, InvalidPayload, NotDone
from storage.journal import JournalEntry, Kind
from storage.ledger import CallStatus

if TYPE_CHECKING:
    from actors.call_record import CallRecord
    from actors.calls import DurableCalls
    from actors.journal import Journal
    from actors.wake import Wake

_logger = logging.getLogger("callboard.effects")

INTENT = "intent"

# A host that has ended is mostly known to be gone within seconds, a frozen one once it was killed.
GONE_WITHIN_S = 15.0
_LOOK_EVERY_S = 0.5
LOOKS = RetryPolicy(attempts=4, first_delay_s=0.5, give_up_on=())  # about 6 s, then a person decides


class Intent(msgspec.Struct, frozen=True):
    """What an intent's entry says: the call's id, and the epoch of the host that was about to make it."""

    id: str
    epoch: int


def intended(entries: Iterable[JournalEntry]) -> set[str]:
    """The ids of the calls that a turn has on record; raises what msgspec does for one that cannot be read."""
    return {msgspec.json.decode(entry.value, type=Intent).id for entry in entries if entry.kind == INTENT}


def call_of(intent: JournalEntry) -> str | None:
    """The id of the call that an intent's entry names; None where that cannot be read."""
    with contextlib.suppress(msgspec.MsgspecError, RecursionError):
        return msgspec.json.decode(intent.value, type=Intent).id
    return None


class Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a person says of a call whose outcome is unknown. `again`: whether one that has not acted is to be made
    again; else it has failed."""

    happened: bool
    result: Any = None
    again: bool = True
    comment: str = ""


class Inquiry:
    """Into one call, whose tool's `on_unknown` says how."""

    def __init__(self, turn: DurableCalls, journal: Journal, record: CallRecord) -> None:
        self._turn = turn
        self._journal = journal
        self._record = record
        self._tool = record.tool
        self._why = ""  # nobody knows, as a person is told

    async def look(self, attempt: int, intent: Intent, why: str) -> JournalEntry | None:
        """What attempt n has done, as far as that can be found out without a person; None when it is not known, or is to
        be made again. `why` it is in doubt."""
        record = self._record
        self._why = why
        if self.is_ruled_out(attempt) or self._is_asked(attempt):
            return None
        if self._tool.on_unknown == "fail":
            error = EffectUnknown(f"Whether {self._tool.name} has acted is unknown.")
            return record.fail(error, CallStatus.UNKNOWN, attempt)
        if callable(self._tool.on_unknown):
            can_act_no_more = await self._ends_acting(intent)  # first: a look before that proves nothing
            verdict = await self._verified(self._tool.on_unknown)
            if isinstance(verdict, Happened):
                return await record.succeed(verdict.result, attempt)
            if isinstance(verdict, NotHappened) and can_act_no_more:
                record.rule_out(attempt, "null")
                return None
            if isinstance(verdict, NotHappened):
                self._why += (
                    "; it had not acted when on_unknown looked, and what was to make it may still do so"
                )
        elif not await self._has_ended_here(intent):
            self._why += "; what was to make it may still do so"
        record.enter(CallStatus.UNKNOWN, attempt)
        return None

    def is_ruled_out(self, attempt: int) -> bool:
        """Whether it is known that attempt n has not acted, and never will."""
        return f"{self._record.place}~{attempt}" in self._journal.entries

    def _is_asked(self, attempt: int) -> bool:
        question = f"{self._record.place}?{attempt}"
        return question in self._journal.entries or self._journal.promises.at(question) is not None

    async def _verified(self, look: Callable[..., Any]) -> Verdict:
        """What the tool's function says, which is asked again while it fails, and not for ever. Raises TurnGone where this
        run of the turn was dropped before: the next run looks."""
        record, failures = self._record, 0
        while True:
            self._journal.must_go_on()
            try:
                named = {**record.bound.values, **record.given(self._tool.injected_to_verify)}
                verdict = await called(look, named, self._tool.timeout_s)
                break
            except Exception as error:
                failures += 1
                words = record.line(error)
                _logger.warning("%s: the look at the call %s failed: %s", self._tool.name, record.id, words)
                if not LOOKS.allows(error, failures):
                    self._why += f"; on_unknown has failed {failures} times, last with {words}"
                    return None
            await asyncio.sleep(LOOKS.delay_s(failures, self._turn._scope.rng))
        if isinstance(verdict, Happened | NotHappened):
            return verdict
        what = "cannot tell" if verdict is None else f"has returned no verdict but a {type(verdict).__name__}"
        self._why += f"; on_unknown {what}"
        return None

    async def _ends_acting(self, intent: Intent) -> bool:
        """Wait until nothing is left that could still make the call; False when that takes too long."""
        clock = asyncio.get_running_loop().time
        until = clock() + GONE_WITHIN_S
        while not await self._can_act_no_more(intent):
            if clock() >= until:
                return False
            await asyncio.sleep(_LOOK_EVERY_S)
        return True

    async def _has_ended_here(self, intent: Intent) -> bool:
        """Whether nothing is left that could still make the call. A thread of this process is waited for, as a person who looks
        meanwhile finds nothing."""
        if intent.epoch == self._turn._ledger.epoch:
            return await self._ends_acting(intent)
        return await self._can_act_no_more(intent)

    async def _can_act_no_more(self, intent: Intent) -> bool:
        """A frozen process may wake up, a thread may run on."""
        if intent.epoch == self._turn._ledger.epoch:
            return self._record.id not in UNDER_WAY
        return await self._turn._ledger.is_gone(intent.epoch)

    async def ask(self, attempt: int) -> JournalEntry | None:
        """Wait until a person says what attempt n has done; None when it is to be made again. Who says that it has acted
        and gives a result that it cannot have returned is asked again: with that on record, no turn would ever go on."""
        record, asked = self._record, 0
        while True:
            again = f".{asked}" if asked else ""
            outcome = await self._asked(attempt, f"{record.place}?{attempt}{again}")
            asked += 1
            by = (outcome.by or "somebody").removeprefix("external/")
            said = msgspec.json.decode(outcome.value, type=Said)
            unfit = self._unfit(said.result) if said.happened else None
            if unfit is not None:
                self._why = f"{by} says that it has acted, and with a result that it cannot have: {unfit}"
            elif said.happened:
                return await record.committed(await record.succeed(said.result, attempt))
            elif said.again:
                record.again_by = by
                await record.committed(record.rule_out(attempt, "null"))
                return None
            else:
                error = NotDone(f"{by} says that it has not acted, and is not to")
                return await record.committed(record.fail(error, CallStatus.FAILED, attempt))

    async def _asked(self, attempt: int, place: str) -> Wake:
        """What a person has said to the question at a place."""
        journal, record = self._journal, self._record
        recorded = journal.recorded(place, Kind.OUTCOME, record.name, inner=True)
        if recorded is None and journal.promises.at(place) is None:
            details = {
                "tool": self._tool.name, "arguments": msgspec.Raw((record.arguments or "null").encode()), "call": record.id,
                "why": values.storable(self._why),
            }  # fmt: skip
            journal.promises.make(
                place, Kind.OUTCOME, record.name, details=msgspec.json.encode(details).decode(),
                due_at=self._turn.deadline,
            )  # fmt: skip
            record.enter(CallStatus.UNKNOWN, attempt)
            await self._turn._flush()
        return await self._turn._outcome(place, in_doubt=True)

    def _unfit(self, result: Any) -> str | None:
        """Why this is nothing that the tool returns."""
        try:
            values.decode(values.encode(result), self._tool.function)
        except InvalidPayload as error:
            return error.message
        return None
