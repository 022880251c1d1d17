"""A message that kills its process is found and given up, and its neighbours' work is done exactly (G7), also that of those
that have just come to wait."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bus.address import DEFAULT_TENANT
from callboard.services import Services
from storage.decisions import settle, waiting
from storage.journal import Kind
from tests.faults.cluster import Cluster, running_cluster
from tests.faults.feed import accept, outside
from tests.faults.verify import broken_chains

NEIGHBOURS = 60
EACH = 5
WAITING = 10  # of each sort
SLEEP_S = 2.0
STAYS = ("time", "answer", "leave")
MOST_DEATHS = 8  # one in the open, `crash_trials` alone, and some that came before its attempt was committed
GIVEN_UP_WITHIN_S = 90.0


@pytest.mark.timeout(240)
@pytest.mark.parametrize("poisons", [1, pytest.param(2, marks=pytest.mark.long)])
async def test_a_message_that_kills_its_process_becomes_a_dead_letter_and_spares_its_neighbours(
    own_services: Services, tmp_path: Path, poisons: int
) -> None:
    async with running_cluster(own_services, tmp_path / "run", hosts=2) as cluster:
        await _feed(cluster, poisons)

        await cluster.until(
            lambda: _left(cluster, WAITING), "every message but those that wait for leave", GIVEN_UP_WITHIN_S
        )
        await _give_leave(cluster)
        await cluster.until(lambda: _left(cluster, 0), "those that have their leave")
        letters = await cluster.sql("select agent, reason from dead_letters order by agent")
        assert [(row["agent"], row["reason"]) for row in letters] == [
            (f"poisoned/bad-{n}", "crash_loop") for n in range(poisons)
        ]
        deaths = await cluster.value("select count(*) from hosts where ended_why = 'its process has ended'")
        assert deaths <= MOST_DEATHS * poisons
        states = await cluster.sql("select agent, state::text as state from agents where state is not null")
        counts = {row["agent"]: json.loads(row["state"])["count"] for row in states}
        expected = {f"poisoned/good-{n}": EACH for n in range(NEIGHBOURS)}
        expected |= {f"poisoned/{until}-{n}": 1 for until in STAYS for n in range(WAITING)}
        # What came after the poison, and what was asked.
        expected |= {f"poisoned/bad-{n}": 1 + len(range(n, WAITING, poisons)) for n in range(poisons)}
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
            rows += [
                outside(
                    f"{until}-{k}", f"poisoned/{until}-{k}", "chaos.stay.v1",
                    {"until": until, "asked": f"chaos/poisoned/bad-{k % poisons}", "seconds": SLEEP_S}, partitions,
                )
                for until in STAYS for k in range(WAITING)
            ]  # fmt: skip
    await accept(cluster, rows)


async def _left(cluster: Cluster, count: int) -> bool:
    """Whether all but so many messages are handled or given up."""
    return await cluster.waiting() == count


async def _give_leave(cluster: Cluster) -> None:
    async def give(db: Any) -> None:
        for asked in await waiting(db, tenant=DEFAULT_TENANT, kinds=(Kind.APPROVAL,)):
            await settle(
                db, asked, tenant=DEFAULT_TENANT, status="approved", value=None, by="ada", kind=Kind.APPROVAL
            )

    await cluster.retried(give)
