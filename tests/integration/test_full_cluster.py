"""New code in a cluster that has no room for its hosts beside the old ones."""

from __future__ import annotations

import asyncio
import os
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

import callboard.doctor
from bus.errors import ServiceUnavailable
from callboard.cluster import Cluster
from callboard.doctor import Finding
from callboard.ray_head import RayHead
from callboard.services import Endpoints
from callboard.settings import Settings, load_settings
from coordinators import room
from coordinators.room import Queue, Waiting
from storage.code import pack, put_code
from storage.placement import HostRow, live_hosts
from storage.queries import query
from tests.integration.cli import Cli
from tests.integration.deployment import Deployment, LoopHost, LoopLauncher, cancelled
from tests.integration.test_placement import naps, send, serving, until

SLOW, PATIENCE = (Path(__file__).with_name(name) for name in ("slow", "patience"))


class WaitingHost:
    """A host that is started as soon as there is room. Implements coordinators.launcher.HostProcess."""

    def __init__(self, cluster: FullCluster, domain: str, host: str) -> None:
        self._cluster = cluster
        self._task = asyncio.create_task(self._run(domain, host))

    async def _run(self, domain: str, host: str) -> None:
        cluster = self._cluster
        cluster.waiting[domain] += 1
        try:
            await cluster.room.acquire()
        finally:
            cluster.waiting[domain] -= 1
        try:
            await cluster.begins[domain].wait()
            self._host: LoopHost = await LoopLauncher.start(cluster, domain, host)
            await self._host.ended()
        finally:
            cluster.room.release()

    async def ended(self) -> None:
        await asyncio.wait([self._task])

    async def kill(self) -> None:
        await cancelled(self._task)


class FullCluster(LoopLauncher):
    """With room for so many hosts, and no more."""

    def __init__(self, services: Endpoints, database: str, *, room: int) -> None:
        super().__init__(database, services.nats_url)
        self.room = asyncio.Semaphore(room)
        self.waiting: Counter[str] = Counter()
        self.started: list[WaitingHost] = []
        self.begins: defaultdict[str, asyncio.Event] = defaultdict(
            begun
        )  # cleared: its hosts start, and get no further

    async def start(self, domain: str, host: str) -> WaitingHost:  # type: ignore[override]
        self.started.append(WaitingHost(self, domain, host))
        return self.started[-1]

    def queue(self, domain: str) -> Queue:
        async def waiting() -> Waiting:
            mine = self.waiting[domain]
            return Waiting(hosts=mine, others=self.waiting.total() - mine, cpus=1.0, largest=2.0)

        return waiting


def begun() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


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
    await slow.coordinate(hosts=hosts, queue=cluster.queue("slow"))

    async def all_serve() -> bool:
        return len(await serving(slow)) == hosts

    await until(all_serve)
    await send(slow, 200, seconds=0.01)
    digest = await new_code(slow, SLOW)
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


async def new_code(deployment: Deployment, folder: Path) -> str:
    digest, bundle = pack(folder)
    name = deployment.domain.name
    await put_code(deployment.pool, name, digest, bundle)
    await deployment.pool.execute("update domains set code = $1 where domain = $2", digest, name)
    return digest


@pytest.mark.parametrize("hosts", [2, 4])
async def test_two_domains_with_new_code_at_the_same_time_do_not_wait_for_each_other(
    slow: Deployment, cluster: FullCluster, hosts: int, services: Endpoints, database: str
) -> None:
    """The room is for all of their hosts, and for none more."""
    async with Deployment.open(PATIENCE, database, services.nats_url) as other:
        other.launcher = cluster
        both, each = (slow, other), hosts // 2
        for deployment in both:
            await deployment.coordinate(hosts=each, queue=cluster.queue(deployment.domain.name))

        async def serve(deployment: Deployment, code: str) -> bool:
            rows = [host for host in await hosts_of(deployment) if host.ready and host.owned]
            return len(rows) == each and all(host.code == code for host in rows)

        async def all_serve() -> bool:
            return all([await serve(deployment, "") for deployment in both])

        await until(all_serve)
        await send(slow, 200, seconds=0.01)
        codes = await new_code(slow, SLOW), await new_code(other, PATIENCE)
        fewest = dict.fromkeys(both, each)

        async def all_replaced() -> bool:
            for deployment in both:
                rows = await hosts_of(deployment)
                serving = sum(host.ready and not host.draining for host in rows)
                fewest[deployment] = min(fewest[deployment], serving)
            return all([await serve(*pair) for pair in zip(both, codes, strict=True)])

        await until(all_replaced)
        assert list(fewest.values()) == [each // 2] * 2
        await send(slow, 200, seconds=0.01)

        async def all_done() -> bool:
            return await naps(slow) == 400

        await until(all_done)
        ended = await slow.fetch("select ended_why from hosts where ended_at is not null")
        assert {row[0] for row in ended} == {"drained"}
        await until(nobody_has_the_lease(slow))
        for deployment in both:
            await deployment.forsake()
        for host in cluster.started:
            await host.kill()


@pytest.mark.parametrize("hosts", [3])
@pytest.mark.parametrize("wanted", [1, 2])
async def test_a_domain_that_loses_its_only_host_gets_one_while_another_replaces_its_own(
    slow: Deployment, cluster: FullCluster, wanted: int, services: Endpoints, database: str
) -> None:
    """The other one's new hosts have taken the room that was free by that death, and are long in coming."""
    async with Deployment.open(PATIENCE, database, services.nats_url) as other:
        other.launcher = cluster
        await slow.coordinate(hosts=1, queue=cluster.queue("slow"))
        await other.coordinate(hosts=2, queue=cluster.queue("patience"))

        async def serve(deployment: Deployment, counts: range, code: str) -> bool:
            rows = [host for host in await hosts_of(deployment) if host.ready and host.owned]
            return len(rows) in counts and all(host.code == code for host in rows)

        one, two, any_number = range(1, 2), range(2, 3), range(1, 3)
        await until(lambda: serve(slow, one, ""))
        await until(lambda: serve(other, two, ""))
        cluster.begins["patience"].clear()
        code = await new_code(other, PATIENCE)
        await until(lambda: is_so(slow, "name = 'patience' and leased_at is not null"))
        await until(lambda: serve(other, one, ""))  # one has made room
        await slow.pool.execute(query("set_host_target"), "slow", wanted)
        if wanted == 2:
            await until(lambda: is_so(slow, "name = 'slow' and lack ->> 'behind' = 'patience'"))
        [lost] = await hosts_of(slow)
        await cluster.hosts[lost.host].kill()

        async def again() -> bool:
            is_gone = lost.epoch not in {host.epoch for host in await hosts_of(slow)}
            return is_gone and await serve(slow, any_number, "")

        await until(again)
        cluster.begins["patience"].set()
        await until(lambda: serve(other, two if wanted == 1 else any_number, code))
        await slow.pool.execute(query("set_host_target"), "slow", 1)
        await until(nobody_has_the_lease(slow))
        for deployment in (slow, other):
            await deployment.forsake()
        for host in cluster.started:
            await host.kill()


async def is_so(deployment: Deployment, of_a_coordinator: str) -> bool:
    return bool(await deployment.fetch(f"select from coordinators where {of_a_coordinator}"))


def nobody_has_the_lease(slow: Deployment) -> Callable[[], Awaitable[bool]]:
    async def given_back() -> bool:
        return not await slow.fetch(
            "select from coordinators where leased_at is not null or lack is not null"
        )

    return given_back


async def hosts_of(deployment: Deployment) -> list[HostRow]:
    return await live_hosts(deployment.pool, deployment.domain.name)


@pytest.mark.parametrize("hosts", [1])
async def test_a_domain_with_room_for_some_of_its_hosts_is_ready_with_these_and_says_what_the_others_lack(
    slow: Deployment, cluster: FullCluster, cli: Cli, services: Endpoints, told_where: None
) -> None:
    await slow.coordinate(hosts=2, queue=cluster.queue("slow"))
    said: list[str] = []
    await Cluster(load_settings(), services, slow.pool, slow.transport).ready("slow", progress=said.append)
    lacks = "slow: 1 host waits for room in Ray: each asks for 1 CPU, and none is free"
    assert said == ["waiting for the hosts of slow", lacks]
    await until(lambda: has_beaten(slow))
    assert lacks in await cli("status")
    [coordinator] = (await cli.json("status"))["coordinators"]
    assert coordinator["lack"]["hosts"] == 1
    found = {f["check"]: f for f in (await cli.json("doctor"))["findings"]}
    assert (found["partitions"]["status"], found["room"]["status"]) == ("good", "warn")
    cluster.room.release()  # a node is added
    await until(nobody_has_the_lease(slow))
    assert "room" not in {f["check"] for f in (await cli.json("doctor"))["findings"]}


@pytest.mark.parametrize("hosts", [0])
async def test_a_domain_without_room_for_any_host_is_a_failure_with_the_right_mend(
    slow: Deployment,
    cluster: FullCluster,
    cli: Cli,
    services: Endpoints,
    told_where: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await slow.coordinate(hosts=2, queue=cluster.queue("slow"))
    with pytest.raises(ServiceUnavailable, match="for 2 s: 2 hosts wait for room") as late:
        await Cluster(load_settings(), services, slow.pool, slow.transport).ready("slow", timeout_s=2.0)
    assert "`hosts.cpus`" in (late.value.fix or "")
    found = {f["check"]: f for f in (await cli.json("doctor", code=1))["findings"]}
    assert (found["partitions"]["status"], found["room"]["status"]) == ("fail", "fail")
    assert found["partitions"]["mend"] == "Make room for their hosts: see below."
    assert "`hosts.cpus` in the domain.yaml of slow" in found["room"]["mend"]
    monkeypatch.setattr(RayHead, "running", lambda self: None)  # nobody waits for room in it any more
    assert "room" not in {f["check"] for f in (await cli.json("doctor"))["findings"]}


@pytest.mark.parametrize("hosts", [0])
async def test_hosts_that_wait_in_vain_are_asked_for_anew_with_new_code(
    slow: Deployment, cluster: FullCluster
) -> None:
    """They ask for as much as the older `domain.yaml` said."""
    await slow.coordinate(hosts=2, queue=cluster.queue("slow"))

    async def wait(started: int) -> bool:
        return len(cluster.started) == started and cluster.waiting["slow"] == 2

    await until(lambda: wait(2))
    await new_code(slow, SLOW)
    await until(lambda: wait(4))


@pytest.fixture
def told_where(monkeypatch: pytest.MonkeyPatch, database: str, services: Endpoints) -> None:
    """The commands take the deployment for external services, beside a Ray that runs."""
    monkeypatch.setenv("CALLBOARD_POSTGRES_URL", database)
    monkeypatch.setenv("CALLBOARD_NATS_URL", services.nats_url)
    monkeypatch.setattr(RayHead, "running", lambda self: os.getpid())

    async def no_gateway(settings: Settings) -> list[Finding]:
        return []

    monkeypatch.setattr(callboard.doctor, "examine_gateway", no_gateway)
    monkeypatch.setattr(callboard.doctor, "examine_machine", lambda *_: [])


async def has_beaten(slow: Deployment) -> bool:
    return bool(await slow.fetch("select from hosts natural join heartbeats where ready_at is not null"))
