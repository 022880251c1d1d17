"""The drill: fill, back up, lose the database, restore; chains verify, the work goes on, the past is fenced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from bus.address import parse_address
from bus.errors import Fenced
from callboard.backup import without_newer_settings, without_password
from callboard.services import Endpoints
from callboard.services.program import client_program
from storage.connect import create_pool
from storage.inspect import verify_history
from storage.postgres import PostgresStore
from storage.queries import query
from storage.records import Fence
from tests.integration.cli import DESK, Cli, note, until
from tests.integration.deployment import Deployment


@pytest.fixture
def cli(cli: Cli, services: Endpoints, database: str, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """On a database without a deployment."""
    monkeypatch.setenv("CALLBOARD_POSTGRES_URL", database)
    monkeypatch.setenv("CALLBOARD_NATS_URL", services.nats_url)
    return cli


@pytest.fixture
async def empty(services: Endpoints) -> AsyncIterator[str]:
    """A second, empty database: the machine that is set up after the loss."""
    connection = await asyncpg.connect(services.postgres_url)
    await connection.execute("create database restored")
    yield services.postgres_url.replace("@/callboard?", "@/restored?")
    await connection.execute("drop database restored with (force)")
    await connection.close()


async def test_the_drill(
    cli: Cli,
    services: Endpoints,
    database: str,
    empty: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "callboard.backup"
    async with Deployment.open(DESK, database, services.nats_url) as desk:
        await desk.coordinate()
        await note(desk, "a", *(f"note {n}" for n in range(20)))
        await note(desk, "b", "poison")
        await until(lambda: desk.fetch("select from agents where agent = 'clerk/a' and version = 20"))
        await cli("pause", "desk/clerk/a")
        await note(desk, "a", "waits")
        await desk.pool.execute(
            "insert into ledger (domain, tenant, id, agent, message, turn, key, tool, effect, digest, status, attempts,"
            " epoch) select 'desk', 'default', gen_random_uuid(), 'clerk/a', gen_random_uuid(), gen_random_uuid(), '#1',"
            " 'block', 'at_most_once', 'd', status, 1, 1 from unnest(array['succeeded', 'unknown']) status"
        )
        await desk.pool.execute(  # as retention would
            "with gone as (delete from transitions where agent = 'clerk/a' and version < 6 returning *)"
            " insert into history_anchors select domain, tenant, agent, version, hash, now() from gone where version = 5"
        )
        done = await cli.json("backup", str(file))  # while hosts are at work
        assert done["bytes"] == file.stat().st_size
        assert file.stat().st_mode & 0o777 == 0o600
        # What happens after the backup is lost with the database; its numbers must not come again.
        await note(desk, "c", "after the backup")
        old_epoch = await desk.pool.fetchval("select max(epoch) from hosts")
        old_number = await desk.pool.fetchval("select last_value from mailbox_seq")
    monkeypatch.setenv("CALLBOARD_POSTGRES_URL", empty)
    restored = await cli.json("restore", str(file))
    assert (restored["agents"], restored["waiting"], restored["hosts_ended"]) == (2, 1, 1)
    assert (restored["open_turns"], restored["calls"], restored["unknown"]) == (0, 2, 1)

    pool = await create_pool(empty, application="callboard-test")
    for key, length in (("a", 16), ("b", 1)):
        verdict = await verify_history(pool, parse_address(f"desk/clerk/{key}"), tenant="default")
        assert (verdict.intact, verdict.length) == (True, length)
    assert await pool.fetchval("select nextval('epochs')") > old_epoch + 1000
    assert await pool.fetchval("select nextval('mailbox_seq')") > old_number + 1000
    zombie = Fence(domain="desk", epoch=old_epoch)
    store = await PostgresStore.open(empty, zombie)
    with pytest.raises(Fenced):
        await store.commit(zombie, [], [])
    await store.close()
    await pool.close()

    async with Deployment.open(DESK, empty, services.nats_url) as desk:
        await desk.coordinate()
        assert "is running" in await cli("resume", "desk/clerk/a")
        await until(lambda: desk.fetch("select from agents where agent = 'clerk/a' and version = 23"))
        (row,) = await desk.pool.fetch(query("inspect_agent"), "desk", "default", "clerk/a")
        assert '"waits"' in row["state"]
        verdict = await verify_history(desk.pool, parse_address("desk/clerk/a"), tenant="default")
        assert (verdict.intact, verdict.length) == (True, 18)


async def test_a_database_in_use_or_not_empty_is_not_overwritten(
    cli: Cli, services: Endpoints, database: str, tmp_path: Path
) -> None:
    file = tmp_path / "callboard.backup"
    async with Deployment.open(DESK, database, services.nats_url) as desk:
        await cli("backup", str(file))
        assert "exists already" in await cli.error("backup", str(file))
        assert "holds the backup" in await cli("backup", str(file), "--force")
        await desk.coordinate()
        await note(desk, "a", "precious")
        await until(lambda: desk.fetch("select from agents"))
        assert "at work" in await cli.error("restore", str(file), "--force")
    assert "not empty" in await cli.error("restore", str(file))
    assert (await cli.json("agents"))["agents"]
    assert "is restored: 0 agents" in await cli("restore", str(file), "--force")
    assert not (await cli.json("agents"))["agents"]


async def test_a_broken_backup_changes_nothing(
    cli: Cli, services: Endpoints, database: str, tmp_path: Path
) -> None:
    file, cut = tmp_path / "callboard.backup", tmp_path / "cut.backup"
    async with Deployment.open(DESK, database, services.nats_url) as desk:
        await desk.coordinate()
        await note(desk, "a", "precious")
        await until(lambda: desk.fetch("select from agents"))
    await cli("backup", str(file))
    whole = file.read_bytes()
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    assert "nothing was changed" in await cli.error("restore", str(cut), "--force")
    assert [row["address"] for row in (await cli.json("agents"))["agents"]] == ["desk/clerk/a"]
    cut.write_bytes(b"select 1;")
    assert "is not a backup" in await cli.error("restore", str(cut))
    assert "cannot be read: No such file" in await cli.error("restore", str(tmp_path / "none"))
    assert "cannot be written" in await cli.error("backup", str(tmp_path / "no" / "folder"))
    assert {path.name for path in tmp_path.iterdir()} == {file.name, cut.name}  # noqa: ASYNC240


async def test_what_is_restored_sets_nothing_that_postgres_16_lacks(
    cli: Cli, services: Endpoints, database: str, tmp_path: Path
) -> None:
    async with Deployment.open(DESK, database, services.nats_url):
        await cli("backup", str(tmp_path / "a"))
    process = await asyncio.create_subprocess_exec(
        client_program("pg_restore"), "--file=-", str(tmp_path / "a"), stdout=asyncio.subprocess.PIPE
    )
    written, _ = await process.communicate()
    sql = asyncio.StreamReader()
    sql.feed_data(written)
    sql.feed_eof()
    kept = await without_newer_settings(sql) + await sql.read()
    assert kept == written.replace(b"SET transaction_timeout = 0;\n", b"") != written


def test_a_password_stays_out_of_the_command_line() -> None:
    place, environment = without_password("postgresql://user:s%40crt@host:5433/db?sslmode=require&password=x")
    assert place == "postgresql://user@host:5433/db?sslmode=require"
    assert environment["PGPASSWORD"] == "s@crt"
    place, environment = without_password("postgresql://u@/db?host=/run/x&port=5432&password=y")
    assert place == "postgresql://u@/db?host=/run/x&port=5432"
    assert environment["PGPASSWORD"] == "y"
