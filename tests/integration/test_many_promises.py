"""However many promises are open in other agents, or calls are in the ledger, what looks for some does not read the others."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from benchmarks.promises import DOMAIN, FILL, PARTITIONS, TENANT
from storage.connect import connect
from storage.edges import FIRST_PLACE
from storage.queries import query

OPEN = 2_000  # a quarter of each kind
FEW = 10

# Calls whose outcomes are known, two in doubt and two of which a person has said what they did.
CALLS = """
  insert into ledger (domain, tenant, id, agent, message, turn, key, tool, effect, digest, status, attempts, error, said_by,
                      epoch, ended_at)
    select 'lingering', 'default', gen_random_uuid(), 'keeper/1', gen_random_uuid(), gen_random_uuid(), '#1', 'act',
           'at_most_once', '', case when n <= 2 then 'unknown' else 'succeeded' end, 1,
           case when n <= 2 then 'EffectUnknown' end, case when n in (3, 4) then 'maria' end, 1,
           case when n > 2 then now() end
    from generate_series(1, $1::int) n
"""


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


async def test_a_promise_is_found_by_its_id_before_there_are_statistics(database: str) -> None:
    """A new deployment has none before many thousands of promises: all of its tenant's were read for each."""
    db = await connect(database, application="callboard-test", by_key=True)
    try:
        await db.execute(FILL, 0, OPEN)
        some = await db.fetchval("select id::text from promises where domain = $1 offset 1 limit 1", DOMAIN)
        arguments = f"'{DOMAIN}'", f"'{TENANT}'", f"'{some}'", "'external/test'"
        assert await rows_read(db, query("promise_standing"), *arguments) < FEW
    finally:
        await db.close()


@pytest.mark.parametrize("kinds", ["{outcome}", "{approval}", "{approval,outcome,promise}"])
@pytest.mark.parametrize("name", ["promises_to_settle", "promises_settled"])
async def test_a_list_reads_what_it_shows(db: asyncpg.Connection[Any], name: str, kinds: str) -> None:
    if name == "promises_settled":
        await db.execute("update promises set status = 'resolved', settled_at = now() where kind = 'promise'")
    assert await rows_read(db, query(name), f"'{TENANT}'", f"'{kinds}'", str(FEW)) < 20 * FEW


@pytest.mark.parametrize("status", ["pending", "resolved"])
async def test_a_question_about_a_call_is_looked_for_among_questions_only(
    db: asyncpg.Connection[Any], status: str
) -> None:
    await db.execute("update promises set status = $1, settled_at = now()", status)
    assert await rows_read(db, query("find_question"), f"'{TENANT}'", "'0123abcd'", "false", "6") < 20 * FEW


@pytest.mark.parametrize("digits", ["0123abcd", "0192f0c1a2b37c4d8e5f60718293a4b5"])
async def test_a_call_that_nobody_waits_for_is_looked_for_among_such_calls_only(
    db: asyncpg.Connection[Any], digits: str
) -> None:
    await db.execute(CALLS, OPEN)
    await db.execute("vacuum analyze ledger")
    sql, arguments = query("find_left_call"), (f"'{TENANT}'", f"'{digits}'", "false", "'{}'", "6")
    assert await rows_read(db, sql, *arguments) < 20 * FEW


async def test_who_takes_partitions_over_looks_each_ask_up_once(db: asyncpg.Connection[Any]) -> None:
    """It is done before the asks of a host that has died are looked at; comparing them with each other took minutes."""
    partitions = f"'{{{','.join(map(str, range(PARTITIONS)))}}}'"
    await db.execute("update promises set target = 'lingering/keeper/4' where agent = 'keeper/8'")  # both ask
    sql = query("chained_asks")
    first = [f"'{text}'" for text in FIRST_PLACE]
    assert await rows_read(db, sql, f"'{DOMAIN}'", partitions, *first, "100000") < 6 * OPEN
    found = await db.fetch(sql, DOMAIN, list(range(PARTITIONS)), *FIRST_PLACE, 100_000)
    assert [(row["tenant"], row["agent"]) for row in found if row["agent"] is not None] == [
        (TENANT, "keeper/8")
    ]


async def test_a_page_of_what_was_taken_over_reads_no_more_than_the_page(db: asyncpg.Connection[Any]) -> None:
    """However many wait there: or a look would run into its timeout, and never come to an end."""
    partitions = f"'{{{','.join(map(str, range(PARTITIONS)))}}}'"
    first = [f"'{text}'" for text in FIRST_PLACE]
    assert await rows_read(db, query("chained_asks"), f"'{DOMAIN}'", partitions, *first, str(FEW)) < 10 * FEW


MANY = """
  with asked as (select $1::uuid as parent, $2::uuid as child, gen_random_uuid() as turn),
  tasks as (
    insert into tasks (domain, tenant, id, status, goal, input, priority, assignee, parent, root)
      select 'lingering', 'default', child, 'assigned', 'a goal', 'null', 5, 'lingering/desk/1', 'lingering/' || parent,
             'lingering/' || parent
      from asked
  ), turns as (
    insert into turns (domain, tenant, agent, partition, seq, turn, code, waiting, failures, trials, header, payload,
                       began_at)
      select 'lingering', 'default', agent, 0, 1, turn, '', true, 0, 0,
             json_build_object('id', gen_random_uuid(), 'type', 't', 'sender', 's', 'task', task), '{}', 0
      from (
        select 'parent/1' as agent, turn, 'lingering/' || parent as task from asked
        union all select 'desk/1', gen_random_uuid(), null
        union all select 'other/' || n, gen_random_uuid(), 'lingering/' || gen_random_uuid() from generate_series(1, $3::int) n
      ) t
  ), promises as (
    insert into promises (domain, tenant, id, agent, partition, turn, key, kind, name, target, message)
      select 'lingering', 'default', gen_random_uuid(), 'parent/1', 0, turn, '#1', 'ask', 'ask',
             'lingering/task/' || parent, child
      from asked
  ), history as (
    insert into transitions (domain, tenant, agent, version, body, prev, hash, task)
      select 'lingering', 'default', 'desk/1', n,
             '{"decision":"handled","message":{"header":{"type":"callboard.task.v1"}}}', '', '',
             'lingering/' || gen_random_uuid()
      from generate_series(1, $3::int) n
  )
  insert into mailbox (domain, tenant, partition, agent, seq, id, header, payload)
    select 'lingering', 'default', 0, 'desk/1', n, gen_random_uuid(),
           json_build_object('id', gen_random_uuid(), 'type', 'callboard.task.v1', 'sender', 's',
                             'task', 'lingering/' || gen_random_uuid()), '{}'
    from generate_series(1, $3::int) n
"""


async def test_whom_a_wait_for_a_task_leads_to_is_found_beside_many_others(
    db: asyncpg.Connection[Any],
) -> None:
    """Others' turns, and all that waits for the one who is to do it, or that it has done before."""
    parent, child = uuid4(), uuid4()
    await db.execute(MANY, parent, child, OPEN)
    sql = query("wait_edges")
    one = "'{lingering}'", "'{default}'", "'{parent/1}'"
    assert await rows_read(db, sql, *one, "100") < 10 * FEW
    [edge] = await db.fetch(sql, ["lingering"], ["default"], ["parent/1"], 100)
    assert edge["target"] == "lingering/desk/1"
    handled = '{"decision":"handled","message":{"header":{"type":"callboard.task.v1"}}}'
    await db.execute(
        "insert into transitions (domain, tenant, agent, version, body, prev, hash, task)"
        " select 'lingering', 'default', 'desk/1', n, $1, '', '', $2 from generate_series(10000, 12000) n",
        handled, f"lingering/{child}",
    )  # fmt: skip
    assert await rows_read(db, sql, *one, "100") < 10 * FEW
    [edge] = await db.fetch(sql, ["lingering"], ["default"], ["parent/1"], 100)
    assert edge["target"] == f"lingering/task/{parent}"
