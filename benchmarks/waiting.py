"""What 100,000 turns that wait cost: memory while they wait, and the time of a full restart after kill -9.

    python -m benchmarks.waiting [--turns 100000] [--more 0] [--json]

So many agents sleep for a day, each in a turn of its own, and one listens for a word; `--more` puts further sleeping
turns straight into the tables. Then every host and every server process is killed with SIGKILL, and started again,
without Ray. Counted are the seconds from then until Postgres and NATS run, until the hosts are ready, until a turn
goes on that became due while all was down, and until the word has been heard that is said once the hosts are ready.
Starts servers of its own in a folder that is removed afterwards.
"""

import argparse
import asyncio
import importlib
import json
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from benchmarks.hops import note
from benchmarks.plain.deployment import PlainDeployment, deployed
from bus.address import Address
from callboard.services import ensure_services, find_instance
from callboard.settings import Settings, load_settings
from storage.intake import Incoming, accept

DOMAIN = "lingering"
FOLDER = Path(__file__).parent / "waiting_domain"
DAY_S = 86_400.0
DUE = 100  # of them become due while all is down
AT_ONCE = 1_000
MORE_AT_ONCE = 50_000  # in one statement, which has a limit of its own
MEMORY_EVERY_S = 0.25
LIMIT_S = 600.0
WAITING = "select count(*) from callboard.turns where waiting"
MORE = """
  with made as (
    select 'sleeper/more-' || n as agent, (n % 64)::int as partition, gen_random_uuid() as turn, nextval('callboard.mailbox_seq') as seq
    from generate_series($1::int, $2::int) n
  ), turns as (
    insert into callboard.turns (domain, tenant, agent, partition, seq, turn, code, waiting, failures, trials, header, payload, began_at)
      select 'lingering', 'default', m.agent, m.partition, m.seq, m.turn, '', true, 0, 0, t.header, t.payload, t.began_at
      from made m, (select * from callboard.turns where agent = 'sleeper/0') t
  )
  insert into callboard.promises (domain, tenant, id, agent, partition, turn, key, kind, name, due_at)
    select 'lingering', 'default', gen_random_uuid(), agent, partition, turn, '#1', 'sleep', 'sleep', now() + interval '1 day'
    from made
"""
# By the hand of an operator's clock: what these wait for has come while nothing ran.
MAKE_DUE = """
  update callboard.promises set due_at = now() - interval '1 second'
  where agent = any (select 'sleeper/' || n from generate_series(0, $1 - 1) n)
"""
SAY = """
  select callboard.settle_promise(domain, tenant, id, 'resolved', '{"payload":"go"}', 'external/bench', null)
  from callboard.promises where agent = 'listener/0'
"""


async def measure(turns: int, more: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="callboard-waiting-", dir="/var/tmp") as folder:
        os.chmod(folder, 0o711)  # started by root, the servers run under an account that must pass through
        settings = load_settings().model_copy(update={"home": Path(folder) / "home"})
        async with await ensure_services(settings) as services:
            async with deployed(FOLDER, settings, services.endpoints) as deployment:
                found: dict[str, Any] = {"turns": turns + more, "host_mib_before": deployment.host_mib()}
                found |= await put_to_wait(deployment, turns, more)
            await execute(services.endpoints.postgres_url, MAKE_DUE, DUE)
            await kill_servers(settings)
        note("all is killed, and starts again")
        began = time.monotonic()
        async with await ensure_services(settings) as services:
            found["servers_s"] = round(time.monotonic() - began, 2)
            async with deployed(FOLDER, settings, services.endpoints) as deployment:
                found["ready_s"] = round(time.monotonic() - began, 2)
                await deployment.cluster.postgres.fetch(SAY)
                said = time.monotonic()
                await ended(deployment, "listener/0")
                found["word_heard_s"] = round(time.monotonic() - said, 2)
                await ended(deployment, *(f"sleeper/{n}" for n in range(DUE)))
                found["due_went_on_s"] = round(time.monotonic() - began, 2)
                found["host_mib_after_restart"] = deployment.host_mib()
                return found


async def put_to_wait(deployment: PlainDeployment, turns: int, more: int) -> dict[str, Any]:
    """Give the agents their messages, and wait until their turns have left memory; the figures of that."""
    agents = importlib.import_module("lingering.agents")  # on the path since the domain was loaded
    cluster, began, most = deployment.cluster, time.monotonic(), [0]
    nap = agents.Nap(seconds=DAY_S)
    messages = [Incoming(to=Address(DOMAIN, "listener", "0"), message=agents.Listen())]
    messages += [Incoming(to=Address(DOMAIN, "sleeper", str(n)), message=nap) for n in range(turns)]
    for start in range(0, len(messages), AT_ONCE):
        await accept(cluster.postgres, cluster.transport, messages[start : start + AT_ONCE])
        most = max(most, deployment.host_mib())
    while await cluster.postgres.fetchval(WAITING) <= turns:
        most = max(most, deployment.host_mib())
        if time.monotonic() - began > LIMIT_S:
            raise RuntimeError(f"{turns:,} turns did not wait within {LIMIT_S:.0f} s")
        await asyncio.sleep(MEMORY_EVERY_S)
    seconds = time.monotonic() - began
    note(f"{turns:,} turns wait after {seconds:.0f} s")
    if more:
        for start in range(0, more, MORE_AT_ONCE):
            end = min(start + MORE_AT_ONCE, more)
            await cluster.postgres.execute(MORE, start + 1, end, timeout=LIMIT_S)
    await asyncio.sleep(5.0)  # what the hosts can give back, they give back
    return {
        "put_away_per_s": round(turns / seconds),
        "host_mib_most": most,
        "host_mib_while_they_wait": deployment.host_mib(),
    }


async def ended(deployment: PlainDeployment, *agents: str) -> None:
    """Wait until each of these has had its turn."""
    began = time.monotonic()
    sql = "select count(*) from callboard.transitions where agent = any ($1)"
    while await deployment.cluster.postgres.fetchval(sql, agents) < len(agents):
        if time.monotonic() - began > LIMIT_S:
            raise RuntimeError(f"not all of {len(agents)} turns went on within {LIMIT_S:.0f} s")
        await asyncio.sleep(0.01)


async def execute(url: str, sql: str, *arguments: Any) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql, *arguments)
    finally:
        await connection.close()


async def kill_servers(settings: Settings) -> None:
    """SIGKILL to Postgres, with all of its processes, and to NATS."""
    instance = find_instance(settings)
    assert instance is not None
    processes = []
    for pid in (instance.postgres_pid, instance.nats_pid):
        assert pid is not None
        processes += [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in processes:
        process.send_signal(signal.SIGKILL)
    await asyncio.to_thread(psutil.wait_procs, processes, 10)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=100_000)
    parser.add_argument("--more", type=int, default=0, help="further turns, put straight into the tables")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args()
    found = asyncio.run(measure(args.turns, args.more))
    print(
        json.dumps(found) if args.json else "\n".join(f"{name:26} {value}" for name, value in found.items())
    )


if __name__ == "__main__":
    main()
