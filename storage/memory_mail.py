"""Mailboxes in memory, for tests: what the mailbox's part of storage/migrations/0001_core.sql does, in Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from bus.envelope import Envelope, Outgoing, header_from_json
from bus.errors import StaleTurn
from storage.memory_rows import MailRow, note
from storage.records import MailHead, Mark, Share, TurnRecord
from storage.room import Bounds, Lack, Recipient, find_lack

CONTROL_OFFSET = 2**62  # what is taken off a control message's number
NO_BOUND = 2**63 - 1  # above every message's number

Mailbox = tuple[str, str, int, str]  # domain, tenant, partition, agent
Place = tuple[str, str]  # tenant, agent


class MemoryMail:
    """The table `mailbox` of all domains. Of an agent that `is_closed` only what passes the queue is loaded."""

    def __init__(self, is_closed: Callable[[str, str, str], bool], now: Callable[[], float]) -> None:
        self.boxes: dict[Mailbox, dict[int, MailRow]] = {}
        self.last_seq = 0
        self._is_closed = is_closed
        self._now = now

    def next_seq(self) -> int:
        self.last_seq += 1
        return self.last_seq

    def post(self, message: Outgoing) -> Envelope:
        seq = self.next_seq() - (CONTROL_OFFSET if message.control else 0)
        row = MailRow(seq=seq, id=message.header.id, header_json=message.header_json, payload=message.payload)
        box = (message.domain, message.tenant, message.partition, message.agent)
        self.boxes.setdefault(box, {})[seq] = row
        return _envelope(box, row)

    def remove(self, box: Mailbox, seq: int) -> None:
        del self.boxes[box][seq]
        if not self.boxes[box]:
            del self.boxes[box]

    # -- a commit's part -----------------------------------------------------------------------------

    def check(self, domain: str, turns: Sequence[TurnRecord], marks: Iterable[Mark]) -> None:
        """Raise StaleTurn when a message to be consumed or marked is not there."""
        consumed = [(_mailbox(domain, t), t.seq) for t in turns if t.seq is not None]
        if len(set(consumed)) < len(consumed) or any(
            seq not in self.boxes.get(box, ()) for box, seq in consumed
        ):
            raise StaleTurn("A message to be consumed is gone.")
        if any(m.seq not in self.boxes.get(_mailbox(domain, m), ()) for m in marks):
            raise StaleTurn("A message to be marked is gone.")

    def apply(self, domain: str, turns: Sequence[TurnRecord], marks: Iterable[Mark]) -> None:
        for turn in turns:
            if turn.seq is not None:
                self.remove(_mailbox(domain, turn), turn.seq)
        for mark in marks:
            note(self.boxes[_mailbox(domain, mark)][mark.seq], mark, self._now())

    # -- reading -------------------------------------------------------------------------------------

    def load(
        self, domain: str, partition: int, after: Place, agents: int, each: Share, page_bytes: int
    ) -> tuple[list[Envelope], set[Place], Place | None]:
        waiting = sorted((b[1], b[3]) for b in self.boxes if b[0] == domain and b[2] == partition)
        found: list[Envelope] = []
        more = set()
        room = page_bytes
        for looked, (tenant, agent) in enumerate((key for key in waiting if key > after), start=1):
            below = 0 if self._is_closed(domain, tenant, agent) else NO_BOUND
            if each.size:
                first, cut = self.first((domain, tenant, partition, agent), each, below)
            else:
                one, cut = Share(messages=1, size=1), True
                first, _ = self.first((domain, tenant, partition, agent), one, below)
                first = [msgspec.structs.replace(envelope, payload="") for envelope in first]
            found += first
            if first and cut:
                more.add((tenant, agent))
            room -= sum(size_of(envelope) for envelope in first)
            if looked >= agents or room <= 0:
                return found, more, (tenant, agent)
        return found, more, None

    def first(self, box: Mailbox, share: Share, below: int = NO_BOUND) -> tuple[list[Envelope], bool]:
        """The first messages of a mailbox with numbers below a bound, and whether there may be more."""
        found: list[Envelope] = []
        room = share.size
        for seq, row in sorted(self.boxes.get(box, {}).items()):
            if seq >= below:
                break
            found.append(_envelope(box, row))
            room -= size_of(found[-1])
            if len(found) >= share.messages or room <= 0:
                return found, True
        return found, False

    def heads(
        self, domain: str, after: tuple[str, int, str], partitions: Sequence[int], limit: int
    ) -> tuple[list[MailHead], tuple[str, int, str] | None]:
        places = sorted((b[1], b[2], b[3]) for b in self.boxes if b[0] == domain and b[2] in partitions)
        waiting = [place for place in places if place > after][:limit]
        heads = []
        for tenant, partition, agent in waiting:
            seq = min(self.boxes[(domain, tenant, partition, agent)])
            if seq < 0 or not self._is_closed(domain, tenant, agent):
                heads.append(MailHead(tenant=tenant, partition=partition, agent=agent, seq=seq))
        return heads, waiting[-1] if len(waiting) == limit else None

    def find(self, box: Mailbox, message: str) -> int | None:
        return next(
            (seq for seq, row in self.boxes.get(box, {}).items() if seq > 0 and row.id == message), None
        )

    def lack_of_room(self, domain: str, wanted: Mapping[Recipient, int], bounds: Bounds) -> Lack | None:
        waiting = sum(len(box) for (at, *_), box in self.boxes.items() if at == domain)
        rooms = [bounds.mailbox - len(self.boxes.get((domain, *recipient), {})) for recipient in wanted]
        return find_lack(domain, wanted, bounds, bounds.backlog - waiting, rooms)


def size_of(envelope: Envelope) -> int:
    """Bytes."""
    return len(envelope.header_json.encode()) + len(envelope.payload.encode())


def _mailbox(domain: str, row: TurnRecord | Mark) -> Mailbox:
    return domain, row.tenant, row.partition, row.agent


def _envelope(box: Mailbox, row: MailRow) -> Envelope:
    _, tenant, _, agent = box
    return Envelope(
        seq=row.seq, tenant=tenant, agent=agent, header=header_from_json(row.header_json),
        header_json=row.header_json, payload=row.payload, failures=row.failures, trials=row.trials,
        retry_at=row.retry_at,
    )  # fmt: skip
