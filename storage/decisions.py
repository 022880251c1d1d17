"""What people decide: approvals, the outcome of a call that nobody knows, and any other promise; each once."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import asyncpg
import msgspec

from bus.errors import InvalidMessage, UnknownPromise
from bus.registry import read_json
from storage.boundary import translated
from storage.domains import Connection
from storage.id_part import CANDIDATES, id_part, several
from storage.journal import Kind
from storage.queries import query
from storage.standing import OUTSIDE, Standing, of_another_kind

PROMISE = "promise"
ASKED = Kind.APPROVAL, Kind.OUTCOME  # of people
OPEN = (*ASKED, Kind.PROMISE)  # to whoever knows the id
QUESTION = "question about a call"
_SHOWN = {  # approvals are listed
    PROMISE: "`callboard agent ADDRESS` shows the ids of what its turn waits for.",
    QUESTION: "`callboard ledger --unknown` shows of which calls nobody knows what they did.",
}


class Owner(NamedTuple):
    """The agent that has been woken."""

    domain: str
    partition: int
    tenant: str
    agent: str


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A promise that somebody is asked to settle. `details` and `value` are JSON text."""

    id: str
    domain: str
    agent: str
    kind: str
    name: str
    details: str | None
    created_at: datetime
    due_at: datetime | None
    status: str
    settled_by: str | None
    settled_at: datetime | None
    value: str | None


async def waiting(
    db: Connection, *, tenant: str, kinds: tuple[Kind, ...], pending: bool = True, limit: int = 1_000
) -> list[Waiting]:
    """What waits for a decision, the oldest first; with `pending` off what was decided, the newest first."""
    name = "promises_to_settle" if pending else "promises_settled"
    with translated():
        rows = await db.fetch(query(name), tenant, [kind.value for kind in kinds], limit)
    return [Waiting(**dict(row)) for row in rows]


async def waiting_of_task(
    db: Connection, task: str, *, tenant: str, kinds: tuple[Kind, ...] = ASKED, limit: int = 500
) -> list[Waiting]:
    """What people are asked by a task (`domain/id`) and by those that it has started, the oldest first."""
    with translated():
        rows = await db.fetch(query("promises_of_task"), tenant, task, [kind.value for kind in kinds], limit)
    return [Waiting(**dict(row)) for row in rows]


async def find_promise(db: Connection, id_: str, *, tenant: str, called: str = PROMISE) -> Waiting:
    """The promise with that id, or the only one whose id begins or ends so; `called` is what its seeker takes it for.

    Raises UnknownPromise.
    """
    unknown = UnknownPromise(f"There is no {called} {id_!r}.", fix=_SHOWN.get(called))
    part = id_part(id_)
    if part is None:
        raise unknown
    with translated():
        rows = await db.fetch(
            query("find_promise"), tenant, part.first, part.last, part.digits, part.is_end, CANDIDATES + 1
        )
    if not rows:
        raise unknown
    if len(rows) > 1:
        raise UnknownPromise(several(id_, [row["id"] for row in rows]), fix="Give more of it.")
    return waiting_of(rows[0])


def waiting_of(row: asyncpg.Record) -> Waiting:
    """A promise from a row that may have more columns."""
    return Waiting(**{name: row[name] for name in Waiting.__struct_fields__})


async def settle(
    db: Connection,
    promise: Waiting,
    *,
    tenant: str,
    status: str,
    value: str | None,
    by: str,
    kind: Kind,
    digest: str | None = None,
) -> Owner:
    """Settle a promise, once, and leave a wake-up in its owner's mailbox. `by` is a person's name.

    Raises AlreadySettled when somebody else was first or the time is up, NotEntitled, or InvalidMessage when it is not of
    the `kind` that the value is for, or `digest` is not that of what is to be approved.
    """
    if promise.kind != kind:
        raise of_another_kind(f"The promise {promise.id}", promise.kind, status)
    require_name(by)
    if value is not None:
        read_json(value, "The decision")  # Postgres would take half a character, and no host could read it
    with translated():
        row = await db.fetchrow(
            query("settle_promise"), promise.domain, tenant, promise.id, status, value, OUTSIDE + by, digest
        )
        if row is not None:
            return Owner(promise.domain, row["partition"], tenant, row["agent"])
        found = await db.fetchrow(query("promise_standing"), promise.domain, tenant, promise.id, OUTSIDE + by)
    if found is None:
        raise UnknownPromise(f"There is no promise {promise.id}.")
    why_not = Standing(**dict(found)).why_not(status, by, digest)
    raise why_not or InvalidMessage(
        f"The promise {promise.id} could not be settled.", fix="Look at it again: `callboard approvals`."
    )


def require_name(by: str) -> None:
    """Raises InvalidMessage for what a text column does not take, or what is no name."""
    is_text = "\0" not in by and by.encode(errors="replace").decode() == by
    if not by.strip() or not is_text:
        raise InvalidMessage("Whoever decides needs a name.", fix="Give one with --as.")
