"""What a turn that waits leaves in storage before it ends. Times are seconds since 1970, UTC."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from bus.envelope import Outgoing
from storage.edges import Gate
from storage.ledger import CallVerdict, LedgerWrite
from storage.spent import Spent

CLOCK_SLACK_S = 3600.0


class Kind(StrEnum):
    """What a promise is for. The clock and agents settle the first two, which leave no row behind."""

    ASK = "ask"
    SLEEP = "sleep"
    PROMISE = "promise"
    APPROVAL = "approval"
    OUTCOME = "outcome"  # a person says what a call of a tool has done


class Does(StrEnum):
    """What a flush does to its turn's row."""

    OPEN = "open"  # the first one: the message moves from the mailbox to `turns`
    GO = "go"
    RESUME = "resume"  # the first one after the turn had been put away
    PARK = "park"  # the turn is put away until a promise is settled
    END = "end"
    NONE = "none"  # it belongs to no turn: wake-ups that nobody waits for


class JournalEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One recorded call: replay finds it by its key and compares kind and name. `value` is JSON text."""

    number: int
    key: str
    kind: str
    name: str
    ok: bool
    value: str
    took_ms: float
    blob: str | None = None


class PromiseWrite(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A promise that a turn has made. `target` is the agent that an ask waits for, `message` the id of what it was
    sent, and `gates` are the gathers that may do without the answer; `details` is JSON text."""

    id: str
    key: str
    kind: str
    name: str
    target: str | None = None
    message: str | None = None
    gates: tuple[Gate, ...] = ()
    due_at: float | None = None
    details: str | None = None


class JournalWrite(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The journal's part of one commit for one turn, which `seq` and `turn` (its message's id) name."""

    seq: int
    turn: str
    does: Does
    began_at: float = 0.0
    """The turn's idea of now, which it keeps when it runs again; needed to open it."""
    recorded: int = 0
    """How many entries, promises and times it was put away the turn's row must count, if this is to be written."""
    entries: tuple[JournalEntry, ...] = ()
    consumed: tuple[int, ...] = ()
    """The numbers of wake-ups that leave the mailbox."""
    promises: tuple[PromiseWrite, ...] = ()
    done: tuple[str, ...] = ()
    """The promises that the turn no longer waits for."""
    given_up: tuple[tuple[str, bool], ...] = ()
    """Asks whose branch has been given up (true), or has been waited for again since (false)."""
    calls: tuple[LedgerWrite, ...] = ()
    """Rows of the ledger; each change of one comes with an entry."""
    verdicts: tuple[CallVerdict, ...] = ()
    asks_done: int = 0
    """How many of `done` were asks."""

    @property
    def adds(self) -> int:
        """What the turn's row counts more once this is written. That it is put away counts as well: it must not be, by a run
        whose successor has begun and takes the wake-up."""
        return len(self.entries) + len(self.promises) + (self.does is Does.PARK)

    @property
    def leaves_trace(self) -> bool:
        """Whether one can find out by looking that it was written; what leaves none may be written twice."""
        return self.does is Does.OPEN or self.adds > 0


class Flush(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a turn commits before its end: its journal, and what it has sent so far."""

    tenant: str
    partition: int
    agent: str
    journal: JournalWrite
    sends: tuple[Outgoing, ...] = ()
    spent: Spent | None = None


class OpenPromise(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A promise of an open turn that has no journal entry yet."""

    id: str
    key: str
    kind: str
    name: str
    status: str
    target: str | None = None
    due_at: float | None = None
    given_up: bool = False


class StoredJournal(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An open turn as it is stored: the envelope of its message is `header_json` and `payload`."""

    seq: int
    turn: str
    header_json: str
    payload: str
    failures: int
    trials: int
    retry_at: float | None
    began_at: float
    waiting: bool
    recorded: int
    """What the turn's row counted before the entries and promises were read: those may be more. And how often it had been put
    away."""
    entries: tuple[JournalEntry, ...]
    promises: tuple[OpenPromise, ...]
