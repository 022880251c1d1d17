"""The limit of steps and DBOS, measured after ours in the same run: by scripts that only a checkout has."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import msgspec

from bus.errors import ServiceUnavailable, SettingsError
from callboard.bench.steps import Load, Report

_DBOS_INFLIGHT = 100
_DBOS_STEPS = 2_000


class Beside(msgspec.Struct, frozen=True, kw_only=True):
    """The bare loop that writes the same rows, and DBOS with 100 workflows in flight (or as many as there are turns)."""

    limit_steps_per_s: float
    dbos_steps_per_s: float
    of_limit: float
    """Ours as a part of the limit."""
    times_dbos: float
    """How many times as much as DBOS ours is."""


def require_checkout() -> None:
    """Raises SettingsError where the scripts are not, or DBOS is not installed."""
    if find_spec("benchmarks") is not None:
        from benchmarks.steps_dbos import PEERS

        if PEERS.exists():
            return
    raise SettingsError(
        "The limit and DBOS are measured from a checkout of Callboard in which DBOS is installed.",
        fix="Run `make peers` there, or leave --beside out.",
    )


async def measure_beside(load: Load, ours: Report, progress: Callable[[str], None]) -> Beside:
    """Measure both on servers of their own; raises ServiceUnavailable when one fails."""
    agents = min(load.agents, load.turns)
    progress("the limit: a bare loop that writes the same rows")
    limit = await _measured("benchmarks.steps_limit", agents=agents, turns=load.turns, steps=load.steps)
    progress("DBOS")
    dbos = await _measured(
        "benchmarks.steps_dbos",
        inflight=min(agents, _DBOS_INFLIGHT),
        turns=max(1, _DBOS_STEPS // load.steps),
        steps=load.steps,
    )
    return Beside(
        limit_steps_per_s=limit["limit_steps_per_s"],
        dbos_steps_per_s=dbos["steps_per_s"],
        of_limit=round(ours.steps_per_s / limit["limit_steps_per_s"], 3),
        times_dbos=round(ours.steps_per_s / dbos["steps_per_s"], 1),
    )


async def _measured(script: str, **load: int) -> dict[str, Any]:
    words = [f"--{name}={value}" for name, value in load.items()]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", script, *words, "--json", stdout=PIPE
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise ServiceUnavailable(f"{script} has ended with status {process.returncode}.")
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found
