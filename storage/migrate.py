"""Numbered migrations, applied in order under an advisory lock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from importlib.resources import files
from typing import Any, NamedTuple

import asyncpg

from bus import faultpoints
from bus.errors import StorageError
from storage.boundary import translated
from storage.connect import SCHEMA, connect
from storage.queries import query

_NAMED = 5  # hosts and coordinators in one error
_LOCK = 0x63616C6C  # "call": any constant will do, as long as only migrations use it


class Migration(NamedTuple):
    number: int
    name: str
    sql: str

    @property
    def digest(self) -> str:
        return sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    """All migrations in order."""
    found = []
    for file in files("storage").joinpath("migrations").iterdir():
        if file.name.endswith(".sql"):
            number, _, name = file.name.removesuffix(".sql").partition("_")
            found.append(Migration(int(number), name, file.read_text(encoding="utf-8")))
    return sorted(found)


async def migrate(url: str) -> list[str]:
    """Apply what is missing; return the names applied. Safe to run from several processes at once.

    Raises StorageError when the database was made by a newer release or with other migrations, or while hosts or
    coordinators run that know another schema: their statements would fail, and handlers run again and again.
    """
    async with _connected(url) as connection:
        with translated():
            await connection.execute("select pg_advisory_lock($1)", _LOCK)
            await connection.execute(f"create schema if not exists {SCHEMA}")
            await connection.execute(
                "create table if not exists migrations (number int primary key, name text not null,"
                " digest text not null, applied_at timestamptz not null default now())"
            )
            done = {
                row["number"]: row["digest"] for row in await connection.fetch("select * from migrations")
            }
            known = migrations()
            if set(done) - {m.number for m in known}:
                raise StorageError(
                    "The database was made by a newer release of Callboard.", fix="Upgrade this installation."
                )
            if done and not {m.number for m in known} <= set(done):
                await _refuse_while_others_run(connection, known[-1].number)
            applied = []
            for migration in known:
                if migration.number in done:
                    if done[migration.number] != migration.digest:
                        raise StorageError(
                            f"Migration {migration.number} of the database is not the one of this release.",
                            fix="Use the release that made the database, or a new database.",
                        )
                    continue
                async with connection.transaction():
                    faultpoints.reached("start.migrates")
                    await connection.execute(migration.sql)
                    await connection.execute(
                        "insert into migrations (number, name, digest) values ($1, $2, $3)",
                        migration.number,
                        migration.name,
                        migration.digest,
                    )
                applied.append(f"{migration.number:04}_{migration.name}")
            return applied


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await connect(url, application="callboard-migrate")
    try:
        yield connection
    except BaseException:
        # A statement that was cut short is still under way: a polite end would fail, and hide why it was.
        connection.terminate()
        raise
    with translated():
        await connection.close()


async def _refuse_while_others_run(connection: asyncpg.Connection[Any], schema: int) -> None:
    others = await connection.fetch(query("running_with_other_schema"), schema)
    if others:
        names = ", ".join(
            f"{row['what']} of {row['release'] or 'an unknown release'}" for row in others[:_NAMED]
        )
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        raise StorageError(
            f"The database's schema cannot be changed while another release runs: {names}{more}.",
            fix="`callboard down` ends them; then run this again.",
        )


async def pending(url: str) -> list[str]:
    """The names of migrations that the database lacks."""
    async with _connected(url) as connection:
        with translated():
            exists = await connection.fetchval("select to_regclass($1) is not null", f"{SCHEMA}.migrations")
            done = (
                {r["number"] for r in await connection.fetch("select number from migrations")}
                if exists
                else set()
            )
        return [f"{m.number:04}_{m.name}" for m in migrations() if m.number not in done]
