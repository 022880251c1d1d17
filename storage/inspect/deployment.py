"""Domains, hosts, coordinators and tables."""

from __future__ import annotations

from datetime import datetime

import msgspec

from storage.boundary import translated
from storage.domains import Connection
from storage.inspect.rows import fetch_all
from storage.lack import Lack, read_lack
from storage.queries import query
from storage.records import EventCursor

SILENT_AFTER_S = 3.0  # a host that has not beaten for so long is stuck, dead or cut off


_LATELY_S = 3600.0
_MOST_DIED = 100  # one that dies as soon as it has started is replaced for as long as it does

# Why hosts end that somebody has ended.
_WANTED = ("stopped", "drained", "its domain was removed", "the database was restored")


class HostView(msgspec.Struct, frozen=True, kw_only=True):
    """One incarnation of a host with its last heartbeat."""

    domain: str
    epoch: int
    host: str
    node: str
    pid: int
    release: str
    owned: list[int]
    wanted: list[int]
    kept: list[int] = []  # asked back, and kept while at-most-once calls are being made there
    suspect: list[int]
    draining: bool
    started_at: datetime
    ready: bool
    ended_at: datetime | None
    ended_why: str | None
    silent_s: float
    lag_ms: float
    blocked_by: str | None
    backlog: int
    agents: int
    turns: int
    rss_bytes: int

    @property
    def is_silent(self) -> bool:
        return self.ended_at is None and self.silent_s > SILENT_AFTER_S

    @property
    def has_died(self) -> bool:
        """It has ended, and nobody wanted that."""
        return self.ended_at is not None and self.ended_why not in _WANTED


class CoordinatorView(msgspec.Struct, frozen=True, kw_only=True):
    """Who coordinates: `master`, or the domain of that name. `rival`: the node, in another Ray, of one that waits; `lack`:
    the domain's hosts that wait for room."""

    name: str
    epoch: int
    node: str
    pid: int
    release: str
    started_at: datetime
    rival: str | None
    lack: Lack | None = None


class DomainView(msgspec.Struct, frozen=True, kw_only=True):
    """A domain in numbers.

    `state` is `active`, `asleep` (its hosts start when something is sent to it), `removed` (only its data is
    there) or `deleting`; `open_turns` wait, or have a journal and run; `unowned` are the partitions of an active
    one that no living host owns.
    """

    domain: str
    partitions: int
    kinds: list[str]
    home: str
    code: str
    state: str
    updated_at: datetime
    hosts: int
    backlog: int
    timers: int
    open_turns: int
    agents: int
    dead_letters: int
    open_tasks: int
    stuck_tasks: int
    unowned: list[int]
    paused_tasks: int = 0
    paused_by: str | None = None
    """Who has paused the domain, and why."""
    refusal: str | None = None
    """Why no host can be started with its newest code and domain.yaml."""


class TableSize(msgspec.Struct, frozen=True, kw_only=True):
    """A table with its indexes; the rows are the statistics' estimate."""

    name: str
    bytes: int
    rows: int
    dead_rows: int


class Months(msgspec.Struct, frozen=True, kw_only=True):
    """The history's monthly tables (`YYYYMM`), and rows that found none of theirs (counted up to 1,000)."""

    months: list[str]
    astray: int
    now: str

    @property
    def ahead(self) -> int:
        """How many months after this one have their table already."""
        return sum(month > self.now for month in self.months)


async def list_domains(db: Connection) -> list[DomainView]:
    """All of them, also those that were removed and have their data still."""
    return await fetch_all(db, DomainView, "inspect_domains")


async def list_hosts(db: Connection, *, ended_within_s: float = 0.0) -> list[HostView]:
    """The living hosts of all domains, and those that ended lately."""
    return await fetch_all(db, HostView, "inspect_hosts", ended_within_s)


async def list_died_hosts(db: Connection) -> list[HostView]:
    """The hosts that have died within the last hour, the newest first, at most a hundred."""
    ended = [host for host in await list_hosts(db, ended_within_s=_LATELY_S) if host.has_died]
    return sorted(ended, key=lambda host: host.ended_at or host.started_at, reverse=True)[:_MOST_DIED]


async def list_coordinators(db: Connection) -> list[CoordinatorView]:
    with translated():
        rows = await db.fetch(query("inspect_coordinators"))
    return [CoordinatorView(**{**dict(row), "lack": read_lack(row["lack"])}) for row in rows]


async def find_event_cursor(db: Connection, domain: str) -> EventCursor | None:
    """How far a domain has accepted the stream of events; None before the first."""
    found = await fetch_all(db, EventCursor, "event_cursor", domain)
    return found[0] if found else None


async def list_tables(db: Connection) -> list[TableSize]:
    """The tables, largest first."""
    return await fetch_all(db, TableSize, "inspect_tables")


async def history_months(db: Connection) -> Months:
    months: list[Months] = await fetch_all(db, Months, "inspect_months")
    return months[0]
