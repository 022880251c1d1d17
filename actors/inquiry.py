"""Finding out what a call of an at-most-once tool has done when nobody knows: by a look at the world, or by a person."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from actors.tool import Happened, NotHappened, Verdict
from actors.under_way import UNDER_WAY, called
from bus.errors import EffectUnknown, NotDone
from storage.journal import JournalEntry, Kind
from storage.ledger import CallStatus

if TYPE_CHECKING:
    from actors.call_record import CallRecord
    from actors.calls import DurableCalls
    from actors.journal import Journal

_logger = logging.getLogger("callboard.effects")

# A host that has ended is mostly known to be gone within seconds, a frozen one once it was killed.
GONE_WITHIN_S = 15.0
_LOOK_EVERY_S = 0.5


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


class Inquiry:
    """Into one call, whose tool's `on_unknown` says how."""

    def __init__(self, turn: DurableCalls, journal: Journal, record: CallRecord) -> None:
        self._turn = turn
        self._journal = journal
        self._record = record
        self._tool = record.tool

    async def outcome(self, attempt: int, intent: Intent) -> JournalEntry | None:
        """What attempt n has done; None when it has not acted and is to be made again."""
        journal, record = self._journal, self._record
        if f"{record.place}~{attempt}" in journal.entries:
            return None
        question = f"{record.place}?{attempt}"
        if not (question in journal.entries or journal.promises.at(question)):
            if self._tool.on_unknown == "fail":
                error = EffectUnknown(f"Whether {self._tool.name} has acted is unknown.")
                return await record.committed(record.fail(error, CallStatus.UNKNOWN, attempt))
            if callable(self._tool.on_unknown):
                can_act_no_more = await self._ends_acting(intent)  # first: a look before that proves nothing
                verdict = await self._verified(self._tool.on_unknown)
                if isinstance(verdict, Happened):
                    return await record.committed(await record.succeed(verdict.result, attempt))
                if isinstance(verdict, NotHappened) and can_act_no_more:
                    await record.committed(record.rule_out(attempt, "null"))
                    return None
        return await self._ask(question, attempt)

    async def _verified(self, look: Callable[..., Any]) -> Verdict:
        record = self._record
        try:
            named = {**record.bound.values, **record.given(self._tool.injected_to_verify)}
            async with asyncio.timeout(self._tool.timeout_s):
                verdict = await called(look, named)
        except Exception as error:
            _logger.warning(
                "%s: the call %s cannot be verified: %s", self._tool.name, record.id, record.line(error)
            )
            return None
        if not isinstance(verdict, Happened | NotHappened | None):
            _logger.warning("%s: %r is no verdict on the call %s", self._tool.name, type(verdict), record.id)
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
            return self._record.id not in UNDER_WAY
        return await self._turn._ledger.is_gone(intent.epoch)

    async def _ask(self, place: str, attempt: int) -> JournalEntry | None:
        """Wait until a person says what has happened."""
        journal, record = self._journal, self._record
        recorded = journal.recorded(place, Kind.OUTCOME, record.name, inner=True)
        if recorded is None and journal.promises.at(place) is None:
            details = {
                "tool": self._tool.name, "arguments": msgspec.Raw(record.bound.text.encode()), "call": record.id,
            }  # fmt: skip
            journal.promises.make(
                place, Kind.OUTCOME, record.name, details=msgspec.json.encode(details).decode(),
                due_at=self._turn.deadline,
            )  # fmt: skip
            record.enter(CallStatus.UNKNOWN, attempt)
            await self._turn._flush()
        outcome = await self._turn._outcome(place)
        said = msgspec.json.decode(outcome.value, type=Said)
        if said.happened:
            return await record.committed(await record.succeed(said.result, attempt))
        if said.again:
            return None
        error = NotDone(f"{outcome.by or 'somebody'} says that it has not acted, and is not to")
        return await record.committed(record.fail(error, CallStatus.FAILED, attempt))
