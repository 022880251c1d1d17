"""Pauses of tasks and domains: open rows that every host reads."""

from __future__ import annotations

from datetime import datetime

import msgspec

from storage.boundary import translated
from storage.domains import Connection, find_domain
from storage.queries import query


class DomainPause(msgspec.Struct, frozen=True, kw_only=True):
    """A domain that is paused, by whom and why."""

    domain: str
    by: str
    why: str
    at: datetime


async def pause_domain(db: Connection, domain: str, *, by: str, why: str) -> bool:
    """Have its hosts begin nothing more, now and after a restart; False when it was paused. Raises UnknownDomain."""
    await find_domain(db, domain)
    with translated():
        return bool(await db.fetchval(query("pause_domain"), domain, by, why))


async def resume_domain(db: Connection, domain: str, *, by: str) -> bool:
    """Let its hosts go on; False when it was not paused. Raises UnknownDomain."""
    await find_domain(db, domain, removed=True)
    with translated():
        return bool(await db.fetchval(query("resume_domain"), domain, by))


async def paused_domains(db: Connection) -> list[DomainPause]:
    with translated():
        return [DomainPause(**dict(row)) for row in await db.fetch(query("paused_domains"))]
