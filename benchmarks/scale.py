"""What many agents and long mailboxes cost, in one run.

    python -m benchmarks.scale [--json]

Hops a second with 100 and with 100,000 agents; with a million messages waiting in other mailboxes; and the
memory of a host after 100,000 agents were touched once each. Every measurement starts fresh servers. What the
others are compared with is measured before and after them, since a shared machine's speed drifts.

The million messages wait twice, a thousand with each of a thousand agents. Once these are paused: reads of a
partition leave their mail out by an index, so that this measures the size of the table alone. Once they are
blocked, the first message of each to be tried again tomorrow: every read and sweep finds them, the hosts hold
them in memory, and their mail fills the caches.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.hops import note, run

HOPS = 300_000
MANY = 100_000
WAITING = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args()
    before = hops("100 agents", agents=100, inflight=1_000, hops=HOPS)
    many = hops("100,000 agents", agents=MANY, inflight=1_000, hops=HOPS)
    waiting = hops("a million messages waiting", agents=100, inflight=1_000, hops=HOPS, waiting=WAITING)
    blocked = hops(
        "a million messages behind retries",
        agents=100,
        inflight=1_000,
        hops=HOPS,
        waiting=WAITING,
        blocked=True,
    )
    after = hops("100 agents again", agents=100, inflight=1_000, hops=HOPS)
    few = (before["durable_hops_per_s"] + after["durable_hops_per_s"]) / 2
    once = hops("100,000 agents touched once each", agents=MANY, inflight=MANY, hops=MANY)
    found = {
        "hops_per_s_100_agents": round(few, 1),
        "hops_per_s_100_agents_before": before["durable_hops_per_s"],
        "hops_per_s_100_agents_after": after["durable_hops_per_s"],
        "hops_per_s_100000_agents": many["durable_hops_per_s"],
        "agents_ratio": round(many["durable_hops_per_s"] / few, 3),
        "hops_per_s_million_waiting_paused": waiting["durable_hops_per_s"],
        "waiting_paused_ratio": round(waiting["durable_hops_per_s"] / few, 3),
        "hops_per_s_million_waiting_blocked": blocked["durable_hops_per_s"],
        "waiting_blocked_ratio": round(blocked["durable_hops_per_s"] / few, 3),
        "host_mib_100000_agents_touched_once": once["host_mib"],
    }
    print(
        json.dumps(found)
        if args.json
        else "\n".join(f"{name:38} {value:>12,}" for name, value in found.items())
    )


def hops(what: str, *, blocked: bool = False, **load: int) -> dict[str, Any]:
    note(what)
    options = [*(f"--{name}={value}" for name, value in load.items()), *(["--blocked"] if blocked else [])]
    return run(Path(sys.executable).with_name("callboard"), "bench", "hops", *options, "--json")


if __name__ == "__main__":
    main()
