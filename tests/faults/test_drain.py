"""A host more and a host less under load: nothing is lost, and no message waits long."""

from __future__ import annotations

from pathlib import Path

import pytest

from callboard.services import Services
from tests.faults.chains import broken, start_chains
from tests.faults.cluster import Cluster, running_cluster
from tests.faults.verify import broken_chains

CHAINS = 50
LONGEST_WAIT_S = 1.0


@pytest.mark.timeout(180)
async def test_hosts_come_and_go_without_a_loss_or_a_long_wait(
    own_services: Services, tmp_path: Path
) -> None:
    async with running_cluster(own_services, tmp_path / "run", hosts=2, full_size=True) as cluster:
        await start_chains(cluster, CHAINS, agents=200)
        await cluster.progress(1_000)
        since = await cluster.value("select clock_timestamp()")
        await cluster.progress(1_000)
        [usual, *_] = await _longest_waits(cluster, since)
        since = await cluster.value("select clock_timestamp()")
        for hosts in (3, 2):
            await cluster.set_hosts(hosts)
            await cluster.settled()
            await cluster.progress(2_000)
        waits = await _longest_waits(cluster, since)
        assert await broken(cluster, CHAINS) == []
        assert await broken_chains(cluster) == []
        drained = await cluster.sql("select epoch from hosts where ended_why = 'drained'")
        assert len(drained) == 1
        # Beyond what a message waits on this machine when nobody comes or goes.
        assert waits[0] <= LONGEST_WAIT_S + usual, f"the longest waits, in seconds: {waits}; before {usual}"


async def _longest_waits(cluster: Cluster, since: object) -> list[float]:
    """The longest times between a message's sender and its handler, in seconds, longest first."""
    rows = await cluster.sql(
        "select (body->>'at')::float8 - (body->'message'->'header'->>'sent_at')::float8 as wait"
        " from transitions where at > $1 and agent like 'runner/%' order by wait desc limit 5",
        since,
    )
    return [round(row["wait"], 3) for row in rows]
