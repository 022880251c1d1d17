"""The limit of steps: how many journaled steps a second this machine gives without a framework.

    python -m benchmarks.steps_limit --agents 1000 --turns 20000 --steps 10 [--handlers] --json

Two processes over asyncpg. A step is: call a function, record its result in the journal, and go on once that is
committed (under the fence, one statement for what is ready). A turn's first step takes its message from the mailbox;
after its last the turn ends: its row leaves, the state is written by compare-and-set, and a hash-chained transition
with the digests of all its steps. All agents of a process go on in step, as no handler written as sequential code does;
with `--handlers` each has one, a coroutine. The time runs from before the messages are put into the mailboxes. The figure
is what SQL counts in the journal afterwards.
"""

import argparse
import asyncio
import json
from typing import Any

import asyncpg
from uuid_utils.compat import uuid7

from benchmarks.bare.database import prepare, warm_up
from benchmarks.bare.pair import run_processes
from benchmarks.bare.records import DOMAIN, PROCESSES, SCHEMA, SQL, TENANT, Orders, address, partition_of
from benchmarks.bare.servers import servers
from benchmarks.bare.steps import Report
from benchmarks.machine import cpu_seconds, processor


async def limit(args: argparse.Namespace) -> dict[str, Any]:
    """Measure on the given Postgres, or on an embedded one in a folder that is removed afterwards."""
    async with servers(postgres_url=args.postgres_url) as (endpoints, pids):
        connection = await asyncpg.connect(endpoints.postgres_url)
        try:
            if "postgres" in pids:
                await warm_up(connection)
            url = endpoints.postgres_url
            await run(connection, url, 200, 200, 10, {}, handlers=args.handlers)
            return await run(
                connection, url, args.agents, args.turns, args.steps, pids, handlers=args.handlers
            )
        finally:
            await connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
            await connection.close()


async def run(
    connection: "asyncpg.Connection[asyncpg.Record]",
    url: str,
    agents: int,
    turns: int,
    steps: int,
    pids: dict[str, int],
    *,
    handlers: bool,
) -> dict[str, Any]:
    """Raises RuntimeError if the run was not honest."""
    agents = min(agents, turns)
    await prepare(connection, agents, 0, SQL)
    await connection.execute((SQL / "steps.sql").read_text())
    cpu = {name: cpu_seconds(pid) for name, pid in pids.items()}
    start = None

    async def put_messages() -> None:
        nonlocal start
        start = await connection.fetchval("SELECT clock_timestamp()")
        await connection.execute(
            "INSERT INTO mailbox (domain, tenant, partition, agent, id, header, payload)"
            " SELECT $1, $2, m.partition, m.agent, m.id, '{}', $6"
            " FROM unnest($3::int[], $4::text[], $5::uuid[]) AS m (partition, agent, id)",
            DOMAIN, TENANT, [partition_of(turn % agents) for turn in range(turns)],
            [address(turn % agents) for turn in range(turns)], [uuid7() for _ in range(turns)], json.dumps({"steps": steps}),
        )  # fmt: skip

    orders = [
        Orders(
            process=process, agents=agents, seconds=0, postgres_url=url, nats_url="", sql=str(SQL), steps=steps,
            handlers=handlers,
        )
        for process in range(PROCESSES)
    ]  # fmt: skip
    reports = await run_processes("benchmarks.bare.steps", orders, Report, before=put_messages)
    cpu = {name: cpu_seconds(pid) - cpu[name] for name, pid in pids.items()}
    cpu["python"] = sum(report.cpu_s for report in reports)
    row = await connection.fetchrow((SQL / "check_steps.sql").read_text(), start)
    ended = await connection.fetchrow((SQL / "check.sql").read_text())
    assert row is not None
    assert ended is not None
    entries, different, open_, seconds, commits = row
    expected = turns * steps
    if (entries, different, open_) != (expected, expected, 0) or tuple(ended) != (turns, turns, 0, 0):
        raise RuntimeError(f"{entries} entries, {open_} open turns; {tuple(ended)} of {turns} turns")
    return {
        "limit_steps_per_s": round(entries / seconds),
        "agents": agents,
        "turns": turns,
        "steps_a_turn": steps,
        "seconds": round(seconds, 3),
        "commits_per_s": round(commits / seconds),
        "mean_group": round((entries + turns) / commits, 1),
        "cpu_us_per_step": {name: round(used / entries * 1e6, 1) for name, used in cpu.items()},
        "cpu": processor(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--agents", type=int, default=1_000)
    parser.add_argument("--turns", type=int, default=1_000)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--handlers", action="store_true", help="each agent by a coroutine of its own")
    parser.add_argument("--postgres-url", help="an external Postgres instead of an embedded one")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args()
    found = asyncio.run(limit(args))
    print(
        json.dumps(found) if args.json else "\n".join(f"{name:18} {value}" for name, value in found.items())
    )


if __name__ == "__main__":
    main()
