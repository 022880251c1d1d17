"""Events in the stream that nobody takes: their domain is not registered, was removed, or lists no events."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from storage.boundary import translated
from storage.domains import ACTIVE, ASLEEP, DomainRow, all_domains
from storage.queries import query

if TYPE_CHECKING:
    import asyncpg

    from bus.events import EventStream

MOST_LISTED = 20  # subjects; for the oldest event of each the stream is asked


class UntakenEvents(msgspec.Struct, frozen=True, kw_only=True):
    """Those of one subject: how many, since when the oldest waits, and what to do."""

    subject: str
    count: int
    oldest_at: datetime | None
    mend: str


class Untaken(msgspec.Struct, frozen=True, kw_only=True):
    """The subjects with the most of them, and how many subjects there are besides."""

    subjects: list[UntakenEvents]
    more: int


async def untaken_events(stream: EventStream, db: asyncpg.Pool[Any], *, limit: int = MOST_LISTED) -> Untaken:
    """Raises ServiceUnavailable and StorageUnavailable."""
    if not await stream.exists():
        return Untaken(subjects=[], more=0)
    rows = {row.domain: row for row in await all_domains(db, removed=True)}
    with translated():
        cursors = {row["domain"]: row["seq"] for row in await db.fetch(query("event_cursors"))}
    found: list[tuple[int, str]] = []
    for subject, count in (await stream.subjects()).items():
        _, _, domain, name = subject.split(".", 3)
        if why_untaken(domain, rows.get(domain)) is None:
            continue
        if domain in cursors:  # of those that it took once, some are still there
            count = await stream.count_after(domain, cursors[domain], name)
        if count:
            found.append((count, subject))
    found.sort(key=lambda each: (-each[0], each[1]))
    listed = [await _described(stream, subject, count, rows, cursors) for count, subject in found[:limit]]
    return Untaken(subjects=listed, more=max(0, len(found) - limit))


async def _described(
    stream: EventStream, subject: str, count: int, rows: dict[str, DomainRow], cursors: dict[str, int]
) -> UntakenEvents:
    domain = subject.split(".")[2]
    at_ns = await stream.next_taken_at(subject, cursors.get(domain, 0))
    return UntakenEvents(
        subject=subject,
        count=count,
        oldest_at=None if at_ns is None else datetime.fromtimestamp(at_ns / 1e9, UTC),
        mend=why_untaken(domain, rows.get(domain)) or "",
    )


def why_untaken(domain: str, row: DomainRow | None) -> str | None:
    """Why nobody takes a domain's events, and what to do; None where its hosts take them. `row` is what is registered."""
    if row is None:
        return (
            f"No domain of that name is registered: `callboard up DOMAIN_DIR` registers it, or `nats stream purge "
            f"CALLBOARD_EVENTS --subject 'callboard.events.{domain}.>'` deletes its events."
        )
    if row.state not in (ACTIVE, ASLEEP):
        return (
            f"The domain was removed: `callboard up {row.home}` brings it back, `callboard domains remove {domain} "
            "--delete-data` deletes its events."
        )
    if not takes_events(row):
        return f"Its domain.yaml lists no `events`: list them in {row.home}, or stop who publishes them."
    return None


def takes_events(row: DomainRow) -> bool:
    """Whether the domain lists any; of another one nobody reads them."""
    return bool(json.loads(row.spec).get("events"))
