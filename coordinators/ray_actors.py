"""The coordinators as detached Ray actors with unlimited restarts; each claims a new epoch when it starts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import ray
import uvloop
from ray.exceptions import RayError
from ray.util import list_named_actors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.birth import machine
from actors.domain import DomainSpec
from actors.incarnation import HostSettings
from actors.ray_host import configure_logging, mark_of, remote_host
from bus.errors import ServiceUnavailable
from bus.nats import NatsTransport
from coordinators import domain as core
from coordinators.asleep import Sleepers
from coordinators.equipment import SYSTEM_KINDS, equip_coordinator, equip_host
from coordinators.gone import GoneHosts, Process, has_ended_as_seen_from
from coordinators.launcher import HostProcess
from coordinators.master import Master
from coordinators.ray_room import waiting
from coordinators.rivals import wait_for_rivals
from coordinators.room import Waiting
from coordinators.upkeep import Upkeep
from storage.connect import coordinator_application, create_pool
from storage.domains import find_domain
from storage.placement import claim_coordinator, live_hosts

_logger = logging.getLogger("callboard.coordinator")

MASTER = "master"
START_TIMEOUT_S = 180.0  # a busy machine that reads all modules for the first time
END_TIMEOUT_S = 10.0
LOOK_WITHIN_S = 5.0  # at a process of another node
_RESTART_PAUSE_S = 0.5
_LOOK_EVERY_S = 0.05


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """What every actor of a deployment is started with. `namespace` is the deployment's own in its Ray.

    The URLs carry passwords: neither is shown in `repr`.
    """

    postgres_url: str = field(repr=False)
    nats_url: str = field(repr=False)
    namespace: str
    log_level: str = "info"
    secrets: str | None = None  # a folder, on every node
    models: str | None = None  # the data folder, in which stands where the model gateway answers


class _Lead(ABC):
    """An actor whose work runs in a thread; when that fails, the process ends and Ray starts it again."""

    def __init__(self, settings: ClusterSettings) -> None:
        configure_logging(settings.log_level)
        self._settings = settings
        self._thread = threading.Thread(target=self._main, name="lead", daemon=True)
        self._thread.start()

    @abstractmethod
    async def _lead(self) -> None:
        """Claim an epoch and lead; return when another coordinator has taken over."""

    async def _pool(self, name: str) -> asyncpg.Pool[Any]:
        """Connections under the coordinator's name, once no other Ray leads with this database."""
        url = self._settings.postgres_url
        await wait_for_rivals(url, name, _node(), _nodes)
        return await create_pool(url, application=coordinator_application(name))

    def _main(self) -> None:
        try:
            uvloop.run(self._lead())
            _logger.info("another coordinator leads now; this one leaves")
        except BaseException:
            _logger.exception("the coordinator failed and starts again")
        threading.Event().wait(_RESTART_PAUSE_S)
        os._exit(1)

    def pid(self) -> int:
        return os.getpid()


class DomainCoordinator(_Lead):
    """Gives a domain's partitions to hosts, and tasks to agents."""

    def __init__(self, settings: ClusterSettings, domain: str) -> None:
        self._domain = domain
        super().__init__(settings)

    async def _lead(self) -> None:
        pool = await self._pool(self._domain)
        transport = await NatsTransport.connect(
            self._settings.nats_url, name=f"callboard coordinator {self._domain}"
        )
        row = await find_domain(pool, self._domain, removed=True)  # one that was removed has hosts to drain
        epoch = await claim_coordinator(pool, self._domain, _node())
        launcher = RayLauncher(self._settings, pool, self._domain)
        await launcher.end_strays(self._domain, {host.host for host in await live_hosts(pool, self._domain)})
        coordinator = core.DomainCoordinator(
            pool, transport, launcher, self._domain, epoch, queue=launcher.queue
        )
        GoneHosts(pool, self._domain, launcher.is_gone).join(coordinator)
        await equip_coordinator(coordinator, pool, transport, row, epoch)
        await coordinator.run()


class MasterCoordinator(_Lead):
    """Keeps the domains, gives each its coordinator and its number of hosts, and watches health."""

    async def _lead(self) -> None:
        pool = await self._pool(MASTER)
        epoch = await claim_coordinator(pool, MASTER, _node())
        master = Master(pool, epoch, RayLeaders(self._settings))
        sleepers = Sleepers(pool, self._settings.nats_url)
        master.every_round += [Upkeep(self._settings.postgres_url), sleepers]
        try:
            await master.run()
        finally:
            await sleepers.close()


class RayLeaders:
    """The coordinators of domains as detached Ray actors."""

    def __init__(self, settings: ClusterSettings) -> None:
        self._settings = settings

    async def lead(self, domain: str) -> None:
        await asyncio.to_thread(_start, DomainCoordinator, _coordinator_name(domain), self._settings, domain)

    async def led(self) -> set[str]:
        prefix = _coordinator_name("")
        names = await asyncio.to_thread(list_named_actors)
        return {name.removeprefix(prefix) for name in names if name.startswith(prefix)} - {MASTER}

    async def end(self, domain: str) -> None:
        await asyncio.to_thread(self._end, domain)

    def _end(self, domain: str) -> None:
        # The coordinator first: it would start other hosts. Its hosts have drained and leave by themselves, but
        # for one whose process is frozen.
        names = [_coordinator_name(domain), *(n for n in list_named_actors() if _is_host_of(n, domain))]
        for name in names:
            with contextlib.suppress(ValueError):  # it is gone
                ray.kill(ray.get_actor(name), no_restart=True)


class RayLauncher:
    """Starts hosts of a domain as detached Ray actors named `host:<name>`."""

    def __init__(self, settings: ClusterSettings, pool: asyncpg.Pool[Any], domain: str) -> None:
        self._settings = settings
        self._pool = pool
        self._mark = mark_of(settings.namespace, domain)
        self._cpus = 0.0  # of the host that was started last

    async def start(self, domain: str, host: str) -> HostProcess:
        self._cpus = await self._asked_for(domain)
        settings = HostSettings(
            domain=domain,
            host=host,
            postgres_url=self._settings.postgres_url,
            nats_url=self._settings.nats_url,
            node=_node(),
            secrets=self._settings.secrets,
            models=self._settings.models,
        )
        actor = await asyncio.to_thread(
            remote_host(_host_name(host), cpus=self._cpus, mark=self._mark).remote,
            settings,
            SYSTEM_KINDS,
            equip_host,
            self._settings.log_level,
        )
        return _RayHost(actor)

    async def _asked_for(self, domain: str) -> float:
        row = await find_domain(self._pool, domain, removed=True)
        return DomainSpec.from_json(row.spec).hosts.cpus

    async def attach(self, domain: str, host: str, pid: int) -> HostProcess | None:
        try:
            return _RayHost(
                await asyncio.to_thread(ray.get_actor, _host_name(host), self._settings.namespace)
            )
        except ValueError:
            return None

    async def end_strays(self, domain: str, registered: Collection[str]) -> None:
        """Kill the hosts without a row that another incarnation of the coordinator has left: those that it started last,
        which may wait for room yet, and those that it has ended and that have not gone."""
        await asyncio.to_thread(_end_strays, domain, {_host_name(host) for host in registered})

    async def queue(self) -> Waiting:
        """What waits in Ray for room."""
        return await asyncio.to_thread(waiting, self._mark, self._cpus)

    async def is_gone(self, process: Process) -> bool:
        is_here = process.machine != "" and process.machine == machine()
        if process.node == _node() or is_here:
            return has_ended_as_seen_from(_node(), process)
        node = process.near or process.node
        look = ray.remote(has_ended_as_seen_from).options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        )
        try:
            async with asyncio.timeout(LOOK_WITHIN_S):
                gone: bool = await look.remote(node, process)
            return gone
        except (RayError, TimeoutError):  # a node that is lost may only be cut off
            return False


class _RayHost:
    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def ended(self) -> str | None:
        """A pending call to an actor without restarts fails as soon as its process is gone."""
        refusal: str | None = None
        try:
            refusal = await self._actor.wait_until_ended.remote()
        except RayError as error:
            _logger.warning("a host's process has ended: %s", str(error).splitlines()[0])
        await self.kill()
        return refusal

    async def kill(self) -> None:
        await asyncio.to_thread(ray.kill, self._actor)


def start_master(settings: ClusterSettings) -> bool:
    """Start the master coordinator unless it runs; return when it does, True when it did not before.

    Raises ServiceUnavailable.
    """
    name = _coordinator_name(MASTER)
    try:
        ray.get_actor(name, settings.namespace)
        ran = True
    except ValueError:
        ran = False
    try:
        master = _start(MasterCoordinator, name, settings)
        ray.get(master.pid.remote(), timeout=START_TIMEOUT_S)
    except RayError as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ServiceUnavailable(
            f"The master coordinator does not start in Ray: {reason[-1].rstrip('.')}.",
            fix="Every node needs this release of Callboard, and the head a worker process to spare: see the "
            "actor's log in the Ray dashboard.",
        ) from error
    return not ran


def anything_runs() -> bool:
    """Whether the namespace that this process has joined holds a coordinator or a host."""
    return bool(list_named_actors())


def end_coordinators() -> None:
    """Kill the coordinators of that namespace, for good. Raises ServiceUnavailable."""
    _end(_coordinator_name(""))


def end_hosts() -> None:
    """The same for hosts. Those that have given back their partitions leave nothing suspect."""
    _end(_host_name(""))


def _end(prefix: str) -> None:
    """Until none is left: the master may be starting another while it is killed."""
    deadline = time.monotonic() + END_TIMEOUT_S
    while names := [name for name in list_named_actors() if name.startswith(prefix)]:
        for name in sorted(names, key=lambda name: name != _coordinator_name(MASTER)):
            with contextlib.suppress(ValueError):  # gone meanwhile
                ray.kill(ray.get_actor(name), no_restart=True)
        if time.monotonic() > deadline:
            raise ServiceUnavailable(
                f"Ray does not end {', '.join(names)}.", fix="Look at them in the Ray dashboard."
            )
        time.sleep(_LOOK_EVERY_S)


def _end_strays(domain: str, registered: Collection[str]) -> None:
    for name in list_named_actors():
        if _is_host_of(name, domain) and name not in registered:
            with contextlib.suppress(ValueError):  # gone meanwhile
                ray.kill(ray.get_actor(name), no_restart=True)


def _start(cls: type[_Lead], name: str, settings: ClusterSettings, *arguments: Any) -> Any:
    return (
        ray.remote(cls)
        .options(
            name=name,
            namespace=settings.namespace,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=0,
            num_cpus=0,
            max_concurrency=2,
        )
        .remote(settings, *arguments)
    )


def _coordinator_name(name: str) -> str:
    return f"coordinator:{name}"


def _host_name(host: str) -> str:
    return f"host:{host}"


def _is_host_of(name: str, domain: str) -> bool:
    """Whether an actor's name is that of a host of the domain: `host:<domain>-<8 characters>`."""
    return name.rpartition("-")[0] == _host_name(domain)


def _nodes() -> list[str]:
    """All of this Ray, also those that are gone."""
    return [str(node["NodeID"]) for node in ray.nodes()]  # type: ignore[no-untyped-call]


def _node() -> str:
    return str(ray.get_runtime_context().get_node_id())
