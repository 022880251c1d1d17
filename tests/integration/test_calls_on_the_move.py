"""Hosts come, go and die while calls are being made that nobody may make twice: those of living hosts are known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from actors.holdings import DRAIN_S
from bus.address import Address, partition_of
from bus.errors import ServiceUnavailable
from callboard import removal
from callboard.cluster import GIVEN_BACK_WITHIN_S, Cluster, leave_cleanly
from callboard.removal import remove_domain
from callboard.services import Endpoints
from callboard.settings import load_settings
from storage.code import pack, put_code
from storage.intake import Incoming, accept
from storage.placement import live_hosts
from storage.queries import query
from tests.integration.cli import until
from tests.integration.deployment import Deployment

FOLDER = Path(__file__).with_name("presses")
AGENTS = 24
NAMES = [f"p{n}" for n in range(AGENTS)]
CALLS = "select count(*)::int from ledger where status = $1"


@pytest.fixture
async def presses(database: str, services: Endpoints) -> AsyncIterator[Deployment]:
    async with Deployment.open(FOLDER, database, services.nats_url) as deployment:
        await deployment.coordinate(hosts=2)
        await until(lambda: owners(deployment, 2))
        yield deployment


async def owners(deployment: Deployment, count: int) -> bool:
    hosts = await live_hosts(deployment.pool, "presses")
    return len(hosts) == count and sum(len(host.owned) for host in hosts) == 8


async def calls(deployment: Deployment, status: str) -> int:
    return int((await deployment.fetch(CALLS, status))[0][0])


async def all_pressing(deployment: Deployment) -> Callable[[], None]:
    """Every agent makes its call; returns what lets these end."""
    from presses.agents import Go, may_end, pressed  # type: ignore[import-not-found]

    pressed.clear()
    may_end.clear()
    press = [Incoming(to=Address("presses", "press", name), message=Go(name=name)) for name in NAMES]
    await accept(deployment.pool, deployment.transport, press)

    async def begun() -> bool:
        return await calls(deployment, "started") == AGENTS

    await until(begun)
    end: Callable[[], None] = may_end.set
    return end


async def ended(deployment: Deployment) -> bool:
    said = "select count(*)::int from agents where agent like 'press/%' and state->>'said' <> ''"
    return await deployment.fetch(said) == [(AGENTS,)]


def all_pressed() -> list[str]:
    from presses.agents import pressed

    return sorted(pressed)


async def fewer_hosts(deployment: Deployment) -> None:
    await deployment.pool.execute(query("set_host_target"), "presses", 1)
    await until(lambda: owners(deployment, 1))


async def new_code(deployment: Deployment) -> None:
    before = [host.epoch for host in await live_hosts(deployment.pool, "presses")]
    digest, bundle = pack(FOLDER)
    await put_code(deployment.pool, "presses", digest, bundle)
    await deployment.pool.execute("update domains set code = $1", digest)

    async def replaced() -> bool:
        hosts = await live_hosts(deployment.pool, "presses")
        return all(host.epoch not in before for host in hosts) and await owners(deployment, 2)

    await until(replaced)


async def stop(deployment: Deployment) -> None:
    said: list[str] = []
    endpoints = Endpoints(postgres_url="", nats_url="", embedded_postgres=False, embedded_nats=False)
    cluster = Cluster(load_settings(), endpoints, deployment.pool, deployment.transport)
    await deployment.forsake()
    await leave_cleanly(cluster, said.append, waits_for_calls=True, end_coordinators=deployment.forsake)
    assert [line.split(";")[0] for line in said] == ["waiting for calls of at-most-once tools to end"]
    assert await live_hosts(deployment.pool, "presses") == []


@pytest.mark.parametrize(
    ("what", "waits_s"),  # longer than it would without these calls
    [(fewer_hosts, 2 * DRAIN_S), (new_code, 2 * DRAIN_S), (stop, GIVEN_BACK_WITHIN_S + 1)],
    ids=["fewer_hosts", "new_code", "stop"],
)
async def test_calls_under_way_are_known_when_their_hosts_leave(
    presses: Deployment, what: Callable[[Deployment], Awaitable[None]], waits_s: float
) -> None:
    end_calls = await all_pressing(presses)
    asyncio.get_running_loop().call_later(waits_s, end_calls)
    await what(presses)
    if what is stop:
        await presses.coordinate(hosts=2)
    await until(lambda: ended(presses))
    assert await calls(presses, "succeeded") == AGENTS
    assert all_pressed() == sorted(NAMES)
    said = await presses.fetch("select distinct agent, state->>'said' from agents where agent like 'press/%'")
    assert sorted(said) == sorted((f"press/{name}", name) for name in NAMES)


async def test_a_stop_waits_for_calls_also_where_coordinators_come_back_and_ray_cannot_end_them(
    presses: Deployment,
) -> None:
    async def away() -> None:
        await presses.coordinate(hosts=2)
        raise ServiceUnavailable("Ray does not answer.")

    end_calls = await all_pressing(presses)
    asyncio.get_running_loop().call_later(GIVEN_BACK_WITHIN_S + 1, end_calls)
    said: list[str] = []
    endpoints = Endpoints(postgres_url="", nats_url="", embedded_postgres=False, embedded_nats=False)
    cluster = Cluster(load_settings(), endpoints, presses.pool, presses.transport)
    await presses.forsake()
    await leave_cleanly(cluster, said.append, waits_for_calls=True, end_coordinators=away)
    assert said[1] == "Warning: Ray does not answer."
    assert await calls(presses, "succeeded") == AGENTS
    assert [host for host in await live_hosts(presses.pool, "presses") if host.owned] == []


async def test_a_domain_that_is_removed_ends_its_calls_first(
    presses: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "DRAINED_WITHIN_S", 1.0)
    end_calls = await all_pressing(presses)
    asyncio.get_running_loop().call_later(2.0, end_calls)
    said: list[str] = []
    removed = await remove_domain(
        presses.pool, presses.transport, "presses", force=True, progress=said.append
    )
    assert said[-1] == "waiting for calls of at-most-once tools to end"
    assert (removed.hosts_drained, removed.hosts_fenced) == (2, 0)
    assert await calls(presses, "succeeded") == AGENTS


async def test_a_host_that_dies_takes_no_calls_of_others_with_it(presses: Deployment) -> None:
    end_calls = await all_pressing(presses)
    dying = (await live_hosts(presses.pool, "presses"))[0]
    its_own = sum(partition_of("default", f"press/{agent}", 8) in dying.owned for agent in NAMES)
    await presses.launcher.hosts[dying.host].kill()
    end_calls()
    await until(lambda: ended(presses))
    await until(lambda: owners(presses, 2))
    assert 0 < its_own < AGENTS
    assert await calls(presses, "unknown") == its_own
    assert await calls(presses, "succeeded") == len(all_pressed()) == AGENTS - its_own


async def test_whoever_cannot_wait_stops_at_once_and_the_calls_are_unknown(presses: Deployment) -> None:
    await all_pressing(presses)
    endpoints = Endpoints(postgres_url="", nats_url="", embedded_postgres=False, embedded_nats=False)
    cluster = Cluster(load_settings(), endpoints, presses.pool, presses.transport)
    await presses.forsake()
    async with asyncio.timeout(GIVEN_BACK_WITHIN_S + 1):
        await leave_cleanly(cluster, pytest.fail, waits_for_calls=False, end_coordinators=presses.forsake)
    await presses.kill_hosts()
    await presses.coordinate(hosts=1)
    await until(lambda: ended(presses))
    assert (await calls(presses, "unknown"), all_pressed()) == (AGENTS, [])
