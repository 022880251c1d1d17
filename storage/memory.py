"""A host's storage in memory, for tests: what storage/migrations/0001_core.sql does, in Python.

The contract suite in tests/contract runs over it and over Postgres.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec

from bus.envelope import Envelope, Outgoing, header_from_json
from bus.errors import InvalidData, InvalidPayload, StaleTurn
from bus.limits import SEEN_WINDOW
from storage.batch import fold_marks
from storage.chain import Transition
from storage.edges import Agent, Refusal, WaitEdge
from storage.journal import Flush, StoredJournal
from storage.ledger import EarlierCall
from storage.memory_cancellations import MemoryCancellations
from storage.memory_hosts import MemoryHosts
from storage.memory_rows import (
    DeadLetterRow,
    MailRow,
    TimerRow,
    check_dead,
    check_outgoing,
    check_text,
    check_turn,
)
from storage.memory_spending import MemorySpending
from storage.memory_turns import MemoryTurns, note
from storage.records import (
    GENESIS,
    PAGE_AGENTS,
    PAGE_BYTES,
    Cancellation,
    EventBatch,
    EventCursor,
    Fence,
    MailHead,
    MailPlace,
    Mark,
    NewTask,
    Share,
    StoredState,
    TaskEvent,
    TaskWrite,
    TurnRecord,
)
from storage.room import Bounds, Lack, Recipient, find_lack
from storage.schedules import Firing, ScheduleRow
from storage.spent import Reached
from storage.standing import Standing

CONTROL_OFFSET = 2**62  # what is taken off a control message's number
NO_BOUND = 2**63 - 1  # above every message's number


Mailbox = tuple[str, str, int, str]  # domain, tenant, partition, agent
AgentKey = tuple[str, str, str]  # domain, tenant, agent


class MemoryStore(MemoryHosts):
    """Implements HostStore for any number of hosts in one event loop. Its tables are there to be read.

    `now` may be replaced: it is the clock of retries and timers. `passing` is called with `commit.before` and
    `commit.after` (written, not answered yet); what it raises is what the caller gets.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.now = now
        self.passing: Callable[[str], None] = lambda point: None
        super().__init__()
        self.mail: dict[Mailbox, dict[int, MailRow]] = {}
        self.timers: list[TimerRow] = []
        self.agents: dict[AgentKey, StoredState] = {}
        self.transitions: dict[AgentKey, list[Transition]] = {}
        self.dead_letters: dict[tuple[str, int], DeadLetterRow] = {}
        self.tasks: dict[tuple[str, str, str], TaskWrite] = {}
        self.children: dict[tuple[str, str, str], NewTask] = {}
        self.task_events: dict[tuple[str, str, str, int], TaskEvent] = {}
        self.blobs: dict[tuple[str, str, str], bytes] = {}
        self.seen: dict[tuple[str, str, str], float] = {}
        self.event_cursors: dict[str, EventCursor] = {}
        self.schedules: dict[tuple[str, str], ScheduleRow] = {}
        self.sent: list[Outgoing] = []
        """All that turns have sent, timers included, in the order of their commits."""
        self.waits = MemoryTurns(self.mail, self._post, lambda: self.now())
        self.cancellations = MemoryCancellations(self.waits, self._post, lambda: self.now())
        self.pauses: dict[tuple[str, str, str], str] = {}
        """Why, by domain, tenant and reference of a task; the last two are empty where it is the domain itself."""
        self.spending = MemorySpending(self._post, lambda: self.now())
        self.on_limit: Callable[[Reached], None] = lambda reached: None
        self._seq = 0
        self._dead = 0

    # -- turns ---------------------------------------------------------------------------------------

    async def commit(
        self, fence: Fence, writes: Sequence[TurnRecord | Flush], marks: Sequence[Mark]
    ) -> list[int | None]:
        await asyncio.sleep(0)  # as on the way to a server: other tasks run before and after the write
        self.passing("commit.before")
        turns = [write for write in writes if isinstance(write, TurnRecord)]
        marks = fold_marks(writes, marks)
        self._require_fence(fence, {w.partition for w in writes} | {m.partition for m in marks})
        self.waits.check(fence.domain, writes, marks)
        self._check(fence.domain, turns, [mark for mark in marks if not mark.open])
        for write in writes:
            for send in write.sends:
                check_outgoing(send)
        self.waits.apply(fence.domain, fence.epoch, writes, marks)
        self._apply(fence.domain, turns, [mark for mark in marks if not mark.open])
        numbers = self._send(writes)
        over = self.spending.charge(fence.epoch, writes)
        self.passing("commit.after")
        await asyncio.sleep(0)
        for reached in over:
            self.on_limit(reached)
        return numbers

    async def settle(self, fence: Fence, write: TurnRecord | Flush) -> bool:
        self._require_fence(fence, {write.partition})
        if isinstance(write, Flush):
            return self.waits.has(fence.domain, write)
        history = self.transitions.get((fence.domain, write.tenant, write.agent), [])
        return any(t.version == write.version and t.hash == write.hash for t in history)

    async def fire_timers(self, fence: Fence, partitions: Sequence[int], limit: int) -> list[MailPlace]:
        due = [t for t in self._timers_of(fence.domain, partitions) if t.due_at <= self.now()][:limit]
        if due:
            self._require_fence(fence, partitions)
        for timer in due:
            self.timers.remove(timer)
        for timer in due:
            self._post(timer.message)
        return [
            MailPlace(tenant=m.tenant, partition=m.partition, agent=m.agent) for m in (t.message for t in due)
        ]

    def _check(self, domain: str, turns: Sequence[TurnRecord], marks: Sequence[Mark]) -> None:
        """Raise for whatever Postgres would refuse; nothing has been written yet."""
        consumed = [(_mailbox(domain, t), t.seq) for t in turns if t.seq is not None]
        if len(set(consumed)) < len(consumed) or any(
            seq not in self.mail.get(box, ()) for box, seq in consumed
        ):
            raise StaleTurn("A message to be consumed is gone.")
        versions: dict[tuple[str, str], int] = {}
        for turn in turns:
            before = versions.setdefault((turn.tenant, turn.agent), self._version(domain, turn))
            if turn.version != before + 1:
                raise StaleTurn(f"{turn.agent} is at version {before}, not {turn.version - 1}.")
            versions[(turn.tenant, turn.agent)] = turn.version
        if any(m.seq not in self.mail.get(_mailbox(domain, m), ()) for m in marks):
            raise StaleTurn("A message to be marked is gone.")
        undead = [(t.tenant, number) for t in turns for number in t.undead]
        if len(set(undead)) < len(undead) or not self.dead_letters.keys() >= set(undead):
            raise StaleTurn("A dead letter to be taken back is gone.")
        events = [(domain, t.tenant, e.task, e.number) for t in turns for e in t.task_events]
        if len(set(events)) < len(events) or not self.task_events.keys().isdisjoint(events):
            raise InvalidData("A task event's number is taken.")
        for turn in turns:
            check_turn(turn)
        for mark in marks:
            check_text(mark.error or "")

    def _send(self, writes: Sequence[TurnRecord | Flush]) -> list[int | None]:
        """A reply that settles nothing any more is not sent."""
        numbers: list[int | None] = []
        for send in (send for write in writes for send in write.sends):
            self.sent.append(send)
            if send.visible_at is not None:
                self.timers.append(TimerRow(seq=self._next(), due_at=send.visible_at, message=send))
            elif send.settles is not None and not self.waits.settles(send):
                numbers.append(None)
            else:
                numbers.append(self._post(send).seq)
        return numbers

    def _apply(self, domain: str, turns: Sequence[TurnRecord], marks: Sequence[Mark]) -> None:
        for turn in turns:
            key = (domain, turn.tenant, turn.agent)
            if turn.seq is not None:
                self._remove(_mailbox(domain, turn), turn.seq)
            self.agents[key] = StoredState(
                tenant=turn.tenant, agent=turn.agent, version=turn.version, state=turn.state,
                schema_version=turn.schema_version, lifecycle=turn.lifecycle, hash=turn.hash,
            )  # fmt: skip
            self.transitions.setdefault(key, []).append(
                Transition(version=turn.version, body=turn.body, prev=turn.prev, hash=turn.hash)
            )
        for mark in marks:
            note(self.mail[_mailbox(domain, mark)][mark.seq], mark, self.now())
        for turn in turns:
            self._apply_rare(domain, turn)

    def _apply_rare(self, domain: str, turn: TurnRecord) -> None:
        if turn.dead is not None:
            self._bury(
                tenant=turn.tenant, partition=turn.partition, agent=turn.agent,
                message_id=turn.message_id, reason=turn.dead.reason, error=turn.dead.error,
                failures=turn.dead.failures, header_json=turn.header_json, payload=turn.payload,
            )  # fmt: skip
        for number in turn.undead:
            del self.dead_letters[(turn.tenant, number)]
        for new in turn.new_tasks:
            self.add_task(domain, turn.tenant, new.id, new)
        for write in turn.tasks:
            if (domain, turn.tenant, write.id) in self.tasks:
                self.tasks[(domain, turn.tenant, write.id)] = write
        self.cancellations.add(domain, turn)
        for pause in turn.pauses:
            key = domain, turn.tenant, f"{domain}/{pause.task}"
            if pause.paused:
                self.pauses.setdefault(key, pause.why)
            else:
                self.pauses.pop(key, None)
        for event in turn.task_events:
            self.task_events[(domain, turn.tenant, event.task, event.number)] = event

    def _bury(self, *, tenant: str, **fields: Any) -> None:
        self._dead += 1
        self.dead_letters[(tenant, self._dead)] = DeadLetterRow(id=self._dead, tenant=tenant, **fields)

    def _version(self, domain: str, turn: TurnRecord) -> int:
        stored = self.agents.get((domain, turn.tenant, turn.agent))
        return 0 if stored is None else stored.version

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def _post(self, message: Outgoing) -> Envelope:
        seq = self._next() - (CONTROL_OFFSET if message.control else 0)
        row = MailRow(seq=seq, id=message.header.id, header_json=message.header_json, payload=message.payload)
        box = (message.domain, message.tenant, message.partition, message.agent)
        self.mail.setdefault(box, {})[seq] = row
        return _envelope(box, row)

    def _remove(self, box: Mailbox, seq: int) -> None:
        del self.mail[box][seq]
        if not self.mail[box]:
            del self.mail[box]

    # -- mailboxes and states ------------------------------------------------------------------------

    async def load_partition(
        self,
        domain: str,
        partition: int,
        *,
        after: tuple[str, str],
        agents: int,
        each: Share,
        page_bytes: int,
    ) -> tuple[list[Envelope], set[tuple[str, str]], tuple[str, str] | None]:
        waiting = sorted((b[1], b[3]) for b in self.mail if b[0] == domain and b[2] == partition)
        found: list[Envelope] = []
        more = set()
        room = page_bytes
        for looked, (tenant, agent) in enumerate((key for key in waiting if key > after), start=1):
            below = 0 if self._is_closed(domain, tenant, agent) else NO_BOUND
            if each.size:
                first, cut = self._first((domain, tenant, partition, agent), each, below)
            else:
                one, cut = Share(messages=1, size=1), True
                first, _ = self._first((domain, tenant, partition, agent), one, below)
                first = [msgspec.structs.replace(envelope, payload="") for envelope in first]
            found += first
            if first and cut:
                more.add((tenant, agent))
            room -= sum(_size(envelope) for envelope in first)
            if looked >= agents or room <= 0:
                return found, more, (tenant, agent)
        return found, more, None

    async def load_agent(
        self,
        domain: str,
        partition: int,
        tenant: str,
        agent: str,
        share: Share,
        *,
        control_only: bool = False,
    ) -> tuple[list[Envelope], bool]:
        turn = [e for e in self.waits.to_run(domain, partition) if (e.tenant, e.agent) == (tenant, agent)]
        found, more = self._first((domain, tenant, partition, agent), share, 0 if control_only else NO_BOUND)
        return [*([] if control_only else turn), *found], more

    def _first(self, box: Mailbox, share: Share, below: int) -> tuple[list[Envelope], bool]:
        found: list[Envelope] = []
        room = share.size
        for seq, row in sorted(self.mail.get(box, {}).items()):
            if seq >= below:
                break
            found.append(_envelope(box, row))
            room -= _size(found[-1])
            if len(found) >= share.messages or room <= 0:
                return found, True
        return found, False

    def _is_closed(self, domain: str, tenant: str, agent: str) -> bool:
        stored = self.agents.get((domain, tenant, agent))
        paused = stored is not None and stored.lifecycle == "paused"
        return paused or self.waits.state_of(domain, tenant, agent) is not None

    async def mail_heads(
        self, domain: str, after: tuple[str, int, str], partitions: Sequence[int], limit: int
    ) -> tuple[list[MailHead], tuple[str, int, str] | None]:
        places = sorted((b[1], b[2], b[3]) for b in self.mail if b[0] == domain and b[2] in partitions)
        waiting = [place for place in places if place > after][:limit]
        heads = []
        for tenant, partition, agent in waiting:
            seq = min(self.mail[(domain, tenant, partition, agent)])
            if seq < 0 or not self._is_closed(domain, tenant, agent):
                heads.append(MailHead(tenant=tenant, partition=partition, agent=agent, seq=seq))
        return heads, waiting[-1] if len(waiting) == limit else None

    async def load_states(
        self, domain: str, agents: Sequence[tuple[str, str]], *, page_bytes: int = PAGE_BYTES
    ) -> tuple[list[StoredState], int]:
        found: list[StoredState] = []
        room = page_bytes
        for looked, (tenant, agent) in enumerate(agents):
            if room <= 0:
                return found, looked
            stored = self.agents.get((domain, tenant, agent))
            turn = self.waits.state_of(domain, tenant, agent)
            if stored is None and turn is not None:
                stored = StoredState(
                    tenant=tenant, agent=agent, version=0, schema_version=0, lifecycle="created", state=None,
                    hash=GENESIS,
                )  # fmt: skip
            if stored is not None:
                found.append(msgspec.structs.replace(stored, turn=turn))
                room -= len((stored.state or "").encode())
        return found, len(agents)

    async def load_turns(
        self,
        domain: str,
        partition: int,
        *,
        after: tuple[str, str] = ("", ""),
        turns: int = PAGE_AGENTS,
        page_bytes: int = PAGE_BYTES,
    ) -> tuple[list[Envelope], tuple[str, str] | None]:
        found: list[Envelope] = []
        room = page_bytes
        for envelope in sorted(self.waits.to_run(domain, partition), key=lambda e: (e.tenant, e.agent)):
            place = envelope.tenant, envelope.agent
            if place > after:
                found.append(envelope)
                room -= _size(envelope)
                if room <= 0 or len(found) >= turns:
                    return found, place
        return found, None

    async def load_journal(self, domain: str, tenant: str, agent: str) -> StoredJournal | None:
        return self.waits.load(domain, tenant, agent)

    async def promise_standing(self, domain: str, tenant: str, id_: str, by: str) -> Standing | None:
        return self.waits.standing(domain, tenant, id_, by)

    async def earlier_calls(self, domain: str, tenant: str, agent: str, message: str) -> list[EarlierCall]:
        return self.waits.earlier_calls(domain, tenant, agent, message)

    async def is_gone(self, domain: str, epoch: int) -> bool:
        return self.hosts[(domain, epoch)].gone

    async def settle_due(self, fence: Fence, partitions: Sequence[int], limit: int) -> list[MailPlace]:
        due_at = self.waits.next_due(fence.domain, partitions)
        if due_at is not None and due_at <= self.now():
            self._require_fence(fence, partitions)
        return self.waits.settle_due(fence.domain, partitions, limit)

    async def find_mail(
        self, domain: str, partition: int, tenant: str, agent: str, message: str
    ) -> int | None:
        box = self.mail.get((domain, tenant, partition, agent), {})
        return next((seq for seq, row in box.items() if seq > 0 and row.id == message), None)

    async def wait_edges(self, agents: Sequence[Agent], limit: int) -> list[WaitEdge]:
        return self.waits.wait_edges(set(agents), limit)

    async def refuse_ask(self, newest: WaitEdge, cycle: Sequence[WaitEdge], agents: Sequence[str]) -> Refusal:
        return self.waits.refuse_ask(newest, cycle, agents)

    async def chained_asks(self, domain: str, partitions: Sequence[int], limit: int) -> list[tuple[str, str]]:
        return self.waits.chained_asks(domain, partitions, limit)

    async def put_blob(self, domain: str, tenant: str, digest: str, data: bytes) -> None:
        self.blobs[(domain, tenant, digest)] = data

    async def get_blob(self, domain: str, tenant: str, digest: str) -> bytes:
        try:
            return self.blobs[(domain, tenant, digest)]
        except KeyError:
            raise InvalidPayload(f"The blob {digest[:12]}... is not in storage.") from None

    async def read_dead_letter(
        self, domain: str, tenant: str, agent: str, number: int
    ) -> tuple[str, str] | None:
        row = self.dead_letters.get((tenant, number))
        return (row.header_json, row.payload) if row is not None and row.agent == agent else None

    # -- cancelled tasks -----------------------------------------------------------------------------

    async def read_cancellations(self, *, ended: bool) -> list[Cancellation]:
        return self.cancellations.read(ended=ended)

    async def read_pauses(self, domain: str) -> list[tuple[str, str]]:
        return [(tenant, task) for of, tenant, task in self.pauses if task or of == domain]

    async def stop_cancelled(self, fence: Fence, partitions: Sequence[int]) -> list[MailPlace]:
        self._require_fence(fence, partitions)
        return self.cancellations.stop(fence.domain, partitions, self.timers)

    async def has_stopped(self, fence: Fence, cancellations: Sequence[int]) -> None:
        row = self.hosts[(fence.domain, fence.epoch)]
        if row.is_live:
            row.stopped = frozenset(cancellations)

    async def end_cancellations(self, fence: Fence, partitions: Sequence[int]) -> list[MailPlace]:
        self._require_fence(fence, partitions)
        return self.cancellations.end(fence.domain, partitions, self.hosts.values())

    async def lack_of_room(self, domain: str, wanted: Mapping[Recipient, int], bounds: Bounds) -> Lack | None:
        waiting = sum(len(box) for (at, *_), box in self.mail.items() if at == domain)
        rooms = [bounds.mailbox - len(self.mail.get((domain, *recipient), {})) for recipient in wanted]
        return find_lack(domain, wanted, bounds, bounds.backlog - waiting, rooms)

    # -- events --------------------------------------------------------------------------------------

    async def event_cursor(self, domain: str) -> EventCursor | None:
        return self.event_cursors.get(domain)

    async def accept_events(self, fence: Fence, cursor: EventCursor, batch: EventBatch) -> dict[str, int]:
        self._require_fence(fence, (0,))
        before = self.event_cursors.get(fence.domain)
        if before is not None and before.incarnation == cursor.incarnation and before.seq >= cursor.seq:
            raise StaleTurn(f"Events up to {cursor.seq} were accepted before.")
        for message in batch.messages:
            check_outgoing(message)
        for dead in batch.dead:
            check_dead(dead)
        self.event_cursors[fence.domain] = cursor
        for dead in batch.dead:
            self._bury(
                tenant=dead.tenant, partition=dead.partition, agent=dead.agent, message_id=dead.message, reason=dead.reason,
                error=dead.error, failures=0, header_json=dead.header, payload=dead.payload,
            )  # fmt: skip
        taken = [
            (message.header.id, self.accept(message, key=key, window_s=SEEN_WINDOW.total_seconds()))
            for key, message in zip(batch.keys, batch.messages, strict=True)
        ]
        return {id_: envelope.seq for id_, envelope in taken if envelope is not None}

    # -- schedules -----------------------------------------------------------------------------------

    async def read_schedules(self, domain: str) -> tuple[float, list[ScheduleRow]]:
        rows = [row for (of, _), row in sorted(self.schedules.items()) if of == domain]
        return self.now(), rows

    async def keep_schedules(self, fence: Fence, rows: Sequence[ScheduleRow]) -> None:
        self._require_fence(fence, (0,))
        names = {row.name for row in rows}
        for domain, name in list(self.schedules):
            if domain == fence.domain and name not in names:
                del self.schedules[(domain, name)]
        for row in rows:
            before = self.schedules.get((fence.domain, row.name))
            if before is not None and (before.cron, before.timezone) == (row.cron, row.timezone):
                row = msgspec.structs.replace(row, next_at=before.next_at, last_at=before.last_at)
            self.schedules[(fence.domain, row.name)] = row

    async def fire_schedule(self, fence: Fence, firing: Firing) -> bool:
        self._require_fence(fence, (0,))
        place = (fence.domain, firing.name)
        row = self.schedules.get(place)
        if row is None or row.next_at != firing.due or row.next_at > self.now():
            return False
        last_at = self.now() if firing.messages else row.last_at
        self.schedules[place] = msgspec.structs.replace(row, next_at=firing.next_at, last_at=last_at)
        window_s = SEEN_WINDOW.total_seconds()
        sent = [self.accept(message, key=key, window_s=window_s) for key, message in firing.messages]
        return any(envelope is not None for envelope in sent)

    # -- what the intake and the clock do in production -------------------------------

    def accept(
        self, message: Outgoing, *, key: str | None = None, window_s: float = 86_400
    ) -> Envelope | None:
        """Put a message from outside into its mailbox; None when its key was seen within the window."""
        check_outgoing(message)
        if key is not None:
            place = (message.domain, message.tenant, key)
            if self.seen.get(place, float("-inf")) >= self.now():
                return None
            self.seen[place] = self.now() + window_s
        return self._post(message)

    def add_task(self, domain: str, tenant: str, task: str, submitted: NewTask | None = None) -> None:
        """A task that was submitted, by another one if that is said, and that its agent has not written yet."""
        row = TaskWrite(
            id=task, status="submitted", assignee=None, progress=0.0, result=None, error=None, finished=False
        )
        if self.tasks.setdefault((domain, tenant, task), row) is row and submitted is not None:
            self.children[(domain, tenant, task)] = submitted

    def next_timer(self, domain: str, partitions: Collection[int]) -> float | None:
        """When the first timer of these partitions is due, the clock settles the first promise, or a schedule comes."""
        timer = next((timer.due_at for timer in self._timers_of(domain, partitions)), None)
        scheduled = [
            row.next_at for (of, _), row in self.schedules.items() if of == domain and 0 in partitions
        ]
        promised = self.waits.next_due(domain, partitions)
        return min([*scheduled, *(at for at in (timer, promised) if at is not None)], default=None)

    def _timers_of(self, domain: str, partitions: Collection[int]) -> list[TimerRow]:
        mine = [t for t in self.timers if t.message.domain == domain and t.message.partition in partitions]
        return sorted(mine, key=lambda timer: (timer.due_at, timer.seq))


def _mailbox(domain: str, row: TurnRecord | Mark) -> Mailbox:
    return domain, row.tenant, row.partition, row.agent


def _size(envelope: Envelope) -> int:
    return len(envelope.header_json.encode()) + len(envelope.payload.encode())


def _envelope(box: Mailbox, row: MailRow) -> Envelope:
    _, tenant, _, agent = box
    return Envelope(
        seq=row.seq, tenant=tenant, agent=agent, header=header_from_json(row.header_json),
        header_json=row.header_json, payload=row.payload, failures=row.failures, trials=row.trials,
        retry_at=row.retry_at,
    )  # fmt: skip
