"""A running Callboard: the services, Ray, the coordinators. Commands join one, or start one for themselves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg

from actors.domain import Domain, load_domain, read_domain
from bus.errors import ServiceUnavailable, UnknownDomain
from bus.events import EventStream
from bus.nats import NatsTransport
from callboard.ray_cluster import check_ray, end_in_ray, start_in_ray
from callboard.ray_head import RayHead
from callboard.ray_process import RayProcess
from callboard.services import Endpoints, Services, ensure_services, find_instance, stop_instance
from callboard.settings import Settings
from storage.boundary import translated
from storage.code import fetch_code, pack, put_code
from storage.connect import create_pool
from storage.domains import DomainRow, put_others_to_sleep, register_domain, wake_all_domains
from storage.migrate import migrate, pending
from storage.placement import live_hosts
from storage.queries import query

_logger = logging.getLogger("callboard.runtime")

READY_TIMEOUT_S = 60.0
Progress = Callable[[str], None]


class Cluster:
    """A deployment that runs, seen from a command. `joined`: it ran before this command."""

    joined = True

    def __init__(
        self, settings: Settings, endpoints: Endpoints, postgres: asyncpg.Pool[Any], transport: NatsTransport
    ) -> None:
        self.settings = settings
        self.endpoints = endpoints
        self.postgres = postgres
        self.transport = transport
        self.events = EventStream(transport)

    async def add_domain(self, folder: Path) -> Domain:
        """Register a domain with its code, or bring a registered one up to date; its hosts follow.

        Raises InvalidDomainFile.
        """
        from coordinators.equipment import SYSTEM_KINDS

        folder = await asyncio.to_thread(folder.resolve)
        spec = read_domain(folder)
        digest, bundle = await asyncio.to_thread(pack, folder)
        await put_code(self.postgres, spec.domain, digest, bundle)
        code = await fetch_code(self.postgres, spec.domain, digest)
        domain = load_domain(spec, code, system_kinds=SYSTEM_KINDS)
        await register_domain(
            self.postgres,
            DomainRow(
                spec.domain,
                spec.partitions,
                domain.registered().to_json(),
                sorted(domain.kinds),
                str(folder.resolve()),
                digest,
            ),
        )
        return domain

    async def ready(
        self, domain: str, *, timeout_s: float = READY_TIMEOUT_S, progress: Progress = lambda line: None
    ) -> None:
        """Wait until every partition of a domain has an owner that is ready and runs the domain's newest code.

        Raises UnknownDomain, or ServiceUnavailable when it takes too long.
        """
        said, deadline = False, time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with translated():
                row = await self.postgres.fetchrow(query("partition_count"), domain)
            if row is None:
                raise UnknownDomain(f"There is no domain {domain!r}.")
            hosts = [h for h in await live_hosts(self.postgres, domain) if h.ready and h.code == row["code"]]
            if len(hosts) >= row["hosts"] > 0 and sum(len(h.owned) for h in hosts) == row["partitions"]:
                return
            if not said:
                progress(f"waiting for the hosts of {domain}")
                said = True
            await asyncio.sleep(0.05)
        raise ServiceUnavailable(
            f"The hosts of {domain} were not ready within {timeout_s:.0f} s.",
            fix="Look at `callboard status`, and at the hosts' logs in the Ray dashboard.",
        )


def ray_head(settings: Settings) -> RayHead:
    return RayHead(folder=settings.home / "ray")


@contextlib.asynccontextmanager
async def joined_cluster(settings: Settings) -> AsyncIterator[Cluster]:
    """The services of a running instance, for commands that only look or send; starts nothing.

    Raises ServiceUnavailable when none runs.
    """
    endpoints = _endpoints(settings)
    if endpoints is None:
        raise ServiceUnavailable("No Callboard runs here.", fix="Start one with `callboard up --detach`.")
    async with _connected(settings, endpoints) as cluster:
        yield cluster


@contextlib.asynccontextmanager
async def running_cluster(
    settings: Settings,
    *,
    only: str | None = None,
    detach: bool = False,
    progress: Progress = lambda line: None,
) -> AsyncIterator[Cluster]:
    """A running deployment: joined where there is one, else started here and stopped at the end.

    One that is started for `only` one domain gives hosts to the others as soon as something is sent to them. With
    `detach` what is started stays. Raises ServiceUnavailable, ServiceUnsafe, DataFolderError.
    """
    head = ray_head(settings)
    if settings.ray_address is not None:
        progress(f"joining Ray at {settings.ray_address}")
    else:
        runs = head.running() is not None
        progress("joining the running Callboard" if runs else "starting Postgres, NATS and Ray")
    services: Services | None = None
    try:
        async with contextlib.AsyncExitStack() as stack:
            starting_ray = asyncio.create_task(_ray_address(settings, head))
            try:
                ray = await stack.enter_async_context(await _ray_process(settings, head))
                services = await ensure_services(settings)
                await _migrate(services.endpoints.postgres_url, progress)
                address = await starting_ray
            finally:
                if not starting_ray.done():
                    starting_ray.cancel()
                await asyncio.gather(starting_ray, return_exceptions=True)
            cluster = await stack.enter_async_context(_connected(settings, services.endpoints))

            async def prepare() -> None:
                progress("starting the coordinators")
                if only is not None:
                    await put_others_to_sleep(cluster.postgres, only)

            if only is None:
                await wake_all_domains(cluster.postgres)
            started = await start_in_ray(
                ray, settings, services.endpoints, cluster.postgres, address, prepare
            )
            await ray.leave()  # a command needs no more of Ray
            started_it = started if settings.ray_address is not None else head.started_here
            # Whoever will stop the services drains what uses them before, whoever started that.
            cluster.joined = not (started_it or services.started_here)
            try:
                await cluster.events.ensure()
                yield cluster
            except BaseException:
                detach = False
                raise
            finally:
                if not detach and not cluster.joined:
                    progress("stopping")
                    if head.started_here:  # it is stopped next, with all that is left in it
                        await _leave_cleanly(cluster)
                    else:
                        await end_in_ray(cluster.postgres, address, lambda: _leave_cleanly(cluster))
    except BaseException:
        detach = False
        raise
    finally:
        if not detach:
            try:
                if head.started_here:
                    await head.stop()
            finally:
                if services is not None:
                    await services.stop()


async def stop_cluster(settings: Settings, *, progress: Progress = lambda line: None) -> bool:
    """Stop Callboard, hosts first, so that nothing is left suspect; False when it did not run.

    Ray and the services are stopped where Callboard started them; what it was given goes on.
    """
    head = ray_head(settings)
    endpoints = _endpoints(settings)
    found = settings.ray_address is None and head.running() is not None
    if endpoints is not None and settings.ray_address is not None:
        progress(f"stopping the coordinators and hosts in Ray at {settings.ray_address}")
        async with _connected(settings, endpoints) as cluster:
            found = await end_in_ray(cluster.postgres, settings.ray_address, lambda: _leave_cleanly(cluster))
    elif endpoints is not None and found:
        progress("stopping the hosts")
        with contextlib.suppress(ServiceUnavailable):
            async with _connected(settings, endpoints) as cluster:
                await _leave_cleanly(cluster)
    if settings.ray_address is None:
        progress("stopping Ray, NATS and Postgres")
        found = await head.stop() or found  # also one that has no record
    return await stop_instance(settings) or found


def _endpoints(settings: Settings) -> Endpoints | None:
    """Where the services are, if both are external or an instance runs."""
    if settings.postgres_url is not None and settings.nats_url is not None:
        return Endpoints(
            postgres_url=settings.postgres_url.get_secret_value(),
            nats_url=settings.nats_url.get_secret_value(),
            embedded_postgres=False,
            embedded_nats=False,
        )
    instance = find_instance(settings)
    return instance.endpoints if instance is not None else None


@contextlib.asynccontextmanager
async def _connected(settings: Settings, endpoints: Endpoints) -> AsyncIterator[Cluster]:
    pool = await create_pool(endpoints.postgres_url, application="callboard-command")
    try:
        transport = await NatsTransport.connect(endpoints.nats_url, name="callboard command")
        try:
            yield Cluster(settings, endpoints, pool, transport)
        finally:
            await transport.close()
    finally:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(pool.close(), 2.0)
        pool.terminate()


async def _ray_address(settings: Settings, head: RayHead) -> str:
    if settings.ray_address is None:
        return await head.start()
    await check_ray(settings.ray_address)
    return settings.ray_address


async def _ray_process(settings: Settings, head: RayHead) -> RayProcess:
    if settings.ray_address is None:
        head.authenticate()  # it inherits the token
    return await RayProcess.start()


async def _migrate(url: str, progress: Progress) -> None:
    if await pending(url):
        progress("applying migrations")
    await migrate(url)


async def _leave_cleanly(cluster: Cluster) -> None:
    """End every live incarnation after it has committed what it runs: a stop is no crash, nothing is suspect.

    The coordinators are ended first, since they would start other hosts.
    """
    with translated():
        await cluster.postgres.execute(query("end_coordinators"))
        await cluster.postgres.execute(query("want_nothing"))
        deadline = time.monotonic() + 3.0
        while time.monotonic() < deadline:
            if not await cluster.postgres.fetchval(query("anything_owned")):
                break
            await asyncio.sleep(0.05)
        await cluster.postgres.execute(query("end_hosts_without_partitions"))
