"""Connections for whatever is no group commit."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg

from storage.boundary import translated
from storage.queries import query


class Pooled:
    """A small pool, by which a host reads, and writes the few rows that do not belong to a turn."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool

    @contextlib.asynccontextmanager
    async def reader(self) -> AsyncIterator[Any]:
        """A connection; raises the typed errors of the boundary."""
        with translated():
            async with self._pool.acquire() as connection:
                yield connection

    async def execute(self, name: str, *arguments: Any) -> None:
        """One of the named queries, whose rows nobody needs."""
        async with self.reader() as connection:
            await connection.execute(query(name), *arguments)
