"""`callboard backup` and `restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from callboard.cli.options import Json
from callboard.cli.running import asynchronous
from callboard.cli.terminal import console, emit, note, plain, size

File = Annotated[Path, typer.Argument(metavar="FILE")]


@asynchronous
async def backup(
    file: File,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Write everything in the database to a file (pg_dump's custom format). The cluster may be at work."""
    from callboard.backup import back_up
    from callboard.cli.connection import opened

    async with opened() as at:
        done = await back_up(at.endpoints.postgres_url, file, force=force)
    if as_json:
        emit(done)
    else:
        console().print(plain(f"{done.file} holds the backup, {size(done.bytes)}."))


@asynchronous
async def restore(
    file: File,
    force: Annotated[
        bool, typer.Option("--force", help="Replace what the database holds. It cannot be brought back.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fill an empty database from a backup, all or nothing. No host may be at work in it."""
    from callboard.backup import restore as bring_back
    from callboard.runtime import running_services
    from callboard.settings import load_settings

    async with running_services(load_settings()) as endpoints:
        note("restoring")
        done = await bring_back(endpoints.postgres_url, file, force=force)
    if as_json:
        emit(done)
        return
    text = (
        f"{done.file} is restored: {done.agents:,} agents, {done.transitions:,} transitions, {done.waiting:,} waiting"
        f" messages, {done.open_turns:,} open turns, {done.calls:,} calls of tools."
    )
    console().print(plain(text))
    if done.unknown:
        note(f"Of {done.unknown:,} calls nobody knows what they did: `callboard ledger --unknown`.")
    if done.migrations:
        console().print(plain(f"Migrations applied to it: {', '.join(done.migrations)}."))
    note("The work goes on with `callboard up`.")
