"""A desk whose hosts have gone, with some of what it had done half a year ago."""

# ruff: noqa: S608  # the statements are put together from constants of this file

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from callboard.services import Endpoints
from storage.retention import HOSTS_KEPT
from tests.integration.cli import DESK, note, until
from tests.integration.deployment import Deployment

OLD = "now() - interval '6 months'"


@asynccontextmanager
async def desk_at_rest(services: Endpoints, database: str) -> AsyncIterator[Deployment]:
    """Its clerk has had three turns."""
    async with Deployment.open(DESK, database, services.nats_url) as desk:
        await desk.coordinate()
        await note(desk, "a", "one", "two", "three")
        await until(lambda: desk.fetch("select from agents where version = 3"))
        await desk.forsake()
        await desk.kill_hosts()
        yield desk


async def age(desk: Deployment) -> None:
    """Make the first two turns, a task, a key, a host and three blobs half a year old."""
    db = desk.pool
    month = await db.fetchval(f"select to_char({OLD}, 'YYYYMM')")
    await db.execute(
        f"create table transitions_{month} partition of transitions for values"
        f" from ('{month}01') to ('{await db.fetchval(f'''select to_char({OLD} + interval '1 month', 'YYYYMM')''')}01')"
    )
    await db.execute(f"update transitions set at = {OLD} where version < 3")
    await db.execute("insert into seen values ('desk', 'default', 'gone', now() - interval '1 day')")
    await db.execute(f"update hosts set ended_at = {OLD}")
    await db.execute(
        "insert into hosts (domain, host, node, pid, born, code, ended_at) select 'desk', 'h', 'n', 1, '', '', now()"
        f" from generate_series(1, {HOSTS_KEPT})"
    )
    for status, finished in (("completed", OLD), ("running", "null")):
        await db.execute(
            "insert into tasks (domain, tenant, id, status, goal, input, priority, created_at, finished_at)"
            f" values ('desk', 'default', gen_random_uuid(), $1, 'g', 'null', 5, {OLD}, {finished})",
            status,
        )
    await db.execute(
        "insert into task_events select domain, tenant, id, 1, now(), 'submitted', '{}' from tasks"
    )
    header = json.dumps(
        {"id": "x", "type": "desk.note.v1", "sender": "external/x", "sent_at": 0, "blob": "used"}
    )
    await db.execute(
        "insert into mailbox (domain, tenant, partition, agent, seq, id, header, payload)"
        " values ('desk', 'default', 0, 'clerk/z', 9, gen_random_uuid(), $1, 'null')",
        header,
    )
    for digest, touched in (("used", OLD), ("unused", OLD), ("fresh", "now()")):
        await db.execute(f"insert into blobs values ('desk', 'default', $1, '', {touched})", digest)
