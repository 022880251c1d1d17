"""From the rows of a named query to records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from storage.boundary import translated
from storage.domains import Connection, all_domains, find_domain
from storage.queries import query

R = TypeVar("R")


async def fetch_all(db: Connection, record: type[R], name: str, *arguments: Any) -> list[R]:
    """Every row of the query as a record: its columns are named as the record's fields."""
    with translated():
        rows = await db.fetch(query(name), *arguments)
    return [record(**dict(row)) for row in rows]


async def domain_names(db: Connection, domain: str | None) -> Sequence[str]:
    if domain is not None:
        return [(await find_domain(db, domain, removed=True)).domain]
    return [row.domain for row in await all_domains(db, removed=True)]
