"""A host's storage in memory, for tests: what storage/migrations/0001_core.sql does, in Python.

The contract suite in tests/contract runs over it and over Postgres.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from bus.envelope import Envelope, Outgoing, header_from_json
from bus.errors import InvalidPayload, StaleTurn
from bus.limits import SEEN_WINDOW
from storage.batch import fold_marks
from storage.edges import Agent, ChainedAsks, PromisePlace, Refusal, WaitEdge
from storage.journal import Flush, StoredJournal
from storage.ledger import EarlierCall
from storage.memory_agents import MemoryAgents
from storage.memory_cancellations import MemoryCancellations
from storage.memory_hosts import MemoryHosts
from storage.memory_mail import MemoryMail, size_of
from storage.memory_rows import TimerRow, check_dead, check_outgoing, check_text, check_turn
from storage.memory_schedules import MemorySchedules
from storage.memory_spending import MemorySpending
from storage.memory_tasks import MemoryTasks
from storage.memory_turns import MemoryTurns
from storage.records import (
    PAGE_AGENTS,
    PAGE_BYTES,
    BuriedMessage,
    Cancellation,
    EventBatch,
    EventCursor,
    Fence,
    MailHead,
    MailPlace,
    Mark,
    Share,
    StoredState,
    TurnRecord,
)
from storage.room import Bounds, Lack, Recipient
from storage.schedules import Firing, ScheduleRow
from storage.spent import Reached
from storage.standing import Standing


class MemoryStore(MemoryHosts):
    """Implements HostStore for any number of hosts in one event loop. Its tables are there to be read.

    `now` may be replaced: it is the clock of retries and timers. `passing` is called with `commit.before` and
    `commit.after` (written, not answered yet); what it raises is what the caller gets.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.now = now
        self.passing: Callable[[str], None] = lambda point: None
        super().__init__(lambda domain, attempts: self.waits.end_attempts(domain, attempts))
        self.mail = MemoryMail(self._is_closed, lambda: self.now())
        self.tasks = MemoryTasks()
        self.timers: list[TimerRow] = []
        self.waits = MemoryTurns(self.mail, self.tasks, lambda: self.timers, lambda: self.now())
        self.agents = MemoryAgents(self.waits.state_of)
        self.cancellations = MemoryCancellations(self.waits, self.mail.post, lambda: self.now())
        self.schedules = MemorySchedules(lambda: self.now())
        self.spending = MemorySpending(self.mail.post, lambda: self.now())
        self.on_limit: Callable[[Reached], None] = lambda reached: None
        self.pauses: dict[tuple[str, str, str], str] = {}
        """Why, by domain, tenant and reference of a task; the last two are empty where it is the domain itself."""
        self.blobs: dict[tuple[str, str, str], bytes] = {}
        self.seen: dict[tuple[str, str, str], float] = {}
        self.event_cursors: dict[str, EventCursor] = {}
        self.sent: list[Outgoing] = []
        """All that turns have sent, timers included, in the order of their commits."""

    # -- turns ---------------------------------------------------------------------------------------

    async def commit(
        self, fence: Fence, writes: Sequence[TurnRecord | Flush], marks: Sequence[Mark]
    ) -> list[int | None]:
        await asyncio.sleep(0)  # as on the way to a server: other tasks run before and after the write
        self.passing("commit.before")
        turns = [write for write in writes if isinstance(write, TurnRecord)]
        marks = fold_marks(writes, marks)
        in_mailboxes = [mark for mark in marks if not mark.open]
        self._require_fence(fence, {w.partition for w in writes} | {m.partition for m in marks})
        self.waits.check(fence.domain, writes, marks)
        self._check(fence.domain, writes, turns, in_mailboxes)
        self.waits.apply(fence.domain, fence.epoch, writes, marks)
        self._apply(fence.domain, turns, in_mailboxes)
        numbers = self._send(writes)
        over = self.spending.charge(fence.epoch, writes)
        self.passing("commit.after")
        await asyncio.sleep(0)
        for reached in over:
            self.on_limit(reached)
        return numbers

    def _check(
        self,
        domain: str,
        writes: Sequence[TurnRecord | Flush],
        turns: Sequence[TurnRecord],
        marks: Sequence[Mark],
    ) -> None:
        """Raise for whatever Postgres would refuse; nothing has been written yet."""
        self.mail.check(domain, turns, marks)
        self.agents.check(domain, turns)
        self.tasks.check(domain, turns)
        for turn in turns:
            check_turn(turn)
        for mark in marks:
            check_text(mark.error or "")
        for write in writes:
            for send in write.sends:
                check_outgoing(send)

    def _apply(self, domain: str, turns: Sequence[TurnRecord], marks: Sequence[Mark]) -> None:
        self.mail.apply(domain, turns, marks)
        self.agents.apply(domain, turns)
        self.tasks.apply(domain, turns)
        for turn in turns:
            self.cancellations.add(domain, turn)
            for seen_as, message in turn.accepts:
                self.accept(message, key=seen_as, window_s=SEEN_WINDOW.total_seconds())
            for pause in turn.pauses:
                key = domain, turn.tenant, f"{domain}/{pause.task}"
                if pause.paused:
                    self.pauses.setdefault(key, pause.why)
                else:
                    self.pauses.pop(key, None)

    def _send(self, writes: Sequence[TurnRecord | Flush]) -> list[int | None]:
        """A reply that settles nothing any more is not sent."""
        numbers: list[int | None] = []
        for send in (send for write in writes for send in write.sends):
            self.sent.append(send)
            if send.visible_at is not None:
                self.timers.append(TimerRow(seq=self.mail.next_seq(), due_at=send.visible_at, message=send))
            elif send.settles is not None and not self.waits.promises.settles(send):
                numbers.append(None)
            else:
                numbers.append(self.mail.post(send).seq)
        return numbers

    async def settle(self, fence: Fence, write: TurnRecord | Flush) -> bool:
        self._require_fence(fence, {write.partition})
        if isinstance(write, Flush):
            return self.waits.has(fence.domain, write)
        return self.agents.has_committed(fence.domain, write)

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
        return self.mail.load(domain, partition, after, agents, each, page_bytes)

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
        box = domain, tenant, partition, agent
        if control_only:
            return self.mail.first(box, share, below=0)
        turn = [e for e in self.waits.to_run(domain, partition) if (e.tenant, e.agent) == (tenant, agent)]
        found, more = self.mail.first(box, share)
        return [*turn, *found], more

    def _is_closed(self, domain: str, tenant: str, agent: str) -> bool:
        is_open = self.waits.state_of(domain, tenant, agent) is not None
        return is_open or self.agents.is_paused(domain, tenant, agent)

    async def mail_heads(
        self, domain: str, after: tuple[str, int, str], partitions: Sequence[int], limit: int
    ) -> tuple[list[MailHead], tuple[str, int, str] | None]:
        return self.mail.heads(domain, after, partitions, limit)

    async def find_mail(
        self, domain: str, partition: int, tenant: str, agent: str, message: str
    ) -> int | None:
        return self.mail.find((domain, tenant, partition, agent), message)

    async def lack_of_room(self, domain: str, wanted: Mapping[Recipient, int], bounds: Bounds) -> Lack | None:
        return self.mail.lack_of_room(domain, wanted, bounds)

    async def load_states(
        self, domain: str, agents: Sequence[tuple[str, str]], *, page_bytes: int = PAGE_BYTES
    ) -> tuple[list[StoredState], int]:
        return self.agents.load(domain, agents, page_bytes)

    async def read_dead_letter(
        self, domain: str, tenant: str, agent: str, number: int
    ) -> BuriedMessage | None:
        row = self.agents.dead_letters.get((tenant, number))
        if row is None or row.agent != agent:
            return None
        header = header_from_json(row.header_json)
        ended = None if header.task is None or header.undoes else self.tasks.ended(tenant, header.task)
        return BuriedMessage(
            header_json=row.header_json, payload=row.payload, reason=row.reason, task_ended=ended
        )

    async def put_blob(self, domain: str, tenant: str, digest: str, data: bytes) -> None:
        self.blobs[(domain, tenant, digest)] = data

    async def get_blob(self, domain: str, tenant: str, digest: str) -> bytes:
        try:
            return self.blobs[(domain, tenant, digest)]
        except KeyError:
            raise InvalidPayload(f"The blob {digest[:12]}... is not in storage.") from None

    # -- turns that wait -----------------------------------------------------------------------------

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
                room -= size_of(envelope)
                if room <= 0 or len(found) >= turns:
                    return found, place
        return found, None

    async def load_journal(self, domain: str, tenant: str, agent: str) -> StoredJournal | None:
        return self.waits.load(domain, tenant, agent)

    async def promise_standing(self, domain: str, tenant: str, id_: str, by: str) -> Standing | None:
        return self.waits.promises.standing(domain, tenant, id_, by)

    async def earlier_calls(self, domain: str, tenant: str, agent: str, message: str) -> list[EarlierCall]:
        return self.waits.ledger.earlier(domain, tenant, agent, message)

    async def is_gone(self, domain: str, epoch: int) -> bool:
        return self.hosts[(domain, epoch)].gone

    async def settle_due(self, fence: Fence, partitions: Sequence[int], limit: int) -> list[MailPlace]:
        due_at = self.waits.promises.next_due(fence.domain, partitions)
        if due_at is not None and due_at <= self.now():
            self._require_fence(fence, partitions)
        return self.waits.promises.settle_due(fence.domain, partitions, limit)

    async def fire_timers(self, fence: Fence, partitions: Sequence[int], limit: int) -> list[MailPlace]:
        due = [t for t in self._timers_of(fence.domain, partitions) if t.due_at <= self.now()][:limit]
        if due:
            self._require_fence(fence, partitions)
        for timer in due:
            self.timers.remove(timer)
        for timer in due:
            self.mail.post(timer.message)
        return [
            MailPlace(tenant=m.tenant, partition=m.partition, agent=m.agent) for m in (t.message for t in due)
        ]

    async def wait_edges(self, agents: Sequence[Agent], limit: int) -> list[WaitEdge]:
        return self.waits.edges.of(set(agents), limit)

    async def refuse_ask(self, newest: WaitEdge, cycle: Sequence[WaitEdge], agents: Sequence[str]) -> Refusal:
        return self.waits.edges.refuse(newest, cycle, agents)

    async def chained_asks(
        self, domain: str, partitions: Sequence[int], after: PromisePlace, limit: int
    ) -> ChainedAsks:
        return self.waits.edges.chained(domain, partitions, after, limit)

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
            if not self._is_new(fence.domain, dead.tenant, dead.key, SEEN_WINDOW.total_seconds()):
                continue
            self.agents.bury(
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
        return self.now(), self.schedules.read(domain)

    async def keep_schedules(self, fence: Fence, rows: Sequence[ScheduleRow]) -> None:
        self._require_fence(fence, (0,))
        self.schedules.keep(fence.domain, rows)

    async def fire_schedule(self, fence: Fence, firing: Firing) -> bool:
        self._require_fence(fence, (0,))
        if not self.schedules.advance(fence.domain, firing):
            return False
        window_s = SEEN_WINDOW.total_seconds()
        sent = [self.accept(message, key=key, window_s=window_s) for key, message in firing.messages]
        return any(envelope is not None for envelope in sent)

    # -- what the intake and the clock do in production -------------------------------

    def accept(
        self, message: Outgoing, *, key: str | None = None, window_s: float = 86_400
    ) -> Envelope | None:
        """Put a message from outside into its mailbox; None when its key was seen within the window."""
        check_outgoing(message)
        if key is not None and not self._is_new(message.domain, message.tenant, key, window_s):
            return None
        return self.mail.post(message)

    def _is_new(self, domain: str, tenant: str, key: str, window_s: float) -> bool:
        """Whether the key was not seen within the window; from now on it has been."""
        place = (domain, tenant, key)
        if self.seen.get(place, float("-inf")) >= self.now():
            return False
        self.seen[place] = self.now() + window_s
        return True

    def next_timer(self, domain: str, partitions: Collection[int]) -> float | None:
        """When the first timer of these partitions is due, the clock settles the first promise, or a schedule comes."""
        timer = next((timer.due_at for timer in self._timers_of(domain, partitions)), None)
        scheduled = self.schedules.next_due(domain, partitions)
        promised = self.waits.promises.next_due(domain, partitions)
        return min((at for at in (timer, scheduled, promised) if at is not None), default=None)

    def _timers_of(self, domain: str, partitions: Collection[int]) -> list[TimerRow]:
        mine = [t for t in self.timers if t.message.domain == domain and t.message.partition in partitions]
        return sorted(mine, key=lambda timer: (timer.due_at, timer.seq))
