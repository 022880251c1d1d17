"""A steady load: endless chains of messages over many agents, each with exactly one message under way."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from typing import Any, Protocol

from tests.faults.cluster import Cluster
from tests.faults.feed import accept, outside


async def start_chains(cluster: Cluster, chains: int, agents: int) -> None:
    """Put the first message of each chain into its mailbox."""
    partitions = int(await cluster.value("select partitions from domains"))
    rows = []
    for chain in range(chains):
        payload = {"chain": chain, "number": 0, "agents": agents}
        rows.append(
            outside(f"chain-{chain}", f"runner/{chain % agents}", "chaos.hop.v1", payload, partitions)
        )
    await accept(cluster, rows)


class Countable(Protocol):
    async def sql(self, text: str, *arguments: Any) -> list[Any]: ...
    async def turns(self) -> int: ...


async def broken(cluster: Countable, chains: int) -> list[str]:
    """What is lost or doubled: at every moment each chain has one message in one mailbox."""
    rows = await cluster.sql(
        "select (payload->>'chain')::int as chain, count(*) from mailbox group by 1 order by 1"
    )
    there = {row["chain"]: row["count"] for row in rows}
    return [f"chain {c} has {there.get(c, 0)} messages" for c in range(chains) if there.get(c) != 1]


class Meter:
    """Samples how many turns have been committed, from the agents' versions."""

    EVERY_S = 0.05

    def __init__(self, cluster: Countable) -> None:
        self._cluster = cluster
        self._times: list[float] = []
        self._turns: list[int] = []

    async def run(self) -> None:
        while True:
            turns = await self._cluster.turns()
            self._times.append(time.monotonic())
            self._turns.append(turns)
            await asyncio.sleep(self.EVERY_S)

    def rate(self, since: float, until: float) -> float:
        """Turns a second between two times of `time.monotonic`."""
        first, last = bisect_left(self._times, since), bisect_left(self._times, until) - 1
        if last <= first:
            return 0.0
        return (self._turns[last] - self._turns[first]) / (self._times[last] - self._times[first])

    def back_at(self, rate: float, since: float, until: float, over_s: float = 1.0) -> float | None:
        """When the rate over the next `over_s` was back; None if it was not."""
        for at in self._times[bisect_left(self._times, since) :]:
            if at + over_s > until:
                return None
            if self.rate(at, at + over_s) >= rate:
                return at
        return None
