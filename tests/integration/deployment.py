"""A deployment in this event loop: real Postgres and NATS, real hosts and a real coordinator, no Ray."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import asyncpg
import pytest
from nats.errors import Error as NatsError

from actors.domain import Domain, load_domain, read_domain
from actors.host import Host
from actors.incarnation import HostSettings, run_incarnation
from bus.errors import InvalidDomainFile
from bus.nats import NatsTransport
from bus.subjects import EVENTS_STREAM, events
from coordinators.domain import DomainCoordinator
from coordinators.equipment import SYSTEM_KINDS, equip_coordinator, equip_host
from coordinators.room import Queue, nobody_waits
from coordinators.tasks.client import TaskClient
from storage.connect import create_pool
from storage.domains import DomainRow, find_domain, register_domain
from storage.migrate import migrate
from storage.placement import claim_coordinator
from storage.queries import query


class LoopHost:
    """A host as a task of this loop. Implements coordinators.launcher.HostProcess."""

    def __init__(self, settings: HostSettings) -> None:
        self.host: Host | None = None
        self._task = asyncio.create_task(
            run_incarnation(settings, system_kinds=SYSTEM_KINDS, equip=equip_host, on_start=self._started)
        )

    def _started(self, host: Host) -> None:
        self.host = host

    async def ended(self) -> str | None:
        await asyncio.wait([self._task])
        error = None if self._task.cancelled() else self._task.exception()
        return str(error) if isinstance(error, InvalidDomainFile) else None

    async def kill(self) -> None:
        """Stop at once: nothing that has not committed will be."""
        await cancelled(self._task)


class LoopLauncher:
    """Implements coordinators.launcher.Launcher."""

    def __init__(self, postgres_url: str, nats_url: str) -> None:
        self._urls = postgres_url, nats_url
        self.hosts: dict[str, LoopHost] = {}

    async def start(self, domain: str, host: str) -> LoopHost:
        postgres_url, nats_url = self._urls
        self.hosts[host] = LoopHost(
            HostSettings(domain=domain, host=host, postgres_url=postgres_url, nats_url=nats_url)
        )
        return self.hosts[host]

    async def attach(self, domain: str, host: str, pid: int) -> LoopHost | None:
        return self.hosts.get(host)


class Deployment:
    """One domain; `coordinate` and `forsake` bring its coordinator and take it away."""

    def __init__(
        self,
        pool: asyncpg.Pool[Any],
        transport: NatsTransport,
        launcher: LoopLauncher,
        row: DomainRow,
        domain: Domain,
    ) -> None:
        self.pool = pool
        self.transport = transport
        self.launcher = launcher
        self.row = row
        self.domain = domain
        self.client = TaskClient(pool, transport)
        self._coordinator: asyncio.Task[None] | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, folder: Path, postgres_url: str, nats_url: str, *, code: str = "", **tasks: Any
    ) -> AsyncIterator[Self]:
        """The domain in `folder`, with settings of its `tasks` replaced, without coordinator and hosts."""
        await migrate(postgres_url)
        pool = await create_pool(postgres_url, application="callboard-test")
        transport = await NatsTransport.connect(nats_url, name="callboard test")
        spec = read_domain(folder)
        spec = spec.model_copy(update={"tasks": spec.tasks.model_copy(update=tasks)})
        domain = load_domain(spec, folder, system_kinds=SYSTEM_KINDS)
        await register_domain(
            pool,
            DomainRow(
                domain=domain.name,
                partitions=spec.partitions,
                spec=domain.registered().to_json(),
                kinds=sorted(domain.kinds),
                home=str(folder),
                code=code,
            ),
        )
        launcher = LoopLauncher(postgres_url, nats_url)
        self = cls(pool, transport, launcher, await find_domain(pool, domain.name), domain)
        try:
            yield self
        finally:
            await self.forsake()
            for host in self.launcher.hosts.values():
                await host.kill()
            # The stream is shared by the whole run; a domain of this name in the next test's database would read it
            # from its beginning.
            with contextlib.suppress(NatsError, TimeoutError):
                await transport.client.jetstream().purge_stream(EVENTS_STREAM, subject=events(domain.name))
            await transport.close()
            # A connection that is just being given back would fail where nobody looks, were it only terminated.
            try:
                async with asyncio.timeout(5):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    async def coordinate(self, *, hosts: int = 1, queue: Queue = nobody_waits) -> None:
        """A coordinator appears, and wants so many hosts."""
        await self.pool.execute(query("set_host_target"), self.domain.name, hosts)
        epoch = await claim_coordinator(self.pool, self.domain.name, "test")
        coordinator = DomainCoordinator(
            self.pool, self.transport, self.launcher, self.domain.name, epoch, queue
        )
        await equip_coordinator(coordinator, self.pool, self.transport, self.row, epoch)
        self._coordinator = asyncio.create_task(coordinator.run())

    async def forsake(self) -> None:
        """The coordinator dies."""
        if self._coordinator is not None:
            await cancelled(self._coordinator)
            self._coordinator = None

    async def submit(self, input: Any = None, **options: Any) -> str:
        return await self.client.submit(self.domain.name, goal="a test", input=input, **options)

    async def kill_hosts(self) -> None:
        """Stop the hosts that run now, abruptly."""
        for name, host in list(self.launcher.hosts.items()):
            await host.kill()
            del self.launcher.hosts[name]

    async def fetch(self, sql: str, *arguments: Any) -> list[Any]:
        return [tuple(row) for row in await self.pool.fetch(sql, *arguments)]


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end; a task that goes on all the same fails the test, with its place.

    Twice: `asyncio.wait_for` of Python 3.11, through which the drivers connect, swallows a cancellation that comes as what
    it waits for is done.
    """
    for _ in range(2):
        task.cancel()
        await asyncio.wait([task], timeout=10)
        if task.done():
            return
    pytest.fail(f"a cancelled task goes on at {place_of(task)}")


def place_of(task: asyncio.Task[Any]) -> str:
    """The innermost lines that a task waits in."""
    lines: list[str] = []
    waiting: Any = task.get_coro()
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "ag_frame", None)
        if frame is not None:
            lines.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}")
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "ag_await", None)
    return " < ".join(reversed(lines))
