"""The bare loop's tables: made before a run, counted and checked after it."""

from pathlib import Path

import asyncpg
from uuid_utils.compat import uuid7

from benchmarks.bare.records import (
    DOMAIN,
    EPOCH,
    PARTITIONS,
    PROCESSES,
    SCHEMA,
    SQL,
    TENANT,
    TEXT_CHARACTERS,
    address,
    message,
    partition_of,
)

# A new server would make and sync its first write-ahead files during the run (2.5 of 16 MB a second); one in
# service uses old ones again. 512 MB is ten seconds of full load.
WARM_UP_MB = 512


async def prepare(
    connection: "asyncpg.Connection[asyncpg.Record]", agents: int, chains: int, sql: Path
) -> None:
    """Make the schema, the owners, the agents, and one waiting message for each chain."""
    await connection.execute(
        f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE; CREATE SCHEMA {SCHEMA}; SET search_path = {SCHEMA}"
    )
    await connection.execute((sql / "schema.sql").read_text())
    await connection.execute((sql / "functions.sql").read_text())
    for process in range(PROCESSES):
        owned = [partition for partition in range(PARTITIONS) if partition % PROCESSES == process]
        await connection.execute("INSERT INTO hosts VALUES ($1, $2, $3, $4)", DOMAIN, process, EPOCH, owned)
    await connection.execute(
        "INSERT INTO agents (domain, tenant, agent, partition, version, state, hash)"
        " SELECT $1, $2, agent, partition, 0, '{}', '' FROM unnest($3::text[], $4::int[]) AS a(agent, partition)",
        DOMAIN, TENANT, [address(agent) for agent in range(agents)], [partition_of(agent) for agent in range(agents)],
    )  # fmt: skip
    payload = message(0, "x" * TEXT_CHARACTERS).decode()
    first = [chain * 7 % agents for chain in range(chains)]
    await connection.executemany(
        "INSERT INTO mailbox (domain, tenant, partition, agent, id, header, payload)"
        " VALUES ($1, $2, $3, $4, $5, '{}', $6)",
        [(DOMAIN, TENANT, partition_of(agent), address(agent), uuid7(), payload) for agent in first],
    )


async def warm_up(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Bring a new server to the state of one in service."""
    await connection.execute(
        "SELECT pg_logical_emit_message(false, 'warm-up', repeat('x', 1 << 20)) FROM generate_series(1, $1)",
        WARM_UP_MB,
    )
    await connection.execute("CHECKPOINT")


async def count_hops(connection: "asyncpg.Connection[asyncpg.Record]", chains: int) -> int:
    """The transitions in the history; raises RuntimeError if the run was not honest.

    Every version must have its transition, every hash chain must hold, and each chain must have exactly one
    message waiting.
    """
    counted = await connection.fetchrow((SQL / "check.sql").read_text())
    assert counted is not None
    hops, versions, waiting, broken = counted
    if versions != hops or waiting != chains or broken:
        raise RuntimeError(
            f"{hops} transitions, {versions} versions, {broken} broken links, {waiting} messages for {chains} chains"
        )
    return int(hops)
