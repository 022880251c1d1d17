"""A domain.yaml or code that the hosts refuse: whoever waits for them is told why, at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bus.errors import InvalidDomainFile
from callboard.cluster import Cluster
from callboard.services import Endpoints
from callboard.settings import load_settings
from coordinators.master import Master
from storage.domains import find_domain, register_domain
from storage.inspect import list_domains
from storage.placement import claim_coordinator
from tests.integration.deployment import Deployment, cancelled
from tests.integration.test_placement import until

SLOW = Path(__file__).with_name("slow")


@pytest.fixture
async def slow(database: str, services: Endpoints) -> AsyncIterator[Deployment]:
    """Its domain.yaml has a key of a release to come."""
    async with Deployment.open(SLOW, database, services.nats_url) as deployment:
        await deployment.pool.execute("update domains set spec = (spec::jsonb || '{\"colour\": 1}')::json")
        yield deployment


async def is_refused(slow: Deployment) -> bool:
    [domain] = await list_domains(slow.pool)
    return "colour: is not known" in (domain.refusal or "")


async def ready(slow: Deployment) -> None:
    nothing: Any = None
    await Cluster(load_settings(), nothing, slow.pool, slow.transport).ready("slow")


async def test_what_its_hosts_say_reaches_whoever_waits_for_them_until_one_is_ready(slow: Deployment) -> None:
    await slow.coordinate(hosts=1)
    with pytest.raises(InvalidDomainFile, match=r"No host of slow can be started: .* colour: is not known"):
        await ready(slow)
    assert await is_refused(slow)
    await slow.pool.execute(
        "update domains set spec = (spec::jsonb - 'colour')::json"
    )  # the nodes have the new release

    async def is_forgotten() -> bool:
        return not await is_refused(slow)

    await until(is_forgotten)
    await ready(slow)


async def test_it_is_told_again_of_a_domain_that_was_registered_again_as_it_was(slow: Deployment) -> None:
    """Its coordinator has told the same before."""
    await slow.coordinate(hosts=1)
    await until(lambda: is_refused(slow))
    await register_domain(slow.pool, await find_domain(slow.pool, "slow"))
    with pytest.raises(InvalidDomainFile, match="colour: is not known"):
        await ready(slow)


async def test_what_a_master_of_an_older_release_says_of_a_new_domain_is_told_as_well(
    slow: Deployment,
) -> None:
    """It starts no coordinator for it."""
    leaders: Any = None
    master = Master(slow.pool, await claim_coordinator(slow.pool, "master", "test"), leaders)
    leads = asyncio.create_task(master.run())
    with pytest.raises(InvalidDomainFile, match="colour: is not known"):
        await ready(slow)
    await cancelled(leads)
    await claim_coordinator(slow.pool, "master", "test")  # perhaps of a newer one
    assert not await is_refused(slow)
