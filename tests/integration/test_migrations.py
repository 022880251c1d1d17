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

import storage.migrate
from actors.incarnation import HostSettings, run_incarnation
from bus.errors import SchemaMismatch, StorageError
from callboard.services import Endpoints, client_program
from storage.connect import connect, create_pool, host_application
from storage.migrate import Migration, migrate, migrations, pending
from storage.placement import claim_coordinator
from storage.queries import query
from tests.integration.cli import DESK, until
from tests.integration.deployment import Deployment

SCHEMA_FILE = Path(__file__).parents[2] / "storage" / "schema.sql"


@pytest.fixture
def database(empty_database: str) -> str:
    return empty_database


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


@pytest.fixture
def next_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release with one migration more."""
    more = [*migrations(), Migration(9999, "later", "create table callboard.later ()")]
    monkeypatch.setattr(storage.migrate, "migrations", lambda: more)


async def test_the_schema_is_not_changed_under_hosts_and_coordinators_of_another_release(
    database: str, next_release: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(storage.migrate, "migrations", migrations)
        await migrate(database)
    pool = await create_pool(database, application="callboard-coordinator shop")
    await claim_coordinator(pool, "shop", "node")
    _, lives = [
        await pool.fetchval(query("register_host"), "shop", name, "node", 1, "", "", "", "0.1", 1)
        for name in ("shop-dead", "shop-lives")
    ]
    host = await connect(database, application=host_application("shop", lives))
    with pytest.raises(StorageError) as refused:
        await migrate(database)
    assert "coordinator shop of" in refused.value.message
    assert "host shop-lives of 0.1" in refused.value.message
    assert "shop-dead" not in refused.value.message
    assert "callboard down" in refused.value.fix
    await host.close()
    await until(lambda: _has_left(database, host_application("shop", lives)))
    with pytest.raises(StorageError) as refused:
        await migrate(database)
    assert "shop-lives" not in refused.value.message
    await pool.close()
    await until(lambda: _has_left(database, "callboard-coordinator shop"))
    assert await migrate(database) == ["9999_later"]


async def test_nobody_leads_or_hosts_on_the_schema_of_another_release(
    services: Endpoints, database: str
) -> None:
    await migrate(database)
    await _execute(database, "insert into callboard.migrations values (9999, 'later', 'x')")
    pool = await create_pool(database, application="test")
    with pytest.raises(SchemaMismatch, match="9999"):
        await claim_coordinator(pool, "shop", "node")
    with pytest.raises(SchemaMismatch, match="9999"):
        await run_incarnation(
            HostSettings(domain="shop", host="h", postgres_url=database, nats_url=services.nats_url)
        )
    await pool.close()


async def test_a_host_whose_schema_was_changed_ends(services: Endpoints, database: str) -> None:
    async with Deployment.open(DESK, database, services.nats_url) as desk:
        await desk.coordinate()
        await until(lambda: desk.fetch("select from hosts where cardinality(owned) = 4"))
        [host] = desk.launcher.hosts.values()
        await desk.forsake()
        await desk.pool.execute("insert into migrations values (9999, 'later', 'x')")
        async with asyncio.timeout(10):
            await host.ended()
        assert host.host is not None
        assert "9999" in str(host.host.ended_why)


async def _has_left(database: str, application: str) -> bool:
    db = await connect(database, application="test")
    count = await db.fetchval(
        "select count(*) from pg_stat_activity where application_name = $1", application
    )
    await db.close()
    return bool(count == 0)


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
