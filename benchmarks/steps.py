"""Journaled steps beside the limit and beside DBOS, in one run: what `make bench` prints after the hops.

    python -m benchmarks.steps [--rounds 2] [--json]

Each round is `callboard bench steps --beside`: Callboard on Ray hosts, the bare loop (benchmarks/steps_limit.py) and DBOS
(benchmarks/steps_dbos.py) one after the other, each on fresh servers of the same kind, so that all meet the same machine.
The best of the rounds counts for each: other work on the machine only ever takes away.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.hops import note, run

# What DBOS 3.4 gave before the first line was written, on another machine of 2 cores: steps/s with one workflow, and
# with 100 in flight.
DBOS_BEFORE = {1: 542, 100: 446}
# Agents at once, turns in all, steps of each. The thousand turns alone are over so soon that most of their time is
# that of reading a thousand mailboxes; twenty of each agent show what goes on.
LOADS = ((1_000, 1_000, 10), (1_000, 20_000, 10), (1, 1, 100), (1, 1, 1_000))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args()
    results = [measure(*load, args.rounds) for load in LOADS]
    if args.json:
        print(json.dumps({"loads": results}))
        return
    print(
        f"{'agents':>7} {'turns':>7} {'steps':>6} {'limit/s':>10} {'callboard/s':>12} {'ratio':>6} {'p50 ms':>8} {'p99 ms':>8} "
        f"{'group':>7} {'DBOS/s':>8} {'times':>6}"
    )
    for result in results:
        print(
            f"{result['agents']:>7,} {result['turns']:>7,} {result['steps_a_turn']:>6,} {result['limit_steps_per_s']:>10,} "
            f"{result['steps_per_s']:>12,.0f} {result['of_limit']:>6.2f} {result['p50_ms']:>8.2f} {result['p99_ms']:>8.2f} "
            f"{result['mean_group']:>7.1f} {result['dbos_steps_per_s']:>8,.0f} {result['times_dbos']:>6.1f}"
        )
    print(
        f"\nDBOS 3.4 before, on another machine of 2 cores: {DBOS_BEFORE[1]}/s with one workflow, "
        f"{DBOS_BEFORE[100]}/s with 100 in flight, as here."
    )


def measure(agents: int, turns: int, steps: int, rounds: int) -> dict[str, Any]:
    """The best of some rounds for each; `of_limit` and `times_dbos` are of those."""
    callboard = Path(sys.executable).with_name("callboard")
    found = []
    for number in range(rounds):
        note(f"{turns:,} turns of {steps:,} steps, round {number + 1} of {rounds}")
        load = (f"--agents={agents}", f"--turns={turns}", f"--steps={steps}")
        found.append(run(callboard, "bench", "steps", "--beside", *load, "--json"))
    best = max(found, key=lambda round_: round_["steps_per_s"])
    limit, dbos = (
        max(round_[name] for round_ in found) for name in ("limit_steps_per_s", "dbos_steps_per_s")
    )
    return best | {
        "limit_steps_per_s": limit,
        "dbos_steps_per_s": dbos,
        "of_limit": round(best["steps_per_s"] / limit, 3),
        "times_dbos": round(best["steps_per_s"] / dbos, 1),
    }


if __name__ == "__main__":
    main()
