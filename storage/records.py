"""What the turn loop gives to storage and reads from it. Times are seconds since 1970, UTC."""

from __future__ import annotations

import msgspec

from bus.envelope import Outgoing
from storage.journal import Flush, JournalWrite
from storage.spent import Spent

PAGE_AGENTS = 500  # of what is read page by page...
PAGE_BYTES = 4 * 1024 * 1024  # ...until it has so much; each page has one row at the least
INVALID_EVENT = "invalid_event"  # the reason of an event that no agent can be given
NOT_UNDONE = "not_undone"  # one of its compensations has failed
GENESIS = bytes(32)  # the previous hash of an agent's first transition
FULL_STATE_EVERY = (
    64  # transitions: each such version has the whole state, changed or not, so that replay is short
)


class Fence(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The incarnation that writes: every write is refused once it no longer owns what it touches."""

    domain: str
    epoch: int


class StoredState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An agent as last committed. `state` is None before its first turn and after it was destroyed."""

    tenant: str
    agent: str
    version: int
    schema_version: int
    lifecycle: str
    state: str | None
    hash: bytes
    turn: str | None = None
    """`open` or `waiting` while a turn of the agent has a journal."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A message that is given up, with the reason, and the lines of code where it failed: `file:line in function`."""

    reason: str
    error: str
    failures: int
    frames: str = ""


class BuriedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter as its owner finds it. `task_ended` says how the task has ended that it is part of: its status,
    `cancelling` included, or `forgotten` where the task is no longer on record; None where the task goes on, or the
    message outlives it, or is part of none."""

    header_json: str
    payload: str
    reason: str
    task_ended: str | None = None


class TaskWrite(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The task's row as its task agent would have it; JSON fields are text."""

    id: str
    status: str
    assignee: str | None
    progress: float
    result: str | None
    error: str | None
    finished: bool


class NewTask(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A task that another one (`parent`, a reference) has started; `input` is JSON text. Its row begins as submitted."""

    id: str
    goal: str
    input: str
    priority: int
    policy: str | None
    deadline: float | None
    parent: str
    root: str


class TaskEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One line of a task's log. `body` is JSON text."""

    task: str
    number: int
    kind: str
    body: str


class CancelWrite(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A task's agent has cancelled it."""

    task: str
    why: str


class PauseWrite(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A task's agent has paused it, or lets it go on."""

    task: str
    paused: bool
    by: str
    why: str = ""


class Cancellation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A task (`domain/id`) that was cancelled; `is_open` until nothing of it is left."""

    number: int
    tenant: str
    task: str
    why: str
    is_open: bool


class Mark(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A note on a message that stays in its mailbox: a failure to be retried, or a trial about to begin."""

    tenant: str
    partition: int
    agent: str
    seq: int
    failed: int = 0
    tried: int = 0
    delay_s: float | None = None
    error: str | None = None
    open: bool = False  # its turn has a journal


class Attempt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A trial that is on record: that of a message in its mailbox, or of its open turn."""

    tenant: str
    partition: int
    agent: str
    seq: int


class TurnRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One turn as it will be committed: what it consumed, the new state, its transition, what it sends.

    A turn that leaves its message where it is has no `seq`, and a `mark` on that message instead.
    """

    tenant: str
    agent: str
    partition: int
    seq: int | None
    version: int  # after the turn; before it, one less
    schema_version: int
    lifecycle: str
    state: str | None
    body: str
    prev: bytes
    hash: bytes
    sends: tuple[Outgoing, ...] = ()
    dead: DeadLetter | None = None
    mark: Mark | None = None
    message_id: str = ""
    header_json: str = ""
    payload: str = ""
    undead: tuple[int, ...] = ()
    tasks: tuple[TaskWrite, ...] = ()
    task_events: tuple[TaskEvent, ...] = ()
    cancels: tuple[CancelWrite, ...] = ()
    pauses: tuple[PauseWrite, ...] = ()
    new_tasks: tuple[NewTask, ...] = ()
    """Each comes with a line of its log."""
    accepts: tuple[tuple[str, Outgoing], ...] = ()
    """Events that are read anew, each with its key: one that was seen is not accepted again, and no number is given."""
    journal: JournalWrite | None = None  # of a turn that has waited, and ends
    task: str | None = None  # of its message
    spent: Spent | None = None


Write = TurnRecord | Flush


class Share(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How much of one mailbox is read at once: so many messages, until they have so many bytes; one at the least."""

    messages: int
    size: int


class MailHead(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An agent's first message in its mailbox."""

    tenant: str
    partition: int
    agent: str
    seq: int


class MailPlace(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where a message has come, without what it says."""

    tenant: str
    partition: int
    agent: str


class EventCursor(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How far a stream of events has been accepted.

    `incarnation` names the stream, and which of its beginnings, if it has lost its tail. `at_ns` is when the stream
    took the event at `seq`, nanoseconds since 1970, UTC; 0 is not known.
    """

    incarnation: str
    seq: int
    at_ns: int = 0


class DeadEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event that no agent can be given; JSON fields are text. It stands under `events/<its name>`. `key` is its place
    in the stream: read a second time, it is no second dead letter."""

    key: str
    tenant: str
    partition: int
    agent: str
    message: str
    reason: str
    error: str
    header: str
    payload: str


class EventBatch(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Events as messages to be accepted once per key, and those that are dead letters at once."""

    keys: list[str]
    messages: list[Outgoing]
    dead: list[DeadEvent]


class Ownership(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A host's row: what it may write, what it should have, what it keeps all the same for as long as calls are being made
    there, what it must try carefully, and how often each partition was taken from it: partition 0 first, none for the
    last ones that never were."""

    owned: frozenset[int]
    wanted: frozenset[int]
    kept: frozenset[int]
    suspect: frozenset[int]
    taken: tuple[int, ...]
    draining: bool
    ended: bool
    ended_why: str | None
