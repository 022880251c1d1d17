"""How long a dead host is missed: `python -m tests.faults.recovery --kills 20 [--ray]` prints one JSON object.

One host of two, plain processes or Ray actors, is killed (or stopped) again and again under the load of many chains. Per kill, in seconds since
the kill: `first` (a message of its partitions is handled elsewhere), `waited` (all that waited in them at the
takeover are handled), `rate` (the rate of the next second is at 80% of that before the kill).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, Protocol

from callboard.services import Services, ensure_services
from callboard.settings import Settings
from storage.placement import HostRow
from tests.faults.chains import Meter, broken, start_chains
from tests.faults.cluster import Cluster, running_cluster
from tests.faults.on_ray import ray_hosts

_logger = logging.getLogger("tests.faults")

BEFORE_S = 3.0  # over which the rate before a kill is measured
WATCHED_S = 12.0  # after a kill; what has not come back by then counts as this long
AGENTS = 1_000
NEVER = 999.0


class Mortal(Protocol):
    """A deployment whose hosts can be hurt: what the measurement asks of it."""

    async def sql(self, text: str, *arguments: Any) -> list[Any]: ...
    async def value(self, text: str, *arguments: Any) -> Any: ...
    async def turns(self) -> int: ...
    async def settled(self) -> list[HostRow]: ...
    async def ended(self, epoch: int, timeout_s: float) -> str: ...
    async def until(self, condition: Callable[[], Awaitable[Any]], what: str, timeout_s: float) -> Any: ...
    def signal_host(self, host: HostRow, what: signal.Signals) -> None: ...
    async def gone(self, pid: int, timeout_s: float) -> None: ...


async def measure(
    cluster: Mortal, *, kills: int, chains: int, how: signal.Signals, seed: int
) -> dict[str, Any]:
    """Kill (or stop) `kills` hosts under chains that run; return the figures with their 95th percentiles."""
    rng = Random(seed)
    meter = Meter(cluster)
    metering = asyncio.create_task(meter.run())
    try:
        seen = []
        for number in range(1, kills + 1):
            victim = rng.choice(await cluster.settled())
            await _pass(BEFORE_S)
            seen.append(await _one(cluster, meter, victim, how))
            _logger.info("%s %d of %d: %s", how.name, number, kills, json.dumps(seen[-1]))
    finally:
        metering.cancel()
        await asyncio.wait([metering])
    lost = await broken(cluster, chains)
    return {
        "signal": how.name, "kills": kills, "chains": chains, "seed": seed, "processors": os.cpu_count(),
        "lost": len(lost),
        "hops_per_s_before": round(sum(s["before"] for s in seen) / len(seen)),
        **{f"{name}_p95_s": percentile([s[name] for s in seen], 0.95) for name in ("first", "waited", "rate")},
        **{f"{name}_max_s": max(s[name] for s in seen) for name in ("first", "waited", "rate")},
    }  # fmt: skip


@asynccontextmanager
async def plain_hosts(services: Services, path: Path, chains: int) -> AsyncIterator[Cluster]:
    """Two hosts that are processes, with the chains running."""
    async with running_cluster(services, path, hosts=2, full_size=True) as cluster:
        await start_chains(cluster, chains, AGENTS)
        yield cluster


async def _one(cluster: Mortal, meter: Meter, victim: HostRow, how: signal.Signals) -> dict[str, float]:
    killed = time.monotonic()
    before = meter.rate(killed - BEFORE_S, killed)
    cluster.signal_host(victim, how)
    await cluster.ended(victim.epoch, WATCHED_S)
    owned = sorted(victim.owned)
    ended_at = await cluster.value("select ended_at from hosts where epoch = $1", victim.epoch)
    newest = await cluster.value("select last_value from mailbox_seq")

    async def first() -> Any:
        return await cluster.value(
            "select exists (select from agents where partition = any ($1) and updated_at > $2)",
            owned,
            ended_at,
        )

    async def waited() -> Any:
        return await cluster.value(
            "select not exists (select from mailbox where partition = any ($1) and seq <= $2)", owned, newest
        )

    seen = {"before": before}
    for name, look in (("first", first), ("waited", waited)):
        await cluster.until(look, name, 60)
        seen[name] = round(time.monotonic() - killed, 3)
    await _pass(max(0.0, killed + WATCHED_S - time.monotonic()))
    back = meter.back_at(0.8 * before, killed, time.monotonic())
    seen["rate"] = round(back - killed, 3) if back is not None else NEVER
    if how == signal.SIGSTOP:
        cluster.signal_host(victim, signal.SIGCONT)
        await cluster.gone(victim.pid, 15)
    return seen


async def _pass(seconds: float) -> None:
    """A measurement takes its time; nothing is waited for."""
    await asyncio.sleep(seconds)


def percentile(values: list[float], share: float) -> float:
    """The smallest value that `share` of all values do not exceed."""
    return sorted(values)[max(0, -(-len(values) * round(share * 100) // 100) - 1)]


async def run(kills: int, chains: int, seed: int, *, on_ray: bool) -> dict[str, Any]:
    """Both signals on throw-away services; the whole report."""
    folder = Path(tempfile.mkdtemp(prefix="callboard-recovery-", dir="/var/tmp"))
    os.chmod(folder, 0o711)  # as root, the servers' own account passes through
    seen = {}
    try:
        for how in (signal.SIGKILL, signal.SIGSTOP):
            async with AsyncExitStack() as stack:
                cluster: Mortal
                if on_ray:
                    cluster = await stack.enter_async_context(ray_hosts(chains, AGENTS))
                else:
                    services = await ensure_services(Settings(home=folder / how.name))
                    await stack.enter_async_context(services)
                    cluster = await stack.enter_async_context(
                        plain_hosts(services, folder / how.name / "run", chains)
                    )
                seen[how.name.lower()] = await measure(
                    cluster, kills=kills, chains=chains, how=how, seed=seed
                )
    finally:
        await asyncio.to_thread(shutil.rmtree, folder)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--chains", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ray", action="store_true", help="hosts are Ray actors, as in service")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    report = asyncio.run(run(arguments.kills, arguments.chains, arguments.seed, on_ray=arguments.ray))
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
