"""Hosts and coordinators that are killed or stopped from outside."""

from __future__ import annotations

import signal
from random import Random

from tests.faults.aim import a_host
from tests.faults.cluster import Cluster


async def kill_host(cluster: Cluster, rng: Random) -> None:
    host = await a_host(cluster, rng)
    cluster.signal_host(host, signal.SIGKILL)
    why = await cluster.ended(host.epoch)
    cluster.note(f"epoch {host.epoch} killed; ended because {why}")


async def kill_all_hosts(cluster: Cluster, rng: Random) -> None:
    for host in await cluster.settled():
        cluster.signal_host(host, signal.SIGKILL)
        cluster.note(f"epoch {host.epoch} killed")
    await cluster.progress(50)


async def kill_coordinator(cluster: Cluster, rng: Random) -> None:
    """The hosts go on without it for a while; another one then continues."""
    await cluster.settled()  # nobody gives out the partitions of a host that has just died
    cluster.kill_coordinator()
    await cluster_progress_without_restart(cluster, 100)
    cluster.start_coordinator()


async def kill_coordinator_and_host(cluster: Cluster, rng: Random) -> None:
    host = await a_host(cluster, rng)
    cluster.kill_coordinator()
    cluster.signal_host(host, signal.SIGKILL)
    cluster.start_coordinator()
    await cluster.ended(host.epoch)


async def cluster_progress_without_restart(cluster: Cluster, turns: int) -> None:
    kept, cluster.coordinator = cluster.coordinator, None
    try:
        await cluster.progress(turns)
    finally:
        cluster.coordinator = kept


async def stop_host_past_its_takeover(cluster: Cluster, rng: Random) -> None:
    """SIGSTOP, takeover, SIGCONT: it must commit nothing (the audit sees that) and exit by itself."""
    host = await a_host(cluster, rng)
    cluster.signal_host(host, signal.SIGSTOP)
    why = await cluster.ended(host.epoch)
    await cluster.progress(50)
    cluster.signal_host(host, signal.SIGCONT)
    await cluster.gone(host.pid)
    cluster.note(f"epoch {host.epoch} stopped ({why}), continued, exited")


async def jump_clocks(cluster: Cluster, rng: Random) -> None:
    """The time of day of every host, and of the coordinator, is set hours ahead, hours back, and right again."""
    before = cluster.folder.fired().count("jumped")
    hosts = await cluster.settled()
    assert cluster.coordinator is not None
    pids = [host.pid for host in hosts] + [cluster.coordinator.pid]
    for hours in (rng.uniform(1, 30), -rng.uniform(1, 30), rng.uniform(100, 1_000), 0):
        for pid in pids:
            await cluster.order(pid, ahead_s=3600.0 * hours)
        await cluster.progress(rng.randint(20, 60))

    async def look() -> bool:
        return cluster.folder.fired().count("jumped") == before + 4 * len(pids)

    await cluster.until(look, "the clocks to be set")
    cluster.note("the clocks were set ahead and back")


async def stop_coordinator(cluster: Cluster, rng: Random) -> None:
    """A frozen coordinator; another one claims the domain, and the first gives up when it wakes."""
    frozen = cluster.coordinator
    assert frozen is not None
    frozen.send_signal(signal.SIGSTOP)
    cluster.start_coordinator()
    host = await a_host(cluster, rng)
    cluster.signal_host(host, signal.SIGKILL)
    await cluster.ended(host.epoch)
    frozen.send_signal(signal.SIGCONT)
    await cluster.gone(frozen.pid)
    frozen.wait()
