"""What is put down of one call of a tool: in its turn's journal, and in the ledger."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from actors import values
from actors.blobs import BlobsUnavailable
from actors.secret import redact, redact_json
from actors.tool import IDEMPOTENCY_KEY, Bound, Injected, Tool
from bus.envelope import new_id
from bus.errors import InvalidPayload, PayloadTooLarge, ResultLost
from bus.registry import first_line
from storage.journal import JournalEntry
from storage.ledger import CallStatus, Effect, LedgerWrite

if TYPE_CHECKING:
    from actors.calls import DurableCalls
    from actors.journal import Journal

_logger = logging.getLogger("callboard.effects")

_KEEP_EVERY_S = 0.2

CALL = "call"
NOT_DONE = "not_done"


class CallRecord:
    """Of the call of `tool` with these arguments at one place of a turn. No secret that it was given is written."""

    def __init__(self, turn: DurableCalls, journal: Journal, tool: Tool, bound: Bound, place: str) -> None:
        self.tool = tool
        self.bound = bound
        self.place = place
        self.name = f"{tool.name} {bound.digest[:16]}"  # replay compares it: other arguments are another call
        self.id = new_id()
        self.approval: str | None = None  # the promise
        self.again_by: str | None = None
        self._turn = turn
        self._journal = journal
        self._secrets: list[tuple[str, str]] = []  # names and values of those that a function was given

    def given(self, injected: Injected) -> dict[str, str]:
        """The secrets and the key, by the function's parameters; raises MissingSecret."""
        read = self._turn._scope.secrets.read
        given = {parameter: read(secret.name) for parameter, secret in injected.secrets.items()}
        self._secrets += [(secret.name, given[parameter]) for parameter, secret in injected.secrets.items()]
        if injected.takes_key:
            given[IDEMPOTENCY_KEY] = self.id
        return given

    @property
    def arguments(self) -> str | None:
        """What people are shown of them; None when they are too large for that."""
        is_large = len(self.bound.text) > self._turn._scope.limits.claim_check_bytes
        return None if is_large else self.bound.text

    async def committed(self, entry: JournalEntry) -> JournalEntry:
        await self._turn._flush()
        return entry

    async def succeed(self, returned: Any, attempts: int, began: float | None = None) -> JournalEntry:
        """Put the result down. One that cannot be kept changes nothing about that the call has acted."""
        try:
            text = redact_json(values.encode(returned), self._secrets)
            blob = await self._kept(text)
        except (InvalidPayload, PayloadTooLarge) as error:
            if self.tool.effect is Effect.PURE:
                raise
            lost = ResultLost(f"{self.tool.name} has acted, and its result is lost: {error.message}")
            return self.fail(lost, CallStatus.SUCCEEDED, attempts, began)
        self.enter(CallStatus.SUCCEEDED, attempts)
        return self._journal.record(
            self.place, CALL, self.name, "null" if blob else text, took_ms=_ms(began), blob=blob
        )

    async def _kept(self, text: str) -> str | None:
        """Check the result in. That of a call that may have acted waits until storage takes it: as long as this host lives
        it is known, and must not come to be unknown."""
        while True:
            try:
                return await self._turn._check_in_value(text) if self._turn._puts.is_large(text) else None
            except BlobsUnavailable as away:
                if self.tool.effect is Effect.PURE:
                    raise
                _logger.warning("the result of %s waits for storage: %s", self.tool.name, away)
            await asyncio.sleep(_KEEP_EVERY_S)

    def fail(
        self, error: Exception, status: CallStatus, attempts: int, began: float | None = None
    ) -> JournalEntry:
        text = self.error_text(error)
        self.enter(status, attempts, error=values.error_line(text))
        return self._journal.record(self.place, CALL, self.name, text, ok=False, took_ms=_ms(began))

    def rule_out(self, attempt: int, why: str) -> JournalEntry:
        """Attempt n has not acted, and never will."""
        self.enter(CallStatus.FAILED, attempt)
        return self._journal.record(f"{self.place}~{attempt}", NOT_DONE, self.name, why, ok=False)

    def enter(self, status: CallStatus, attempts: int, *, error: str | None = None) -> None:
        """The call's row in the ledger, as it is from now on."""
        header = self._turn.header
        self._journal.note_call(
            LedgerWrite(
                id=self.id, key=self.place, tool=self.tool.name, effect=self.tool.effect, message=header.id,
                task=header.task, digest=self.bound.digest, arguments=self.arguments,
                status=status, attempts=attempts, error=error, approval=self.approval, said_by=self._said_by(attempts),
                again_by=self.again_by,
            )
        )  # fmt: skip

    def _said_by(self, attempt: int) -> str | None:
        """Who has said what this attempt has done; of several answers to the same question the last one was taken."""
        asked, by = f"{self.place}?{attempt}", None
        for place, outcome in self._journal.promises.outcomes.items():
            if place == asked or place.startswith(f"{asked}."):
                by = outcome.by
        return None if by is None else by.removeprefix("external/")

    def error_text(self, error: Exception) -> str:
        return values.encode_error(error, self._hide)

    def line(self, error: Exception) -> str:
        """An error for the log."""
        return f"{type(error).__name__}: {first_line(error, self._hide)}"

    def _hide(self, text: str) -> str:
        return redact(text, self._secrets)


def _ms(began: float | None) -> float:
    return 0.0 if began is None else (time.perf_counter() - began) * 1000
