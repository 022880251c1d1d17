"""Retention drops whole months and what has outlived its use, and touches nothing that waits."""

# ruff: noqa: S608  # the statements are put together from constants of this file

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from bus.address import parse_address
from bus.errors import Overloaded, StorageUnavailable
from callboard.services import Endpoints
from storage import retention
from storage.connect import connect
from storage.inspect import history_months, verify_all, verify_history
from storage.retention import HOSTS_KEPT, MONTHS_AHEAD, retain
from tests.integration.cli import Cli
from tests.integration.deployment import Deployment
from tests.integration.old_desk import OLD, age, desk_at_rest


@pytest.fixture
async def desk(services: Endpoints, database: str) -> AsyncIterator[Deployment]:
    async with desk_at_rest(services, database) as desk:
        yield desk


async def test_what_is_old_and_over_goes_and_the_rest_stays(desk: Deployment, database: str) -> None:
    await age(desk)
    planned = await retain(database, months=3, dry_run=True)
    assert (len(planned.months), planned.seen, planned.hosts, planned.tasks, planned.blobs) == (1, 1, 1, 1, 1)
    assert await desk.fetch("select count(*) from transitions") == [(3,)]
    done = await retain(database, months=3)
    assert (done.months, done.tasks, done.blobs, done.dry_run) == (planned.months, 1, 1, False)
    assert await desk.fetch("select version from transitions") == [(3,)]
    assert await desk.fetch("select status from tasks") == [("running",)]
    assert await desk.fetch("select count(*) from task_events") == [(1,)]
    assert await desk.fetch("select digest from blobs order by 1") == [("fresh",), ("used",)]
    assert await desk.fetch("select count(*) from mailbox") == [(1,)]
    for table in ("seen", "heartbeats"):
        assert await desk.fetch(f"select count(*) from {table}") == [(0,)]
    assert await desk.fetch("select count(*) from hosts") == [(HOSTS_KEPT,)]
    verdict = await verify_history(desk.pool, parse_address("desk/clerk/a"), tenant="default")
    assert (verdict.intact, verdict.since, verdict.length, verdict.dropped) == (True, 3, 1, 2)
    assert (await retain(database, months=3)).months == []


async def test_what_retention_has_dropped_is_known_and_what_somebody_cuts_off_is_found(
    cli: Cli, desk: Deployment, services: Endpoints, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLBOARD_POSTGRES_URL", database)
    monkeypatch.setenv("CALLBOARD_NATS_URL", services.nats_url)
    await age(desk)
    await desk.pool.execute(  # b's history has no month: its first two rows lie astray; c's is dropped whole
        "with copied as (insert into agents select domain, tenant, 'clerk/' || k, partition, version, schema_version,"
        "   lifecycle, state, hash from agents, unnest(array['b', 'c']) k)"
        " insert into transitions select domain, tenant, 'clerk/' || k, version,"
        f" case when version < 3 and k = 'b' then {OLD} - interval '2 months' when k = 'c' then {OLD} else at end,"
        "  body, prev, hash from transitions, unnest(array['b', 'c']) k"
    )
    await retain(database, months=3)
    assert await desk.fetch("select agent, version from transitions order by 1") == [
        ("clerk/a", 3),
        ("clerk/b", 3),
    ]
    await desk.pool.execute("delete from blobs")  # they hash to nothing
    found = await cli.json("verify")
    assert (found["intact"], found["shortened"], found["transitions"]) == (True, 3, 2)
    assert "3 of them begin where retention has dropped what was before." in await cli("verify")

    gone = f"dropped by retention on {datetime.now(UTC):%Y-%m-%d}"
    for key, versions in (
        ("a", "versions 1 to 2 were"),
        ("b", "versions 1 to 2 were"),
        ("c", "versions 1 to 3 were"),
    ):
        address = f"desk/clerk/{key}"
        assert f"{versions} {gone}" in await cli("agent", address, "--timeline")
        assert f"is intact ({versions} {gone})" in await cli("agent", address)
    shown = await cli.json("agent", "desk/clerk/a", "--timeline")
    assert (shown["dropped"], shown["older"], [turn["version"] for turn in shown["turns"]]) == (2, None, [3])

    for agent, version in (("clerk/a", 3), ("clerk/b", 3)):  # as retention would, but nobody has asked it to
        await desk.pool.execute("delete from transitions where agent = $1 and version = $2", agent, version)
    await desk.pool.execute("delete from history_anchors where agent = 'clerk/c'")
    broken = (await cli.json("verify", code=1))["broken"]
    assert [(b["address"], b["version"], b["what"]) for b in broken] == [
        ("desk/clerk/a", 3, "missing version"),
        ("desk/clerk/b", 3, "missing version"),
        ("desk/clerk/c", 1, "missing version"),
    ]


async def test_histories_are_looked_at_as_before_a_month_is_dropped_or_as_after_it(
    desk: Deployment, database: str
) -> None:
    """A snapshot from before would lack the anchor, and the table all the same."""
    await age(desk)
    month = await desk.pool.fetchval(f"select 'transitions_' || to_char({OLD}, 'YYYYMM')")
    dropping: asyncpg.Connection[Any] = await connect(database, application="dropping")
    transaction = dropping.transaction()
    await transaction.start()
    await dropping.execute(f"select anchor_histories('{month}'); drop table {month}")
    verifying = asyncio.create_task(verify_all(desk.pool))
    async with asyncio.timeout(20):  # until it stands in line behind the dropping
        while not await desk.pool.fetchval("select exists (select from pg_locks where not granted)"):
            assert not verifying.done()
            await asyncio.sleep(0.01)
    await transaction.commit()
    assert [link.detail for link in (await verifying).broken] == []
    await dropping.close()


async def test_a_month_that_stays_in_use_keeps_its_rows_and_gets_no_anchors(
    desk: Deployment, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_TRIES", 2)
    await age(desk)
    reader: asyncpg.Connection[Any] = await connect(database, application="reader")
    transaction = reader.transaction()
    await transaction.start()
    await reader.fetch("select from transitions")
    with pytest.raises(StorageUnavailable, match="stays in use"):
        await retain(database, months=3)
    await transaction.rollback()
    assert await desk.fetch("select count(*) from transitions") == [(3,)]
    assert await desk.fetch("select count(*) from history_anchors") == [(0,)]
    await retain(database, months=3)
    assert await desk.fetch("select agent, version from history_anchors") == [("clerk/a", 2)]
    await reader.close()


@pytest.mark.parametrize("is_open", [False, True])
async def test_what_a_turn_has_recorded_goes_with_its_month_unless_it_is_still_open(
    desk: Deployment, database: str, is_open: bool
) -> None:
    db = desk.pool
    [(month, next_month)] = await desk.fetch(
        f"select to_char({OLD}, 'YYYYMM01'), to_char({OLD} + interval '1 month', 'YYYYMM01')"
    )
    await db.execute(
        f"create table journal_{month[:6]} partition of journal for values from ('{month}') to ('{next_month}')"
    )
    turn = await db.fetchval("select gen_random_uuid()")
    await db.execute(
        "insert into journal (domain, tenant, agent, turn, number, key, kind, name, ok, value, took_ms, at)"
        f" values ('desk', 'default', 'clerk/w', $1, 1, '#1', 'step', 's', true, '1', 1, {OLD})",
        turn,
    )
    for status, settled in (("resolved", OLD), ("pending", "null")):
        await db.execute(
            "insert into promises (domain, tenant, id, agent, partition, turn, key, kind, name, status, settled_at)"
            f" values ('desk', 'default', gen_random_uuid(), 'clerk/w', 0, $1, '#2', 'promise', 'p', $2, {settled})",
            turn,
            status,
        )
    if is_open:
        await db.execute(
            "insert into turns (domain, tenant, agent, partition, seq, turn, code, failures, trials, header, payload,"
            " began_at) values ('desk', 'default', 'clerk/w', 0, 1, $1, '', 0, 0, '{}', 'null',"
            f" extract(epoch from {OLD}))",
            turn,
        )
    done = await retain(database, months=3)
    assert (done.promises, month[:6] in done.months) == ((0, False) if is_open else (1, True))
    kept = await desk.fetch("select count(*) from journal where turn = $1", turn)
    assert kept == [(1 if is_open else 0,)]
    assert await desk.fetch("select count(*) from promises") == [(2 if is_open else 1,)]


async def test_a_call_goes_once_its_outcome_is_old_and_its_message_is_over(
    desk: Deployment, database: str
) -> None:
    db = desk.pool
    called = (
        "insert into ledger (domain, tenant, id, agent, message, turn, key, tool, effect, digest, status, attempts,"
        " epoch, ended_at) values ('desk', 'default', gen_random_uuid(), 'clerk/w', $1, gen_random_uuid(), '#1', $2,"
        " 'at_most_once', 'd', $3, 1, 1, {})"
    )
    messages = {}
    for tool, status, ended in (
        ("over", "succeeded", OLD), ("refused", "denied", OLD), ("late", "succeeded", "now()"),
        ("unknown", "unknown", "null"), ("dead letter", "failed", OLD), ("waits", "failed", OLD),
        ("open", "succeeded", OLD),
    ):  # fmt: skip
        messages[tool] = await db.fetchval("select gen_random_uuid()")
        await db.execute(called.format(ended), messages[tool], tool, status)
    await db.execute(
        "insert into dead_letters (domain, tenant, partition, agent, message, reason, error, failures, header, payload)"
        " values ('desk', 'default', 0, 'clerk/w', $1, 'failed', '', 1, '{}', 'null')",
        messages["dead letter"],
    )
    await db.execute(
        "insert into mailbox (domain, tenant, partition, agent, seq, id, header, payload)"
        " values ('desk', 'default', 0, 'clerk/w', 9, $1, '{}', 'null')",
        messages["waits"],
    )
    await db.execute(
        "insert into turns (domain, tenant, agent, partition, seq, turn, code, failures, trials, header, payload,"
        " began_at) values ('desk', 'default', 'clerk/w', 0, 1, gen_random_uuid(), '', 0, 0,"
        " json_build_object('id', $1::uuid), 'null', 1)",
        messages["open"],
    )
    assert (await retain(database, months=None)).calls == 0
    assert (await retain(database, months=3, dry_run=True)).calls == 2
    assert (await retain(database, months=3)).calls == 2
    left = {tool for (tool,) in await desk.fetch("select tool from ledger")}
    assert left == {"late", "unknown", "dead letter", "waits", "open"}


async def test_a_month_without_its_table_gets_one_and_its_astray_rows(
    desk: Deployment, database: str
) -> None:
    next_month = await desk.pool.fetchval("select to_char(now() + interval '1 month', 'YYYYMM')")
    await desk.pool.execute(f"drop table transitions_{next_month}")
    await desk.pool.execute(
        "insert into transitions select domain, tenant, 'clerk/b', version, now() + interval '1 month', body, prev,"
        " hash from transitions"
    )
    assert (await history_months(desk.pool)).astray == 3
    done = await retain(database, months=1)
    assert done.months_made == [next_month]
    months = await history_months(desk.pool)
    assert (months.astray, months.ahead) == (0, MONTHS_AHEAD)
    assert await desk.fetch(f"select count(*) from transitions_{next_month}") == [(3,)]


async def test_a_row_that_goes_astray_while_its_month_is_made_moves_over(
    desk: Deployment, database: str
) -> None:
    next_month = await desk.pool.fetchval("select to_char(now() + interval '1 month', 'YYYYMM')")
    await desk.pool.execute(f"drop table transitions_{next_month}")
    async with desk.pool.acquire() as writer:
        transaction = writer.transaction()
        await transaction.start()
        await writer.execute(
            "insert into transitions select domain, tenant, 'clerk/b', version, now() + interval '1 month', body,"
            " prev, hash from transitions"
        )
        making = asyncio.create_task(retain(database, months=None))
        async with asyncio.timeout(20):  # until it stands in line behind the writer
            while not await desk.pool.fetchval("select exists (select from pg_locks where not granted)"):
                assert not making.done()
                await asyncio.sleep(0.01)
        await transaction.commit()
    assert (await making).months_made == [next_month]
    assert await desk.fetch(f"select count(*) from transitions_{next_month}") == [(3,)]


async def test_two_retentions_do_not_run_at_once(desk: Deployment, database: str) -> None:
    other: asyncpg.Connection[Any] = await connect(database, application="other")
    await other.fetchval("select pg_advisory_lock($1)", 0x72657461)
    with pytest.raises(Overloaded):
        await retain(database, months=3)
    await other.close()


async def test_a_statement_of_retention_may_take_longer_than_any_other(
    desk: Deployment, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader: asyncpg.Connection[Any] = await connect(database, application="reader")
    monkeypatch.setattr("storage.connect.COMMAND_TIMEOUT_S", 0.2)
    monkeypatch.setattr("storage.connect.STATEMENT_TIMEOUT_MS", 200)
    transaction = reader.transaction()
    await transaction.start()
    await reader.execute("lock table seen in access exclusive mode")
    retaining = asyncio.create_task(retain(database, months=3))
    await asyncio.wait([retaining], timeout=1)  # five times as long as a statement may take elsewhere
    assert not retaining.done()
    await transaction.rollback()
    assert not (await retaining).months
    await reader.close()


async def test_a_commit_under_way_delays_the_dropping_of_a_month(desk: Deployment, database: str) -> None:
    await age(desk)
    reader: asyncpg.Connection[Any] = await connect(database, application="reader")
    transaction = reader.transaction()
    await transaction.start()
    await reader.fetch("select from transitions")
    retaining = asyncio.create_task(retain(database, months=3))
    async with asyncio.timeout(20):  # until it stands in line behind the reader
        while not await desk.pool.fetchval("select exists (select from pg_locks where not granted)"):
            assert not retaining.done()
            await asyncio.sleep(0.01)
    assert not retaining.done()
    await desk.pool.execute("insert into transitions select * from transitions limit 0")  # commits go on
    await transaction.rollback()
    assert (await retaining).months
    await reader.close()


async def test_the_command_says_what_it_would_drop(
    cli: Cli, desk: Deployment, services: Endpoints, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLBOARD_POSTGRES_URL", database)
    monkeypatch.setenv("CALLBOARD_NATS_URL", services.nats_url)
    await age(desk)
    assert "would be dropped" in await cli("retention", "--months", "3", "--dry-run")
    assert (await cli.json("retention", "--months", "3"))["dry_run"] is False
    assert (await cli.json("retention", "--months", "3", "--dry-run"))["months"] == []
    assert "must be at least 1" in await cli.error("retention", "--months", "0", code=2)


async def test_the_agents_of_tasks_that_are_gone_go_too_unless_something_waits_for_them(
    desk: Deployment, database: str
) -> None:
    db = desk.pool
    tasks = {name: str(uuid4()) for name in ("gone", "with mail", "with a timer", "open", "lately")}
    for name, task in tasks.items():
        await db.execute(
            "insert into agents (domain, tenant, agent, partition, version, schema_version, lifecycle, state, hash, updated_at)"
            f" values ('desk', 'default', 'task/' || $1::text, 3, 7, 1, 'running', '{{}}', '', {'now()' if name == 'lately' else OLD})",
            task,
        )
        await db.execute(
            "insert into history_anchors (domain, tenant, agent, version, hash)"
            " values ('desk', 'default', 'task/' || $1::text, 7, '')",
            task,
        )
        await db.execute(
            "insert into tasks (domain, tenant, id, status, goal, input, priority, finished_at)"
            f" values ('desk', 'default', $1, 'completed', 'g', 'null', 5, {'null' if name == 'open' else OLD})",
            task,
        )
    for table, name in (("mailbox", "with mail"), ("timers", "with a timer")):
        due = ", due_at" if table == "timers" else ""
        await db.execute(
            f"insert into {table} (domain, tenant, partition, agent, seq, id, header, payload{due}) values"
            f" ('desk', 'default', 3, 'task/' || $1::text, 1, gen_random_uuid(), '{{}}', 'null'{', now()' if due else ''})",
            tasks[name],
        )
    await retain(database, months=None)
    assert len(await desk.fetch("select from agents where agent like 'task/%'")) == 5
    await retain(database, months=3)
    for table in ("agents", "history_anchors"):
        left = {
            agent for (agent,) in await desk.fetch(f"select agent from {table} where agent like 'task/%'")
        }
        assert left == {f"task/{task}" for name, task in tasks.items() if name != "gone"}, table
    assert len(await desk.fetch("select from agents where agent = 'clerk/a'")) == 1
