"""Steps a second of DBOS: workflows in flight, each of so many trivial steps, one after another.

    python benchmarks/peers/dbos_steps.py POSTGRES_URL INFLIGHT WORKFLOWS STEPS

Runs in an environment of its own (`make peers`), and imports nothing of Callboard. Prints a line of JSON; the figure
is what SQL counts in DBOS' own table of results afterwards.
"""

import asyncio
import json
import logging
import sys
import time

import psycopg
from dbos import DBOS


@DBOS.step()
async def following(number: int) -> int:
    return number + 1


@DBOS.workflow()
async def turn(steps: int) -> int:
    number = 0
    for _ in range(steps):
        number = await following(number)
    return number


async def run(inflight: int, workflows: int, steps: int) -> float:
    """Run so many workflows, a fixed number of them at once; the seconds that it took."""
    left = iter(range(workflows))

    async def one_after_another() -> None:
        for _ in left:
            assert await turn(steps) == steps

    began = time.monotonic()
    await asyncio.gather(*(one_after_another() for _ in range(inflight)))
    return time.monotonic() - began


def recorded(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("select count(*) from dbos.operation_outputs").fetchone()
        assert row is not None
        return int(row[0])


def main() -> None:
    url, inflight, workflows, steps = sys.argv[1], *map(int, sys.argv[2:])
    DBOS(config={"name": "bench", "system_database_url": url, "run_admin_server": False})
    logging.getLogger("dbos").setLevel(logging.WARNING)
    DBOS.launch()
    try:
        asyncio.run(measured(url, inflight, workflows, steps))
    finally:
        DBOS.destroy()


async def measured(url: str, inflight: int, workflows: int, steps: int) -> None:
    await run(inflight, inflight, 1)  # connections and caches
    before = recorded(url)
    seconds = await run(inflight, workflows, steps)
    count = recorded(url) - before
    if count != workflows * steps:
        raise RuntimeError(f"{count} steps are recorded, and {workflows * steps} were run")
    print(json.dumps({"steps_per_s": round(count / seconds, 1), "inflight": inflight, "steps": count}))


if __name__ == "__main__":
    main()
