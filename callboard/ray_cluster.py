"""A Ray that runs, as a command sees it: Callboard's actors are started in it or ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from bus.errors import ServiceUnavailable
from callboard.ray_process import RayProcess
from storage.boundary import translated
from storage.placement import find_rival
from storage.queries import query
from storage.release import is_newer_than, release

if TYPE_CHECKING:
    import asyncpg

    from callboard.services import Endpoints
    from callboard.settings import Settings

RAY_ANSWERS_WITHIN_S = 5.0
# Hosts of a Ray that has just died are not told from hosts elsewhere before their last beat is older than this.
FORGOTTEN_AFTER_S = 3.0
_LOOK_EVERY_S = 0.1


async def check_ray(address: str) -> None:
    """Raises ServiceUnavailable when nothing listens there: Ray itself would try for a minute."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # a name, such as "auto", that Ray looks up itself
    try:
        async with asyncio.timeout(RAY_ANSWERS_WITHIN_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        writer.close()
    except (OSError, OverflowError) as error:
        raise ServiceUnavailable(
            f"Ray at {address} does not answer: {str(error) or type(error).__name__}.",
            fix="Check RAY_ADDRESS, or unset it to have Ray started here.",
        ) from None


async def namespace_of(postgres: asyncpg.Pool[Any]) -> str:
    """The Ray namespace of a deployment: several may share a Ray, and their database is what tells them apart,
    whatever URL each client reaches it by."""
    with translated():
        row = await postgres.fetchrow(query("database_identity"))
    assert row is not None
    return f"callboard-{sha256(f'{row[0]}/{row[1]}'.encode()).hexdigest()[:12]}"


async def join_ray(ray: RayProcess, postgres: asyncpg.Pool[Any], address: str) -> str:
    """Return the deployment's namespace, into which it has joined. Raises ServiceUnavailable."""
    namespace = await namespace_of(postgres)
    await check_ray(address)
    await ray.call("join", address=address, namespace=namespace)
    return namespace


async def start_in_ray(
    ray: RayProcess,
    settings: Settings,
    endpoints: Endpoints,
    postgres: asyncpg.Pool[Any],
    namespace: str,
    prepare: Callable[[], Awaitable[None]],
) -> bool:
    """Start the coordinators in the Ray that was joined unless they run; True when they did not: then `prepare` is
    called before.

    Those of an older release make room for new ones, which then replace their hosts.
    Raises ServiceUnavailable.
    """
    nodes = [node for node in await ray.call("nodes") if node["Alive"]]
    _check_reachable(endpoints, {node["NodeManagerAddress"] for node in nodes})
    await _check_not_elsewhere(postgres, [node["NodeID"] for node in nodes])
    ran = await ray.call("anything_runs")
    if not ran:
        await prepare()
    replaced = ran and await _end_older_coordinators(ray, postgres)
    started: bool = await ray.call(
        "start_master",
        postgres_url=endpoints.postgres_url,
        nats_url=endpoints.nats_url,
        namespace=namespace,
        log_level=settings.log_level,
        secrets=str(settings.secrets_folder),
        models=str(settings.home),
    )
    return started and not replaced


async def end_coordinators(ray: RayProcess, postgres: asyncpg.Pool[Any], address: str) -> None:
    """End the actors of the coordinators for good, from a process that has joined no Ray yet. Raises ServiceUnavailable."""
    await join_ray(ray, postgres, address)
    await ray.call("end_coordinators")


async def end_in_ray(
    postgres: asyncpg.Pool[Any], address: str, leave_cleanly: Callable[[], Awaitable[None]]
) -> bool:
    """End the coordinators for good, let the hosts leave cleanly, and end them; False when none of them ran.

    Ray goes on. Raises ServiceUnavailable.
    """
    async with await RayProcess.start() as ray:
        await join_ray(ray, postgres, address)
        if not await ray.call("anything_runs"):
            return False
        await ray.call("end_coordinators")
        await leave_cleanly()
        await ray.call("end_hosts")
        return True


def _check_reachable(endpoints: Endpoints, machines: set[str]) -> None:
    for embedded, variable in ((endpoints.embedded_postgres, "POSTGRES"), (endpoints.embedded_nats, "NATS")):
        if embedded and len(machines) > 1:
            raise ServiceUnavailable(
                f"Ray has nodes on {len(machines)} machines, which cannot all reach the embedded services.",
                fix=f"Set CALLBOARD_{variable}_URL to one that each of them can reach.",
            )


async def _end_older_coordinators(ray: RayProcess, postgres: asyncpg.Pool[Any]) -> bool:
    """Ray starts an actor again from the files that it was started from; hosts go on meanwhile."""
    with translated():
        others = await postgres.fetch(query("coordinators_of_other_releases"), release())
    if not any(is_newer_than(row["release"]) for row in others):
        return False
    await ray.call("end_coordinators")
    return True


async def _check_not_elsewhere(postgres: asyncpg.Pool[Any], here: list[str]) -> None:
    """Two Rays that lead the same database would take it from each other for ever."""
    deadline = time.monotonic() + FORGOTTEN_AFTER_S + 1.0
    while time.monotonic() < deadline:
        with translated():
            host = await postgres.fetchrow(query("beating_elsewhere"), here, FORGOTTEN_AFTER_S)
        who = f"{host['host']} on its node {host['node']}" if host is not None else None
        if who is None:
            leads = await find_rival(postgres, "master", here)
            who = f"its master coordinator on node {leads}" if leads is not None else None
        if who is None:
            return
        await asyncio.sleep(_LOOK_EVERY_S)
    raise ServiceUnavailable(
        f"Callboard runs with this database already, in another Ray: {who}.",
        fix="Set RAY_ADDRESS to that Ray, or stop Callboard there with `callboard down`.",
    )
