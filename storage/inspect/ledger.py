"""Calls of tools."""

from __future__ import annotations

from datetime import datetime

import msgspec

from storage.boundary import translated
from storage.domains import Connection, find_domain
from storage.inspect.rows import fetch_all
from storage.ledger import CallStatus
from storage.queries import query


class CallView(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the ledger; `arguments` is JSON text, None when they are too large to be kept there. `said_by` is the person
    who has said what the call did, where the call itself has not, `reason` how they know, where nobody waited for it,
    `again_by` who has last said that it had not acted and is to be made again. `question` is the open one to a person
    about it. One that is unknown with an error `is_left`: nobody waits for its outcome."""

    domain: str
    agent: str
    id: str
    tool: str
    effect: str
    status: str
    attempts: int
    error: str | None
    said_by: str | None
    reason: str | None
    again_by: str | None
    digest: str
    arguments: str | None
    task: str | None
    message: str
    approval: str | None
    question: str | None
    started_at: datetime
    ended_at: datetime | None

    @property
    def is_left(self) -> bool:
        return self.status == CallStatus.UNKNOWN and self.error is not None


async def count_acted(db: Connection, task: str, *, tenant: str) -> int:
    """How many calls that were made for a task (`domain/id`) are known to have acted."""
    with translated():
        return int(await db.fetchval(query("count_acted"), tenant, task))


async def list_ledger(
    db: Connection,
    *,
    tenant: str,
    domain: str | None = None,
    agent: str | None = None,
    task: str | None = None,
    unknown: bool = False,
    limit: int = 100,
) -> list[CallView]:
    """The newest calls first. `agent` is `kind/key`, `task` is `domain/id`; `unknown` leaves out what is known.

    Raises UnknownDomain.
    """
    if domain is not None:
        await find_domain(db, domain, removed=True)
    return await fetch_all(db, CallView, "list_ledger", tenant, domain, agent, task, unknown, limit)
