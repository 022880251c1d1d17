"""The limit: how many durable hops a second this machine gives without a framework.

    python -m benchmarks.limit --chains 100 --seconds 10 --json

Two processes over asyncpg and nats-py. A hop is: receive a message of 200 characters, change the agent's
state, and commit (under the fence, one statement for a group of turns) the state by compare-and-set on its
version, a hash-chained transition, the delete of the consumed message and the insert of the next one into its
recipient's mailbox; then publish it over NATS. The figure is what SQL counts in the history afterwards.
"""

import argparse
import asyncio
import json
import platform
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.bare.database import count_hops, prepare, warm_up
from benchmarks.bare.pair import run_pair
from benchmarks.bare.records import PROCESSES, SCHEMA, SQL, Histogram, Orders
from benchmarks.bare.servers import servers
from benchmarks.machine import cpu_seconds, processor


async def limit(args: argparse.Namespace) -> dict[str, Any]:
    """Measure on the given servers, or on embedded ones in a folder that is removed afterwards."""
    async with servers(postgres_url=args.postgres_url, nats_url=args.nats_url) as (endpoints, pids):
        return await measure(args, endpoints.postgres_url, endpoints.nats_url, pids)


async def measure(
    args: argparse.Namespace, postgres_url: str, nats_url: str, pids: dict[str, int]
) -> dict[str, Any]:
    connection = await asyncpg.connect(postgres_url)
    try:
        await prepare(connection, args.agents, args.chains, args.sql)
        if "postgres" in pids:
            await warm_up(connection)
        cpu = {name: cpu_seconds(pid) for name, pid in pids.items()}
        wal = await connection.fetchval("SELECT pg_current_wal_lsn()")
        reports = await run_pair(
            [
                Orders(
                    process=process, agents=args.agents, seconds=args.seconds,
                    postgres_url=postgres_url, nats_url=nats_url, sql=str(args.sql),
                )
                for process in range(PROCESSES)
            ]
        )  # fmt: skip
        cpu = {name: cpu_seconds(pid) - cpu[name] for name, pid in pids.items()}
        cpu["python"] = sum(report.cpu_s for report in reports)
        wal_bytes = await connection.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), $1)::bigint", wal)
        hops = await count_hops(connection, args.chains)
        seconds = max(report.seconds for report in reports)
        commits = sum(report.commits for report in reports)
        latencies = Histogram()
        for report in reports:
            latencies.merge(report.latencies)
        return {
            "limit_hops_per_s": round(hops / seconds),
            "chains": args.chains,
            "agents": args.agents,
            "hops": hops,
            "seconds": round(seconds, 3),
            "p50_ms": latencies.percentile_ms(0.50),
            "p99_ms": latencies.percentile_ms(0.99),
            "commits_per_s": round(commits / seconds),
            "mean_group": round(hops / commits, 1),
            "cpu_us_per_hop": {name: round(used / hops * 1e6, 1) for name, used in cpu.items()},
            "wal_bytes_per_hop": round(wal_bytes / hops),
            "postgres": await connection.fetchval("SHOW server_version"),
            "python": platform.python_version(),
            "cpu": processor(),
        }
    finally:
        await connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        await connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chains", type=int, default=100, help="messages in flight")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--postgres-url", help="an external Postgres instead of an embedded one")
    parser.add_argument("--nats-url", help="an external NATS instead of an embedded one")
    parser.add_argument("--sql", type=Path, default=SQL, help="a folder with other tables or another commit")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args()
    found = asyncio.run(limit(args))
    print(
        json.dumps(found) if args.json else "\n".join(f"{name:18} {value}" for name, value in found.items())
    )


if __name__ == "__main__":
    main()
