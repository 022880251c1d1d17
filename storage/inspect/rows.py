"""From the rows of a named query to records."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg

from storage.boundary import translated
from storage.domains import Connection, all_domains, find_domain
from storage.queries import query

R = TypeVar("R")


async def fetch_all(db: Connection, record: type[R], name: str, *arguments: Any) -> list[R]:
    """Every row of the query as a record: its columns are named as the record's fields."""
    with translated():
        rows = await db.fetch(query(name), *arguments)
    return [record(**dict(row)) for row in rows]


@asynccontextmanager
async def in_index_order(db: Connection) -> AsyncIterator[Any]:
    """A snapshot in which a page is read along an index, and nothing else.

    With statistics that lag behind, a plan would sort all that is left of a history for each page of it.
    """
    if isinstance(db, asyncpg.Pool):
        async with db.acquire() as connection, in_index_order(connection) as snapshot:
            yield snapshot
        return
    async with db.transaction(isolation="repeatable_read", readonly=True):
        for way in ("sort", "incremental_sort", "seqscan", "bitmapscan"):
            await db.execute(f"set local enable_{way} = off")
        yield db


async def domain_names(db: Connection, domain: str | None) -> Sequence[str]:
    if domain is not None:
        return [(await find_domain(db, domain, removed=True)).domain]
    return [row.domain for row in await all_domains(db, removed=True)]
