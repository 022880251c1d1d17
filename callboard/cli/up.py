"""`callboard up` and `down`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bus.errors import CallboardError, InvalidDomainFile, ServiceUnavailable
from callboard.cli.options import Json
from callboard.cli.running import asynchronous
from callboard.cli.terminal import console, emit, note, plain

if TYPE_CHECKING:
    from callboard.cluster import Cluster

_WITHOUT = "`callboard down`, and `callboard up --without-gateway`, do without."


@asynchronous
async def up(
    domains: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[DOMAIN_DIR]...", help="Domains to add or bring up to date."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when it is ready, and leave it running.")
    ] = False,
    without_gateway: Annotated[
        bool, typer.Option("--without-gateway", help="Do not serve the model gateway.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Start Callboard: Postgres, NATS, Ray, the coordinators and the model gateway. Without --detach, Ctrl-C stops it,
    unless others use it: then the last of them does."""
    from actors.code_apart import code_apart
    from actors.domain import check_domain, read_domain
    from callboard.cli.moved import say_if_moved
    from callboard.gateway import LocalGateway
    from callboard.runtime import ray_head, running_cluster
    from callboard.services import Home
    from callboard.settings import load_settings
    from callboard.watching import watch
    from coordinators.equipment import SYSTEM_KINDS
    from storage.domains import all_domains

    settings = load_settings()
    folders, names = domains or [], list[str]()
    for folder in folders:
        # What is wrong is said before anything is started.
        spec = read_domain(folder)
        check_domain(spec, folder, system_kinds=SYSTEM_KINDS)
        names.append(spec.domain)
    Home(settings.home).require_own()
    local = LocalGateway(settings)
    served = local.base_url()
    # In a Ray of somebody else's, Serve may be somebody else's too.
    gateway = None if without_gateway or settings.ray_address is not None else local
    if gateway is not None:
        gateway.check()
        for missing in gateway.missing_keys():
            note(f"Warning: {', '.join(missing.models)}: {missing.why} {missing.fix}")
    elif without_gateway:
        local.do_without()
    began = time.monotonic()
    async with running_cluster(settings, detach=detach, gateway=gateway, progress=note) as cluster:
        if gateway is not None and cluster.joined and served is None:
            note(f"This Callboard ran without a model gateway; it gets one now. {_WITHOUT}")
        elif without_gateway and served is not None:
            note(f"The model gateway at {served} goes on. {_WITHOUT}")
        for name, folder in zip(names, folders, strict=True):
            await say_if_moved(cluster.postgres, name, folder)
        added = []
        for folder in folders:
            with code_apart():  # none of it runs here, and another domain may have code of the same name
                added.append((await cluster.add_domain(folder)).name)
        for name in added:
            await cluster.ready(name, progress=note)
        for row in await all_domains(cluster.postgres):
            if row.domain not in added:
                await _wait_for(cluster, row.domain)
        models = await _gateway_url(cluster)
        took = time.monotonic() - began
        dashboard = ray_head(settings).dashboard() if settings.ray_address is None else None
        if as_json:
            emit(
                {
                    "running": True,
                    "joined": cluster.joined,
                    "domains": added,
                    "dashboard": dashboard,
                    "models": models,
                    "ready_in_s": round(took, 2),
                }
            )
        else:
            told = _joined(added, took) if cluster.joined else f"Callboard is up, ready in {took:.1f} s"
            places = f"; models at {models}" if models else ""
            places += f"; dashboard at {dashboard}" if dashboard else ""
            console().print(plain(f"{told}{places}."))
        if detach or cluster.kept:
            return
        note("Ctrl-C stops it.")
        try:
            await watch(settings.home, ray_head(settings) if settings.ray_address is None else None, note)
        except asyncio.CancelledError:  # Ctrl-C and SIGTERM are the ways to end this command
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()


def _joined(added: list[str], took_s: float) -> str:
    """What runs already was ready before; what was given to it was not."""
    if not added:
        return "Callboard runs already"
    are = "is registered; its" if len(added) == 1 else "are registered; their"
    return f"Callboard runs already; {', '.join(added)} {are} hosts were ready after {took_s:.1f} s"


async def _gateway_url(cluster: Cluster) -> str | None:
    """Agents that ask no model work without it."""
    if cluster.gateway is None:
        return None
    try:
        return (await cluster.gateway).base_url
    except CallboardError as error:
        note(f"Warning: {error} Run `callboard up --detach` again to start the model gateway.")
        return None


async def _wait_for(cluster: Cluster, domain: str) -> None:
    """A domain of earlier days: one that cannot start does not keep the others from being up."""
    try:
        await cluster.ready(domain, progress=note)
    except (InvalidDomainFile, ServiceUnavailable) as error:
        note(f"Warning: {error}")


@asynchronous
async def down(
    now: Annotated[
        bool,
        typer.Option(
            "--now", help="Do not wait for calls of at-most-once tools: what they did is then unknown."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Stop Callboard. What waits in mailboxes goes on at the next start. Calls of at-most-once tools are waited for."""
    from callboard.runtime import stop_cluster
    from callboard.settings import load_settings

    stopped = await stop_cluster(load_settings(), progress=note, waits_for_calls=not now)
    if as_json:
        emit({"stopped": stopped})
    else:
        console().print(plain("Callboard is stopped." if stopped else "Nothing was running."))
