"""The domains that this deployment knows."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import asyncpg

from bus.errors import UnknownDomain
from storage.boundary import translated
from storage.queries import query


class DomainRow(NamedTuple):
    """A registered domain: its fixed partition count, domain.yaml as JSON, its agent kinds, the folder it came from."""

    domain: str
    partitions: int
    spec: str
    kinds: list[str]
    home: str
    code: str
    hosts: int = 0


Connection: TypeAlias = "asyncpg.Connection[Any] | asyncpg.pool.PoolConnectionProxy[Any] | asyncpg.Pool[Any]"


async def register_domain(db: Connection, row: DomainRow) -> int:
    """Add or update a domain; return its partition count, which stays what it was when it was created."""
    with translated():
        return int(
            await db.fetchval(
                query("register_domain"), row.domain, row.partitions, row.spec, row.kinds, row.home, row.code
            )
        )


async def all_domains(db: Connection) -> list[DomainRow]:
    with translated():
        return [DomainRow(**dict(row)) for row in await db.fetch(query("all_domains"))]


async def find_domain(db: Connection, domain: str) -> DomainRow:
    """Raises UnknownDomain."""
    for row in await all_domains(db):
        if row.domain == domain:
            return row
    raise UnknownDomain(f"There is no domain {domain!r}.")
