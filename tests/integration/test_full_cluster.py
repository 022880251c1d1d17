"""New code in a cluster that has no room for its hosts beside the old ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from callboard.services import Endpoints
from coordinators import room
from coordinators.room import Waiting
from storage.code import pack, put_code
from storage.placement import live_hosts
from tests.integration.deployment import Deployment, LoopHost, LoopLauncher, cancelled
from tests.integration.test_placement import naps, send, serving, until

SLOW = Path(__file__).with_name("slow")


class WaitingHost:
    """A host that is started as soon as there is room. Implements coordinators.launcher.HostProcess."""

    def __init__(self, cluster: FullCluster, domain: str, host: str) -> None:
        self._cluster = cluster
        self._is_over = asyncio.Event()
        self._task = asyncio.create_task(self._run(domain, host))

    async def _run(self, domain: str, host: str) -> None:
        cluster = self._cluster
        cluster.waiting += 1
        try:
            await cluster.room.acquire()
        finally:
            cluster.waiting -= 1
        try:
            self._host: LoopHost = await LoopLauncher.start(cluster, domain, host)
            await self._host.ended()
        finally:
            self._is_over.set()
            cluster.room.release()

    async def ended(self) -> None:
        await self._is_over.wait()

    async def kill(self) -> None:
        await cancelled(self._task)


class FullCluster(LoopLauncher):
    """With room for so many hosts, and no more."""

    def __init__(self, services: Endpoints, database: str, *, room: int) -> None:
        super().__init__(database, services.nats_url)
        self.room = asyncio.Semaphore(room)
        self.waiting = 0
        self.started: list[WaitingHost] = []

    async def start(self, domain: str, host: str) -> WaitingHost:  # type: ignore[override]
        self.started.append(WaitingHost(self, domain, host))
        return self.started[-1]

    async def queue(self) -> Waiting:
        return Waiting(hosts=self.waiting)


@pytest.fixture(autouse=True)
def told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(room, "TOLD_WITHIN_S", 0.0)


@pytest.fixture
async def slow(database: str, services: Endpoints) -> AsyncIterator[Deployment]:
    async with Deployment.open(SLOW, database, services.nats_url) as deployment:
        yield deployment


@pytest.fixture
async def cluster(
    slow: Deployment, services: Endpoints, database: str, hosts: int
) -> AsyncIterator[FullCluster]:
    slow.launcher = cluster = FullCluster(services, database, room=hosts)
    yield cluster
    await slow.forsake()
    for host in cluster.started:
        await host.kill()


@pytest.mark.parametrize("hosts", [1, 2, 3])
async def test_new_code_comes_host_by_host_while_others_serve(
    slow: Deployment, cluster: FullCluster, hosts: int
) -> None:
    await slow.coordinate(hosts=hosts, queue=cluster.queue)

    async def all_serve() -> bool:
        return len(await serving(slow)) == hosts

    await until(all_serve)
    await send(slow, 200, seconds=0.01)
    digest, bundle = pack(SLOW)
    await put_code(slow.pool, "slow", digest, bundle)
    await slow.pool.execute("update domains set code = $1 where domain = 'slow'", digest)
    fewest = hosts

    async def replaced() -> bool:
        nonlocal fewest
        rows = await live_hosts(slow.pool, "slow")
        fewest = min(fewest, sum(host.ready and not host.draining for host in rows))
        return len(await serving(slow)) == hosts and all(host.code == digest for host in rows)

    await until(replaced)
    assert fewest == hosts // 2
    await send(slow, 200, seconds=0.01)

    async def all_done() -> bool:
        return await naps(slow) == 400

    await until(all_done)
    assert {row[0] for row in await slow.fetch("select ended_why from hosts where ended_at is not null")} == {
        "drained"
    }
