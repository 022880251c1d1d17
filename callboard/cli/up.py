"""`callboard up` and `down`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bus.errors import ServiceUnavailable
from callboard.cli.options import Json
from callboard.cli.running import asynchronous
from callboard.cli.terminal import console, emit, note, plain

if TYPE_CHECKING:
    from callboard.cluster import Cluster


@asynchronous
async def up(
    domains: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[DOMAIN_DIR]...", help="Domains to add or bring up to date."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when it is ready, and leave it running.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Start Callboard: Postgres, NATS, Ray and the coordinators. Without --detach, Ctrl-C stops it,
    unless others use it: then the last of them does."""
    from actors.code_apart import code_apart
    from actors.domain import check_domain, read_domain
    from callboard.cli.moved import say_if_moved
    from callboard.runtime import ray_head, running_cluster
    from callboard.settings import load_settings
    from coordinators.equipment import SYSTEM_KINDS
    from storage.domains import all_domains

    settings = load_settings()
    folders, names = domains or [], list[str]()
    for folder in folders:
        # What is wrong is said before anything is started.
        spec = read_domain(folder)
        check_domain(spec, folder, system_kinds=SYSTEM_KINDS)
        names.append(spec.domain)
    began = time.monotonic()
    async with running_cluster(settings, detach=detach, progress=note) as cluster:
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
        took = time.monotonic() - began
        dashboard = ray_head(settings).dashboard() if settings.ray_address is None else None
        if as_json:
            emit(
                {
                    "running": True,
                    "joined": cluster.joined,
                    "domains": added,
                    "dashboard": dashboard,
                    "ready_in_s": round(took, 2),
                }
            )
        else:
            word = "runs already" if cluster.joined else "is up"
            place = f"; dashboard at {dashboard}" if dashboard else ""
            console().print(plain(f"Callboard {word}, ready in {took:.1f} s{place}."))
        if detach or cluster.kept:
            return
        note("Ctrl-C stops it.")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:  # Ctrl-C and SIGTERM are the ways to end this command
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()


async def _wait_for(cluster: Cluster, domain: str) -> None:
    """A domain of earlier days: one that cannot start does not keep the others from being up."""
    try:
        await cluster.ready(domain, progress=note)
    except ServiceUnavailable as error:
        note(f"Warning: {error}")


@asynchronous
async def down(as_json: Json = False) -> None:
    """Stop Callboard. What waits in mailboxes goes on at the next start."""
    from callboard.runtime import stop_cluster
    from callboard.settings import load_settings

    stopped = await stop_cluster(load_settings(), progress=note)
    if as_json:
        emit({"stopped": stopped})
    else:
        console().print(plain("Callboard is stopped." if stopped else "Nothing was running."))
