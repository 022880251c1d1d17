"""`callboard retention`."""

from __future__ import annotations

from typing import Annotated

import typer

from callboard.cli.options import Json
from callboard.cli.running import asynchronous
from callboard.cli.terminal import console, emit, plain, size


@asynchronous
async def retention(
    months: Annotated[int, typer.Option(min=1, max=1200, help="Whole months to keep besides this one.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be dropped.")] = False,
    as_json: Json = False,
) -> None:
    """Drop history older than some months, and what else has outlived its use. Waiting work is never touched."""
    from callboard.cli.connection import opened
    from storage.retention import retain

    async with opened() as at:
        done = await retain(at.endpoints.postgres_url, months=months, dry_run=dry_run)
    if as_json:
        emit(done)
        return
    out = console()
    cutoff = done.cutoff.date() if done.cutoff is not None else "now"
    word = "would be dropped" if dry_run else "dropped"
    out.print(plain(f"What has ended before {cutoff} {word}:", "bold"))
    listed = ", ".join(done.months) or "none"
    out.print(
        plain(f"  months of history    {listed} (about {done.transitions:,} transitions, {size(done.bytes)})")
    )
    for name, count in (
        ("tasks", done.tasks),
        ("blobs", done.blobs),
        ("settled promises", done.promises),
        ("calls of tools", done.calls),
    ):
        out.print(plain(f"  {name:<20} {count:,}"))
    out.print(plain(f"What every day drops by itself {word}:", "bold"))
    for name, count in (("expired keys", done.seen), ("ended hosts", done.hosts), ("unused code", done.code)):
        out.print(plain(f"  {name:<20} {count:,}"))
    if done.months_made:
        made = "would be made" if dry_run else "made"
        out.print(plain(f"  tables of months to come {made}: {', '.join(done.months_made)}"))
