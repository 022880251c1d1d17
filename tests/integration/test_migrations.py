"""The migrations give exactly the schema that storage/schema.sql shows, and are safe to repeat."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg
import pytest

from bus.errors import StorageError
from callboard.services import client_program
from storage.migrate import migrate, migrations, pending

SCHEMA_FILE = Path(__file__).parents[2] / "storage" / "schema.sql"


async def test_the_migrations_give_the_schema_on_file(database: str) -> None:
    await migrate(database)
    found = await asyncio.to_thread(dump_schema, database)
    if os.environ.get("CALLBOARD_WRITE_SCHEMA"):  # `make schema`
        SCHEMA_FILE.write_text(found)
    assert found == SCHEMA_FILE.read_text(), "run `make schema` and look at what has changed"


async def test_migrating_twice_or_at_once_applies_each_migration_once(database: str) -> None:
    applied = await asyncio.gather(*(migrate(database) for _ in range(4)))
    assert sum(map(len, applied)) == len(migrations())
    assert await migrate(database) == []
    assert await pending(database) == []


async def test_a_database_of_a_newer_release_is_refused(database: str) -> None:
    await migrate(database)
    await _execute(database, "insert into callboard.migrations values (9999, 'later', 'x')")
    with pytest.raises(StorageError, match="newer release"):
        await migrate(database)


async def test_a_migration_that_was_changed_afterwards_is_refused(database: str) -> None:
    await migrate(database)
    await _execute(database, "update callboard.migrations set digest = 'edited' where number = 1")
    with pytest.raises(StorageError, match="not the one of this release"):
        await migrate(database)


async def _execute(database: str, sql: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


def dump_schema(url: str) -> str:
    """The schema as pg_dump writes it, without what differs from run to run: tokens, months, versions."""
    parts = urlsplit(url)
    socket = parse_qs(parts.query)
    environment = {
        **os.environ,
        "PGPASSWORD": unquote(parts.password or ""),
        "PGUSER": parts.username or "",
        "PGHOST": socket["host"][0],
        "PGPORT": socket["port"][0],
        "PGDATABASE": parts.path.removeprefix("/"),
    }
    done = subprocess.run(
        [
            str(client_program("pg_dump")), "--schema-only", "--no-owner", "--no-privileges",
            "--schema=callboard", "--exclude-table=callboard.transitions_2*",
        ],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    kept = [
        line
        for line in done.stdout.splitlines()
        if line.strip() and not re.match(r"--|SET |SELECT pg_catalog|\\(un)?restrict", line)
    ]
    return (
        "-- Written by `make schema` from the migrations; read it, never edit it.\n" + "\n".join(kept) + "\n"
    )
