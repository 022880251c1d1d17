"""A message that kills its process is found and given up, and its neighbours' work is done exactly (G7)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from callboard.services import Services
from tests.faults.cluster import Cluster, running_cluster
from tests.faults.feed import accept, outside
from tests.faults.verify import broken_chains

NEIGHBOURS = 60
EACH = 5
MOST_DEATHS = 8  # one in the open, `crash_trials` alone, and some that came before its attempt was committed
GIVEN_UP_WITHIN_S = 90.0


@pytest.mark.timeout(240)
@pytest.mark.parametrize("poisons", [1, pytest.param(2, marks=pytest.mark.long)])
async def test_a_message_that_kills_its_process_becomes_a_dead_letter_and_spares_its_neighbours(
    own_services: Services, tmp_path: Path, poisons: int
) -> None:
    async with running_cluster(own_services, tmp_path / "run", hosts=2) as cluster:
        await _feed(cluster, poisons)

        async def all_is_handled() -> bool:
            return await cluster.waiting() == 0

        await cluster.until(all_is_handled, "every message to be handled or given up", GIVEN_UP_WITHIN_S)
        letters = await cluster.sql("select agent, reason from dead_letters order by agent")
        assert [(row["agent"], row["reason"]) for row in letters] == [
            (f"poisoned/bad-{n}", "crash_loop") for n in range(poisons)
        ]
        deaths = await cluster.value("select count(*) from hosts where ended_why = 'its process has ended'")
        assert deaths <= MOST_DEATHS * poisons
        states = await cluster.sql("select agent, state::text as state from agents where state is not null")
        counts = {row["agent"]: json.loads(row["state"])["count"] for row in states}
        expected = {f"poisoned/good-{n}": EACH for n in range(NEIGHBOURS)}
        expected |= {f"poisoned/bad-{n}": 1 for n in range(poisons)}  # what came after the poison
        assert counts == expected
        assert await broken_chains(cluster) == []


async def _feed(cluster: Cluster, poisons: int) -> None:
    partitions = int(await cluster.value("select partitions from domains"))
    rows = []
    for n in range(EACH):
        rows += [
            outside(f"good-{n}-{k}", f"poisoned/good-{k}", "chaos.count.v1", {}, partitions)
            for k in range(NEIGHBOURS)
        ]
        if n == 1:
            for k in range(poisons):
                rows.append(outside(f"bad-{k}", f"poisoned/bad-{k}", "chaos.poison.v1", {}, partitions))
                rows.append(outside(f"after-{k}", f"poisoned/bad-{k}", "chaos.count.v1", {}, partitions))
    await accept(cluster, rows)
