"""Full load for minutes: hops a second, the sizes of the hot tables, and the memory of the hosts, minute by minute.

    python -m benchmarks.soak --minutes 10 [--json]

Starts a deployment of its own in a folder that is removed afterwards; the history grows by about 1 GiB a minute.
"""

import argparse
import asyncio
import importlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from bus.address import Address
from callboard.bench.hops import DOMAIN
from callboard.bench.rig import warm_up_log
from callboard.cluster import Cluster
from callboard.runtime import running_cluster
from callboard.settings import load_settings
from storage.intake import Incoming, accept
from storage.placement import live_hosts

CHAINS = 1_000
AGENTS = 1_000
ENDLESS = 1_000_000_000
FOLDER = Path(__file__).parents[1] / "callboard" / "bench" / "hops_domain"
SIZES = """
  select c.relname, pg_table_size(c.oid) as table_bytes, pg_indexes_size(c.oid) as index_bytes,
         coalesce(s.n_dead_tup, 0) as dead, coalesce(s.n_tup_hot_upd, 0) as hot, coalesce(s.n_tup_upd, 0) as updated
  from pg_class c left join pg_stat_user_tables s on s.relid = c.oid
  where c.oid in ('callboard.mailbox'::regclass, 'callboard.agents'::regclass)
"""


async def soak(minutes: int) -> list[dict[str, Any]]:
    """One row of figures a minute."""
    with tempfile.TemporaryDirectory(prefix="callboard-soak-", dir="/var/tmp") as folder:
        os.chmod(folder, 0o711)  # started by root, the servers run under an account that must pass through
        settings = load_settings().model_copy(update={"home": Path(folder) / "home"})
        async with running_cluster(settings, progress=note) as cluster:
            await cluster.add_domain(FOLDER)
            await cluster.ready(DOMAIN)
            await warm_up_log(cluster)
            await start_chains(cluster)
            rows: list[dict[str, Any]] = []
            before = 0
            for minute in range(1, minutes + 1):
                await asyncio.sleep(60)
                hosts = await live_hosts(cluster.postgres, DOMAIN)
                turns = sum(host.turns for host in hosts)
                row = {"minute": minute, "hops_per_s": round((turns - before) / 60)}
                before = turns
                row["host_mib"] = max(host.rss_bytes for host in hosts) // 2**20
                for table in await cluster.postgres.fetch(SIZES):
                    row[f"{table['relname']}_mib"] = round(
                        (table["table_bytes"] + table["index_bytes"]) / 2**20, 1
                    )
                    if table["updated"]:
                        row[f"{table['relname']}_hot_share"] = round(table["hot"] / table["updated"], 3)
                note(json.dumps(row))
                rows.append(row)
            return rows


async def start_chains(cluster: Cluster) -> None:
    hop = importlib.import_module(
        "hopping.agents"
    ).Hop  # the domain's own code, on the path since it was added
    await accept(
        cluster.postgres,
        cluster.transport,
        [
            Incoming(
                to=Address(DOMAIN, "runner", str(chain % AGENTS)),
                message=hop(chain=chain, remaining=ENDLESS, agents=AGENTS, text="x" * 140),
                sender="external/bench",
            )
            for chain in range(CHAINS)
        ],
    )


def note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args()
    rows = asyncio.run(soak(args.minutes))
    print(json.dumps({"minutes": rows}) if args.json else "\n".join(map(str, rows)))


if __name__ == "__main__":
    main()
