"""Open turns and their journals in memory: what storage/migrations/0002_turns_that_wait.sql does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bus.envelope import Envelope, header_from_json
from bus.errors import StaleTurn
from storage.journal import Does, Flush, JournalEntry, JournalWrite, Kind, OpenPromise, StoredJournal
from storage.journal_batch import fold_journals
from storage.memory_edges import MemoryEdges
from storage.memory_ledger import MemoryLedger
from storage.memory_mail import MemoryMail
from storage.memory_promises import MemoryPromises
from storage.memory_rows import TimerRow, TurnRow, check_json, check_text, note
from storage.memory_tasks import MemoryTasks
from storage.records import Attempt, Mark, TurnRecord

Key = tuple[str, str, str]  # domain, tenant, and the agent or the turn


class MemoryTurns:
    """The tables `turns` and `journal` of all domains, with the promises, calls and asks of these turns."""

    def __init__(
        self,
        mail: MemoryMail,
        tasks: MemoryTasks,
        timers: Callable[[], list[TimerRow]],
        now: Callable[[], float],
    ) -> None:
        self._mail = mail
        self._now = now
        self.turns: dict[Key, TurnRow] = {}
        self.journal: dict[Key, list[JournalEntry]] = {}
        self.promises = MemoryPromises(self.turns, mail.post, now)
        self.ledger = MemoryLedger(self.journal)
        self.edges = MemoryEdges(mail, self.turns, self.promises, tasks, timers, now)

    # -- a commit's part -----------------------------------------------------------------------------

    def check(self, domain: str, writes: Sequence[TurnRecord | Flush], marks: Iterable[Mark]) -> None:
        """Raise for whatever Postgres would refuse; nothing has been written yet."""
        journaled = [(write, write.journal) for write in writes if write.journal is not None]
        ended = {(domain, write.tenant, write.agent) for write, part in journaled if part.does is Does.END}
        opened: set[Key] = set()
        changes = fold_journals([write for write, _ in journaled])
        for (write, _), change in zip(journaled, changes, strict=True):
            row = self.turns.get((domain, write.tenant, write.agent))
            is_there = row is not None and change.does in (Does.GO, Does.RESUME, Does.PARK, Does.END)
            if row is not None and is_there and row.recorded != change.recorded:
                raise StaleTurn("Others have recorded something in an open turn.")
        for write, part in sorted(journaled, key=lambda pair: pair[1].does is not Does.OPEN):
            key = (domain, write.tenant, write.agent)
            box = self._mail.boxes.get((domain, write.tenant, write.partition, write.agent), {})
            row = self.turns.get(key)
            if part.does is Does.OPEN:
                if part.seq not in box or (row is not None and key not in ended):
                    raise StaleTurn("A message whose turn opens is gone.")
                opened.add(key)
            elif part.does is not Does.NONE and key not in opened and (row is None or row.turn != part.turn):
                raise StaleTurn("An open turn is gone.")
            if any(seq not in box for seq in part.consumed):
                raise StaleTurn("A wake-up to be consumed is gone.")
            for entry in part.entries:
                check_text(entry.key + entry.name)
                check_json(entry.value)
            for promise in part.promises:
                check_json(promise.details)
        for mark in marks:
            row = self.turns.get((domain, mark.tenant, mark.agent))
            if (domain, mark.tenant, mark.agent) in opened:
                continue
            if mark.open and (row is None or row.message.seq != mark.seq):
                raise StaleTurn("An open turn to be marked is gone.")

    def apply(
        self, domain: str, epoch: int, writes: Sequence[TurnRecord | Flush], marks: Iterable[Mark]
    ) -> None:
        journaled = [(write, write.journal) for write in writes if write.journal is not None]
        for write, part in journaled:
            if part.does is Does.END:
                del self.turns[(domain, write.tenant, write.agent)]
        for write, part in journaled:
            self._apply(domain, epoch, write, part)
        for mark in marks:
            if mark.open:
                row = self.turns[(domain, mark.tenant, mark.agent)]
                row.waiting = False
                note(row.message, mark, self._now())

    def _apply(self, domain: str, epoch: int, write: TurnRecord | Flush, part: JournalWrite) -> None:
        key = (domain, write.tenant, write.agent)
        box = self._mail.boxes.get((domain, write.tenant, write.partition, write.agent), {})
        if part.does is Does.OPEN:
            self.turns[key] = TurnRow(
                partition=write.partition, turn=part.turn, message=box.pop(part.seq), began_at=part.began_at,
                recorded=part.adds,
            )  # fmt: skip
        elif part.does in (Does.GO, Does.PARK, Does.RESUME):
            row = self.turns[key]
            row.recorded += part.adds
            if part.does is not Does.GO:
                row.waiting = part.does is Does.PARK
            if part.does is not Does.GO:
                row.message.trials = 0
            if part.does is Does.RESUME:
                row.message.retry_at = None
        if part.entries:
            self.journal.setdefault((domain, write.tenant, part.turn), []).extend(part.entries)
        for seq in part.consumed:
            del box[seq]
        self.promises.apply(domain, write.tenant, write.agent, write.partition, part)
        self.ledger.write(domain, write.tenant, write.agent, part.turn, epoch, part.calls)
        self.ledger.judge(domain, write.tenant, write.agent, part.turn, part.verdicts)
        if not box:
            self._mail.boxes.pop((domain, write.tenant, write.partition, write.agent), None)

    def end_attempts(self, domain: str, attempts: Iterable[Attempt]) -> None:
        """These have ended, and nothing has died of them."""
        for attempt in attempts:
            box = self._mail.boxes.get((domain, attempt.tenant, attempt.partition, attempt.agent), {})
            open_ = self.turns.get((domain, attempt.tenant, attempt.agent))
            for row in (*box.values(), *([] if open_ is None else [open_.message])):
                if row.seq == attempt.seq:
                    row.trials = max(row.trials - 1, 0)

    # -- loading -------------------------------------------------------------------------------------

    def state_of(self, domain: str, tenant: str, agent: str) -> str | None:
        row = self.turns.get((domain, tenant, agent))
        return None if row is None else "waiting" if row.waiting else "open"

    def must_hear(self, domain: str, tenant: str, agent: str) -> bool:
        """Whether a person is asked what a call of the open turn has done, or it waits for a task."""
        row = self.turns[(domain, tenant, agent)]
        return any(
            (of, p.tenant, p.agent, p.turn) == (domain, tenant, agent, row.turn)
            and p.status == "pending"
            and (p.made.kind is Kind.OUTCOME or p.waits_for_task)
            for (of, _, _), p in self.promises.rows.items()
        )

    def to_run(self, domain: str, partition: int) -> list[Envelope]:
        return [
            opened_envelope(tenant, agent, row)
            for (of, tenant, agent), row in self.turns.items()
            if of == domain and row.partition == partition and not row.waiting
        ]

    def has(self, domain: str, write: Flush) -> bool:
        """Whether this was written; False for what leaves no trace."""
        part = write.journal
        row = self.turns.get((domain, write.tenant, write.agent))
        if row is None or row.turn != part.turn:
            return False
        return part.leaves_trace and row.recorded >= part.recorded + part.adds

    def load(self, domain: str, tenant: str, agent: str) -> StoredJournal | None:
        row = self.turns.get((domain, tenant, agent))
        if row is None:
            return None
        message = row.message
        return StoredJournal(
            seq=message.seq, turn=row.turn, header_json=message.header_json, payload=message.payload,
            failures=message.failures, trials=message.trials, retry_at=message.retry_at,
            began_at=row.began_at, waiting=row.waiting, recorded=row.recorded,
            entries=tuple(self.journal.get((domain, tenant, row.turn), ())),
            promises=tuple(
                OpenPromise(
                    id=p.made.id, key=p.made.key, kind=p.made.kind, name=p.made.name, status=p.status,
                    target=p.made.target, due_at=p.made.due_at, given_up=p.given_up,
                )
                for (of, owner, _), p in self.promises.rows.items()
                if (of, owner, p.agent, p.turn) == (domain, tenant, agent, row.turn)
            ),
        )  # fmt: skip


def opened_envelope(tenant: str, agent: str, row: TurnRow) -> Envelope:
    message = row.message
    return Envelope(
        seq=message.seq, tenant=tenant, agent=agent, header=header_from_json(message.header_json),
        header_json=message.header_json, payload=message.payload, failures=message.failures,
        trials=message.trials, retry_at=message.retry_at, open=True,
    )  # fmt: skip
