"""However many promises are open in other agents, what looks for some does not read the others."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from benchmarks.promises import DOMAIN, FILL, PARTITIONS, TENANT
from storage.connect import connect
from storage.queries import query

OPEN = 2_000  # a quarter of each kind
FEW = 10


@pytest.fixture
async def db(database: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A host's connection."""
    connection = await connect(database, application="callboard-test", by_key=True)
    await connection.execute(FILL, 0, OPEN)
    await connection.execute("vacuum analyze promises")
    yield connection
    await connection.close()


async def rows_read(db: asyncpg.Connection[Any], sql: str, *arguments: str) -> int:
    """By all nodes of its plan together, also those that a filter has taken out."""
    for place in range(len(arguments), 0, -1):
        sql = sql.replace(f"${place}", arguments[place - 1])
    [found] = json.loads(await db.fetchval(f"explain (analyze, format json) {sql}"))
    return _rows(found["Plan"])


def _rows(plan: dict[str, Any]) -> int:
    names = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Join Filter")
    own = sum(plan.get(name, 0) for name in names) * plan["Actual Loops"]
    return int(own) + sum(map(_rows, plan.get("Plans", ())))


@pytest.mark.parametrize("kinds", ["{outcome}", "{approval}", "{approval,outcome,promise}"])
@pytest.mark.parametrize("name", ["promises_to_settle", "promises_settled"])
async def test_a_list_reads_what_it_shows(db: asyncpg.Connection[Any], name: str, kinds: str) -> None:
    if name == "promises_settled":
        await db.execute("update promises set status = 'resolved', settled_at = now() where kind = 'promise'")
    assert await rows_read(db, query(name), f"'{TENANT}'", f"'{kinds}'", str(FEW)) < 20 * FEW


async def test_who_takes_partitions_over_looks_each_ask_up_once(db: asyncpg.Connection[Any]) -> None:
    """It is done before the asks of a host that has died are looked at; comparing them with each other took minutes."""
    partitions = f"'{{{','.join(map(str, range(PARTITIONS)))}}}'"
    await db.execute("update promises set target = 'lingering/keeper/4' where agent = 'keeper/8'")  # both ask
    sql = query("chained_asks")
    assert await rows_read(db, sql, f"'{DOMAIN}'", partitions, "100") < 3 * OPEN
    found = await db.fetch(sql, DOMAIN, list(range(PARTITIONS)), 100)
    assert [tuple(row) for row in found] == [(TENANT, "keeper/8")]
