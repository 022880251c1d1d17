"""Hosts die while they work for a task: what it has used is counted once, whatever ran again."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from bus.envelope import new_id
from callboard.services import Services
from tests.faults.chaos_run import seed_of
from tests.faults.cluster import Cluster, running_cluster
from tests.faults.feed import accept, outside

SPENDERS = 12
STEPS = 3  # of each message, as chaos/spender.py has it
POINTS = ("commit.after", "flush.before", "flush.after", "commit.before")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("points", [POINTS[:1], pytest.param(POINTS * 3, marks=pytest.mark.long)])
async def test_what_a_task_has_used_is_counted_once_whatever_dies(
    own_services: Services, tmp_path: Path, points: tuple[str, ...]
) -> None:
    rng, task = Random(seed_of(1)), f"chaos/{new_id()}"
    async with running_cluster(own_services, tmp_path / "run", hosts=2) as cluster:
        for number, point in enumerate(points):
            await _feed_and_kill(cluster, rng, task, number, point)

        async def all_is_handled() -> bool:
            return await cluster.waiting() == 0 and not await cluster.value("select count(*) from turns")

        await cluster.until(all_is_handled, "every message to be handled", 60.0)
        [used] = await cluster.sql(
            "select * from used_by('chaos', 'default', $1::uuid)", task.partition("/")[2]
        )
        messages = SPENDERS * len(points)
        steps = messages * STEPS
        assert tuple(used) == (steps + messages, 0, steps, steps, steps * 0.5)
        assert len(await cluster.sql("select from spending")) >= 2  # one row for each host


async def _feed_and_kill(cluster: Cluster, rng: Random, task: str, number: int, point: str) -> None:
    """Give each spender a message; a host dies when it passes the point."""
    host = rng.choice(await cluster.settled())
    before = cluster.folder.fired().count(point)
    await cluster.order(host.pid, faults=f"{point}=kill@{rng.randint(2, 6)}")
    partitions = int(await cluster.value("select partitions from domains"))
    rows = [
        outside(f"spend-{n}-{number}", f"spender/{n}", "chaos.spend.v1", {"number": n}, partitions, task=task)
        for n in range(SPENDERS)
    ]
    await accept(cluster, rows)

    async def has_fired() -> bool:
        return cluster.folder.fired().count(point) > before

    await cluster.until(has_fired, f"a host to die at {point}", 30.0)
    await cluster.ended(host.epoch, 30.0)
