"""`callboard verify`: whether every history still hashes to what its chain says."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from callboard.cli.connection import opened
from callboard.cli.options import Json
from callboard.cli.running import asynchronous
from callboard.cli.table import table
from callboard.cli.terminal import console, count, emit, note, plain

if TYPE_CHECKING:
    from storage.inspect import Verdict

_NAMED = 50  # broken agents on the terminal; JSON has a thousand


@asynchronous
async def verify(
    domain: Annotated[str | None, typer.Option(help="Only the agents of this domain.")] = None,
    as_json: Json = False,
) -> int:
    """Check the hash chains of all agents, what their turns have recorded, and the blobs.

    Of each history that was edited the first broken version is named. The exit code is 1 when there is one. Agents may
    go on meanwhile. Months that retention has dropped are not missed.
    """
    from storage.inspect import count_agents, verify_all

    began = time.monotonic()
    async with opened() as at:
        agents = await count_agents(at.db, domain=domain)
        with _progress(agents) as looked_at:
            verdict = await verify_all(at.db, domain=domain, looked_at=looked_at)
    took = time.monotonic() - began
    if as_json:
        emit(
            {
                "intact": verdict.is_intact,
                **{name: getattr(verdict, name) for name in verdict.__struct_fields__},
                "seconds": round(took, 3),
            }
        )
    else:
        _show(verdict, took)
    if not verdict.is_intact:
        note("Error: Somebody edited what is stored; compare with a backup.")
    return 0 if verdict.is_intact else 1


def _show(verdict: Verdict, took: float) -> None:
    out = console()
    if verdict.broken:
        rows = [(b.address, f"{b.version:,}", b.what, b.detail) for b in verdict.broken[:_NAMED]]
        out.print(
            table(("agent", "version", "differs", "that version"), rows, right=("version",), whole=("agent",))
        )
        if verdict.broken_agents > _NAMED:
            out.print(plain(f"and {verdict.broken_agents - _NAMED:,} more agents (--json names them)", "dim"))
    for digest in verdict.broken_blobs[:_NAMED]:
        out.print(plain(f"The blob {digest} does not hash to its name.", "red"))
    looked_at = f"{count(verdict.agents, 'agent')} with {count(verdict.transitions, 'transition')}"
    if verdict.blobs:
        looked_at += f", and {count(verdict.blobs, 'blob')}"
    looked_at += f", in {count(len(verdict.domains), 'domain')}; {took:.1f} s"
    if verdict.is_intact:
        out.print(plain(f"✓ every chain is intact: {looked_at}", "green"))
    else:
        what = count(verdict.broken_agents, "history").replace("historys", "histories")
        out.print(plain(f"✗ {what} broken, of {looked_at}", "bold red"))
    if verdict.shortened:
        what = "begins" if verdict.shortened == 1 else "begin"
        out.print(
            plain(f"{verdict.shortened:,} of them {what} where retention has dropped what was before.", "dim")
        )


@contextmanager
def _progress(agents: int) -> Iterator[Callable[[Verdict], None]]:
    """How far it is and how fast, on standard error if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("agents"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=agents, speed="")
        began = time.monotonic()

        def looked_at(verdict: Verdict) -> None:
            took = max(time.monotonic() - began, 0.001)
            speed = f"{verdict.agents / took:,.0f} agents/s, {verdict.transitions / took:,.0f} transitions/s"
            bar.update(task, completed=verdict.agents, speed=speed)

        yield looked_at
