"""`callboard bench`."""

from __future__ import annotations

from typing import Annotated

import typer

from callboard.cli.options import Json
from callboard.cli.running import asynchronous, needs_command
from callboard.cli.terminal import console, emit, note, plain

app = typer.Typer(invoke_without_command=True, help="Measure this machine.", add_completion=False)


@app.callback()
def bench(context: typer.Context) -> None:
    """Measure this machine."""
    needs_command(context)


@app.command()
@asynchronous
async def hops(
    hosts: Annotated[int, typer.Option(min=1, max=64, help="Host processes.")] = 2,
    agents: Annotated[int, typer.Option(min=1, help="Agents that the messages wander through.")] = 1_000,
    inflight: Annotated[int, typer.Option(min=1, help="Chains of messages at once.")] = 100,
    count: Annotated[int, typer.Option("--hops", min=1, help="Hops in all.")] = 50_000,
    waiting: Annotated[int, typer.Option(min=0, help="Messages that wait in other mailboxes meanwhile.")] = 0,
    blocked: Annotated[
        bool, typer.Option(help="These wait for a retry, and are read, instead of with paused agents.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Durable hops a second: receive, change state, commit, send on. In a deployment of its own."""
    import msgspec

    from callboard.bench.hops import Load, measure

    load = Load(
        hosts=hosts,
        agents=agents,
        inflight=min(inflight, count),
        hops=count,
        waiting=waiting,
        blocked=blocked,
    )
    report = await measure(load, note)
    if as_json:
        emit(report)
        return
    out = console()
    for name, figure in msgspec.structs.asdict(report).items():
        out.print(plain(f"{name:<20} {figure:>12,}"))
