"""Whom a fault hits, and how it is known to have fired."""

from __future__ import annotations

from random import Random

from storage.placement import HostRow
from tests.faults.cluster import Cluster


async def a_host(cluster: Cluster, rng: Random) -> HostRow:
    """A live host that owns something, once all own their share."""
    hosts = await cluster.settled()
    return rng.choice([host for host in hosts if host.owned])


async def fired(cluster: Cluster, point: str, before: int) -> None:
    async def look() -> bool:
        return cluster.folder.fired().count(point) > before

    await cluster.until(look, f"the fault at {point} to fire")
    cluster.note(f"{point} fired")
