"""A running Callboard: the services, Ray, the coordinators. Commands join one, or start one for themselves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar
from urllib.parse import urlsplit

from actors.model_gateway import GatewayAddress
from bus.errors import CallboardError, ServiceUnavailable, StorageError
from bus.events import EventStream
from callboard.cluster import Cluster, Progress, connected, leave_cleanly, quiet
from callboard.gateway import LocalGateway
from callboard.ray_cluster import check_ray, end_coordinators, end_in_ray, join_ray, start_in_ray
from callboard.ray_head import RayHead
from callboard.ray_process import RayProcess
from callboard.services import (
    Endpoints,
    Home,
    Services,
    Users,
    ensure_services,
    external_endpoints,
    find_instance,
    keep_services,
    running_endpoints,
    stop_instance,
)
from callboard.settings import Settings
from storage.domains import put_others_to_sleep, wake_all_domains
from storage.migrate import migrate, pending

T = TypeVar("T")


def ray_head(settings: Settings) -> RayHead:
    return RayHead(folder=settings.home / "ray")


@contextlib.asynccontextmanager
async def joined_cluster(settings: Settings) -> AsyncIterator[Cluster]:
    """The services of a running instance, for commands that only look or send; starts nothing.

    Raises ServiceUnavailable when none runs.
    """
    endpoints = running_endpoints(settings)
    if endpoints is None:
        raise ServiceUnavailable("No Callboard runs here.", fix="Start one with `callboard up --detach`.")
    async with connected(settings, endpoints) as cluster:
        yield cluster


@contextlib.asynccontextmanager
async def running_cluster(
    settings: Settings,
    *,
    only: str | None = None,
    detach: bool = False,
    gateway: LocalGateway | None = None,
    progress: Progress = quiet,
) -> AsyncIterator[Cluster]:
    """A running deployment: joined where there is one, else started here.

    What was started is stopped by the last of those who use it at once, unless one of them has said `detach`. One that
    is started for `only` one domain gives hosts to the others as soon as something is sent to them. The `gateway` is
    begun to be served, and awaited by whoever needs it.
    Raises ServiceUnavailable, ServiceUnsafe, DataFolderError.
    """
    head = ray_head(settings)
    async with _using(settings, progress) as users, contextlib.AsyncExitStack() as stack:
        ray = await stack.enter_async_context(await _ray_process(settings, head))
        if gateway is not None and head.running() is None:
            await stack.enter_async_context(_meanwhile(ray.call("prepare_to_serve")))  # while the head starts
        async with users.alone(progress):
            cluster = await _start(settings, users, ray, head, stack, only, gateway, progress)
        if cluster.gateway is None:
            await ray.leave()  # a command needs no more of Ray
        else:
            await stack.enter_async_context(_meanwhile(_leave_after(cluster.gateway, ray)))
        await cluster.events.ensure(
            max_bytes=settings.events_bytes,
            max_per_name=settings.events_per_name,
            kept_s=settings.events_kept_s,
        )
        yield cluster
        if detach:
            users.keep()


@contextlib.asynccontextmanager
async def running_services(settings: Settings) -> AsyncIterator[Endpoints]:
    """Postgres and NATS alone: joined, or started and stopped as a deployment is. Raises as `running_cluster`."""
    async with _using(settings, quiet) as users:
        async with users.alone(quiet):
            users.join()
            if not _runs_here(settings):
                users.begin()
            services = await ensure_services(settings)
        yield services.endpoints


async def stop_cluster(
    settings: Settings, *, progress: Progress = quiet, waits_for_calls: bool = True
) -> bool:
    """Stop Callboard, hosts first, so that nothing is left suspect; False when it did not run.

    Ray and the services are stopped where Callboard started them; what it was given goes on. Whoever uses it is not
    asked. Unless it `waits_for_calls`, those of at-most-once tools that are being made are unknown afterwards.
    """
    home = Home(settings.home)
    if not home.exists():
        return await _stop(settings, progress, waits_for_calls=waits_for_calls)
    users = Users(home)
    async with users.alone(progress):
        stopped = await _stop(settings, progress, waits_for_calls=waits_for_calls)
        users.keep()
    return stopped


@contextlib.asynccontextmanager
async def _meanwhile(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """The work as a task that ends with the block, whether or not anybody has waited for it."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _leave_after(gateway: asyncio.Task[GatewayAddress], ray: RayProcess) -> None:
    await asyncio.wait([gateway])
    await ray.leave()


@contextlib.asynccontextmanager
async def _using(settings: Settings, progress: Progress) -> AsyncIterator[Users]:
    """The users of an instance, one of which the block may become."""
    users = Users(Home(settings.home))
    try:
        yield users
    except BaseException as first:
        try:
            await _leave(settings, users, progress)
        except CallboardError as error:  # not in the place of what went wrong before, nor a second time
            if str(error) != str(first):
                progress(f"Warning: {error}")
        raise
    await _leave(settings, users, progress)


async def _leave(settings: Settings, users: Users, progress: Progress) -> None:
    if not (users.joined and users.temporary):
        users.leave()
        return
    async with users.alone(progress):
        last = users.leave()
        if last and users.temporary:
            await _stop(settings, progress)
            users.keep()
        elif users.temporary:
            progress(
                "Another command uses this Callboard: the last one stops it, or `callboard down` at once."
            )


async def _start(
    settings: Settings,
    users: Users,
    ray: RayProcess,
    head: RayHead,
    stack: contextlib.AsyncExitStack,
    only: str | None,
    gateway: LocalGateway | None,
    progress: Progress,
) -> Cluster:
    users.join()
    if settings.ray_address is not None:
        progress(f"joining Ray at {settings.ray_address}")
    else:
        runs = head.running() is not None
        progress("joining the running Callboard" if runs else "starting Postgres, NATS and Ray")
    given = settings.ray_address is not None and external_endpoints(settings) is not None
    if not given and not _runs_here(settings):
        users.begin()
    starting_ray = asyncio.create_task(_ray_address(settings, head))
    try:
        services = await ensure_services(settings)
        _say_if_moved(services, progress)
        await keep_services(settings)
        await _migrate(services.endpoints.postgres_url, progress)
        address = await starting_ray
    finally:
        if not starting_ray.done():
            starting_ray.cancel()
        await asyncio.gather(starting_ray, return_exceptions=True)
    cluster = await stack.enter_async_context(connected(settings, services.endpoints))

    async def prepare() -> None:
        progress("starting the coordinators")
        if given:  # nothing but these is ours to stop
            users.begin()
        if only is not None:
            await put_others_to_sleep(cluster.postgres, only, last_event=await _last_event(cluster.events))

    if only is None:
        await wake_all_domains(cluster.postgres)
    watched = head.while_running if settings.ray_address is None else _given
    namespace = await watched(join_ray(ray, cluster.postgres, address))
    if gateway is not None:  # its processes take as long to start as the coordinators and hosts: beside them
        serving = gateway.serve(ray, services.endpoints.postgres_url, progress)
        cluster.gateway = await stack.enter_async_context(_meanwhile(serving))
    starting = start_in_ray(ray, settings, services.endpoints, cluster.postgres, namespace, prepare)
    started = await watched(starting)
    cluster.joined = not (started or head.started_here or services.started_here)
    cluster.kept = not users.temporary
    return cluster


def _say_if_moved(services: Services, progress: Progress) -> None:
    if services.nats_was_at is not None:
        now = urlsplit(services.endpoints.nats_url).port
        progress(
            f"port {services.nats_was_at} of NATS is taken; from now on it is at {now}, and publishers need the new NATS_URL: "
            "`callboard events --url`"
        )


async def _given(work: Coroutine[Any, Any, T]) -> T:
    """In a Ray of somebody else's, whose end is not ours to see."""
    return await work


async def _last_event(events: EventStream) -> int:
    try:
        return (await events.state()).last_seq if await events.exists() else 0
    except ServiceUnavailable:  # a NATS without JetStream: it takes no events
        return 0


async def _stop(settings: Settings, progress: Progress, *, waits_for_calls: bool = True) -> bool:
    head = ray_head(settings)
    endpoints = running_endpoints(settings)
    found = settings.ray_address is None and head.running() is not None
    try:
        if endpoints is not None and settings.ray_address is not None:
            progress(f"stopping the coordinators and hosts in Ray at {settings.ray_address}")
            async with connected(settings, endpoints) as cluster:
                found = await end_in_ray(
                    cluster.postgres,
                    settings.ray_address,
                    lambda: leave_cleanly(
                        cluster, progress, waits_for_calls=waits_for_calls, end_coordinators=_nothing
                    ),
                )
        elif endpoints is not None and found:
            progress("stopping the hosts")
            # A database that is away or unfinished has nothing to be drained, and keeps nothing from being stopped.
            with contextlib.suppress(ServiceUnavailable, StorageError):
                async with connected(settings, endpoints) as cluster:
                    await leave_cleanly(
                        cluster, progress, waits_for_calls=waits_for_calls,
                        end_coordinators=lambda: _end_coordinators(settings, head, cluster),
                    )  # fmt: skip
        if settings.ray_address is None:
            if _runs_here(settings) or head.unrecorded() is not None:
                progress("stopping Ray, NATS and Postgres")
            found = await head.stop() or found  # also one that has no record
    except Exception:  # but who is interrupted leaves the services to hosts that are not done
        await stop_instance(settings)
        raise
    return await stop_instance(settings) or found


async def _nothing() -> None:
    """They were ended before."""


async def _end_coordinators(settings: Settings, head: RayHead, cluster: Cluster) -> None:
    address = head.address()
    if address is not None:
        async with await _ray_process(settings, head) as ray:
            await end_coordinators(ray, cluster.postgres, address)


def _runs_here(settings: Settings) -> bool:
    """Whether anything runs that a command of this home has started."""
    own_ray = settings.ray_address is None and ray_head(settings).running() is not None
    return own_ray or find_instance(settings) is not None


async def _ray_address(settings: Settings, head: RayHead) -> str:
    if settings.ray_address is None:
        return await head.start()
    await check_ray(settings.ray_address)
    return settings.ray_address


async def _ray_process(settings: Settings, head: RayHead) -> RayProcess:
    if settings.ray_address is None:
        Home(
            settings.home
        ).create()  # with the mode that it is to have, before the token's folder is made in it
        head.authenticate()  # it inherits the token
    return await RayProcess.start()


async def _migrate(url: str, progress: Progress) -> None:
    if await pending(url):
        progress("applying migrations")
    await migrate(url)
