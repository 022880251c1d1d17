"""A host gives a partition back while its coordinator, which had taken it meanwhile, gives it to it again."""

from __future__ import annotations

import asyncio

from storage.connect import connect
from storage.migrate import migrate
from storage.queries import query


async def test_a_partition_that_comes_back_to_be_tried_carefully_stays_suspect_when_it_is_given_back(
    database: str,
) -> None:
    await migrate(database)
    coordinator = await connect(database, application="a coordinator")
    host = await connect(database, application="a host")
    await coordinator.execute(query("register_domain"), "shop", 2, "{}", [], "", "")
    epoch = await coordinator.fetchval(query("register_host"), "shop", "h", "node", 1, "", "", "", "1.0", 1)
    await coordinator.execute(query("grant_partitions"), "shop", epoch, [0, 1], [])
    async with coordinator.transaction():
        await coordinator.fetch(query("lock_domain"), "shop")
        await coordinator.execute(query("grant_partitions"), "shop", epoch, [1], [1])
        gives = asyncio.create_task(host.execute(query("release_partitions"), "shop", epoch, [1], "[]"))
        async with asyncio.timeout(10):
            while not await coordinator.fetchval(  # noqa: ASYNC110  # of what Postgres knows, no event tells
                "select exists (select from pg_locks where pid = $1 and not granted)", host.get_server_pid()
            ):
                await asyncio.sleep(0.01)
    await gives
    row = await coordinator.fetchrow(
        "select owned, h.suspect, d.suspect from hosts h join domains d using (domain)"
    )
    assert row is not None
    assert tuple(row) == ([0], [], [1])
    for connection in (coordinator, host):
        await connection.close()
