"""When the schedules of domains come next."""

from __future__ import annotations

from datetime import datetime

import msgspec

from storage.domains import Connection, find_domain
from storage.inspect.rows import fetch_all


class ScheduleView(msgspec.Struct, frozen=True, kw_only=True):
    """One schedule as the owner of its domain's first partition keeps it; `recipient` is kind/key."""

    domain: str
    name: str
    cron: str
    timezone: str
    recipient: str
    catch_up: str
    next_at: datetime
    last_at: datetime | None


async def list_schedules(db: Connection, *, domain: str | None = None) -> list[ScheduleView]:
    """By domain, the next one first; raises UnknownDomain."""
    if domain is not None:
        await find_domain(db, domain)
    return await fetch_all(db, ScheduleView, "list_schedules", domain)
