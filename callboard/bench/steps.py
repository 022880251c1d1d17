"""Journaled steps a second on Ray hosts: call a function once, record its result durably, go on.

The count is what SQL finds in the journal afterwards. A step's time is from one commit of its turn to the next, by
the database's clock: call, record, commit, and the handler going on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import msgspec
import psutil

from bus.address import Address
from bus.errors import ServiceUnavailable
from callboard.bench.rig import Rig, rig
from storage.boundary import translated
from storage.intake import Incoming
from storage.queries import query

DOMAIN = "steps"


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """So many turns, dealt out to so many agents that work at the same time; each with so many steps in sequence."""

    hosts: int
    agents: int
    turns: int
    steps: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured. A commit's group are the steps and ends of turns in it; `host_mib` is the largest host's."""

    steps_per_s: float
    p50_ms: float
    p99_ms: float
    turns_per_s: float
    commits_per_s: float
    mean_group: float
    steps: int
    turns: int
    steps_a_turn: int
    agents: int
    seconds: float
    hosts: int
    host_mib: int
    ready_s: float
    processors: int


async def measure(load: Load, progress: Callable[[str], None]) -> Report:
    """Run the load on a deployment of its own; raises ServiceUnavailable when the hosts stop making progress."""
    async with rig(DOMAIN, load.hosts, progress) as on:
        await drive(on, "warm-up", Load(hosts=load.hosts, agents=200, turns=200, steps=10))
        progress(f"{load.turns:,} turns of {load.steps:,} steps, {min(load.agents, load.turns):,} at once")
        return await report(on, load, await drive(on, "worker", load))


async def drive(on: Rig, name: str, load: Load) -> Any:
    """Give the turns to agents of this name and wait for their end; return the database's time before."""
    before, turns_before = await on.count("bench_journaled"), await on.count("bench_transitions")
    start = await on.now()
    work = sys.modules["stepping.agents"].Work(steps=load.steps)  # loaded with the domain
    await on.give(
        [
            Incoming(
                to=Address(DOMAIN, "worker", f"{name}-{n * load.agents // load.turns}"),
                message=work,
                sender="external/bench",
            )
            for n in range(load.turns)
        ]
    )
    await on.finished(
        "bench_journaled", before + load.turns * (load.steps + 1), turns=turns_before + load.turns
    )
    return start


async def report(on: Rig, load: Load, start: Any) -> Report:
    """What SQL counts since then; raises ServiceUnavailable unless that is all that was asked for."""
    hosts = await on.hosts()
    with translated():
        row = await on.cluster.postgres.fetchrow(query("bench_steps"), DOMAIN, start)
    assert row is not None
    steps = load.turns * load.steps
    if (row["steps"], row["turns"]) != (steps, load.turns):
        raise ServiceUnavailable(
            f"{row['steps']:,} steps of {row['turns']:,} turns are in the journal and the history, and "
            f"{steps:,} of {load.turns:,} were asked for."
        )
    return Report(
        steps_per_s=round(steps / row["seconds"], 1),
        p50_ms=round(row["p50_ms"] or 0.0, 3),
        p99_ms=round(row["p99_ms"] or 0.0, 3),
        turns_per_s=round(load.turns / row["seconds"], 1),
        commits_per_s=round(row["commits"] / row["seconds"], 1),
        mean_group=round((steps + load.turns) / row["commits"], 2),
        steps=steps,
        turns=load.turns,
        steps_a_turn=load.steps,
        agents=load.agents,
        seconds=round(row["seconds"], 3),
        hosts=len(hosts),
        host_mib=max((host.rss_bytes for host in hosts), default=0) // 2**20,
        ready_s=round(on.ready_s, 2),
        processors=psutil.cpu_count() or 1,
    )
