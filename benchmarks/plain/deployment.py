"""One domain on hosts that are plain processes, coordinated from this one."""

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process, create_subprocess_exec
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from actors.domain import load_domain, read_domain
from bus.nats import NatsTransport
from callboard.cluster import Cluster
from callboard.services import Endpoints
from callboard.settings import Settings
from coordinators.domain import DomainCoordinator
from coordinators.equipment import SYSTEM_KINDS, equip_coordinator
from storage.connect import create_pool
from storage.domains import DomainRow, find_domain, register_domain
from storage.migrate import migrate
from storage.placement import claim_coordinator
from storage.queries import query


class PlainHost:
    """Implements coordinators.launcher.HostProcess."""

    def __init__(self, process: Process) -> None:
        self.process = process

    async def ended(self) -> None:
        await self.process.wait()

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


class PlainLauncher:
    """Implements coordinators.launcher.Launcher."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self.hosts: dict[str, PlainHost] = {}

    async def start(self, domain: str, host: str) -> PlainHost:
        process = await create_subprocess_exec(
            sys.executable, "-m", "benchmarks.plain.host", domain, host, stdin=PIPE, stdout=DEVNULL
        )
        assert process.stdin is not None
        urls = {"postgres_url": self._endpoints.postgres_url, "nats_url": self._endpoints.nats_url}
        process.stdin.write(json.dumps(urls).encode() + b"\n")
        self.hosts[host] = PlainHost(process)
        return self.hosts[host]

    async def attach(self, domain: str, host: str, pid: int) -> PlainHost | None:
        return self.hosts.get(host)


class PlainDeployment:
    """What `deployed` yields."""

    def __init__(
        self, cluster: Cluster, launcher: PlainLauncher, domain: str, coordinator: "asyncio.Task[None]"
    ) -> None:
        self.cluster = cluster
        self.domain = domain
        self._launcher = launcher
        self._coordinator = coordinator

    def host_mib(self) -> list[int]:
        """The memory of each host now."""
        pids = [host.process.pid for host in self._launcher.hosts.values() if host.process.returncode is None]
        return [psutil.Process(pid).memory_info().rss // 2**20 for pid in pids]

    async def kill(self) -> None:
        """The coordinator ends first, lest it starts others; then every host with SIGKILL."""
        self._coordinator.cancel()
        await asyncio.gather(self._coordinator, return_exceptions=True)
        for host in self._launcher.hosts.values():
            await host.kill()


@asynccontextmanager
async def deployed(folder: Path, settings: Settings, endpoints: Endpoints) -> AsyncIterator[PlainDeployment]:
    """The domain in `folder` with as many hosts as it wants, ready; all is killed at the end."""
    await migrate(endpoints.postgres_url)
    pool: asyncpg.Pool[Any] = await create_pool(endpoints.postgres_url, application="callboard-bench")
    transport = await NatsTransport.connect(endpoints.nats_url, name="callboard bench")
    try:
        spec = read_domain(folder)
        domain = load_domain(spec, folder, system_kinds=SYSTEM_KINDS)
        await register_domain(
            pool,
            DomainRow(
                domain=domain.name,
                partitions=spec.partitions,
                spec=domain.registered().to_json(),
                kinds=sorted(domain.kinds),
                home=str(folder),
                code="",
            ),
        )
        await pool.execute(query("set_host_target"), domain.name, spec.hosts.min)
        epoch = await claim_coordinator(pool, domain.name, "bench")
        launcher = PlainLauncher(endpoints)
        coordinator = DomainCoordinator(pool, transport, launcher, domain.name, epoch)
        row = await find_domain(pool, domain.name)
        await equip_coordinator(coordinator, pool, transport, row, epoch)
        cluster = Cluster(settings, endpoints, pool, transport)
        deployment = PlainDeployment(cluster, launcher, domain.name, asyncio.create_task(coordinator.run()))
        try:
            await cluster.ready(domain.name)
            yield deployment
        finally:
            await deployment.kill()
    finally:
        await transport.close()
        pool.terminate()
