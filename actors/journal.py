"""The journal of one turn: what it has recorded, what it waits for, and what of that is not committed yet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from itertools import chain
from json.encoder import JSONEncoder
from typing import Any

import msgspec

from actors.branch import Branch
from actors.saga import COMPENSATE, UNWIND, UNWIND_AT, Compensation, Ending
from bus.envelope import Envelope, Outgoing, new_id
from bus.errors import (
    AskFailed,
    DeadlineExceeded,
    InvalidMessage,
    JournalFull,
    ModelFailed,
    NoBid,
    NonDeterministicHandler,
    StepFailed,
    TaskFailed,
    ToolFailed,
)
from bus.registry import encode_json
from storage.edges import Gate
from storage.journal import Does, JournalEntry, JournalWrite, Kind, OpenPromise, PromiseWrite, StoredJournal
from storage.ledger import LedgerWrite

SENT = "sent"
CHOICE = "choice"
VOID = "void"  # an entry that takes back a failure, so that the call is made anew

Flusher = Callable[[JournalWrite, tuple[Outgoing, ...]], "asyncio.Future[bool]"]


class TurnGone(BaseException):
    """The turn's commit was discarded or it was put away: its handler must not go on. Never an author's to catch."""


class Wake(msgspec.Struct, frozen=True, kw_only=True):
    """How a promise was settled: the payload of a wake-up, which the journal keeps."""

    promise: str
    status: str
    value: msgspec.Raw = msgspec.Raw(b"null")
    by: str | None = None
    at: float = 0.0


_FAILED_CALLS = (
    StepFailed,
    ModelFailed,
    AskFailed,
    ToolFailed,
    TaskFailed,
    NoBid,
    DeadlineExceeded,
)  # not an expired promise: its ref may have been handed out
_quote = JSONEncoder(ensure_ascii=False).encode
_decode_wake = msgspec.json.Decoder(Wake).decode


class Sent(msgspec.Struct, frozen=True, array_like=True):
    """A message that went out before its turn's end. `place` is its branch and ordinal."""

    place: str
    id: str
    to: str
    type: str


class Journal:
    """Replays what is recorded, and records what is new.

    `flush` makes all that is new durable, together with what the turn has sent; it returns when that is committed.
    `running` counts the branches of the handler that do not wait for a promise: at zero the turn may be put away.
    """

    def __init__(
        self,
        envelope: Envelope,
        now: float,
        flusher: Flusher,
        fetch: Callable[[str], Awaitable[str]],
        stored: StoredJournal | None = None,
        task: asyncio.Task[Any] | None = None,
        *,
        most_entries: int,
        most_bytes: int,
    ) -> None:
        self.turn = (
            new_id() if stored is None else stored.turn
        )  # one of its own: a message may be tried again
        self.root = Branch("", task)
        self.running = 1
        self.on_waiting: Callable[[], None] = lambda: None
        self.on_running: Callable[[], None] = lambda: None
        self.sent: list[Sent] = []
        self.saga: dict[str, Compensation] = {}
        """By their places, those that the handler has registered in this run."""
        self._seq = envelope.seq
        self.now = now
        self._flusher = flusher
        self._fetch = fetch
        self._does = (
            Does.OPEN if stored is None else Does.RESUME if stored.waiting or stored.trials else Does.GO
        )
        self._recorded: dict[str, JournalEntry] = {}
        self._sent_at: dict[str, Sent] = {}
        self._promises: dict[str, OpenPromise] = {}
        self._by_place: dict[str, OpenPromise] = {}
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}
        self._outcomes: dict[str, Wake] = {}
        self._used: set[str] = set()
        self._entries: list[JournalEntry] = []
        self._consumed: list[int] = []
        self._made: list[PromiseWrite] = []
        self._done: list[str] = []
        self._given_up: dict[str, bool] = {}  # what has changed since the last write
        self._calls: list[LedgerWrite] = []
        self._asks_done = 0
        self.on_new: Callable[[], None] = lambda: None
        """Called before anything new happens; may raise."""
        self.in_flight: set[asyncio.Task[Any]] = set()  # calls of tools, which are not cut short
        self._was_put_away = stored is not None and stored.waiting
        self._closed = False
        self._parking: asyncio.Future[bool] | None = None
        self._forgiven: tuple[str, ...] = ()
        self._flushing: set[asyncio.Future[bool]] = set()
        self._why_ending: Callable[[], BaseException] | None = None
        self._stalled: asyncio.Future[None] | None = None
        self._told = False
        self._held: asyncio.Future[None] | None = None
        self._stopped = 0  # branches that wait for it
        self._undoing = False
        self._cuttable: set[asyncio.Task[Any]] = set()
        self.entries: list[JournalEntry] = []
        self._most_entries = most_entries
        self._most_bytes = most_bytes
        self._bytes = 0
        self._next = 1
        self._written = (
            0  # entries and promises: what the turn's row counts once all that is on its way has committed
        )
        if stored is not None:
            self._restore(stored)

    def _restore(self, stored: StoredJournal) -> None:
        over: set[str] = set()
        self._written = stored.recorded
        for entry in stored.entries:
            if entry.kind == VOID:
                voided = self._recorded.pop(entry.name, None)
                if voided is not None and voided.kind in tuple(Kind) and voided.blob is None:
                    over.add(_decode_wake(voided.value).promise)
            self._keep(entry)
            self._next = entry.number + 1
            if entry.kind == SENT:
                gone = msgspec.json.decode(entry.value, type=list[Sent])
                self.sent.extend(gone)
                self._sent_at.update((sent.place, sent) for sent in gone)
        for promise in stored.promises:
            if promise.key not in self._recorded and promise.id not in over:
                self._expect(promise)

    @property
    def is_open(self) -> bool:
        """Whether the turn has left the mailbox, or is about to."""
        return self._does is not Does.OPEN

    @property
    def is_dirty(self) -> bool:
        return bool(self._entries or self._consumed or self._made or self._given_up)

    # -- replay --------------------------------------------------------------------------------------

    def recorded(self, place: str, kind: str, name: str, *, inner: bool = False) -> JournalEntry | None:
        """The entry at a place; raises NonDeterministicHandler when another call was recorded there, and JournalFull when
        the call would be a new one and there is no room for it. An `inner` one is part of a call that has begun."""
        if self._closed:
            raise TurnGone
        if place in self._used:
            raise InvalidMessage(
                f"The key {place!r} is used twice in one turn.", fix="Give each call a key of its own."
            )
        self._used.add(place)
        entry = self._recorded.get(place)
        found = entry or self._by_place.get(place)
        if found is None:
            if not inner:
                self._must_have_room()
        elif (found.kind, found.name) != (kind, name):
            raise NonDeterministicHandler(
                f"At {place} the handler calls {kind} {name}; the journal has {found.kind} {found.name} there.",
                place=place,
                called=f"{kind} {name}",
                recorded=f"{found.kind} {found.name}",
            )
        return entry

    def _must_have_room(self) -> None:
        """How promises are settled, and what takes a failed call back, is recorded all the same."""
        if len(self.entries) + len(self._promises) >= self._most_entries:
            raise JournalFull(
                f"The turn has recorded {self._most_entries:,} calls, the most that `limits.journal_entries` allows."
            )
        if self._bytes >= self._most_bytes:
            raise JournalFull(
                f"The turn has recorded {self._bytes:,} bytes; `limits.journal_bytes` is {self._most_bytes:,}."
            )

    def replayed_send(self, place: str, to: str, wire_name: str) -> str | None:
        """The id of a message that went out when the turn ran before."""
        sent = self._sent_at.pop(place, None)
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

    def has(self, place: str) -> bool:
        """Whether there is an entry at a place."""
        return place in self._recorded

    def forgive(self, *prefixes: str) -> None:
        """What is recorded at these places (those of a branch that was given up, say) need not be called for again, and
        nobody waits for its asks."""
        self._forgiven += prefixes
        for promise in self._promises.values():
            if promise.kind == Kind.ASK and promise.key.startswith(prefixes):
                self._give_up(promise, True)

    def asks_below(self, prefix: str) -> list[OpenPromise]:
        """The asks of a branch that are not answered."""
        return [p for p in self._promises.values() if p.kind == Kind.ASK and p.key.startswith(prefix)]

    def _give_up(self, promise: OpenPromise, given_up: bool) -> None:
        if promise.given_up is not given_up:
            self._promises[promise.id] = msgspec.structs.replace(promise, given_up=given_up)
            self._given_up[promise.id] = given_up

    def check_complete(self) -> None:
        """Raise NonDeterministicHandler when the handler has ended without a call that is recorded."""
        left = next(
            (
                e
                for e in self._recorded.values()
                if e.key not in self._used
                and e.kind not in (SENT, VOID)
                and not e.key.startswith(self._forgiven)
            ),
            None,
        )
        if left is not None:
            raise NonDeterministicHandler(
                f"The handler has ended without {left.kind} {left.name}, which the journal has at {left.key}.",
                place=left.key,
                called="the end",
                recorded=f"{left.kind} {left.name}",
            )

    # -- recording -----------------------------------------------------------------------------------

    def record(
        self, place: str, kind: str, name: str, value: str, *, ok: bool = True, took_ms: float = 0.0,
        blob: str | None = None,
    ) -> JournalEntry:  # fmt: skip
        """Write an entry; it is durable with the next flush, or with the turn's end."""
        if self._closed:
            raise TurnGone
        entry = JournalEntry(
            number=self._next, key=place, kind=kind, name=name, ok=ok, value=value, took_ms=took_ms,
            blob=blob,
        )  # fmt: skip
        self._next += 1
        self._keep(entry)
        self._entries.append(entry)
        return entry

    def note_call(self, call: LedgerWrite) -> None:
        """Write a row of the ledger, with the entry that is recorded next."""
        self._calls.append(call)

    def _keep(self, entry: JournalEntry) -> None:
        self.entries.append(entry)
        self._bytes += len(entry.value)
        self._recorded[entry.key] = entry

    async def flush(self, sends: list[tuple[str, Outgoing]], *, begins: bool = False) -> None:
        """Make durable what is new, with these messages (each with its place); raises TurnGone.

        `begins` says that a call is about to be made: that is no progress yet, so a turn whose calls kill its host
        does not forget how many hosts have died of it.
        """
        if self._parking is not None:  # no two changes of a turn's row go into one group
            await asyncio.shield(self._parking)
        if self._closed:
            raise TurnGone
        if sends:
            gone = [Sent(place, s.header.id, f"{s.domain}/{s.agent}", s.header.type) for place, s in sends]
            self.sent.extend(gone)
            self.record(f"{SENT}:{self._next}", SENT, "messages", msgspec.json.encode(gone).decode())
        if begins and self._does is Does.RESUME and not self._was_put_away:
            does = Does.GO
        else:
            does, self._does = self._does, Does.GO
        if not await self._commit(does, tuple(outgoing for _, outgoing in sends)):
            self._closed = True
            raise TurnGone

    async def write_down(self) -> None:
        """Make durable what is new of an open turn that is to run again: a wake-up that came during a flush as well,
        since nothing brings that a second time. Raises TurnGone.

        A promise that no flush has taken along is made again when the turn runs again, together with the message that
        belongs to it: that has not gone out, and nobody would ever settle the promise.
        """
        self._unmake()
        while self.is_open and self.is_dirty:
            await self.flush([])
            self._unmake()

    def _unmake(self) -> None:
        for promise in self._made:
            self._promises.pop(promise.id, None)
            self._by_place.pop(promise.key, None)
            self._given_up.pop(promise.id, None)
        self._made = []

    async def park(self) -> bool:
        """Commit that the turn is put away; False when the commit was discarded."""
        self._does, self._was_put_away = Does.RESUME, True
        self._parking = asyncio.ensure_future(self._commit(Does.PARK, ()))
        try:
            return await asyncio.shield(self._parking)
        finally:
            self._parking = None

    async def _commit(self, does: Does, sends: tuple[Outgoing, ...]) -> bool:
        flushing = self._flusher(self._write(does), sends)
        self._flushing.add(flushing)
        flushing.add_done_callback(self._flushing.discard)
        return await asyncio.shield(flushing)

    def close(self) -> None:
        """From now on whatever the handler still asks ends it."""
        self._closed = True

    def abandon(self) -> None:
        """Its host ends: nothing goes on."""
        for call in self.in_flight:
            call.cancel()

    @property
    def is_closed(self) -> bool:
        return self._closed

    async def settled(self) -> None:
        """Wait for the calls and flushes of branches that were given up: what a call did must be known, and no two
        commits of a turn go into one group with its end."""
        while self.in_flight:
            await asyncio.wait(self.in_flight)
        while self._flushing:
            if not all(await asyncio.gather(*self._flushing)):
                raise TurnGone

    def end(self) -> JournalWrite | None:
        """The last write, if there is anything to write. Promises that nobody waits for any more are let go."""
        self._done.extend(self._promises)
        self._asks_done += sum(promise.kind == Kind.ASK for promise in self._promises.values())
        if self.is_open:
            return self._write(Does.END)
        return self._write(Does.NONE) if self.is_dirty else None

    def take_back(self, error: BaseException) -> None:
        """The turn fails of this error and may be tried again: then the failed calls behind it are made anew."""
        seen: set[int] = set()
        cause: BaseException | None = error
        while cause is not None and id(cause) not in seen:
            seen.add(id(cause))
            place = cause.fields.get("place") if isinstance(cause, _FAILED_CALLS) else None
            if isinstance(place, str) and place in self._recorded:
                self._void(place)
            cause = cause.__cause__ or cause.__context__

    def _void(self, place: str) -> None:
        entry = self._recorded.pop(place)
        if entry in self._entries and entry.kind not in tuple(Kind):  # nobody has seen it yet
            self._entries.remove(entry)
            self.entries.remove(entry)
        else:
            self.record(f"{VOID}:{self._next}", VOID, place, "null")

    # -- a turn that is given up ---------------------------------------------------------------------

    @property
    def has_results(self) -> bool:
        """Whether anything has been done that a compensation may have to undo."""
        return any(entry.kind not in (SENT, VOID) and entry.ok for entry in self._recorded.values())

    @property
    def ending(self) -> Ending | None:
        """What is on record of the turn's having been given up."""
        entry = self._recorded.get(UNWIND_AT)
        return None if entry is None else msgspec.json.decode(entry.value, type=Ending)

    @property
    def is_ending(self) -> bool:
        """Whether the turn is given up: its handler can do nothing new, or has ended and is being undone."""
        return self._why_ending is not None or self._undoing

    @property
    def must_stop(self) -> bool:
        """Whether its handler still runs, and can do nothing new."""
        return self._why_ending is not None and not self._undoing

    def end_early(self, why: Callable[[], BaseException]) -> None:
        """Let the handler do nothing new. A branch that comes to a call that is not on record waits there until all
        have come so far, lest what another one is about to finish goes unrecorded; then each gets what `why` makes.
        Functions that are marked as `cuttable` are cancelled; whatever else runs is waited for.
        """
        if self.is_ending:
            return
        self._why_ending = why
        for task in self._cuttable:
            task.cancel()
        if self.running == 0:
            self._tell()

    async def proceed(self) -> None:
        """To be passed before anything new happens; raises in a turn that is given up."""
        self._refuse_in_compensation()
        while self._held is not None and self._why_ending is None:
            await self._until_let_go(self._held)
        if self._why_ending is None:
            self.on_new()
            return
        if self._stalled is None:
            self._stalled = asyncio.get_running_loop().create_future()
        stalled = self._stalled
        with self._waiting():
            await asyncio.shield(stalled)
        raise self._why_ending()

    # -- a turn of what is paused --------------------------------------------------------------------

    def hold(self) -> None:
        """Let the handler begin nothing new until `let_go`."""
        if self._held is None:
            self._held = asyncio.get_running_loop().create_future()

    def let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None and not held.done():
            held.set_result(None)

    @property
    def is_stopped(self) -> bool:
        """Whether a branch has come to where it is held. Such a turn is not put away: nothing would wake it."""
        return self._stopped > 0

    async def _until_let_go(self, held: asyncio.Future[None]) -> None:
        self._stopped += 1
        try:
            with self._waiting():
                await asyncio.shield(held)
        finally:
            self._stopped -= 1

    def _refuse_in_compensation(self) -> None:
        if self._undoing:
            raise InvalidMessage(
                "A compensation records nothing and waits for nothing.",
                fix="Do its work in the function itself; it may send messages.",
            )

    def refuse_send(self) -> None:
        """A message sent in a turn that is given up goes nowhere; once the handler has been told, it hears of it."""
        if self._told and self._why_ending is not None:
            raise self._why_ending()

    @contextmanager
    def cuttable(self) -> Iterator[None]:
        """What is awaited within may be cancelled when the turn is given up; then `was_cut` tells so."""
        task = asyncio.current_task()
        assert task is not None
        self._cuttable.add(task)
        try:
            yield
        finally:
            self._cuttable.discard(task)

    def was_cut(self) -> bool:
        """Whether the cancellation that has just come was `end_early`'s; it is then taken back."""
        task = asyncio.current_task()
        if self._why_ending is None or self._undoing or task is None or not task.cancelling():
            return False
        task.uncancel()
        return True

    def unwind(self, ending: Ending) -> Ending:
        """From here on nothing but compensations runs; what is on record of that counts."""
        before = self.ending
        if before is None:
            self.record(UNWIND_AT, UNWIND, ending.reason, msgspec.json.encode(ending).decode())
        self._undoing = True
        return before or ending

    def lost_compensations(self) -> list[JournalEntry]:
        """Those on record that the handler has not registered when it ran again."""
        known = self.saga
        return [e for e in self._recorded.values() if e.kind == COMPENSATE and e.key not in known]

    def compensations(self) -> list[Compensation]:
        """In the order in which they run: the last registered first."""
        return sorted(self.saga.values(), key=lambda c: self._recorded[c.place].number, reverse=True)

    def begin_compensation(self) -> None:
        """It has as much time as a turn."""
        self.on_running()

    def entry(self, place: str) -> JournalEntry | None:
        return self._recorded.get(place)

    def _tell(self) -> None:
        """Every branch waits, and none will be woken but by this."""
        assert self._why_ending is not None
        stalled, self._stalled = self._stalled, None
        waiters, self._waiters = self._waiters, {}
        if stalled is None and not waiters:
            return
        self._told = True
        if stalled is not None:
            stalled.set_result(None)
        for waiter in chain.from_iterable(waiters.values()):
            if not waiter.done():
                waiter.set_exception(self._why_ending())
                waiter.exception()  # whoever waited may be gone

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
            for e in self.entries
            if e.kind != SENT
        )

    def _write(self, does: Does) -> JournalWrite:
        write = JournalWrite(
            seq=self._seq, turn=self.turn, does=does, began_at=self.now, entries=tuple(self._entries),
            consumed=tuple(self._consumed), promises=tuple(self._made), done=tuple(self._done),
            given_up=tuple(self._given_up.items()), calls=tuple(self._calls), recorded=self._written,
            asks_done=self._asks_done,
        )  # fmt: skip
        self._written += write.adds
        self._entries, self._consumed, self._made, self._done = [], [], [], []
        self._given_up, self._calls, self._asks_done = {}, [], 0
        return write

    # -- promises ------------------------------------------------------------------------------------

    def open_promise(self, place: str) -> OpenPromise | None:
        return self._by_place.get(place)

    def promise(
        self, place: str, kind: Kind, name: str, *, id_: str | None = None, target: str | None = None,
        message: str | None = None, gates: tuple[Gate, ...] = (), due_at: float | None = None,
        details: str | None = None,
    ) -> str:  # fmt: skip
        """Make a promise; it exists once the next flush has committed. Returns its id."""
        encode_json(name)  # raises for what Postgres could not hold
        id_ = id_ or new_id()
        self._made.append(
            PromiseWrite(
                id=id_, key=place, kind=kind, name=name, target=target, message=message, gates=gates,
                due_at=due_at, details=details,
            )
        )  # fmt: skip
        self._expect(
            OpenPromise(
                id=id_, key=place, kind=kind, name=name, status="pending", target=target, due_at=due_at
            )
        )
        return id_

    def _expect(self, promise: OpenPromise) -> None:
        self._promises[promise.id] = promise
        self._by_place[promise.key] = promise

    def settle(self, seq: int, payload: str, blob: str | None) -> None:
        """Take a wake-up: record how its promise was settled, and let whoever waits for it go on.

        It is durable in the mailbox, and leaves that in the commit that has its entry. `payload` is what stands in
        the `blob`, if there is one.
        """
        wake = _decode_wake(payload)
        self._consumed.append(seq)
        promise = self._promises.pop(wake.promise, None)
        if promise is None:  # it belongs to an earlier turn, or was settled twice by a mistake of ours
            return
        self._outcomes[promise.key] = wake
        self.record(promise.key, promise.kind, promise.name, "null" if blob else payload, blob=blob)
        self._done.append(promise.id)
        self._asks_done += promise.kind == Kind.ASK
        for waiter in self._waiters.pop(promise.id, ()):
            if not waiter.done():
                waiter.set_result(None)
                self.enter()  # now: were the turn put away before the branch goes on, nothing would wake it again

    def waits_for(self, promise: str) -> bool:
        """Whether it is open, as far as this journal knows."""
        return promise in self._promises

    def promise_at(self, place: str) -> str | None:
        """The id of the promise that was made at a place, and has been awaited."""
        outcome = self._outcomes.get(place)
        return None if outcome is None else outcome.promise

    async def outcome(self, place: str) -> Wake:
        """How the promise made at a place was settled; waits for it, and may never return if the turn is put away."""
        if place not in self._recorded:
            self._refuse_in_compensation()
            id_ = self._by_place[place].id
            if id_ in self._promises:
                self._give_up(self._promises[id_], False)
            await self._until_settled(id_)
        outcome = self._outcomes.get(place)
        if outcome is None:
            entry = self._recorded[place]
            text = entry.value if entry.blob is None else await self._fetch(entry.blob)
            outcome = self._outcomes[place] = _decode_wake(text)
        return outcome

    async def _until_settled(self, id_: str) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(id_, []).append(waiter)
        self.leave()
        try:
            await waiter
        finally:
            if not waiter.done() or waiter.cancelled() or waiter.exception() is not None:
                self.enter()  # otherwise `settle` has done so

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        self.leave()
        try:
            yield
        finally:
            self.enter()

    def leave(self) -> None:
        """A branch of the handler waits, or has ended."""
        self.running -= 1
        if self.running == 0:
            if self._why_ending is not None:
                self._tell()
            else:
                self.on_waiting()

    def enter(self, branches: int = 1) -> None:
        if self.running == 0 and not self._closed:
            self.on_running()
        self.running += branches
