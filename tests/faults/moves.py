"""Partitions, hosts and agents that are moved, added, taken away or paused."""

from __future__ import annotations

from random import Random
from typing import Any

import asyncpg

from bus.envelope import new_id
from storage.placement import HostRow
from storage.queries import query
from tests.faults import outages, processes
from tests.faults.cluster import DOMAIN, Cluster
from tests.faults.feed import accept, outside


async def hand_back_and_forth(cluster: Cluster, rng: Random) -> None:
    """Swap what two hosts should own, several times while they work."""
    for _ in range(rng.randint(2, 4)):
        hosts = await cluster.settled()
        one, other = rng.sample(hosts, 2)
        count = rng.randint(1, min(len(one.owned), len(other.owned)))
        here, there = set(rng.sample(sorted(one.owned), count)), set(rng.sample(sorted(other.owned), count))
        await _swap(cluster, one, other, here, there)
        cluster.note(f"{sorted(here)} to epoch {other.epoch}, {sorted(there)} to epoch {one.epoch}")


async def _swap(cluster: Cluster, one: HostRow, other: HostRow, here: set[int], there: set[int]) -> None:
    """Give `here` of one to the other and `there` of the other to the one; wait until the former has arrived."""

    async def swap(db: asyncpg.Connection[Any]) -> None:
        async with db.transaction():
            await db.execute("select from coordinators where name = $1 for update", DOMAIN)
            for host, wanted in ((one, one.owned - here | there), (other, other.owned - there | here)):
                await db.execute(query("set_wanted"), DOMAIN, host.epoch, sorted(wanted), False)

    async def moved() -> bool:
        return any(h.epoch == other.epoch and here <= h.owned for h in await cluster.hosts())

    await cluster.retried(swap)
    await cluster.until(moved, f"partitions {sorted(here)} to reach epoch {other.epoch}")


async def one_more_and_one_less(cluster: Cluster, rng: Random) -> None:
    target = await cluster.value("select hosts from domains")
    for hosts in (target + 1, target):
        await cluster.set_hosts(hosts)
        await cluster.settled()
        cluster.note(f"{hosts} hosts")
        await cluster.progress(rng.randint(50, 200))


async def pause_and_resume(cluster: Cluster, rng: Random) -> None:
    """Some agents are paused, their partitions move, and they are resumed: what came meanwhile comes in order."""
    known = [r["agent"] for r in await cluster.sql("select agent from agents where agent like 'walker/%'")]
    chosen = rng.sample(sorted(known), min(10, len(known)))
    await _control(cluster, chosen, "callboard.pause.v1", {"reason": "a test"})
    await cluster.until(lambda: _lifecycle(cluster, chosen, "paused"), f"{chosen} to be paused")
    await rng.choice((processes.kill_host, hand_back_and_forth, outages.restart_nats))(cluster, rng)
    await cluster.progress(100)
    await _control(cluster, chosen, "callboard.resume.v1", {})
    await cluster.until(lambda: _lifecycle(cluster, chosen, "running"), f"{chosen} to be resumed")
    cluster.note(f"{chosen} paused and resumed")


async def _control(cluster: Cluster, agents: list[str], type_: str, payload: dict[str, str]) -> None:
    partitions = int(await cluster.value("select partitions from domains"))
    rows = [outside(new_id(), agent, type_, payload, partitions, control=True) for agent in agents]
    await accept(cluster, rows)
    cluster.extra_turns.update(agents)


async def _lifecycle(cluster: Cluster, agents: list[str], lifecycle: str) -> bool:
    there = await cluster.value(
        "select count(*) from agents where agent = any ($1) and lifecycle = $2", agents, lifecycle
    )
    return bool(there == len(agents))
