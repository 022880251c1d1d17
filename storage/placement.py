"""Placement as the coordinators write it: under their own epoch, ownership changed in one transaction."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from typing import Any

import asyncpg

from bus.errors import Fenced
from storage.boundary import translated
from storage.connect import FROZEN_AFTER_MS, coordinator_application, host_application
from storage.queries import query
from storage.release import release, require_own_schema, schema

TAKE_LOCK_TIMEOUT_MS = (
    200  # how long a takeover waits for a commit of the old owner before it ends its backends
)


@dataclass(frozen=True, kw_only=True)
class HostRow:
    """A live incarnation with its newest heartbeat. Times are seconds, sizes bytes; `beat_at` is Postgres' time."""

    epoch: int
    host: str
    node: str
    pid: int
    code: str
    release: str
    owned: frozenset[int]
    wanted: frozenset[int]
    kept: frozenset[int] = frozenset()
    suspect: frozenset[int]
    draining: bool
    ready: bool
    age_s: float
    silent_s: float
    beat_at: float | None
    lag_ms: float | None
    blocked_by: str | None
    backlog: int
    agents: int
    turns: int
    rss_bytes: int


@dataclass(frozen=True, kw_only=True)
class DomainPlacement:
    """What the domain's own row says."""

    partitions: int
    suspect: frozenset[int]
    hosts: int
    code: str
    spec: str


async def claim_coordinator(pool: asyncpg.Pool[Any], name: str, node: str) -> int:
    """Become the coordinator of that name; whoever was it before is fenced. Returns the new epoch.

    Raises SchemaMismatch.
    """
    await require_own_schema(pool)
    with translated():
        epoch = int(
            await pool.fetchval(query("claim_coordinator"), name, node, os.getpid(), release(), schema())
        )
        await pool.execute(query("forget_refusals"), name)
        return epoch


async def report_refusal(db: Any, domain: str, code: str, why: str | None) -> bool:
    """Why no host can be started with this code of a domain, None if one was: `up`, `run` and `status` tell it. Returns
    whether that is news."""
    with translated():
        return await db.fetchval(query("report_refusal"), domain, code, why) is not None


async def find_rival(db: Any, name: str, here: Collection[str]) -> str | None:
    """The node of the coordinator of that name, if it is none of these nodes and is at work now."""
    with translated():
        rival = await db.fetchval(query("find_rival"), name, list(here), coordinator_application(name))
    return None if rival is None else str(rival)


async def report_rival(db: Any, name: str, node: str) -> None:
    """A coordinator on this node waits, because another Ray leads: `status` and `doctor` tell it."""
    with translated():
        await db.execute(query("report_rival"), name, node)


async def live_hosts(db: Any, domain: str) -> list[HostRow]:
    with translated():
        rows = await db.fetch(query("live_hosts"), domain)
    return [
        HostRow(
            **{
                **dict(row),
                "owned": frozenset(row["owned"]),
                "wanted": frozenset(row["wanted"]),
                "kept": frozenset(row["kept"]),
                "suspect": frozenset(row["suspect"]),
            }
        )
        for row in rows
    ]


class Placement:
    """One transaction of a domain coordinator, under a lock on its own row: see `placing`."""

    def __init__(self, connection: Any, domain: str) -> None:
        self._connection = connection
        self._domain = domain

    async def domain(self) -> DomainPlacement:
        row = await self._connection.fetchrow(query("lock_domain"), self._domain)
        if row is None:
            raise Fenced(f"The domain {self._domain!r} is gone.")
        return DomainPlacement(**{**dict(row), "suspect": frozenset(row["suspect"])})

    async def hosts(self) -> list[HostRow]:
        return await live_hosts(self._connection, self._domain)

    async def end(self, epoch: int, why: str) -> None:
        """End an incarnation. Raises asyncpg's LockNotAvailableError (as StorageUnavailable) while a commit of
        it holds the fence."""
        await self._connection.execute(query("end_host"), self._domain, epoch, why)

    async def take_back(self, epoch: int, partitions: frozenset[int]) -> None:
        """Remove partitions from a host that does not give them back by itself."""
        await self._connection.execute(
            query("release_partitions"), self._domain, epoch, sorted(partitions), "[]"
        )
        await self._connection.execute(query("note_taken"), self._domain, epoch, sorted(partitions))

    async def want(self, epoch: int, partitions: frozenset[int], *, draining: bool) -> None:
        await self._connection.execute(query("set_wanted"), self._domain, epoch, sorted(partitions), draining)

    async def grant(self, epoch: int, partitions: frozenset[int], suspect: frozenset[int]) -> bool:
        """Give partitions that nobody owns; False when somebody does, or when the host has ended."""
        granted = await self._connection.fetchval(
            query("grant_partitions"), self._domain, epoch, sorted(partitions), sorted(suspect)
        )
        return granted is not None

    async def set_suspects(self, partitions: frozenset[int]) -> None:
        await self._connection.execute(query("set_suspects"), self._domain, sorted(partitions))


@contextlib.asynccontextmanager
async def leading(pool: asyncpg.Pool[Any], domain: str, epoch: int) -> AsyncIterator[Any]:
    """A transaction of a domain's coordinator; raises Fenced when another one has taken over.

    It holds the coordinator's row, for which a successor waits, and perhaps hosts' rows, for which every commit of
    theirs waits: when the coordinator freezes inside, Postgres ends it soon.
    """
    with translated():
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(f"set local idle_in_transaction_session_timeout = {FROZEN_AFTER_MS}")
            if not await connection.fetchval(query("lock_coordinator"), domain, epoch):
                raise Fenced(f"Another coordinator leads {domain} now.")
            yield connection


@contextlib.asynccontextmanager
async def placing(pool: asyncpg.Pool[Any], domain: str, epoch: int) -> AsyncIterator[Placement]:
    """A transaction that changes a domain's placement; raises Fenced, or RowLocked where a commit takes long."""
    async with leading(pool, domain, epoch) as connection:
        await connection.execute(f"set local lock_timeout = {TAKE_LOCK_TIMEOUT_MS}")
        yield Placement(connection, domain)


async def terminate_host_backends(pool: asyncpg.Pool[Any], domain: str, epoch: int) -> int:
    """End the connections of an incarnation, so that no commit of it holds the fence."""
    with translated():
        return int(await pool.fetchval(query("terminate_backends"), host_application(domain, epoch)))
