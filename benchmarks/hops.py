"""Durable hops beside the limit, in one run: what `make bench` prints.

    python -m benchmarks.hops [--rounds 3] [--json]

Each round measures the bare loop (benchmarks/limit.py) and Callboard on Ray hosts (`callboard bench hops`) one
after the other, each on fresh servers, so that both meet the same machine. The best of the rounds counts for
both: other work on the machine only ever takes away.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

# What others gave before the first line was written: 2 cores, Postgres 18 with fsync, messages of 200
# characters, one run on one machine. Hops/s with one chain, and with 100 chains.
BEFORE = (
    ("bare loop, asyncpg + nats-py (the limit)", "2,074", "25,000-31,700"),
    ("LangGraph 1.2 + Postgres checkpointer, durability sync", "1,149", "1,127"),
    ("Restate 1.7 + Python SDK (virtual objects)", "303", "1,199"),
    ("DBOS 3.4 steps / messages", "542 / 165", "446 / 120"),
    ("AutoGen Core 0.7, in memory / gRPC runtime, neither durable", "9,666 / 3,150", "11,559 / 4,831"),
)
LOADS = ((1, 10_000), (100, 200_000), (1_000, 300_000))  # chains, hops
LIMIT_SECONDS = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args()
    results = [measure(chains, hops, args.rounds) for chains, hops in LOADS]
    if args.json:
        print(json.dumps({"loads": results}))
        return
    print(
        f"{'chains':>7} {'limit/s':>10} {'callboard/s':>12} {'ratio':>6} {'p50 ms':>8} {'p99 ms':>8} {'group':>7}"
    )
    for result in results:
        ours, limit = result["callboard"], result["limit"]
        print(
            f"{result['chains']:>7,} {limit['limit_hops_per_s']:>10,} {ours['durable_hops_per_s']:>12,.0f} "
            f"{result['ratio']:>6.2f} {ours['p50_ms']:>8.2f} {ours['p99_ms']:>8.2f} {ours['mean_group']:>7.1f}"
        )
    print("\nMeasured before, on another machine of 2 cores, in hops/s with one chain and with 100:")
    for name, one, hundred in BEFORE:
        print(f"  {name:<60} {one:>14} {hundred:>16}")


def measure(chains: int, hops: int, rounds: int) -> dict[str, Any]:
    """The best of some rounds for both; `ratio` is ours to the limit."""
    limits, ours = [], []
    for number in range(rounds):
        note(f"{chains:,} chains, round {number + 1} of {rounds}: the limit")
        limits.append(
            run(
                sys.executable,
                "-m",
                "benchmarks.limit",
                f"--chains={chains}",
                f"--seconds={LIMIT_SECONDS}",
                "--json",
            )
        )
        note(f"{chains:,} chains, round {number + 1} of {rounds}: callboard")
        callboard = Path(sys.executable).with_name("callboard")
        ours.append(run(callboard, "bench", "hops", f"--inflight={chains}", f"--hops={hops}", "--json"))
    limit = max(limits, key=lambda found: found["limit_hops_per_s"])
    best = max(ours, key=lambda found: found["durable_hops_per_s"])
    ratio = round(best["durable_hops_per_s"] / limit["limit_hops_per_s"], 3)
    return {"chains": chains, "limit": limit, "callboard": best, "ratio": ratio}


def run(*command: str | Path) -> dict[str, Any]:
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
