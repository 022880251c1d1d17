"""Open turns, their journals and promises in memory: what storage/migrations/0002_turns_that_wait.sql does."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec

from bus.envelope import Envelope, Header, Outgoing, header_from_json, header_to_json, new_id
from bus.errors import StaleTurn
from storage.batch import fold_journals
from storage.edges import Agent, Refusal, WaitEdge
from storage.journal import (
    Does,
    Flush,
    JournalEntry,
    JournalWrite,
    Kind,
    OpenPromise,
    PromiseWrite,
    StoredJournal,
)
from storage.ledger import CallStatus, EarlierCall, Effect, LedgerWrite
from storage.memory_rows import MailRow, check_json, check_text
from storage.records import MailPlace, Mark, TurnRecord
from storage.standing import OUTSIDE, Standing

WAKE = "callboard.wake.v1"  # as in the SQL: this room knows no agents
WITHDRAW = "callboard.withdraw.v1"

_MAY_HAVE_ACTED = (CallStatus.STARTED, CallStatus.SUCCEEDED, CallStatus.UNKNOWN)

AgentKey = tuple[str, str, str]  # domain, tenant, agent
Mail = dict[tuple[str, str, int, str], dict[int, MailRow]]
Post = Callable[[Outgoing], Envelope]


class TurnRow(msgspec.Struct, kw_only=True):
    """One open turn."""

    partition: int
    turn: str
    message: MailRow
    began_at: float
    recorded: int
    waiting: bool = False


class PromiseRow(msgspec.Struct, kw_only=True):
    """One promise and its owner."""

    tenant: str
    agent: str
    partition: int
    turn: str
    made: PromiseWrite
    made_at: float
    given_up: bool = False
    status: str = "pending"
    value: str | None = None
    settled_by: str | None = None
    settled_at: float | None = None

    @property
    def leaves_no_row(self) -> bool:
        return self.made.kind in (Kind.ASK, Kind.SLEEP)


class LedgerRow(msgspec.Struct, kw_only=True):
    """One call of a tool, as it was written last; the epoch is that of the host that was to make it last."""

    agent: str
    turn: str
    epoch: int
    call: LedgerWrite


class MemoryTurns:
    """The tables `turns`, `journal` and `promises` of all domains."""

    def __init__(self, mail: Mail, post: Post, now: Callable[[], float]) -> None:
        self._mail = mail
        self._post = post
        self._now = now
        self.turns: dict[AgentKey, TurnRow] = {}
        self.journal: dict[tuple[str, str, str], list[JournalEntry]] = {}
        self.promises: dict[tuple[str, str, str], PromiseRow] = {}
        self.ledger: dict[tuple[str, str, str], LedgerRow] = {}

    # -- a commit's part -----------------------------------------------------------------------------

    def check(self, domain: str, writes: Sequence[TurnRecord | Flush], marks: Iterable[Mark]) -> None:
        """Raise for whatever Postgres would refuse; nothing has been written yet."""
        journaled = [(write, write.journal) for write in writes if write.journal is not None]
        ended = {(domain, write.tenant, write.agent) for write, part in journaled if part.does is Does.END}
        opened: set[AgentKey] = set()
        changes = fold_journals([write for write, _ in journaled])
        for (write, _), change in zip(journaled, changes, strict=True):
            row = self.turns.get((domain, write.tenant, write.agent))
            is_there = row is not None and change.does in (Does.GO, Does.RESUME, Does.PARK, Does.END)
            if row is not None and is_there and row.recorded != change.recorded:
                raise StaleTurn("Others have recorded something in an open turn.")
        for write, part in sorted(journaled, key=lambda pair: pair[1].does is not Does.OPEN):
            key = (domain, write.tenant, write.agent)
            box = self._mail.get((domain, write.tenant, write.partition, write.agent), {})
            row = self.turns.get(key)
            if part.does is Does.OPEN:
                if part.seq not in box or (row is not None and key not in ended):
                    raise StaleTurn("A message whose turn opens is gone.")
                opened.add(key)
            elif (
                part.does is not Does.NONE
                and key not in opened
                and (row is None or row.message.seq != part.seq)
            ):
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
        box = self._mail.get((domain, write.tenant, write.partition, write.agent), {})
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
            if part.does is Does.RESUME:
                row.message.trials = 0
        if part.entries:
            self.journal.setdefault((domain, write.tenant, part.turn), []).extend(part.entries)
        for seq in part.consumed:
            del box[seq]
        for made in part.promises:
            self.promises[(domain, write.tenant, made.id)] = PromiseRow(
                tenant=write.tenant, agent=write.agent, partition=write.partition, turn=part.turn, made=made,
                made_at=self._now(),
            )  # fmt: skip
        for id_, given_up in part.given_up:
            if (domain, write.tenant, id_) in self.promises:
                self.promises[(domain, write.tenant, id_)].given_up = given_up
        for call in part.calls:
            earlier = self.ledger.get((domain, write.tenant, call.id))
            made_by = epoch if earlier is None or call.status is CallStatus.STARTED else earlier.epoch
            self.ledger[(domain, write.tenant, call.id)] = LedgerRow(
                agent=write.agent, turn=part.turn, epoch=made_by, call=call
            )
        for id_ in part.done:
            promise = self.promises.get((domain, write.tenant, id_))
            if promise is not None and promise.leaves_no_row:
                del self.promises[(domain, write.tenant, id_)]
            elif promise is not None and promise.status == "pending":
                promise.status = "abandoned"
        if not box:
            self._mail.pop((domain, write.tenant, write.partition, write.agent), None)

    # -- settling ------------------------------------------------------------------------------------

    def settles(self, reply: Outgoing) -> bool:
        """Settle the promise that the reply is for; False when it came too late."""
        promise = self.promises.get((reply.domain, reply.tenant, reply.settles or ""))
        if promise is None or promise.status != "pending" or promise.agent != reply.agent:
            return False
        body = json.loads(reply.payload)
        if promise.made.kind == Kind.APPROVAL:
            by, digest = reply.header.sender, body.get("digest", "")
            if not self._may_be_settled(reply.domain, promise, body["status"], by, digest):
                return False
        elif promise.made.kind not in (Kind.ASK, Kind.PROMISE):
            return False
        promise.status, promise.settled_by = body["status"], reply.header.sender
        promise.settled_at = self._now()
        if not promise.leaves_no_row:
            promise.value = json.dumps(body.get("value"))
        return True

    def settle(
        self, domain: str, tenant: str, id_: str, *, status: str, value: str | None, by: str, digest: str = ""
    ) -> Envelope | None:
        """Settle a promise from outside; None when it may not be settled so, or had been settled before."""
        promise = self.promises.get((domain, tenant, id_))
        if promise is None or promise.status != "pending":
            return None
        if promise.made.kind == Kind.APPROVAL:
            if not self._may_be_settled(domain, promise, status, by, digest):
                return None
        elif status != "resolved" or promise.made.kind not in (Kind.PROMISE, Kind.OUTCOME):
            return None
        if promise.made.due_at is not None and promise.made.due_at <= self._now():
            return None
        return self._settled(domain, promise, status, value, by)

    def _may_be_settled(self, domain: str, promise: PromiseRow, status: str, by: str, digest: str) -> bool:
        is_in_time = promise.made.due_at is None or promise.made.due_at > self._now()
        seen = json.loads(promise.made.details or "{}")["digest"].startswith(digest)
        return (
            status in ("approved", "denied") and is_in_time and seen and self._may_decide(domain, promise, by)
        )

    def _may_decide(self, domain: str, promise: PromiseRow, by: str) -> bool:
        approvers = json.loads(promise.made.details or "{}")["approvers"]
        if by.startswith(OUTSIDE):
            name = by.removeprefix(OUTSIDE)
            return not approvers or (name in approvers and name.count("/") < 2)
        turn = self.turns.get((domain, promise.tenant, promise.agent))
        asked_by = [f"{domain}/{promise.agent}"]
        if turn is not None and turn.turn == promise.turn:
            asked_by.append(header_from_json(turn.message.header_json).sender)
        return by in approvers and by not in asked_by

    def standing(self, domain: str, tenant: str, id_: str, by: str) -> Standing | None:
        row = self.promises.get((domain, tenant, id_))
        if row is None:
            return None
        due_at = row.made.due_at
        return Standing(
            kind=row.made.kind, name=row.made.name, status=row.status, settled_by=row.settled_by,
            settled_at=row.settled_at, due_at=due_at, is_due=due_at is not None and due_at <= self._now(),
            may_decide=row.made.kind != Kind.APPROVAL or self._may_decide(domain, row, by),
            details=row.made.details, value=row.value,
        )  # fmt: skip

    def settle_due(self, domain: str, partitions: Collection[int], limit: int) -> list[MailPlace]:
        due = sorted(
            (row.made.due_at, id_, row)
            for (of, _, id_), row in self.promises.items()
            if of == domain and row.partition in partitions and row.status == "pending"
            and row.made.due_at is not None and row.made.due_at <= self._now()
        )[:limit]  # fmt: skip
        wakes = []
        for _, _, row in due:
            status = "resolved" if row.made.kind == Kind.SLEEP else "expired"
            wake = self._settled(domain, row, status, None, "external/clock")
            wakes.append(MailPlace(tenant=wake.tenant, partition=row.partition, agent=wake.agent))
        return wakes

    def next_due(self, domain: str, partitions: Collection[int]) -> float | None:
        """When the clock will settle the first promise of these partitions."""
        return min(
            (
                row.made.due_at
                for (of, _, _), row in self.promises.items()
                if of == domain and row.partition in partitions and row.status == "pending"
                and row.made.due_at is not None
            ),
            default=None,
        )  # fmt: skip

    def _settled(self, domain: str, promise: PromiseRow, status: str, value: str | None, by: str) -> Envelope:
        promise.status, promise.value, promise.settled_by = status, value, by
        promise.settled_at = self._now()
        header = Header(id=new_id(), type=WAKE, sender=by, sent_at=self._now())
        body = {
            "promise": promise.made.id, "status": status,
            "value": None if value is None else json.loads(value), "by": by, "at": self._now(),
        }  # fmt: skip
        return self._post(
            Outgoing(
                domain=domain, tenant=promise.tenant, agent=promise.agent, partition=promise.partition,
                header=header, header_json=header_to_json(header), payload=json.dumps(body), control=True,
            )
        )  # fmt: skip

    # -- asks as edges -------------------------------------------------------------------------------

    def wait_edges(self, agents: Collection[Agent], limit: int) -> list[WaitEdge]:
        found = [
            _edge(domain, row)
            for (domain, _, _), row in self.promises.items()
            if (domain, row.tenant, row.agent) in agents and self._holds(domain, row)
        ]
        return found[:limit]

    def _holds(self, domain: str, row: PromiseRow) -> bool:
        turn = self.turns.get((domain, row.tenant, row.agent))
        waits = row.made.kind == Kind.ASK and row.status == "pending" and not row.given_up
        return waits and turn is not None and turn.turn == row.turn

    def refuse_ask(self, newest: WaitEdge, cycle: Sequence[WaitEdge], agents: Sequence[str]) -> Refusal:
        gone = frozenset(edge.id for edge in cycle if not self._waits_for_a_turn(edge))
        if gone:
            return Refusal(gone=gone)
        domain, tenant, _ = newest.asker
        row = self.promises[(domain, tenant, newest.id)]
        wake = self._settled(domain, row, "cycle", json.dumps(agents), "external/cycle")
        asked, _, other = newest.asked
        place = self.turns[newest.asked].partition
        header = Header(id=new_id(), type=WITHDRAW, sender="external/cycle", sent_at=self._now())
        self._post(
            Outgoing(
                domain=asked, tenant=tenant, agent=other, partition=place, header=header, control=True,
                header_json=header_to_json(header), payload=json.dumps({"id": row.made.message}),
            )
        )  # fmt: skip
        return Refusal(mail=((domain, row.partition, tenant, wake.agent), (asked, place, tenant, other)))

    def _waits_for_a_turn(self, edge: WaitEdge) -> bool:
        domain, tenant, _ = edge.asker
        row = self.promises.get((domain, tenant, edge.id))
        other = self.turns.get(edge.asked)
        if row is None or other is None or not self._holds(domain, row):
            return False
        box = self._mail.get((edge.asked[0], tenant, other.partition, edge.asked[2]), {})
        return any(mail.id == row.made.message for mail in (other.message, *box.values()))

    def chained_asks(self, domain: str, partitions: Collection[int], limit: int) -> list[tuple[str, str]]:
        edges = [_edge(of, row) for (of, _, _), row in self.promises.items() if self._holds(of, row)]
        askers = {edge.asker for edge in edges}
        return [
            (row.tenant, row.agent)
            for (of, _, _), row in self.promises.items()
            if of == domain and row.partition in partitions and self._holds(of, row)
            and _edge(of, row).asked in askers
        ][:limit]  # fmt: skip

    # -- loading -------------------------------------------------------------------------------------

    def state_of(self, domain: str, tenant: str, agent: str) -> str | None:
        row = self.turns.get((domain, tenant, agent))
        return None if row is None else "waiting" if row.waiting else "open"

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
        if part.entries:
            return part.entries[-1] in self.journal.get((domain, write.tenant, part.turn), ())
        if part.promises:
            return (domain, write.tenant, part.promises[-1].id) in self.promises
        return part.does is Does.OPEN

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
                for (of, owner, _), p in self.promises.items()
                if (of, owner, p.agent, p.turn) == (domain, tenant, agent, row.turn)
            ),
        )  # fmt: skip

    def earlier_calls(self, domain: str, tenant: str, agent: str, message: str) -> list[EarlierCall]:
        found = []
        for (of, owner, id_), row in self.ledger.items():
            call = row.call
            if (of, owner, row.agent, call.message) != (domain, tenant, agent, message):
                continue
            failed_under_a_key = call.effect is Effect.IDEMPOTENT and call.status is CallStatus.FAILED
            if call.effect is Effect.PURE or not (call.status in _MAY_HAVE_ACTED or failed_under_a_key):
                continue
            entry = next(
                (
                    e for e in reversed(self.journal.get((domain, tenant, row.turn), ()))
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


def _edge(domain: str, row: PromiseRow) -> WaitEdge:
    to, _, agent = (row.made.target or "").partition("/")
    return WaitEdge(
        id=row.made.id, asker=(domain, row.tenant, row.agent), asked=(to, row.tenant, agent),
        made_at=int(row.made_at * 1e6), gates=row.made.gates,
    )  # fmt: skip


def note(message: MailRow, mark: Mark, now: float) -> None:
    """What a mark does to its message."""
    message.failures += mark.failed
    message.trials += mark.tried
    message.retry_at = None if mark.delay_s is None else now + mark.delay_s
    message.last_error = message.last_error if mark.error is None else mark.error


def opened_envelope(tenant: str, agent: str, row: TurnRow) -> Envelope:
    message = row.message
    return Envelope(
        seq=message.seq, tenant=tenant, agent=agent, header=header_from_json(message.header_json),
        header_json=message.header_json, payload=message.payload, failures=message.failures,
        trials=message.trials, retry_at=message.retry_at, open=True,
    )  # fmt: skip
