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
from tests.faults import judge
from tests.faults.chronicle import Chronicle
from tests.faults.cluster import Cluster, running_cluster
from tests.faults.feed import Feeder
from tests.faults.harbour import Harbour
from tests.faults.landfall import voyage_wrongs
from tests.faults.programs import EVENTS, FEEDER, TASKS
from tests.faults.verify import SHOWN, complaints, wrongs
from tests.faults.watched import Void

AGENTS = 200
ENOUGH_WITHIN_S = 120.0
QUIET_WITHIN_S = 240.0  # on a machine that has much else to do

# In one statement: what leaves one place is in the next.
_ALL_IS_HANDLED = """
select not exists (select from mailbox where agent not like 'bell/%') and not exists (select from timers) and not exists (select from turns)
  and not exists (select from tasks where finished_at is null and status <> 'stuck')
  and exists (select from event_cursors where seq >= $1)
"""

_LEFT = """
select agent, what from (
  select 1 as n, agent, 'turn ' || t::text as what from turns t union all
  select 2, agent, 'promise ' || kind || ' ' || key || ' ' || status from promises
    where status = 'pending' or kind in ('ask', 'sleep') union all
  select 3, agent, 'timer due at ' || due_at from timers union all
  select 4, 'task/' || id, request_key || ' ' || status from tasks where finished_at is null and status <> 'stuck' union all
  select 5, agent, count(*) || ' messages, the first ' || min(seq) from mailbox group by agent) left_over
order by n, agent limit 30
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
    planted: tuple[str, ...] = (),
) -> Outcome:
    """Feed, hurt, wait until everything is handled, compare. Raises Void when a fault did not happen."""
    rng = Random(seed)
    chronicle.seed = seed
    with judge.running(path.parent) as world:
        secrets = path.parent / "secrets"
        secrets.mkdir()
        (secrets / "JUDGE_URL").write_text(world)
        async with running_cluster(
            services,
            path,
            hosts=hosts,
            label=f"seed {seed}",
            planted=planted,
            secrets_folder=secrets,
            schedules=True,
        ) as cluster:
            return await _run(cluster, faults, rng, seed, chronicle, agents, turns_between, world)


async def _run(
    cluster: Cluster,
    faults: Sequence[Fault],
    rng: Random,
    seed: int,
    chronicle: Chronicle,
    agents: int,
    turns_between: tuple[int, int],
    world: str,
) -> Outcome:
    cluster.note(f"{len(faults)} faults to come, {agents} agents")
    feeder, harbour = Feeder(cluster, seed, agents), Harbour(cluster, seed, world)
    fed, at_sea = asyncio.create_task(feeder.run()), asyncio.create_task(harbour.run())
    feeding = asyncio.create_task(_both(fed, at_sea))
    try:
        cluster.busy = feeding
        await cluster.progress(rng.randint(*turns_between))
        for number, fault in enumerate(faults, 1):
            cluster.note(f"{fault.__name__} begins, {number} of {len(faults)}")
            await fault(cluster, rng)
            chronicle.done.append(fault.__name__)
            await cluster.progress(rng.randint(*turns_between))
            chronicle.turns = await cluster.turns()
        await cluster.until(harbour.has_enough, "enough voyages", ENOUGH_WITHIN_S)
        feeder.stop()
        harbour.stop()
        await asyncio.wait([fed, feeding], return_when=asyncio.FIRST_COMPLETED)
        for how in (FEEDER, EVENTS, TASKS):
            if not feeder.came[how]:
                raise Void(f"no root came in by {how}")
        cluster.note(f"roots came in by {dict(feeder.came)}")
        await _quiet(cluster, feeder.last_event)
        harbour.finish()
        await feeding
        found = await complaints(cluster, seed, agents, feeder.roots)
        found += await voyage_wrongs(cluster, harbour, seed, world)
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
    return Outcome(complaints=found, turns=chronicle.turns, roots=feeder.roots, did=cluster.did, fired=fired)


async def _both(*running: Awaitable[None]) -> None:
    """The failure of one ends the other."""
    async with asyncio.TaskGroup() as group:
        for each in running:
            group.create_task(_awaited(each))


async def _awaited(work: Awaitable[None]) -> None:
    await work


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
    try:
        await cluster.until(look, "every message to be handled", QUIET_WITHIN_S, poll_s=0.1)
    except Void as void:
        left = [f"{row['agent']}: {row['what']}" for row in await cluster.sql(_LEFT)]
        raise Void(f"{void}; left: {left}") from None
    cluster.note("all is handled")
