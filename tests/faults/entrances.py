"""Faults where work comes in: the reader of events, the assignment of tasks."""

from __future__ import annotations

import signal
from random import Random

from storage.placement import HostRow
from tests.faults.aim import fired
from tests.faults.cluster import Cluster
from tests.faults.watched import Void


async def _events_go_on(cluster: Cluster) -> None:
    """Wait until another event has become a message."""
    before = await cluster.value("select seq from event_cursors")

    async def look() -> bool:
        return bool(
            await cluster.value("select exists (select from event_cursors where seq > $1)", before or 0)
        )

    await cluster.until(look, "an event to be accepted")


async def _event_reader(cluster: Cluster) -> HostRow:
    """The host that owns the first partition, with the events of the domain."""
    await _events_go_on(cluster)
    return next(host for host in await cluster.settled() if 0 in host.owned)


async def kill_event_reader(cluster: Cluster, rng: Random) -> None:
    host = await _event_reader(cluster)
    cluster.signal_host(host, signal.SIGKILL)
    await cluster.ended(host.epoch)
    await _events_go_on(cluster)


async def stop_event_reader_past_its_takeover(cluster: Cluster, rng: Random) -> None:
    """It wakes with events in its hands that another host has accepted meanwhile."""
    host = await _event_reader(cluster)
    cluster.signal_host(host, signal.SIGSTOP)
    await cluster.ended(host.epoch)
    await _events_go_on(cluster)
    cluster.signal_host(host, signal.SIGCONT)
    await cluster.gone(host.pid)


async def _kill_at_assignment(cluster: Cluster, point: str, rng: Random) -> None:
    before = cluster.folder.fired().count(point)
    assert cluster.coordinator is not None
    await cluster.order(cluster.coordinator.pid, faults=f"{point}=kill@{rng.randint(1, 3)}")
    await fired(cluster, point, before)


async def kill_before_assignment(cluster: Cluster, rng: Random) -> None:
    """The coordinator dies with a task marked and its agent told, and nothing of it committed."""
    await _kill_at_assignment(cluster, "assign.before_commit", rng)


async def kill_after_assignment(cluster: Cluster, rng: Random) -> None:
    """The coordinator dies when an assignment is committed and the task's host has not heard of it."""
    await _kill_at_assignment(cluster, "assign.after_commit", rng)


async def stop_in_assignment(cluster: Cluster, rng: Random) -> None:
    """The coordinator freezes with tasks locked; another one leads and assigns them."""
    point = "assign.before_commit"
    before = cluster.folder.fired().count(point)
    frozen = cluster.coordinator
    assert frozen is not None
    await cluster.order(frozen.pid, faults=f"{point}=stop@1")
    await fired(cluster, point, before)
    waiting = await cluster.sql("select id from tasks where status = 'submitted'")
    if not waiting:
        raise Void("no task was about to be assigned")
    cluster.start_coordinator()

    async def look() -> bool:
        return not await cluster.value(
            "select exists (select from tasks where status = 'submitted' and id = any ($1))",
            [row["id"] for row in waiting],
        )

    await cluster.until(look, "the tasks to be assigned by another coordinator")
    frozen.send_signal(signal.SIGCONT)
    await cluster.gone(frozen.pid)
    frozen.wait()
