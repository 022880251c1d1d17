"""Hosts and coordinators that die or freeze at a named point of their work."""

from __future__ import annotations

import signal
from random import Random

from tests.faults.aim import a_host, fired
from tests.faults.cluster import Cluster


async def _kill_at(cluster: Cluster, rng: Random, point: str) -> None:
    host = await a_host(cluster, rng)
    before = cluster.folder.fired().count(point)
    await cluster.order(host.pid, faults=f"{point}=kill@{rng.randint(1, 20)}")
    await fired(cluster, point, before)
    await cluster.ended(host.epoch)


async def kill_before_commit(cluster: Cluster, rng: Random) -> None:
    await _kill_at(cluster, rng, "commit.before")


async def kill_after_commit(cluster: Cluster, rng: Random) -> None:
    await _kill_at(cluster, rng, "commit.after")


async def stop_before_commit(cluster: Cluster, rng: Random) -> None:
    """It wakes as soon as its epoch has ended, with a group of turns ready to be committed."""
    await _stop_past_takeover(cluster, rng, "commit.before")


async def _stop_past_takeover(cluster: Cluster, rng: Random, point: str) -> None:
    host = await a_host(cluster, rng)
    before = cluster.folder.fired().count(point)
    await cluster.order(host.pid, faults=f"{point}=stop@{rng.randint(1, 10)}")
    await fired(cluster, point, before)
    why = await cluster.ended(host.epoch)
    cluster.signal_host(host, signal.SIGCONT)
    await cluster.gone(host.pid)
    cluster.note(f"epoch {host.epoch} stopped at {point} ({why}), continued, exited")


async def stop_between_fence_and_commit(cluster: Cluster, rng: Random) -> None:
    """Its open transaction holds the fence: the takeover must end its backend."""
    point = "commit.between_fence_and_commit"
    host = await a_host(cluster, rng)
    before = cluster.folder.fired().count(point)
    await cluster.order(host.pid, faults=f"{point}=stop@{rng.randint(1, 10)}")
    await fired(cluster, point, before)
    why = await cluster.ended(host.epoch)
    await cluster.progress(50)
    cluster.signal_host(host, signal.SIGCONT)
    await cluster.gone(host.pid)
    cluster.note(f"epoch {host.epoch} stopped inside its commit ({why}), continued, exited")


async def kill_before_flush(cluster: Cluster, rng: Random) -> None:
    await _kill_at(cluster, rng, "flush.before")


async def kill_after_flush(cluster: Cluster, rng: Random) -> None:
    await _kill_at(cluster, rng, "flush.after")


async def kill_when_put_away(cluster: Cluster, rng: Random) -> None:
    """A host dies with turns that are put away in Postgres and still in its memory."""
    await _kill_at(cluster, rng, "park.before_cancel")


async def kill_before_wake(cluster: Cluster, rng: Random) -> None:
    await _kill_at(cluster, rng, "wake.before")


async def stop_before_wake(cluster: Cluster, rng: Random) -> None:
    """It goes on with a wake-up in its hands that another host has used meanwhile."""
    await _stop_past_takeover(cluster, rng, "wake.before")


async def kill_in_handover(cluster: Cluster, rng: Random) -> None:
    """A host dies after it emptied its cache of a partition and before it gave the partition back."""
    host = await a_host(cluster, rng)
    before = cluster.folder.fired().count("handover.middle")
    await cluster.order(host.pid, faults="handover.middle=kill@1")
    target = await cluster.value("select hosts from domains")
    await cluster.set_hosts(target + 1)
    await fired(cluster, "handover.middle", before)
    await cluster.ended(host.epoch)
    await cluster.set_hosts(target)


async def kill_in_acquire(cluster: Cluster, rng: Random) -> None:
    """A host takes partitions over, and dies before it has read them."""
    hosts = await cluster.settled()
    victim, heir = rng.sample(hosts, 2)
    before = cluster.folder.fired().count("acquire.middle")
    await cluster.order(heir.pid, faults="acquire.middle=kill@1")
    cluster.signal_host(victim, signal.SIGKILL)
    await fired(cluster, "acquire.middle", before)
    await cluster.ended(heir.epoch)


async def kill_before_trial(cluster: Cluster, rng: Random) -> None:
    """A host takes suspect partitions over, and dies when it is about to try their first message."""
    hosts = await cluster.settled()
    victim, heir = rng.sample(hosts, 2)
    before = cluster.folder.fired().count("trial.before")
    await cluster.order(heir.pid, faults="trial.before=kill@1")
    cluster.signal_host(victim, signal.SIGKILL)
    await fired(cluster, "trial.before", before)
    await cluster.ended(heir.epoch)


async def kill_in_takeover(cluster: Cluster, rng: Random) -> None:
    """The coordinator dies inside the transaction that names the new owners."""
    host = await a_host(cluster, rng)
    before = cluster.folder.fired().count("takeover.middle")
    assert cluster.coordinator is not None
    await cluster.order(cluster.coordinator.pid)
    cluster.signal_host(host, signal.SIGKILL)
    await cluster.order(cluster.coordinator.pid, faults="takeover.middle=kill@1")
    await fired(cluster, "takeover.middle", before)
    await cluster.ended(host.epoch)


async def stop_in_takeover(cluster: Cluster, rng: Random) -> None:
    """The coordinator freezes inside that transaction, with hosts' rows locked; another one claims the domain."""
    host = await a_host(cluster, rng)
    before = cluster.folder.fired().count("takeover.middle")
    frozen = cluster.coordinator
    assert frozen is not None
    await cluster.order(frozen.pid)
    cluster.signal_host(host, signal.SIGKILL)
    await cluster.order(frozen.pid, faults="takeover.middle=stop@1")
    await fired(cluster, "takeover.middle", before)
    cluster.start_coordinator()
    await cluster.progress(200)
    frozen.send_signal(signal.SIGCONT)
    await cluster.gone(frozen.pid)
    frozen.wait()
