"""A running Callboard: the services, Ray, the coordinators. Commands join one, or start one for themselves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg

from actors.domain import Domain, load_domain, read_domain
from bus.errors import ServiceUnavailable, UnknownDomain
from bus.events import EventStream
from bus.nats import NatsTransport
from callboard.ray_head import RayHead
from callboard.services import Endpoints, Services, ensure_services, find_instance, stop_instance
from callboard.settings import Settings
from storage.boundary import translated
from storage.code import fetch_code, pack, put_code
from storage.connect import create_pool
from storage.domains import DomainRow, register_domain
from storage.migrate import migrate
from storage.placement import live_hosts
from storage.queries import query

_logger = logging.getLogger("callboard.runtime")

READY_TIMEOUT_S = 60.0
RAY_ANSWERS_WITHIN_S = 5.0
Progress = Callable[[str], None]


class Cluster:
    """A deployment that runs, seen from a command."""

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

    async def ready(self, domain: str, *, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until every partition of a domain has an owner that is ready and runs the domain's newest code.

        Raises UnknownDomain, or ServiceUnavailable when it takes too long.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with translated():
                row = await self.postgres.fetchrow(query("partition_count"), domain)
            if row is None:
                raise UnknownDomain(f"There is no domain {domain!r}.")
            hosts = [h for h in await live_hosts(self.postgres, domain) if h.ready and h.code == row["code"]]
            if len(hosts) >= row["hosts"] > 0 and sum(len(h.owned) for h in hosts) == row["partitions"]:
                return
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
    if settings.postgres_url is not None and settings.nats_url is not None:
        endpoints = Endpoints(
            postgres_url=settings.postgres_url.get_secret_value(),
            nats_url=settings.nats_url.get_secret_value(),
            embedded_postgres=False,
            embedded_nats=False,
        )
    else:
        instance = find_instance(settings)
        if instance is None:
            raise ServiceUnavailable("No Callboard runs here.", fix="Start one with `callboard up --detach`.")
        endpoints = instance.endpoints
    async with _connected(settings, endpoints) as cluster:
        yield cluster


@contextlib.asynccontextmanager
async def running_cluster(
    settings: Settings, *, detach: bool = False, progress: Progress = lambda line: None
) -> AsyncIterator[Cluster]:
    """A running deployment: joined where there is one, else started here and stopped at the end.

    With `detach` what is started stays. Raises ServiceUnavailable, ServiceUnsafe, DataFolderError.
    """
    head = ray_head(settings)
    started_ray = settings.ray_address is None and head.running() is None
    progress("starting Postgres, NATS and Ray" if started_ray else "joining the running Callboard")
    services: Services | None = None
    try:
        starting_ray = asyncio.create_task(_ray_address(settings, head))
        loading = asyncio.create_task(asyncio.to_thread(_load_ray, settings, head))
        try:
            services = await ensure_services(settings)
            progress("applying migrations")
            await migrate(services.endpoints.postgres_url)
            address = await starting_ray
            await loading
        finally:
            if not starting_ray.done():
                starting_ray.cancel()
                await asyncio.gather(starting_ray, return_exceptions=True)
        progress("starting the coordinators")
        await asyncio.to_thread(_start_master, settings, services.endpoints, address)
        _take_sigterm_back()
        async with _connected(settings, services.endpoints) as cluster:
            await cluster.events.ensure()
            try:
                yield cluster
            finally:
                if not detach and started_ray:
                    progress("stopping")
                    await _leave_cleanly(cluster)
    except BaseException:
        detach = False
        raise
    finally:
        if not detach:
            if started_ray:
                await head.stop()
            if services is not None:
                await services.stop()


async def stop_cluster(settings: Settings, *, progress: Progress = lambda line: None) -> bool:
    """Stop what `callboard up` started: hosts first, so that nothing is left suspect; False when none ran."""
    head = ray_head(settings)
    found = head.running() is not None
    instance = find_instance(settings)
    if instance is not None and found:
        progress("stopping the hosts")
        with contextlib.suppress(ServiceUnavailable):
            async with joined_cluster(settings) as cluster:
                await _leave_cleanly(cluster)
    progress("stopping Ray, NATS and Postgres")
    await head.stop()
    return await stop_instance(settings) or found


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
    await _check_ray(settings.ray_address)
    return settings.ray_address


async def _check_ray(address: str) -> None:
    """Raises ServiceUnavailable when nothing listens there: Ray itself would try for a minute."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # a name, such as "auto", that Ray looks up itself
    try:
        async with asyncio.timeout(RAY_ANSWERS_WITHIN_S):
            _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
    except (OSError, OverflowError) as error:
        raise ServiceUnavailable(
            f"Ray at {address} does not answer: {str(error) or type(error).__name__}.",
            fix="Check RAY_ADDRESS, or unset it to have Ray started here.",
        ) from None


def _load_ray(settings: Settings, head: RayHead) -> None:
    """Importing Ray takes seconds, which pass while its head starts; its token must be known before."""
    if settings.ray_address is None:
        head.authenticate()
    import coordinators.ray_actors  # noqa: F401


def _start_master(settings: Settings, endpoints: Endpoints, address: str) -> None:
    import ray

    from coordinators.ray_actors import NAMESPACE, ClusterSettings, start_master

    logging.getLogger("ray").setLevel(logging.ERROR)  # it warns of being started from a thread
    if not ray.is_initialized():
        ray.init(
            address=address,
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    try:
        start_master(
            ClusterSettings(
                postgres_url=endpoints.postgres_url, nats_url=endpoints.nats_url, log_level=settings.log_level
            )
        )
    finally:
        ray.shutdown()  # a command needs no more of Ray; what it started goes on


def _take_sigterm_back() -> None:
    """Ray puts its own handler of SIGTERM, which ends the process at once, below Python's: set Python's again."""
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


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
