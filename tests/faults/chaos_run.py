"""One fault run: a random program is fed while faults happen, and the end is compared with the model."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from callboard.services import Services
from tests.faults.chronicle import Chronicle
from tests.faults.cluster import Cluster, running_cluster
from tests.faults.feed import Feeder
from tests.faults.programs import EVENTS, FEEDER, TASKS
from tests.faults.verify import SHOWN, complaints, wrongs
from tests.faults.watched import Void

AGENTS = 200
QUIET_WITHIN_S = 90.0

# In one statement: what leaves one place is in the next.
_ALL_IS_HANDLED = """
select not exists (select from mailbox) and not exists (select from timers) and not exists (select from turns)
  and not exists (select from tasks where status = 'submitted')
  and exists (select from event_cursors where seq >= $1)
"""

Fault = Callable[[Cluster, Random], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run found. `complaints` is empty when it is green."""

    complaints: list[str]
    turns: int
    roots: int
    did: list[str]
    fired: list[str]

    def report(self, seed: int) -> str:
        return "\n".join(
            [
                f"seed {seed}: {len(self.complaints)} complaints after {self.turns} turns of {self.roots} roots",
                *self.complaints[:SHOWN],
                "what was done:",
                *self.did,
                f"fired: {self.fired}",
                f"repeat with CALLBOARD_FAULT_SEED={seed}",
            ]
        )


def seed_of(default: int) -> int:
    """The seed of a run: the test's own, or the one to be repeated."""
    return int(os.environ.get("CALLBOARD_FAULT_SEED", default))


async def chaos_run(
    services: Services,
    path: Path,
    faults: Sequence[Fault],
    *,
    seed: int,
    chronicle: Chronicle,
    hosts: int = 2,
    agents: int = AGENTS,
    turns_between: tuple[int, int] = (200, 800),
) -> Outcome:
    """Feed, hurt, wait until everything is handled, compare. Raises Void when a fault did not happen."""
    rng = Random(seed)
    chronicle.seed = seed
    async with running_cluster(services, path, hosts=hosts, label=f"seed {seed}") as cluster:
        cluster.note(f"{len(faults)} faults to come, {hosts} hosts, {agents} agents")
        feeder = Feeder(cluster, seed, agents)
        feeding = asyncio.create_task(feeder.run())
        try:
            cluster.busy = feeding
            await cluster.progress(rng.randint(*turns_between))
            for number, fault in enumerate(faults, 1):
                cluster.note(f"{fault.__name__} begins, {number} of {len(faults)}")
                await fault(cluster, rng)
                chronicle.done.append(fault.__name__)
                await cluster.progress(rng.randint(*turns_between))
                chronicle.turns = await cluster.turns()
            feeder.stop()
            await feeding
            for how in (FEEDER, EVENTS, TASKS):
                if not feeder.came[how]:
                    raise Void(f"no root came in by {how}")
            cluster.note(f"roots came in by {dict(feeder.came)}")
            await _quiet(cluster, feeder.last_event)
            found = await complaints(cluster, seed, agents, feeder.roots)
        except Void as void:
            cluster.folder.make_all_tell()
            raise Void(f"{void}\nseed {seed}\n" + "\n".join(cluster.did)) from None
        finally:
            feeding.cancel()
            await asyncio.wait([feeding])
            fired = cluster.folder.fired()
            chronicle.fired = Counter(fired)
        chronicle.turns = await cluster.turns()
        cluster.note(f"{len(found)} complaints after {chronicle.turns} turns; fired: {dict(chronicle.fired)}")
        return Outcome(
            complaints=found, turns=chronicle.turns, roots=feeder.roots, did=cluster.did, fired=fired
        )


async def hunt(
    services: Services,
    path: Path,
    faults: Sequence[Fault],
    *,
    seed: int,
    hosts: int,
    agents: int,
    planted: str,
    within_s: float,
) -> list[str]:
    """Repeat the faults on a product with a planted fault until something is wrong; return what is."""
    rng = Random(seed)
    async with running_cluster(services, path, hosts=hosts, planted=(planted,)) as cluster:
        feeder = Feeder(cluster, seed, agents)
        feeding = asyncio.create_task(feeder.run())
        deadline = asyncio.get_running_loop().time() + within_s
        found: list[str] = []
        try:
            while not found and asyncio.get_running_loop().time() < deadline:
                with suppress(Void):  # a planted fault may slow everything down
                    for fault in faults:
                        await fault(cluster, rng)
                    await cluster.progress(rng.randint(20, 60))
                found = await wrongs(cluster)
        finally:
            feeding.cancel()
            await asyncio.wait([feeding])
        return found


async def _quiet(cluster: Cluster, last_event: int) -> None:
    async def look() -> bool:
        return bool(await cluster.value(_ALL_IS_HANDLED, last_event))

    cluster.note("waiting until all is handled")
    await cluster.until(look, "every message to be handled", QUIET_WITHIN_S, poll_s=0.1)
    cluster.note("all is handled")
