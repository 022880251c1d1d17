"""Hosts come and go with the backlog, with a domain's code, and with their coordinators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from bus.address import Address
from bus.errors import ServiceUnavailable
from callboard.cluster import Cluster
from callboard.services import Endpoints
from callboard.settings import load_settings
from coordinators import domain
from coordinators.master import Master
from storage.code import pack, put_code
from storage.intake import Incoming, accept
from storage.placement import HostRow, claim_coordinator, live_hosts
from tests.integration.deployment import Deployment, cancelled

SLOW = Path(__file__).with_name("slow")


@pytest.fixture
async def slow(database: str, services: Endpoints) -> AsyncIterator[Deployment]:
    async with Deployment.open(SLOW, database, services.nats_url) as deployment:
        yield deployment


class LedAlready:
    """Implements coordinators.launcher.Leaders: the domain's coordinator runs."""

    async def lead(self, domain: str) -> None:
        """Nothing is to do."""

    async def led(self) -> set[str]:
        return {"slow"}

    async def end(self, domain: str) -> None:
        raise AssertionError("nothing was removed")


async def until(condition: Callable[[], Awaitable[bool]], *, timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110  # rows in Postgres, changed by others
            await asyncio.sleep(0.02)


async def serving(deployment: Deployment) -> list[HostRow]:
    return [host for host in await live_hosts(deployment.pool, "slow") if host.ready and host.owned]


async def send(deployment: Deployment, count: int, *, seconds: float) -> None:
    from slow.agents import Nap

    await accept(
        deployment.pool,
        deployment.transport,
        [Incoming(to=Address("slow", "sleeper", str(n)), message=Nap(seconds=seconds)) for n in range(count)],
    )


async def naps(deployment: Deployment) -> int:
    return int((await deployment.fetch("select count(*) from transitions where domain = 'slow'"))[0][0])


async def test_hosts_grow_with_the_backlog_and_shrink_after_it(slow: Deployment) -> None:
    await slow.coordinate(hosts=1)
    epoch = await claim_coordinator(slow.pool, "master", "test")

    master = asyncio.create_task(Master(slow.pool, epoch, LedAlready()).run())
    try:

        async def has_hosts(count: int) -> bool:
            return len(await serving(slow)) == count

        await until(lambda: has_hosts(1))
        await send(slow, 1_500, seconds=0.4)
        await until(lambda: has_hosts(3), timeout_s=60)
        await until(lambda: has_hosts(1), timeout_s=90)
        assert await naps(slow) == 1_500
        assert await slow.fetch("select * from mailbox") == []
    finally:
        await cancelled(master)


async def test_a_host_that_is_ready_gets_its_partitions_before_the_next_round(
    slow: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domain, "ROUND_EVERY_S", 60.0)
    await slow.coordinate(hosts=1)

    async def one_serves() -> bool:
        return len(await serving(slow)) == 1

    await until(one_serves, timeout_s=10)


async def test_new_code_of_a_domain_gets_new_hosts_and_nothing_is_lost(
    slow: Deployment, tmp_path: Path
) -> None:
    await slow.coordinate(hosts=2)

    async def two_serve() -> bool:
        return len(await serving(slow)) == 2

    await until(two_serve)
    before = {host.epoch for host in await serving(slow)}
    await send(slow, 200, seconds=0.01)
    digest, bundle = pack(SLOW)
    await put_code(slow.pool, "slow", digest, bundle)
    await slow.pool.execute("update domains set code = $1 where domain = 'slow'", digest)

    async def replaced() -> bool:
        hosts = await live_hosts(slow.pool, "slow")
        return len(hosts) == 2 and all(host.code == digest and len(host.owned) == 6 for host in hosts)

    await until(replaced)
    await send(slow, 200, seconds=0.01)

    async def all_done() -> bool:
        return await naps(slow) == 400

    await until(all_done)
    ended = await slow.fetch("select epoch, ended_why from hosts where ended_at is not null")
    assert {epoch for epoch, _ in ended} == before
    assert {why for _, why in ended} == {"drained"}


async def test_a_domain_is_not_ready_while_one_of_its_hosts_owns_nothing(
    slow: Deployment, services: Endpoints
) -> None:
    """Between a second host's start and the dealing out of partitions to it."""
    cluster = Cluster(load_settings(), services, slow.pool, slow.transport)
    await slow.coordinate()
    await cluster.ready("slow")
    await slow.forsake()
    await slow.launcher.start("slow", "the-second")
    await until(lambda: _some_are_ready(slow, 2))
    await slow.fetch("update domains set hosts = 2")
    with pytest.raises(ServiceUnavailable, match="for 0 s: 1 of 2 own partitions"):
        await cluster.ready("slow", timeout_s=0.2)
    await slow.coordinate(hosts=2)
    await cluster.ready("slow")
    assert len(await serving(slow)) == 2


async def _some_are_ready(deployment: Deployment, count: int) -> bool:
    return len([host for host in await live_hosts(deployment.pool, "slow") if host.ready]) == count
