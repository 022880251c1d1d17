"""Journaled steps beside the limit and beside DBOS, in one run: what `make bench` prints after the hops.

    python -m benchmarks.steps [--rounds 2] [--json]

Each round measures the bare loop (benchmarks/steps_limit.py), Callboard on Ray hosts (`callboard bench steps`) and
DBOS (benchmarks/peers/dbos_steps.py, in the environment that `make peers` installs) one after the other, each on
fresh servers of the same kind, so that all meet the same machine. The best of the rounds counts for each: other work
on the machine only ever takes away.
"""

import argparse
import asyncio
import json
import sys
from asyncio.subprocess import PIPE, create_subprocess_exec
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.bare.servers import servers
from benchmarks.hops import note, run

# What DBOS 3.4 gave before the first line was written, on another machine of 2 cores: steps/s with one workflow, and
# with 100 in flight.
DBOS_BEFORE = {1: 542, 100: 446}
# Agents at once, turns in all, steps of each. The thousand turns alone are over so soon that most of their time is
# that of reading a thousand mailboxes; twenty of each agent show what goes on.
LOADS = ((1_000, 1_000, 10), (1_000, 20_000, 10), (1, 1, 1_000))
DBOS_INFLIGHT = 100
DBOS_STEPS = 2_000
PEERS = Path(__file__).parents[1] / ".venv-peers" / "bin" / "python"
DBOS = Path(__file__).parent / "peers" / "dbos_steps.py"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args()
    if not PEERS.exists():
        parser.error("DBOS is not installed; run `make peers` first")
    results = [measure(*load, args.rounds) for load in LOADS]
    if args.json:
        print(json.dumps({"loads": results}))
        return
    print(
        f"{'agents':>7} {'turns':>7} {'steps':>6} {'limit/s':>10} {'callboard/s':>12} {'ratio':>6} {'p50 ms':>8} {'p99 ms':>8} "
        f"{'group':>7} {'DBOS/s':>8} {'times':>6}"
    )
    for result in results:
        ours, limit, dbos = result["callboard"], result["limit"], result["dbos"]
        print(
            f"{result['agents']:>7,} {result['turns']:>7,} {result['steps']:>6,} {limit['limit_steps_per_s']:>10,} "
            f"{ours['steps_per_s']:>12,.0f} {result['ratio']:>6.2f} {ours['p50_ms']:>8.2f} {ours['p99_ms']:>8.2f} "
            f"{ours['mean_group']:>7.1f} {dbos['steps_per_s']:>8,.0f} {result['times_dbos']:>6.1f}"
        )
    print(
        f"\nDBOS 3.4 before, on another machine of 2 cores: {DBOS_BEFORE[1]}/s with one workflow, "
        f"{DBOS_BEFORE[100]}/s with 100 in flight, as here."
    )


def measure(agents: int, turns: int, steps: int, rounds: int) -> dict[str, Any]:
    """The best of some rounds for each; `ratio` is ours to the limit."""
    limits, ours, theirs = [], [], []
    inflight = min(agents, DBOS_INFLIGHT)
    load = (f"--agents={agents}", f"--turns={turns}", f"--steps={steps}", "--json")
    for number in range(rounds):
        what = f"{turns:,} turns of {steps:,} steps, round {number + 1} of {rounds}"
        note(f"{what}: the limit")
        limits.append(run(sys.executable, "-m", "benchmarks.steps_limit", *load))
        note(f"{what}: callboard")
        ours.append(run(Path(sys.executable).with_name("callboard"), "bench", "steps", *load))
        note(f"{what}: DBOS")
        theirs.append(asyncio.run(dbos(inflight, max(1, DBOS_STEPS // steps), steps)))
    limit = max(limits, key=lambda found: found["limit_steps_per_s"])
    best = max(ours, key=lambda found: found["steps_per_s"])
    peer = max(theirs, key=lambda found: found["steps_per_s"])
    return {
        "agents": agents,
        "turns": turns,
        "steps": steps,
        "limit": limit,
        "callboard": best,
        "dbos": peer,
        "ratio": round(best["steps_per_s"] / limit["limit_steps_per_s"], 3),
        "times_dbos": round(best["steps_per_s"] / peer["steps_per_s"], 1),
    }


async def dbos(inflight: int, workflows: int, steps: int) -> dict[str, Any]:
    """What DBOS gives on a Postgres like ours, in a database of its own; raises RuntimeError if it fails."""
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
