"""Journaled steps a second of DBOS, on a Postgres like ours: `python -m benchmarks.steps_dbos --inflight 100 --json`.

DBOS runs in the environment that `make peers` installs (benchmarks/peers/dbos_steps.py says what is measured).
"""

import argparse
import asyncio
import json
from asyncio.subprocess import PIPE, create_subprocess_exec
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.bare.servers import servers

PEERS = Path(__file__).parents[1] / ".venv-peers" / "bin" / "python"
DBOS = Path(__file__).parent / "peers" / "dbos_steps.py"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inflight", type=int, default=100, help="workflows at once")
    parser.add_argument("--turns", type=int, default=200, help="workflows in all")
    parser.add_argument("--steps", type=int, default=10, help="steps of each, one after another")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args()
    if not PEERS.exists():
        parser.error("DBOS is not installed; run `make peers` first")
    found = asyncio.run(measure(args.inflight, args.turns, args.steps))
    print(
        json.dumps(found) if args.json else "\n".join(f"{name:18} {value}" for name, value in found.items())
    )


async def measure(inflight: int, workflows: int, steps: int) -> dict[str, Any]:
    """What DBOS gives, in a database of its own; raises RuntimeError if it fails."""
    async with servers() as (endpoints, _):
        connection = await asyncpg.connect(endpoints.postgres_url)
        try:
            await connection.execute("create database dbos_bench")
        finally:
            await connection.close()
        url = endpoints.postgres_url.replace("/callboard?", "/dbos_bench?")
        load = (str(inflight), str(workflows), str(steps))
        process = await create_subprocess_exec(str(PEERS), str(DBOS), url, *load, stdout=PIPE)
        out, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"DBOS ended with status {process.returncode}")
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return found


if __name__ == "__main__":
    main()
