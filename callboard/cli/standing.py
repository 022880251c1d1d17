"""What `callboard status` knows: one document, whether anything runs or not."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
from msgspec import structs

from bus.errors import DataFolderError, ServiceUnavailable
from callboard.cli.connection import Opened, opened
from callboard.gateway import LocalGateway
from callboard.ray_head import RayHead
from callboard.services import Keeper, recorded_instance, redacted, running_endpoints
from callboard.untaken import Untaken, untaken_events
from storage import inspect
from storage.decisions import OPEN, Waiting, waiting
from storage.domains import ACTIVE, ASLEEP
from storage.inspect import CoordinatorView, DomainView, HostView, PausedWork, TableSize

if TYPE_CHECKING:
    from callboard.services import Endpoints, Instance
    from callboard.settings import Settings


_MOST_ASKED = 100
_UNTAKEN_WITHIN_S = 2.0


class ServicePlaces(msgspec.Struct, frozen=True, kw_only=True):
    """Where each service is, in words, and the URLs of the model gateway and the dashboard; null for what does not run.

    `keeper` is the process that starts embedded services again when they die.
    """

    postgres: str | None = None
    nats: str | None = None
    keeper: str | None = None
    ray: str | None = None
    models: str | None = None
    dashboard: str | None = None


class DomainStanding(DomainView, frozen=True, kw_only=True):
    """A domain in numbers, with the events that it takes and that are in no mailbox yet; null while NATS is away."""

    events_waiting: int | None


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """The document of `status --json`. Its keys are always these; what only a database can tell is null without one.

    `died` names the embedded services that do not run, though nobody has stopped them; `unrecorded_ray` is the pid of a Ray head of ours whose starter was killed before it could be recorded; `paused`
    are the agents that tasks wait for, `unfit` where a resume is not enough; `asked` what waits for somebody's word, the oldest 100;
    `died_hosts` are those of the last hour; `domains` has those that are active or asleep; `model_levels` says how well each
    model of the gateway is served, null while no gateway answers; `untaken_events` are those in the stream that nobody takes,
    null while NATS is away.
    """

    running: bool
    home: str
    services: ServicePlaces
    died: list[str] = []
    unrecorded_ray: int | None
    model_levels: dict[str, str] | None = None
    coordinators: list[CoordinatorView] | None = None
    domains: list[DomainStanding] | None = None
    paused: list[PausedWork] | None = None
    asked: list[Waiting] | None = None
    hosts: list[HostView] | None = None
    died_hosts: list[HostView] | None = None
    tables: list[TableSize] | None = None
    untaken_events: Untaken | None = None


async def look(settings: Settings) -> Standing:
    """Raises ServiceUnavailable, StorageError, DataFolderError."""
    head = RayHead(folder=settings.home / "ray")
    unrecorded = head.unrecorded() if settings.ray_address is None else None
    endpoints = running_endpoints(settings)
    instance = recorded_instance(settings)
    died = instance.died if instance is not None else []
    services = _places(settings, head, endpoints, instance)
    home = str(settings.home)
    if endpoints is None or "Postgres" in died:
        return Standing(running=False, home=home, services=services, died=died, unrecorded_ray=unrecorded)
    async with opened() as at:
        found = [d for d in await inspect.list_domains(at.db) if d.state in (ACTIVE, ASLEEP)]
        domains, untaken = await _with_events(at, found)
        coordinators = await inspect.list_coordinators(at.db)
        return Standing(
            running=instance is not None or bool(coordinators),  # services of somebody else serve others, too
            home=home,
            services=services,
            died=died,
            unrecorded_ray=unrecorded,
            model_levels=await _levels(settings, services),
            coordinators=coordinators,
            domains=domains,
            paused=[
                each
                for domain in domains
                for each in await inspect.paused_at_work(at.db, domain.domain, tenant=at.tenant)
            ],
            asked=await waiting(at.db, tenant=at.tenant, kinds=OPEN, limit=_MOST_ASKED),
            hosts=await inspect.list_hosts(at.db),
            died_hosts=await inspect.list_died_hosts(at.db),
            tables=await inspect.list_tables(at.db),
            untaken_events=untaken,
        )


async def _with_events(at: Opened, domains: list[DomainView]) -> tuple[list[DomainStanding], Untaken | None]:
    # Imported here, because the driver brings an HTTP client along: 0.3 s where nothing runs.
    from bus.events import EventStream
    from bus.nats import NatsTransport
    from callboard.cli.waiting_events import WaitingEvents

    counts: dict[str, int | None] = {}
    untaken = None
    with suppress(ServiceUnavailable, TimeoutError):
        transport = await NatsTransport.connect(at.endpoints.nats_url, name="callboard status", timeout_s=1.0)
        try:
            waiting = WaitingEvents(at.db, transport)
            counts = {domain.domain: await waiting(domain.domain) for domain in domains}
            async with asyncio.timeout(_UNTAKEN_WITHIN_S):
                untaken = await untaken_events(EventStream(transport), at.db)
        finally:
            await transport.close()
    return [
        DomainStanding(**structs.asdict(d), events_waiting=counts.get(d.domain)) for d in domains
    ], untaken


async def _levels(settings: Settings, services: ServicePlaces) -> dict[str, str] | None:
    if services.models is None:
        return None
    from callboard.gateway_levels import levels

    with suppress(ServiceUnavailable, DataFolderError):
        return await asyncio.to_thread(levels, LocalGateway(settings).address())
    return None


def _places(
    settings: Settings, head: RayHead, endpoints: Endpoints | None, instance: Instance | None
) -> ServicePlaces:
    postgres = nats = keeper = models = dashboard = None
    if instance is not None:
        endpoints = instance.endpoints
        kept_by = Keeper(home=instance.home).running()
        keeper = f"process {kept_by}" if kept_by is not None else None
    if endpoints is not None:
        pids = (instance.postgres_pid, instance.nats_pid) if instance is not None else (None, None)
        postgres = _place(endpoints.postgres_url, endpoints.embedded_postgres, pids[0])
        nats = _place(endpoints.nats_url, endpoints.embedded_nats, pids[1])
    ray: str | None = f"{settings.ray_address} (external)"
    if settings.ray_address is None:
        pid = head.running()
        ray = f"{head.address()} (started here, process {pid})" if pid else None
        dashboard = head.dashboard() if pid else None
        models = LocalGateway(settings).base_url()
    return ServicePlaces(
        postgres=postgres, nats=nats, keeper=keeper, ray=ray, models=models, dashboard=dashboard
    )


def _place(url: str, embedded: bool, pid: int | None) -> str:
    shown = ", ".join(redacted(part) for part in url.split(","))
    if not embedded:
        return f"{shown} (external)"
    return f"{shown} (embedded, process {pid})" if pid else f"{shown} (embedded, has died)"
