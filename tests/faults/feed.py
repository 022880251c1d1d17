"""Feeds a random program into a cluster, each root exactly once, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from random import Random
from typing import Any

from bus import subjects
from bus.address import DEFAULT_TENANT, partition_of
from bus.envelope import Header, header_to_json, new_id
from bus.nats import NatsTransport
from bus.wire import NUDGE_SOURCE, Parcel, encode_parcel
from storage.queries import query
from tests.faults.cluster import DOMAIN, Cluster
from tests.faults.programs import FEEDER, name, root

_BACKLOG = """
select count(*) from mailbox m left join agents a using (domain, tenant, agent)
where a.lifecycle is distinct from 'paused'
"""
BATCH = 10
PACE_S = 0.02


class Feeder:
    """Sends roots until it is told to stop; some batches twice, since a sender may repeat itself."""

    def __init__(self, cluster: Cluster, seed: int, agents: int, *, backlog: int = 200) -> None:
        self._cluster = cluster
        self._seed = seed
        self._agents = agents
        self._backlog = backlog
        self._rng = Random(seed)
        self._counts: Counter[str] = Counter()
        self._stop = asyncio.Event()
        self.roots = 0

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        transport = await NatsTransport.connect(self._cluster.nats_url, name="feeder")
        partitions = int(await self._cluster.value("select partitions from domains"))
        try:
            while not self._stop.is_set():
                if await self._cluster.value(_BACKLOG) < self._backlog:
                    rows = [self._row(self.roots + i, partitions) for i in range(BATCH)]
                    self.roots += BATCH
                    for _ in range(2 if self._rng.random() < 0.2 else 1):
                        await accept(self._cluster, rows)
                    nudge(transport, {row[3] for row in rows})
                await asyncio.sleep(PACE_S)
        finally:
            await transport.close()

    def _row(self, index: int, partitions: int) -> tuple[object, ...]:
        child = root(self._seed, self._agents, index)
        agent = name(child.agent)
        self._counts[agent] += 1
        payload = {
            "seed": self._seed, "agents": self._agents, "number": child.number, "depth": child.depth,
            "nth": self._counts[agent],
        }  # fmt: skip
        return outside(
            f"root-{index}", agent, "chaos.walk.v1", payload, partitions, priority=child.priority or 1
        )


def outside(
    key: str,
    agent: str,
    type_: str,
    payload: dict[str, Any],
    partitions: int,
    *,
    priority: int = 1,
    control: bool = False,
) -> tuple[object, ...]:
    """A message from outside, as a row for `accept`."""
    header = Header(id=new_id(), type=type_, sender=FEEDER, sent_at=time.time(), priority=priority)
    partition = partition_of(DEFAULT_TENANT, agent, partitions)
    return (
        key, DOMAIN, DEFAULT_TENANT, partition, agent, control, header.id, header_to_json(header), json.dumps(payload)
    )  # fmt: skip


async def accept(cluster: Cluster, rows: list[tuple[object, ...]]) -> None:
    """Put messages into mailboxes, each key once."""
    keys, *columns = (list(column) for column in zip(*rows, strict=True))
    await cluster.retried(lambda db: db.fetch(query("accept_messages"), keys, timedelta(days=1), *columns))


def nudge(transport: NatsTransport, partitions: Iterable[Any]) -> None:
    """Tell the owners that there is something in their mailboxes."""
    for partition in partitions:
        parcel = Parcel(NUDGE_SOURCE, partition, 0, [])
        transport.publish(subjects.agents(DOMAIN, partition), encode_parcel(parcel))
