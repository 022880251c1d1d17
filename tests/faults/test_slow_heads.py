"""Handlers that take long were under way when their host died: they hold up nobody but themselves."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from callboard.services import Services
from tests.faults.cluster import Cluster, running_cluster
from tests.faults.feed import accept, outside

SLOW = 12
SLOW_S = 3.0
NEIGHBOURS_WITHIN_S = SLOW * SLOW_S / 3  # one slow one after the other would take three times as long


@pytest.mark.timeout(180)
async def test_slow_handlers_of_a_dead_host_do_not_hold_up_their_neighbours(
    own_services: Services, tmp_path: Path
) -> None:
    async with running_cluster(own_services, tmp_path / "run", hosts=1) as cluster:
        partitions = int(await cluster.value("select partitions from domains"))
        slow = [
            outside(f"slow-{n}", f"poisoned/slow-{n}", "chaos.wait.v1", {"seconds": SLOW_S}, partitions)
            for n in range(SLOW)
        ]
        quick = [
            outside(f"quick-{n}", f"poisoned/quick-{n}", "chaos.count.v1", {}, partitions) for n in range(100)
        ]
        await accept(cluster, slow)
        await cluster.until(lambda: _running(cluster), "the slow turns to begin", 20)
        [victim] = await cluster.settled()
        cluster.signal_host(victim, signal.SIGKILL)
        await accept(cluster, quick)
        await cluster.ended(victim.epoch, 10)
        await cluster.settled()
        began = time.monotonic()
        await cluster.until(lambda: _done(cluster, "quick", 100), "the quick ones", 120)
        quick_s = time.monotonic() - began
        await cluster.until(lambda: _done(cluster, "slow", SLOW), "the slow ones", 120)
        slow_s = time.monotonic() - began
        assert quick_s < NEIGHBOURS_WITHIN_S, f"quick after {quick_s:.1f} s, slow after {slow_s:.1f} s"


async def _running(cluster: Cluster) -> bool:
    """All have been read and taken from the cache: the host's own count of waiting messages is back to zero."""
    [host] = await cluster.hosts()
    return bool(host.agents >= SLOW and host.backlog == 0)


async def _done(cluster: Cluster, which: str, count: int) -> bool:
    return bool(
        await cluster.value(
            "select count(*) = $2 from agents where agent like $1", f"poisoned/{which}-%", count
        )
    )
