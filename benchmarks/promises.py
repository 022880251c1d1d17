"""What many open promises cost whoever looks one up, settles one, lists some, or starts a host beside them.

    python -m benchmarks.promises [--open 10000 100000 1000000] [--json]

The promises belong to turns that wait in agents of their own, put straight into the tables: a quarter each asks (whose
askers nobody asks), sleeps until tomorrow, promises and approvals. Counted are milliseconds, the median of several, of
what commands and hosts do with them. Starts servers of its own in a folder that is removed afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import statistics
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg

from actors.cycles import PROMISES_A_PAGE
from benchmarks.hops import note
from bus.errors import StorageUnavailable
from callboard.services import ensure_services
from callboard.settings import load_settings
from storage import decisions
from storage.connect import connect, create_pool
from storage.edges import FIRST_PLACE, PromisePlace
from storage.inspect import list_agents
from storage.journal import Kind
from storage.migrate import migrate
from storage.postgres import PostgresStore
from storage.records import Fence

DOMAIN = "lingering"
PARTITIONS = 64
TENANT = "default"
TIMES = 7
ENOUGH_S = 15.0
FILL = """
  with made as (
    select 'keeper/' || n as agent, (n % 64)::int as partition, gen_random_uuid() as turn, n,
           (array['ask', 'sleep', 'promise', 'approval'])[n % 4 + 1] as kind
    from generate_series($1::int, $2::int - 1) n
  ), turns as (
    insert into turns (domain, tenant, agent, partition, seq, turn, code, waiting, failures, trials, header, payload,
                       began_at)
      select 'lingering', 'default', agent, partition, n + 1, turn, '', true, 0, 0,
             '{"id":"00000000-0000-0000-0000-000000000000","type":"lingering.nap.v1","sender":"external/bench"}', '{}', 0
      from made
  )
  insert into promises (domain, tenant, id, agent, partition, turn, key, kind, name, target, message, due_at, details)
    select 'lingering', 'default', gen_random_uuid(), agent, partition, turn, '#1', kind, kind,
           case when kind = 'ask' then 'lingering/oracle/' || n end, case when kind = 'ask' then gen_random_uuid() end,
           case when kind = 'sleep' then now() + interval '1 day' end,
           case when kind = 'approval' then '{"action":"a","approvers":[],"details":{},"digest":"d"}'::json end
    from made
"""
HOST = """
  insert into hosts (domain, host, node, pid, born, code, owned)
  values ('lingering', 'bench', 'n', 1, '', '', array(select generate_series(0, 63))) returning epoch
"""
Look = Callable[[], Awaitable[object]]


class Looks:
    """What is measured, by name."""

    def __init__(self, pool: asyncpg.Pool[Any], store: PostgresStore, fence: Fence) -> None:
        self._pool = pool
        self._store = store
        self._fence = fence

    def all(self) -> dict[str, Look]:
        return {
            "find": self.find,
            "resolve": self.resolve,
            "list_open": lambda: self.listed(decisions.OPEN),
            "list_approvals": lambda: self.listed((Kind.APPROVAL,)),
            "list_outcomes": lambda: self.listed((Kind.OUTCOME,)),
            "list_settled": lambda: self.listed(decisions.OPEN, pending=False),
            "page_of_agents": lambda: list_agents(self._pool, DOMAIN, tenant=TENANT, after="keeper/5"),
            "settle_due": lambda: self._store.settle_due(self._fence, range(PARTITIONS), 100),
            "takeover_asks": self.asks,
            "takeover_turns": self.turns,
            "sleepless": self.may_sleep,
        }

    async def find(self) -> None:
        await decisions.find_promise(self._pool, await self._some(), tenant=TENANT)

    async def resolve(self) -> None:
        promise = await decisions.find_promise(self._pool, await self._some(), tenant=TENANT)
        await decisions.settle(
            self._pool,
            promise,
            tenant=TENANT,
            status="resolved",
            value='{"payload":1}',
            by="bench",
            kind=Kind.PROMISE,
        )

    async def listed(self, kinds: tuple[Kind, ...], *, pending: bool = True) -> None:
        await decisions.waiting(self._pool, tenant=TENANT, kinds=kinds, pending=pending, limit=100)

    async def asks(self) -> None:
        place: PromisePlace | None = FIRST_PLACE
        while place is not None:
            page = await self._store.chained_asks(DOMAIN, range(PARTITIONS), place, PROMISES_A_PAGE)
            place = page.last

    async def turns(self) -> None:
        for partition in range(PARTITIONS):
            await self._store.load_turns(DOMAIN, partition)

    async def may_sleep(self) -> None:
        await self._pool.fetchval(
            "select exists (select from promises where domain = $1 and status = 'pending' and due_at <= now())",
            DOMAIN,
        )

    async def _some(self) -> str:
        return str(
            await self._pool.fetchval(
                "select id from promises where domain = $1 and tenant = $2 and id > $3"
                " and kind = 'promise' and status = 'pending' order by domain, tenant, id limit 1",
                DOMAIN, TENANT, uuid.UUID(int=secrets.randbelow(2**127)),
            )
        )  # fmt: skip


async def measure(sizes: list[int]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="callboard-promises-", dir="/var/tmp") as folder:
        os.chmod(folder, 0o711)  # started by root, the servers run under an account that must pass through
        settings = load_settings().model_copy(update={"home": Path(folder) / "home"})
        async with await ensure_services(settings) as services:
            url = services.endpoints.postgres_url
            await migrate(url)
            pool = await create_pool(url, application="bench")
            await pool.execute(
                "insert into domains (domain, partitions, spec, kinds, home, code) values ($1, $2, '{}', '{}', '', '')",
                DOMAIN, PARTITIONS,
            )  # fmt: skip
            fence = Fence(domain=DOMAIN, epoch=await pool.fetchval(HOST))
            store = await PostgresStore.open(url, fence)
            looks, found, filled = Looks(pool, store, fence).all(), [], 0
            for size in sizes:
                await fill(url, filled, size)
                filled = size
                note(f"{size:,} promises are open")
                found.append({"open": size} | {name: await timed(look) for name, look in looks.items()})
            await store.close()
            await pool.close()
            return found


async def fill(url: str, start: int, end: int) -> None:
    connection = await connect(url, application="bench")
    for first in range(start, end, 100_000):
        await connection.execute(FILL, first, min(first + 100_000, end), timeout=600.0)
    for table in ("promises", "turns"):
        await connection.execute(f"vacuum analyze {table}", timeout=600.0)
    await connection.close()


async def timed(look: Look) -> float | None:
    """Milliseconds; None where Postgres has given it up."""
    took = []
    for _ in range(TIMES):
        began = time.monotonic()
        try:
            await look()
        except StorageUnavailable:
            return None
        took.append(time.monotonic() - began)
        if sum(took) > ENOUGH_S:
            break
    return round(statistics.median(took) * 1000, 2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--open", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--json", action="store_true", help="one JSON array on standard output")
    args = parser.parse_args()
    found = asyncio.run(measure(args.open))
    if args.json:
        print(json.dumps(found))
        return
    for name in found[0]:
        print(f"{name:16}" + "".join(f"{one[name]!s:>14}" for one in found))


if __name__ == "__main__":
    main()
