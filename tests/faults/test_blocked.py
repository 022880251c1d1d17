"""A host that is merely blocked is reported, with what blocks it, and not taken over; one that cannot run is."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator

import psutil
import pytest

from callboard.services import Services
from storage.placement import HostRow
from tests.faults.cluster import Cluster, running_cluster
from tests.faults.feed import accept, outside

HELD_S = 4.0  # much longer than a silence that ends a host
TAKEN_OVER_WITHIN_S = 4.0

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
async def cluster(
    faults_services: Services, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Cluster]:
    """Two hosts for all tests here; each begins when they have settled after what the one before has done to them."""
    async with running_cluster(
        faults_services, tmp_path_factory.mktemp("blocked") / "run", hosts=2
    ) as cluster:
        yield cluster


async def _hold(cluster: Cluster, seconds: float) -> None:
    partitions = int(await cluster.value("select partitions from domains"))
    await accept(cluster, [outside("hold", "poisoned/a", "chaos.hold.v1", {"seconds": seconds}, partitions)])


def _beating(host: HostRow) -> psutil.Process:
    """The process that beats for a host."""
    [process] = psutil.Process(host.pid).children()
    return process


async def test_a_handler_that_holds_the_interpreter_is_reported_by_name_and_its_host_not_taken_over(
    cluster: Cluster,
) -> None:
    before, turns = {host.epoch for host in await cluster.settled()}, await cluster.turns()
    await _hold(cluster, HELD_S)

    async def reported() -> object:
        # Where the host's own thread ran once more, it has named the function that the handler calls.
        sql = r"select blocked_by from heartbeats where blocked_by ~ '^hold(_interpreter)? \(agents\.py:'"
        return await cluster.value(sql)

    await cluster.until(reported, "the blocked host to be reported", 15)

    async def handled() -> bool:
        return await cluster.turns() == turns + 1

    await cluster.until(handled, "the blocking message to be handled", 15)
    assert {host.epoch for host in await cluster.hosts()} == before


async def test_a_host_that_is_stopped_is_taken_over_although_its_beating_process_runs(
    cluster: Cluster,
) -> None:
    stopped = (await cluster.settled())[0]
    beating = _beating(stopped)
    cluster.signal_host(stopped, signal.SIGSTOP)
    why = await cluster.ended(stopped.epoch, TAKEN_OVER_WITHIN_S)
    assert "silent" in why
    assert beating.is_running()


async def test_the_beating_process_dies_with_its_host_and_is_replaced_when_it_dies_alone(
    cluster: Cluster,
) -> None:
    host = (await cluster.settled())[0]

    async def beats_after(at: object) -> object:
        sql = "select at from heartbeats where epoch = $1 and at > coalesce($2::timestamptz, '-infinity')"
        return await cluster.value(sql, host.epoch, at)

    await cluster.until(lambda: beats_after(None), "a first beat", 10)
    cluster.kill_coordinator()  # it would take the host over if the next process came late
    cluster.coordinator = None
    first = _beating(host)
    first.kill()
    first.wait(5)
    last = await cluster.value("select at from heartbeats where epoch = $1", host.epoch)
    await cluster.until(lambda: beats_after(last), "another process to beat", 10)
    second = _beating(host)
    cluster.signal_host(host, signal.SIGKILL)

    async def gone() -> bool:
        return not second.is_running() or second.status() == psutil.STATUS_ZOMBIE

    await cluster.until(gone, "the beating process to end", 5)
