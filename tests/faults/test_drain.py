"""A host more and a host less under load: nothing is lost, and no message waits long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from callboard.services import Services
from tests.faults.chains import broken, start_chains
from tests.faults.cluster import Cluster, running_cluster
from tests.faults.verify import broken_chains

CHAINS = 50
LONGEST_WAIT_S = 1.0
COMMITS = (
    6  # one after the other: of the last turns, the release, the new owner, what it takes up, its first turns
)
PULSE_S = 0.02


@pytest.mark.timeout(180)
async def test_hosts_come_and_go_without_a_loss_or_a_long_wait(
    own_services: Services, tmp_path: Path
) -> None:
    async with running_cluster(own_services, tmp_path / "run", hosts=2, full_size=True) as cluster:
        await start_chains(cluster, CHAINS, agents=200)
        await cluster.progress(1_000)
        await cluster.sql("create table pulse (beats bigint)")
        await cluster.sql("insert into pulse values (0)")
        since = await cluster.value("select clock_timestamp()")
        async with _pulse(cluster) as beats:
            for hosts in (3, 2):
                await cluster.set_hosts(hosts)
                await cluster.settled()
                await cluster.progress(2_000)
        waits = await _longest_waits(cluster, since)
        assert await broken(cluster, CHAINS) == []
        assert await broken_chains(cluster) == []
        drained = await cluster.sql("select epoch from hosts where ended_why = 'drained'")
        assert len(drained) == 1
        # The machine's own share: a disk that does not sync holds every commit up, whoever makes it.
        limit = LONGEST_WAIT_S + COMMITS * max(beats)
        assert len(beats) > 20
        assert waits[0] <= limit, (
            f"the longest waits, in seconds: {waits}; a bare commit took {max(beats):.3f}"
        )


@asynccontextmanager
async def _pulse(cluster: Cluster) -> AsyncIterator[list[float]]:
    """How long bare commits take on this machine meanwhile, in seconds: a row of nobody's, now and again."""
    beats: list[float] = []

    async def beat() -> None:
        while True:
            began = time.monotonic()
            await cluster.sql("update pulse set beats = beats + 1")
            beats.append(time.monotonic() - began)
            await asyncio.sleep(PULSE_S)

    beating = asyncio.create_task(beat())
    try:
        yield beats
    finally:
        beating.cancel()


async def _longest_waits(cluster: Cluster, since: object) -> list[float]:
    """The longest times between a message's sender and its handler, in seconds, longest first."""
    rows = await cluster.sql(
        "select (body->>'at')::float8 - (body->'message'->'header'->>'sent_at')::float8 as wait"
        " from transitions where at > $1 and agent like 'runner/%' order by wait desc limit 5",
        since,
    )
    return [round(row["wait"], 3) for row in rows]
