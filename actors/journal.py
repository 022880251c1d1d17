"""The journal of one turn: what it has recorded, what it waits for, and what of that is not committed yet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import msgspec

from actors import values
from actors.branch import Branch
from actors.branches import Branches
from actors.draft import Draft
from actors.entries import SENT, UNFIT, VOID, Entries, Sent, drafting
from actors.flights import Flight
from actors.promises import Promises
from actors.saga import UNWIND, UNWIND_AT, Ending, Saga
from actors.wake import Wake, decode_wake
from actors.written import Written
from bus.envelope import Envelope, Outgoing, new_id
from bus.errors import (
    AskFailed,
    DeadlineExceeded,
    InvalidPayload,
    ModelFailed,
    NoBid,
    NonDeterministicHandler,
    StepFailed,
    TaskFailed,
    ToolFailed,
)
from storage.journal import Does, JournalEntry, JournalWrite, Kind, StoredJournal
from storage.ledger import CallVerdict, LedgerWrite

Flusher = Callable[[JournalWrite, tuple[Outgoing, ...]], Written]

_FAILED_CALLS = (
    StepFailed,
    ModelFailed,
    AskFailed,
    ToolFailed,
    TaskFailed,
    NoBid,
    DeadlineExceeded,
)  # not an expired promise: its ref may have been handed out


_ENDED = "callboard_ended"  # an attribute of errors


class TurnGone(BaseException):
    """The turn's commit was discarded or it was put away: its handler must not go on. Never an author's to catch."""


class Journal:
    """Replays what is recorded, and records what is new.

    `flush` makes all that is new durable, together with what the turn has sent; it returns when that is committed.
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
        partition: int,
        most_entries: int,
        most_bytes: int,
    ) -> None:
        # An id of its own, for a message may be tried again.
        self.turn = new_id() if stored is None else stored.turn
        self.now = now
        self.partition = partition  # the agent's
        self._draft = Draft(envelope.seq, self.turn, now, 0 if stored is None else stored.recorded)
        self.entries = Entries(self._draft, most_entries, most_bytes)
        self.promises = Promises(self._draft)
        self.branches = Branches(task)
        self.saga = Saga(self.entries)
        self.in_flight: dict[asyncio.Task[Any], str] = {}
        """Calls of tools, which are not cut short, and their places."""
        self._flusher = flusher
        self._fetch = fetch
        self._does = (
            Does.OPEN if stored is None else Does.RESUME if stored.waiting or stored.trials else Does.GO
        )
        # One that opens although hosts have died of it says so with the write after that.
        self._next_does = Does.RESUME if stored is None and envelope.trials else Does.GO
        self._was_put_away = stored is not None and stored.waiting
        self._closed = False
        self.parking: Written | None = None
        """The write that puts the turn away, while it is on its way: no two changes of its row go into one group."""
        self._flushing: list[Written] = []
        self._landing: list[Flight] = []  # of calls whose outcome no write has taken along yet
        if stored is not None:
            over = self.entries.restore(stored.entries)
            for promise in stored.promises:
                if promise.key not in self.entries and promise.id not in over:
                    self.promises.expect(promise)
                    if promise.kind == Kind.ASK:
                        self.entries.expect(promise.key, f"{promise.kind} {promise.name}")

    @property
    def is_open(self) -> bool:
        """Whether the turn has left the mailbox, or is about to."""
        return self._does is not Does.OPEN

    @property
    def is_dirty(self) -> bool:
        return self._draft.is_dirty

    @property
    def wakes_left(self) -> list[int]:
        """The numbers of the wake-ups that were taken, and are in no write yet."""
        return self._draft.consumed

    # -- recording, and finding it again -------------------------------------------------------------

    def recorded(self, place: str, kind: str, name: str, *, inner: bool = False) -> JournalEntry | None:
        """The entry at a place; raises NonDeterministicHandler when another call was recorded there, and JournalFull when
        the call would be a new one and there is no room for it. An `inner` one is part of a call that has begun."""
        self.must_go_on()
        entry = self.entries.claim(place)
        found = entry or self.promises.at(place)
        if found is None:
            if not inner:
                self.entries.must_have_room(len(self.promises))
        elif (found.kind, found.name) != (kind, name):
            raise NonDeterministicHandler(
                f"At {place} the handler calls {kind} {name}; the journal has {found.kind} {found.name} there.",
                place=place,
                called=f"{kind} {name}",
                recorded=f"{found.kind} {found.name}",
            )
        return entry

    def may_act(self, place: str, what: str) -> None:
        """To be passed before something acts that is not on record: what has acted in this branch comes before it. Raises
        NonDeterministicHandler: with another key, the handler would do the same twice."""
        left = self.entries.left_behind(place)
        if left is not None:
            at, recorded = left
            raise NonDeterministicHandler(
                f"At {place} the handler calls {what}, before it has come to {recorded}, which the journal has at {at}.",
                place=place, called=what, recorded=f"{recorded} at {at}",
            )  # fmt: skip

    def record(
        self, place: str, kind: str, name: str, value: str, *, ok: bool = True, took_ms: float = 0.0,
        blob: str | None = None,
    ) -> JournalEntry:  # fmt: skip
        """Write an entry; it is durable with the next flush, or with the turn's end."""
        self.must_go_on()
        return self.entries.add(place, kind, name, value, ok=ok, took_ms=took_ms, blob=blob)

    async def text_of(self, entry: JournalEntry) -> str:
        """What an entry says, which may stand in a blob; raises BlobsUnavailable."""
        return entry.value if entry.blob is None else await self._fetch(entry.blob)

    def result(
        self, text: str, function: Callable[..., Any], place: str, what: str, *, is_replayed: bool
    ) -> Any:
        """A result as the function's annotation says; raises InvalidPayload for one that never was that, also when the turn
        runs again. One on record that other code would have otherwise raises NonDeterministicHandler: the turn waits for
        a person, and what it has done is not undone for that. One that is given up only wants to end: InvalidPayload."""
        try:
            return values.decode(text, function)
        except InvalidPayload as unfit:
            never_fitted = f"#unfit:{place}"
            if not is_replayed:
                self.record(never_fitted, UNFIT, what, "null", ok=False)
            if not is_replayed or never_fitted in self.entries or self.branches.is_ending:
                raise
            raise NonDeterministicHandler(
                f"At {place} the handler calls {what}; {unfit.message[0].lower()}{unfit.message[1:]}",
                place=place,
                called=f"{what}, as it is now",
                recorded=f"{what}, as it was",
            ) from None

    def note_call(self, call: LedgerWrite) -> None:
        """Write a row of the ledger, with the entry that is recorded next."""
        self._draft.calls.append(call)

    def judge(self, verdicts: list[CallVerdict]) -> None:
        """Write these into the ledger, with whatever is written next."""
        self._draft.verdicts += verdicts

    def forgive(self, *prefixes: str) -> None:
        """What is recorded at these places (those of a branch that was given up, say) need not be called for again, and
        nobody waits for its asks."""
        self.entries.forgive(*prefixes)
        self.promises.give_up_asks(prefixes)

    def ended_by(self, error: Exception, place: str) -> None:
        """This error has ended the calls beside each other at a place."""
        error.__dict__[_ENDED] = (*error.__dict__.get(_ENDED, ()), place)

    def take_back(self, error: BaseException, below: str = "") -> None:
        """The turn fails of this error and may be tried again: then the failed calls behind it are made anew; of a step's
        function those `below` it, for its error may have another's as its context that the handler has gone on from.

        Not those that have ended others beside them, once that is committed: the others have been told to end.
        """
        seen: set[int] = set()
        cause: BaseException | None = error
        while cause is not None and id(cause) not in seen:
            seen.add(id(cause))
            is_final = self._has_ended_others(cause, below)
            place = cause.fields.get("place") if isinstance(cause, _FAILED_CALLS) else None
            is_left = isinstance(place, str) and place.startswith(below) and place in self.entries
            if is_left and not is_final and self.entries.take_back(str(place)):
                self.record(f"#{VOID}:{self.entries.next}", VOID, str(place), "null")
            cause = cause.__cause__ or cause.__context__

    async def begin_again(self, inner: Branch, error: Exception) -> None:
        """The function of a step has failed, and is called once more: it finds what it has recorded, but for the failed
        calls behind its error. What it has left under way ends first."""
        while left := [call for call, place in self.in_flight.items() if place.startswith(inner.prefix)]:
            await asyncio.wait(left)
        self.take_back(error, inner.prefix)
        self.entries.release(inner.prefix)
        inner.begin_again()

    def _has_ended_others(self, error: BaseException, below: str) -> bool:
        on_record = False
        for place in error.__dict__.get(_ENDED, ()):
            if not place.startswith(below):
                continue
            if self.entries.drop_draft(place):
                self.promises.keep_questions(place)
            else:
                on_record = True
        return on_record

    def unwind(self, ending: Ending) -> Ending:
        """From here on nothing but compensations runs; what is on record of that counts."""
        before = self.saga.ending
        if before is None:
            self.record(UNWIND_AT, UNWIND, ending.reason, msgspec.json.encode(ending).decode())
        self.branches.undo()
        return before or ending

    # -- waiting -------------------------------------------------------------------------------------

    def settle(self, seq: int, payload: str, blob: str | None) -> None:
        """Take a wake-up: record how its promise was settled, and let whoever waits for it go on.

        It is durable in the mailbox, and leaves that in the commit that has its entry. `payload` is what stands in
        the `blob`, if there is one. Raises InvalidPayload for one that cannot be read, and has not taken it then.
        """
        wake = decode_wake(payload)
        self._draft.consumed.append(seq)
        promise = self.promises.settle(wake)
        if promise is not None:
            self.record(promise.key, promise.kind, promise.name, "null" if blob else payload, blob=blob)
            self.branches.wake(promise.id)

    async def outcome(self, place: str, *, in_doubt: bool = False, for_child: bool = False) -> Wake:
        """How the promise made at a place was settled; waits for it, and may never return if the turn is put away.

        With `in_doubt` it says what a call has done: a turn that is given up waits for that, too. With `for_child` it says
        how a task has ended: a turn that is cancelled waits for that, too.
        """
        if place not in self.entries:
            self.branches.refuse_in_compensation()
            await self.branches.wait_for(self.promises.awaited(place), in_doubt=in_doubt, for_child=for_child)
        outcomes = self.promises.outcomes
        if place not in outcomes:
            entry = self.entries.get(place)
            assert entry is not None
            outcomes[place] = decode_wake(await self.text_of(entry))
        return outcomes[place]

    # -- committing ----------------------------------------------------------------------------------

    async def flush(self, sends: list[tuple[str, Outgoing]], *, begins: bool = False) -> None:
        """Make durable what is new, with these messages (each with its place); raises TurnGone.

        `begins` says that a call is about to be made: that is no progress yet, so a turn whose calls kill its host
        does not forget how many hosts have died of it.
        """
        if self.parking is not None:
            await self.parking.known()
        self.must_go_on()
        if sends:
            gone = [Sent(place, s.header.id, f"{s.domain}/{s.agent}", s.header.type) for place, s in sends]
            self.entries.sent.extend(gone)
            self.record(f"#{SENT}:{self.entries.next}", SENT, "messages", msgspec.json.encode(gone).decode())
        if begins and self._does is Does.RESUME and not self._was_put_away:
            does = Does.GO
        else:
            does, self._does = self._does, self._next_does
            self._next_does = Does.GO
        if not await self._commit(does, tuple([outgoing for _, outgoing in sends])).known():
            self.close()
        self.must_go_on()  # perhaps the agent was dropped meanwhile, and another run has found what has committed

    async def write_down(self, unsent: Collection[str]) -> None:
        """Make durable what is new of an open turn that is to run again: a wake-up that came during a flush as well,
        since nothing brings that a second time. Raises TurnGone.

        A promise that no flush has taken along is made again when the turn runs again, together with the message that
        belongs to it: that has not gone out, and nobody would ever settle the promise. So is a step whose function has
        sent something (`unsent` are the places) that no flush has taken along: on record, it would not send it again.
        """
        self.promises.unmake()
        self.entries.unmake(unsent)
        while self.is_open and self.is_dirty:
            await self.flush([])
            self.promises.unmake()

    async def park(self) -> bool:
        """Commit that the turn is put away; False when the commit was discarded.

        The write is drafted at once. One that took along a wake-up which came meanwhile would leave a turn that is put
        away and that nothing wakes, were the host to die before the next.
        """
        self._does, self._was_put_away = Does.RESUME, True
        self.parking = self._commit(Does.PARK, ())
        try:
            return await self.parking.known()
        finally:
            self.parking = None

    def lands(self, flight: Flight) -> None:
        """What its call did is in the next write."""
        self._landing.append(flight)

    def _commit(self, does: Does, sends: tuple[Outgoing, ...]) -> Written:
        written = self._flusher(self._take(does), sends)
        self._flushing = [*(earlier for earlier in self._flushing if not earlier.committed), written]
        for flight in self._landing:
            written.then(flight.land)
        self._landing = []
        return written

    async def settled(self) -> None:
        """Wait for the calls and flushes of branches that were given up: what a call did must be known, and no two
        commits of a turn go into one group with its end."""
        while self.in_flight:
            await asyncio.wait(self.in_flight)
        while unknown := [written for written in self._flushing if written.committed is None]:
            for written in unknown:
                await written.known()
        if any(written.committed is False for written in self._flushing):
            raise TurnGone

    def end(self, now: float) -> JournalWrite | None:
        """The last write, if there is anything to write. Promises that are open are let go, and on record as that."""
        if self.is_open:
            for promise in self.promises.still_open:
                left = Wake(promise=promise.id, status="abandoned", at=now)
                value = msgspec.json.encode(left).decode()
                self.entries.add(
                    promise.key, promise.kind, promise.name, value, ok=True, took_ms=0.0, blob=None
                )
        self.promises.let_go()
        self._land()  # no partition leaves before the last write of an agent in it has ended
        if self.is_open:
            return self._take(Does.END)
        return self._take(Does.NONE) if self.is_dirty else None

    def _take(self, does: Does) -> JournalWrite:
        with drafting:
            return self._draft.take(does)

    # -- its end in this process ---------------------------------------------------------------------

    def close(self) -> None:
        """From now on whatever the handler still asks ends it."""
        self._closed = True
        self._land()
        self.branches.on_running = lambda: None  # what still moves of it concerns nobody

    def _land(self) -> None:
        for flight in self._landing:
            flight.land()

    @property
    def is_closed(self) -> bool:
        return self._closed

    def must_go_on(self) -> None:
        """To be passed before anything is done that another run of the turn may be doing; raises TurnGone."""
        if self._closed:
            raise TurnGone

    def abandon(self) -> None:
        """Its host ends: nothing goes on."""
        for call in self.in_flight:
            call.cancel()
