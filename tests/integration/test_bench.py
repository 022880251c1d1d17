"""The benchmarks' figures are what SQL finds in the journal and the history: on real hosts, without Ray."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bus.errors import ServiceUnavailable
from callboard.bench import asks, steps
from callboard.bench.rig import Rig
from callboard.cluster import Cluster
from callboard.services import Endpoints
from callboard.settings import load_settings
from tests.integration.deployment import Deployment

STEPS_DOMAIN = Path(steps.__file__).with_name("steps_domain")


@pytest.fixture
async def deployment(database: str, services: Endpoints) -> AsyncIterator[Deployment]:
    async with Deployment.open(STEPS_DOMAIN, database, services.nats_url) as deployment:
        await deployment.coordinate(hosts=2)
        yield deployment


@pytest.fixture
async def on(deployment: Deployment, services: Endpoints) -> Rig:
    cluster = Cluster(load_settings(), services, deployment.pool, deployment.transport)
    await cluster.ready("steps")
    return Rig(cluster, "steps", 0.0)


async def test_every_step_is_counted_in_the_journal(on: Rig, deployment: Deployment) -> None:
    await steps.drive(on, "warm-up", steps.Load(hosts=2, agents=3, turns=3, steps=2))
    load = steps.Load(hosts=2, agents=10, turns=20, steps=5)
    start = await steps.drive(on, "worker", load)
    report = await steps.report(on, load, start)
    assert (report.steps, report.turns, report.agents, report.hosts) == (100, 20, 10, 2)
    assert report.steps_per_s == pytest.approx(100 / report.seconds, rel=0.05)  # which is rounded
    assert 0 < report.p50_ms <= report.p99_ms
    assert report.mean_group > 1
    states = await deployment.fetch(
        "select distinct state ->> 'steps' from agents where agent like 'worker/worker-%'"
    )
    assert states == [("10",)]

    await deployment.fetch("delete from journal where ctid = (select max(ctid) from journal)")
    with pytest.raises(ServiceUnavailable, match=r"99 steps of 20 turns .* 100 of 20 were asked for"):
        await steps.report(on, load, start)


async def test_askers_and_answerers_are_on_two_hosts(on: Rig, deployment: Deployment) -> None:
    load = asks.Load(askers=5, asks=4)
    report = await asks.report(on, load, await asks.drive(on, "turn", load.askers, load.asks))
    assert (report.asks, report.hosts) == (20, 2)
    assert 0 < report.p50_ms <= report.p99_ms
    pairs = await deployment.fetch(
        """
        select count(*), count(*) filter (where a.epoch = b.epoch)
        from (select t.body -> 'calls' -> 0 ->> 'name' as call, h.epoch
              from transitions t join agents g using (agent) join hosts h on g.partition = any (h.owned)
              where t.agent like 'asker/%') a
        join (select g.agent, h.epoch from agents g join hosts h on g.partition = any (h.owned)) b
          on a.call = 'Question steps/' || b.agent
        """
    )
    assert pairs == [(5, 0)]
