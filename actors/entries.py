"""What one turn has on record: its entries, by their places, and the messages that went out before its end."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator
from hashlib import sha256
from json.encoder import JSONEncoder

import msgspec

from actors.draft import Draft
from actors.saga import UNDO
from actors.wake import decode_wake
from bus.errors import InvalidMessage, JournalFull, NonDeterministicHandler
from storage.journal import JournalEntry, Kind

SENT = "sent"
STEP = "step"
CHOICE = "choice"
VOID = "void"  # an entry that takes back a failure, so that the call is made anew
UNFIT = "unfit"  # an entry: a result was not what its function's annotation says when it was made

_KINDS = tuple(Kind)  # those of promises
_ACTS = ("call", "intent", Kind.ASK)  # what is seen outside of its turn
_quote = JSONEncoder(ensure_ascii=False).encode

# Held while an entry is put down with its number, a send with its place, or all are taken: the plain function of a step
# charges and sends from its thread, another branch records and flushes.
drafting = threading.Lock()


class Sent(msgspec.Struct, frozen=True, array_like=True):
    """A message that went out before its turn's end. `place` is its branch and ordinal."""

    place: str
    id: str
    to: str
    type: str


class Entries:
    """Each place is called for once in a run: a handler that runs again must come to all of them, or say why not."""

    __slots__ = (
        "_all", "_behind", "_bytes", "_draft", "_forgiven", "_held", "_most", "_most_bytes", "_replayed", "_used",
        "_voided", "next", "sent",
    )  # fmt: skip

    def __init__(self, draft: Draft, most: int, most_bytes: int) -> None:
        self.next = 1
        self.sent: list[Sent] = []
        self._draft = draft
        self._all: list[JournalEntry] = []
        self._held: dict[str, JournalEntry] = {}
        self._replayed: dict[str, Sent] = {}
        self._used: set[str] = set()
        self._forgiven: tuple[str, ...] = ()
        self._voided: set[str] = set()  # places of what holds no more, and is made anew
        self._behind: dict[
            str, dict[str, str]
        ] = {}  # by their branches, what has acted and was not called for yet
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0

    def restore(self, entries: Iterable[JournalEntry]) -> set[str]:
        """Take what was recorded when the turn ran before; return the promises whose outcomes were taken back."""
        over: set[str] = set()
        for entry in entries:
            if entry.kind == VOID:
                self._voided.add(entry.name)
                voided = self._held.pop(entry.name, None)
                if voided is not None and voided.kind in _KINDS and voided.blob is None:
                    over.add(decode_wake(voided.value).promise)
            self._keep(entry)
            self.next = entry.number + 1
            if entry.kind == SENT:
                gone = msgspec.json.decode(entry.value, type=list[Sent])
                self.sent.extend(gone)
                self._replayed.update((sent.place, sent) for sent in gone)
        for entry in self:
            if entry.kind in _ACTS:
                self.expect(entry.key.partition("!")[0], f"{entry.kind} {entry.name}")
        return over

    def expect(self, place: str, what: str) -> None:
        """The handler has come to this place before, and what it called for there has acted."""
        self._behind.setdefault(_branch_of(place), {})[place] = what

    def left_behind(self, place: str) -> tuple[str, str] | None:
        """A place that comes before this one in its branch and was not called for in this run, and what has acted there; None
        where there is none, and for what is made anew."""
        if place not in self._voided:
            for at, what in self._behind.get(_branch_of(place), {}).items():
                if not at.startswith(self._forgiven):
                    return at, what
        return None

    def __contains__(self, place: str) -> bool:
        return place in self._held

    def __iter__(self) -> Iterator[JournalEntry]:
        """Those that hold now: a thread may record something meanwhile."""
        return iter([*self._held.values()])

    def get(self, place: str) -> JournalEntry | None:
        return self._held.get(place)

    def claim(self, place: str) -> JournalEntry | None:
        """What is recorded at a place that the handler calls for; raises InvalidMessage the second time."""
        if place in self._used:
            raise InvalidMessage(
                f"The key {place!r} is used twice in one turn.", fix="Give each call a key of its own."
            )
        self._used.add(place)
        if self._behind:
            self._behind.get(_branch_of(place), {}).pop(place, None)
        return self._held.get(place)

    def release(self, prefix: str) -> None:
        """The places that begin so are called for once more, and what went out from them is not sent again."""
        self._used.difference_update([place for place in [*self._used] if place.startswith(prefix)])
        self._replayed.update((sent.place, sent) for sent in self.sent if sent.place.startswith(prefix))

    def must_have_room(self, promises: int) -> None:
        """Raise JournalFull when no new call may begin beside so many open promises. How those are settled, and what
        takes a failed call back, is recorded all the same."""
        if len(self._all) + promises >= self._most:
            raise JournalFull(
                f"The turn has recorded {self._most:,} calls, the most that `limits.journal_entries` allows."
            )
        if self._bytes >= self._most_bytes:
            raise JournalFull(
                f"The turn has recorded {self._bytes:,} bytes; `limits.journal_bytes` is {self._most_bytes:,}."
            )

    def add(
        self, place: str, kind: str, name: str, value: str, *, ok: bool, took_ms: float, blob: str | None
    ) -> JournalEntry:
        with drafting:
            entry = JournalEntry(
                number=self.next, key=place, kind=kind, name=name, ok=ok, value=value, took_ms=took_ms, blob=blob,
            )  # fmt: skip
            self.next += 1
            self._keep(entry)
            self._draft.entries.append(entry)
        return entry

    def _keep(self, entry: JournalEntry) -> None:
        self._all.append(entry)
        self._bytes += len(entry.value)
        self._held[entry.key] = entry

    def take_back(self, place: str) -> bool:
        """Let what is recorded there hold no more; whether that must be on record too, since somebody may have seen it."""
        entry = self._held.pop(place)
        if entry not in self._draft.entries or entry.kind in _KINDS:
            return True
        self._draft.entries.remove(entry)
        self._all.remove(entry)
        return False

    def drop_draft(self, place: str) -> bool:
        """Forget what is recorded there, unless it may be committed; whether that was possible."""
        entry = self._held.get(place)
        if entry is None:
            return True
        if entry not in self._draft.entries:
            return False
        self.take_back(place)
        return True

    def unmake(self, unsent: Collection[str]) -> None:
        """Steps and compensations of which no write has taken along what they have sent, from these places, were never
        made."""
        for entry in [*self._draft.entries]:
            if entry.kind in (STEP, UNDO) and any(place.startswith(f"{entry.key}/") for place in unsent):
                self.drop_draft(entry.key)

    def forgive(self, *prefixes: str) -> None:
        """What is recorded at these places need not be called for again."""
        self._forgiven += prefixes

    def check_complete(self) -> None:
        """Raise NonDeterministicHandler when the handler has ended without a call that is recorded."""
        for left in self:
            if (
                left.key in self._used
                or left.kind in (SENT, VOID, UNFIT)
                or left.key.startswith(self._forgiven)
            ):
                continue
            if self._is_within_another(left.key):
                continue
            raise NonDeterministicHandler(
                f"The handler has ended without {left.kind} {left.name}, which the journal has at {left.key}.",
                place=left.key,
                called="the end",
                recorded=f"{left.kind} {left.name}",
            )

    def _is_within_another(self, key: str) -> bool:
        """Whether the function of a step called for it that is on record, and so does not run again."""
        parts = key.split("/")
        outer = (self._held.get("/".join(parts[:n])) for n in range(1, len(parts)))
        return any(entry is not None and entry.kind == STEP for entry in outer)

    @property
    def has_results(self) -> bool:
        """Whether anything has been done that a compensation may have to undo."""
        return any(entry.kind not in (SENT, VOID) and entry.ok for entry in self)

    def replayed_send(self, place: str, to: str, wire_name: str) -> str | None:
        """The id of a message that went out when the turn ran before; raises NonDeterministicHandler for another one."""
        sent = self._replayed.pop(place, None)
        if sent is None:
            return None
        if (sent.to, sent.type) != (to, wire_name):
            raise NonDeterministicHandler(
                f"At {place} the handler sends {wire_name} to {to}; the journal has {sent.type} to {sent.to} there.",
                place=place,
                called=f"send {wire_name} to {to}",
                recorded=f"send {sent.type} to {sent.to}",
            )
        return sent.id

    # -- for the history -----------------------------------------------------------------------------

    def sent_body(self) -> str:
        return ",".join(
            f'{{"id":"{sent.id}","to":{_quote(sent.to)},"type":"{sent.type}"}}' for sent in self.sent
        )

    def calls_body(self) -> str:
        """The calls as the transition has them; their values stand in the journal, and their digests here."""
        return ",".join(
            f'{{"number":{e.number},"key":{_quote(e.key)},"kind":"{e.kind}","name":{_quote(e.name)},"ok":{"true" if e.ok else "false"},'
            f'"ms":{e.took_ms:.3f},"value":"{e.blob or sha256(e.value.encode()).hexdigest()}"}}'
            for e in self._all
            if e.kind != SENT
        )


def _branch_of(place: str) -> str:
    return place[: place.rfind("/") + 1]
