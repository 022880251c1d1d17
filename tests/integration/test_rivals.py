"""Two Rays whose coordinators lead with one database: one leads, the other one waits and is named."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from bus.errors import ServiceUnavailable
from callboard import ray_cluster
from callboard.doctor.deployment import _rivals
from callboard.services import Endpoints
from coordinators import rivals
from coordinators.domain import DomainCoordinator
from coordinators.rivals import wait_for_rivals
from storage import inspect
from storage.connect import coordinator_application, create_pool
from storage.placement import claim_coordinator
from storage.queries import query
from tests.integration.deployment import Deployment, cancelled
from tests.integration.puppets import Puppets
from tests.integration.test_placement import until

SLOW = Path(__file__).with_name("slow")


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "LOOK_EVERY_S", 0.05)


async def test_coordinators_of_two_rays_do_not_fence_each_other_for_ever(
    services: Endpoints, database: str
) -> None:
    async with Deployment.open(SLOW, database, services.nats_url) as slow:
        puppets = Puppets(slow)
        claims: list[str] = []

        async def ray(node: str) -> None:
            """What a Ray does: it starts the coordinator again whenever that leaves."""
            while True:
                await wait_for_rivals(database, "slow", node, lambda: [node])
                pool = await create_pool(database, application=coordinator_application("slow"))
                try:
                    claims.append(node)
                    epoch = await claim_coordinator(pool, "slow", node)
                    await DomainCoordinator(pool, slow.transport, puppets, "slow", epoch).run()
                finally:
                    pool.terminate()

        first = asyncio.create_task(ray("a"))
        await until(lambda: leads(slow, "a"))
        second = asyncio.create_task(ray("b"))
        try:
            await until(lambda: waits(slow, "b"))
            await asyncio.sleep(1.5)  # several rounds: a fenced coordinator would have come back
            assert claims == ["a"]
            (found,) = _rivals(await inspect.list_coordinators(slow.pool))
            assert "slow (node a; node b waits)" in found.detail
            await cancelled(first)  # the first Ray is gone
            await until(lambda: leads(slow, "b"), timeout_s=10)
        finally:
            await cancelled(first)
            await cancelled(second)


async def leads(slow: Deployment, node: str) -> bool:
    return [c.node for c in await inspect.list_coordinators(slow.pool)] == [node]


async def waits(slow: Deployment, node: str) -> bool:
    return [c.rival for c in await inspect.list_coordinators(slow.pool)] == [node]


async def test_a_second_ray_is_refused_although_the_first_has_no_host(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "FORGOTTEN_AFTER_S", 0.1)
    pool = await create_pool(database, application=coordinator_application("master"))
    other = await create_pool(database, application="callboard-test", size=1)
    try:
        await claim_coordinator(pool, "master", "a")
        await ray_cluster._check_not_elsewhere(other, ["a", "b"])
        with pytest.raises(ServiceUnavailable, match="its master coordinator on node a"):
            await ray_cluster._check_not_elsewhere(other, ["b"])
    finally:
        pool.terminate()
        other.terminate()


async def test_a_connection_that_a_dead_machine_has_left_is_no_rival(database: str) -> None:
    pool = await create_pool(database, application=coordinator_application("master"))
    try:
        await claim_coordinator(pool, "master", "a")
        nobody: Callable[[], list[str]] = lambda: ["b"]  # noqa: E731
        async with asyncio.timeout(10):
            await wait_for_rivals(database, "master", "b", nobody)
    finally:
        pool.terminate()


async def test_a_domain_whose_name_begins_as_a_long_one_does_is_no_rival(database: str) -> None:
    """Of a connection's name Postgres keeps 63 bytes."""
    north, south = (f"orders-and-returns-of-our-largest-customers-{where}" for where in ("north", "south"))
    pool = await create_pool(database, application=coordinator_application(south))
    try:
        await claim_coordinator(pool, north, "gone")
        await claim_coordinator(pool, south, "b")
        async with asyncio.timeout(2):  # within that time this connection is at work
            await wait_for_rivals(database, north, "b", lambda: ["b"])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await wait_for_rivals(database, south, "c", lambda: ["c"])
        running = await pool.fetch(query("running_with_other_schema"), 0)
        assert [row["what"] for row in running] == [f"coordinator {south}"]
    finally:
        pool.terminate()
