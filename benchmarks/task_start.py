"""How long a new task waits while its domain works off 100,000 events.

    python -m benchmarks.task_start [--agents 100000] [--json]

The events lie in the mailboxes of so many agents and cost 1 ms of a processor each. Tasks are submitted one after
another until the backlog is gone; times are those of the task's log, which are the database's. Starts a deployment
of its own in a folder that is removed afterwards.
"""

import argparse
import asyncio
import importlib
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from bus.address import Address
from callboard.cluster import Cluster
from callboard.runtime import running_cluster
from callboard.settings import load_settings
from coordinators.tasks.client import TaskClient
from storage.intake import Incoming, accept

DOMAIN = "busy"
EVENTS = 100_000
WORK_S = 0.001
AT_ONCE = 1_000
ENOUGH = 2_000  # events that still wait when the last task is submitted
FOLDER = Path(__file__).parent / "busy_domain"
STEPS = """
  select extract(epoch from min(e.at) filter (where e.kind = 'assigned') - t.created_at)::float8 as assigned_s,
         extract(epoch from min(e.at) filter (where e.kind = 'running') - t.created_at)::float8 as running_s,
         extract(epoch from min(e.at) filter (where e.kind = 'completed') - t.created_at)::float8 as completed_s
  from callboard.tasks t join callboard.task_events e on e.domain = t.domain and e.task = t.id
  where t.id = $1::uuid group by t.created_at
"""


async def measure(agents: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="callboard-start-", dir="/var/tmp") as folder:
        os.chmod(folder, 0o711)  # started by root, the servers run under an account that must pass through
        settings = load_settings().model_copy(update={"home": Path(folder) / "home"})
        async with running_cluster(settings, progress=note) as cluster:
            await cluster.add_domain(FOLDER)
            await cluster.ready(DOMAIN)
            client = TaskClient(cluster.postgres, cluster.transport)
            idle = [await one_task(cluster, client) for _ in range(10)]
            await give_events(cluster, agents)
            busy = []
            while (waiting := await cluster.postgres.fetchval(WAITING)) > ENOUGH:
                steps = await one_task(cluster, client)
                note(f"{waiting:,} events wait, {steps}")
                busy.append(steps)
            return {"agents": agents, "idle": figures(idle), "busy": figures(busy)}


WAITING = "select count(*) from callboard.mailbox where agent like 'sorter/%'"


async def give_events(cluster: Cluster, agents: int) -> None:
    event = importlib.import_module("busy.agents").Event  # on the path since the domain was added
    for start in range(0, EVENTS, AT_ONCE):
        batch = [
            Incoming(
                to=Address(DOMAIN, "sorter", str(n % agents)),
                message=event(work_s=WORK_S),
                sender="external/bench",
            )
            for n in range(start, start + AT_ONCE)
        ]
        await accept(cluster.postgres, cluster.transport, batch)


async def one_task(cluster: Cluster, client: TaskClient) -> dict[str, float]:
    task = await client.submit(DOMAIN, goal="a task beside the events")
    await client.wait(task, timeout_s=120)
    row = await cluster.postgres.fetchrow(STEPS, task)
    assert row is not None
    return {name: round(seconds, 3) for name, seconds in row.items()}


def figures(tasks: list[dict[str, float]]) -> dict[str, Any]:
    found: dict[str, Any] = {"tasks": len(tasks)}
    for step in tasks[0] if tasks else ():
        times = sorted(task[step] for task in tasks)
        found[step] = {"p50": median(times), "max": times[-1]}
    return found


def note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--agents", type=int, default=EVENTS, help="among which the events are spread")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args()
    found = asyncio.run(measure(args.agents))
    print(json.dumps(found, indent=None if args.json else 2))


if __name__ == "__main__":
    main()
