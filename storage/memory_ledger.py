"""The ledger in memory, for tests: every call of a tool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from storage.journal import JournalEntry
from storage.ledger import CallStatus, CallVerdict, EarlierCall, Effect, LedgerWrite
from storage.memory_rows import LedgerRow

_MAY_HAVE_ACTED = (CallStatus.STARTED, CallStatus.SUCCEEDED, CallStatus.UNKNOWN)

Key = tuple[str, str, str]  # domain, tenant, and the turn or the call


class MemoryLedger:
    """The table `ledger` of all domains."""

    def __init__(self, journal: Mapping[Key, Sequence[JournalEntry]]) -> None:
        self.rows: dict[Key, LedgerRow] = {}
        self._journal = journal

    def write(
        self, domain: str, tenant: str, agent: str, turn: str, epoch: int, calls: Iterable[LedgerWrite]
    ) -> None:
        for call in calls:
            earlier = self.rows.get((domain, tenant, call.id))
            made_by = epoch if earlier is None or call.status is CallStatus.STARTED else earlier.epoch
            if earlier is not None and call.again_by is None:
                call = msgspec.structs.replace(call, again_by=earlier.call.again_by)
            if (
                earlier is not None and earlier.call.status is CallStatus.SUCCEEDED
            ):  # a later turn takes it over
                said, approval = earlier.call.said_by, call.approval or earlier.call.approval
                call = msgspec.structs.replace(call, said_by=said, approval=approval)
            self.rows[(domain, tenant, call.id)] = LedgerRow(agent=agent, turn=turn, epoch=made_by, call=call)

    def judge(self, domain: str, tenant: str, agent: str, turn: str, verdicts: Iterable[CallVerdict]) -> None:
        for verdict in verdicts:
            for (of, owner, id_), row in self.rows.items():
                at = row.agent, row.turn, row.call.key
                is_meant = id_ == verdict.id if verdict.id else at == (agent, turn, verdict.key)
                is_open = row.call.status in (CallStatus.STARTED, CallStatus.UNKNOWN)
                if (of, owner) == (domain, tenant) and is_meant and is_open:
                    row.call = msgspec.structs.replace(
                        row.call, status=verdict.status, error=verdict.error, said_by=verdict.said_by
                    )

    def earlier(self, domain: str, tenant: str, agent: str, message: str) -> list[EarlierCall]:
        found = []
        for (of, owner, id_), row in self.rows.items():
            call = row.call
            if (of, owner, row.agent, call.message) != (domain, tenant, agent, message):
                continue
            failed_under_a_key = call.effect is Effect.IDEMPOTENT and call.status is CallStatus.FAILED
            if call.effect is Effect.PURE or not (call.status in _MAY_HAVE_ACTED or failed_under_a_key):
                continue
            entries = self._journal.get((domain, tenant, row.turn), ())
            if call.status is CallStatus.SUCCEEDED and any(e.kind == "undo" and e.ok for e in entries):
                continue
            entry = next(
                (
                    e for e in reversed(entries)
                    if e.key == call.key and e.kind == "call" and e.ok
                ),
                None,
            )  # fmt: skip
            found.append(
                EarlierCall(
                    id=id_, turn=row.turn, key=call.key, tool=call.tool, digest=call.digest, effect=call.effect,
                    status=call.status, attempts=call.attempts, epoch=row.epoch,
                    value=entry.value if entry else None, blob=entry.blob if entry else None,
                )
            )  # fmt: skip
        return found
