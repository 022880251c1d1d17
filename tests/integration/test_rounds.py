"""The coordinator's rounds: who is taken for dead, who is placed where, who is started."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bus.errors import Fenced, SchemaMismatch, ServiceUnavailable
from callboard import cluster
from callboard.advance import Advance
from callboard.services import Endpoints
from callboard.settings import load_settings
from coordinators import domain, silence, starts
from storage.connect import connect
from storage.lack import settle_lease
from storage.placement import claim_coordinator
from storage.queries import query
from tests.integration.deployment import Deployment
from tests.integration.puppets import Puppets
from tests.integration.test_placement import until

SLOW = Path(__file__).with_name("slow")
PARTITIONS = 12
SETTLED_ROUNDS = 9  # at four a second; before, nobody is taken for silent


@pytest.fixture
async def puppets(database: str, services: Endpoints) -> AsyncIterator[Puppets]:
    async with Deployment.open(SLOW, database, services.nats_url) as deployment:
        yield Puppets(deployment)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that others use, this loop may not beat for its puppets in time; nobody is taken for silent."""
    monkeypatch.setattr(silence, "SILENT_AFTER_S", 600.0)
    monkeypatch.setattr(silence, "UNKNOWN_AFTER_S", 600.0)


async def all_owned(puppets: Puppets) -> bool:
    return sum(len(row.owned) for row in (await puppets.rows()).values()) == PARTITIONS


@pytest.mark.usefixtures("patience")
async def test_a_host_whose_commit_lasts_delays_nobody_elses_partitions(
    puppets: Puppets, database: str
) -> None:
    slow, dies, heir = [await puppets.register(name) for name in ("slow", "dies", "heir")]
    async with puppets.led(hosts=3):
        await until(lambda: all_owned(puppets))
        committing = await connect(database, application="a commit that lasts")
        async with committing.transaction():
            await committing.fetch("select from hosts where epoch = $1 for share", slow.epoch)
            dies.gone.set()

            async def inherited() -> bool:
                rows = await puppets.rows()
                return dies.epoch not in rows and len(rows[heir.epoch].owned) == 6

            await until(inherited)
            assert len((await puppets.rows())[slow.epoch].owned) == 4
        await committing.close()
        await until(lambda: all_owned(puppets))


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("obeys", [True, False])
async def test_a_partition_that_moves_before_its_trial_is_suspect_where_it_arrives(
    puppets: Puppets, obeys: bool
) -> None:
    tries = await puppets.register("tries", obeys=obeys)
    async with puppets.led(hosts=2):
        await until(lambda: all_owned(puppets))
        await puppets._pool.execute("update hosts set suspect = '{1, 7}' where epoch = $1", tries.epoch)
        gains = await puppets.register("gains")

        async def moved() -> bool:
            return len((await puppets.rows())[gains.epoch].owned) == 6

        await until(moved)
        rows = await puppets.rows()
        assert (rows[tries.epoch].suspect, rows[gains.epoch].suspect) == (frozenset({1}), frozenset({7}))
        assert await puppets._pool.fetchval("select suspect from domains") == []
        taken = await puppets._pool.fetchval("select taken from hosts where epoch = $1", tries.epoch)
        assert {p for p, times in enumerate(taken) if times} == (
            set() if obeys else rows[gains.epoch].owned
        )  # it is told what it has not given


@pytest.mark.usefixtures("patience")
async def test_a_host_of_older_code_that_is_well_does_not_shorten_the_pauses_between_starts(
    puppets: Puppets,
) -> None:
    await puppets.register("old", code="old")
    await puppets._pool.execute("update domains set code = 'broken'")
    puppets.stillborn = True
    async with puppets.led(hosts=1, hurry=True):
        await puppets.rounds_pass(100)
        assert 2 <= puppets.starts <= 3  # at once, at once again, after one second, after five more


async def test_a_recovery_of_postgres_that_empties_the_heartbeats_makes_nobody_silent(
    puppets: Puppets,
) -> None:
    hosts = [await puppets.register(name) for name in ("a", "b")]
    await puppets._pool.execute("update hosts set started_at = now() - interval '1 hour'")
    async with puppets.led(hosts=2):
        await until(lambda: all_owned(puppets))
        await puppets.rounds_pass(SETTLED_ROUNDS)
        for host in hosts:
            host.beats = False
        await puppets.rounds_pass(1)
        await puppets._pool.execute("truncate heartbeats")
        await puppets.rounds_pass(3)  # so long the hosts take to reach Postgres again
        for host in hosts:
            host.beats = True
        await puppets.rounds_pass(3)
        assert set(await puppets.rows()) == {host.epoch for host in hosts}


async def test_a_host_that_stops_beating_is_taken_over(puppets: Puppets) -> None:
    frozen, other = await puppets.register("frozen"), await puppets.register("other")
    async with puppets.led(hosts=2):
        await until(lambda: all_owned(puppets))
        await puppets.rounds_pass(SETTLED_ROUNDS)
        frozen.beats = False
        before = puppets.rounds

        async def taken_over() -> bool:
            rows = await puppets.rows()
            return frozen.epoch not in rows and len(rows[other.epoch].owned) == PARTITIONS

        await until(taken_over)
        assert puppets.rounds - before <= 8
        assert "silent" in await puppets._pool.fetchval(
            "select ended_why from hosts where epoch = $1", frozen.epoch
        )


@pytest.mark.usefixtures("patience")
async def test_a_host_that_beats_and_is_never_ready_is_replaced_with_a_reason(
    puppets: Puppets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starts, "START_WITHIN_S", 0.5)
    slow = await puppets.register("slow", ready=False)
    async with puppets.led(hosts=1):

        async def ended() -> bool:
            return slow.epoch not in await puppets.rows()

        await until(ended)
        why = await puppets._pool.fetchval("select ended_why from hosts where epoch = $1", slow.epoch)
        assert why == "it beats, but was not ready within 0.5 s"
        await puppets.rounds_pass(1)
        assert puppets.starts == 1


async def test_a_schema_that_does_not_fit_is_said_once_and_again_when_it_changes(
    puppets: Puppets, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said = iter(["old", "old", "new", "new", None, "new"])
    over = asyncio.Event()

    async def fail(self: domain.DomainCoordinator) -> None:
        self.look_soon()
        try:
            word = next(said)
        except StopIteration:
            over.set()
            raise Fenced("the test is over") from None
        if word is not None:
            raise SchemaMismatch(word)

    monkeypatch.setattr(domain.DomainCoordinator, "_round", fail)
    async with puppets.led(hosts=0):
        await asyncio.wait_for(over.wait(), 30)
    words = [r.getMessage().split()[3] for r in caplog.records if r.levelname == "ERROR"]
    assert words == ["old", "new", "new"]


@pytest.mark.usefixtures("patience")
async def test_hosts_of_another_release_keep_their_partitions_until_others_are_ready(
    puppets: Puppets,
) -> None:
    old = await puppets.register("old", of="0.0.1")
    async with puppets.led(hosts=1):

        async def starts_another() -> bool:
            return puppets.starts == 1 and await all_owned(puppets)

        await until(starts_another)
        assert len((await puppets.rows())[old.epoch].owned) == PARTITIONS
        new = await puppets.register("new")

        async def replaced() -> bool:
            rows = await puppets.rows()
            return old.epoch not in rows and len(rows[new.epoch].owned) == PARTITIONS

        await until(replaced)
        why = await puppets._pool.fetchval("select ended_why from hosts where epoch = $1", old.epoch)
        assert why == "drained"


@pytest.mark.usefixtures("patience")
async def test_a_domain_that_waits_for_the_lease_keeps_no_more_hosts_than_it_is_to_have(
    puppets: Puppets,
) -> None:
    """A new one that took the room of another domain's dead host leaves it to that domain: it owns nothing yet."""
    older = [await puppets.register(name) for name in ("one", "two")]
    other = await claim_coordinator(puppets._pool, "other", "test")
    await settle_lease(puppets._pool, "other", other, wants=True, urgent=True)
    async with puppets.led(hosts=2) as coordinator:
        await until(lambda: all_owned(puppets))
        await puppets._pool.execute("update domains set code = 'new'")
        coordinator._lease.waits = True
        newer = await puppets.register("three", code="new")

        async def has_left() -> bool:
            return newer.epoch not in await puppets.rows()

        await until(has_left)
        assert {epoch: len(row.owned) for epoch, row in (await puppets.rows()).items()} == {
            host.epoch: PARTITIONS // 2 for host in older
        }


async def test_hosts_are_waited_for_as_long_as_one_comes_after_the_other(
    puppets: Puppets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long that takes in all: 60 s after the last change it is given up, with what is so."""
    now, looks = 0.0, 0

    def clock() -> float:
        nonlocal looks
        looks += 1
        return now

    async def looked_at() -> None:
        goal = looks + 2
        while looks < goal and not ready.done():  # noqa: ASYNC110  # in a loop that sleeps in between
            await asyncio.sleep(0.01)

    monkeypatch.setattr(cluster, "Advance", lambda: Advance(clock))
    deployment = puppets._deployment
    nothing: Any = None
    commands = cluster.Cluster(load_settings(), nothing, deployment.pool, deployment.transport)
    await deployment.pool.execute(query("set_host_target"), "slow", 4)
    ready = asyncio.create_task(commands.ready("slow"))
    for name in ("one", "two", "three"):
        await looked_at()
        now += 40.0
        await puppets.register(name)
    await looked_at()
    assert not ready.done()
    now += 60.0
    with pytest.raises(ServiceUnavailable, match="nothing has changed for 60 s: 0 of 4 own partitions"):
        await ready
