"""A coordinator learns whose processes are gone, and is not kept by a node that is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from bus.errors import InvalidDomainFile
from bus.transport import LoopbackTransport
from coordinators import gone
from coordinators.domain import DomainCoordinator
from coordinators.gone import GoneHosts, Process
from storage.connect import create_pool
from storage.migrate import migrate
from storage.placement import claim_coordinator
from storage.queries import query
from tests.integration.deployment import cancelled


@pytest.fixture
async def pool(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncpg.Pool[Any]]:
    monkeypatch.setattr(gone, "LOOK_EVERY_S", 0.0)
    await migrate(database)
    pool = await create_pool(database, application="callboard-test")
    yield pool
    await pool.close()


async def registered(pool: asyncpg.Pool[Any], node: str, machine: str = "") -> int:
    return int(await pool.fetchval(query("register_host"), "shop", "h", node, 1, machine, "", "", "1.0", 1))


async def ended(pool: asyncpg.Pool[Any], node: str, machine: str = "") -> int:
    epoch = await registered(pool, node, machine)
    await pool.execute(query("end_host"), "shop", epoch, "a test")
    return epoch


async def noted(pool: asyncpg.Pool[Any], look: GoneHosts, epoch: int) -> None:
    async with asyncio.timeout(10):
        while not await pool.fetchval(query("host_is_gone"), "shop", epoch):
            await look()
            await asyncio.sleep(0.01)


async def test_a_node_that_does_not_answer_keeps_neither_the_rounds_nor_other_hosts(
    pool: asyncpg.Pool[Any],
) -> None:
    answers = asyncio.Event()

    async def is_gone(process: Process) -> bool:
        if process.node == "lost":
            await answers.wait()
        return True

    lost, here = [await ended(pool, node) for node in ("lost", "here")]
    look = GoneHosts(pool, "shop", is_gone)
    async with asyncio.timeout(5):
        await look()
    await noted(pool, look, here)
    assert not await pool.fetchval(query("host_is_gone"), "shop", lost)
    answers.set()
    await noted(pool, look, lost)


async def test_of_more_hosts_on_lost_nodes_than_are_looked_at_at_once_none_hides_another(
    pool: asyncpg.Pool[Any],
) -> None:
    async def is_gone(process: Process) -> bool:
        return process.node == "here"

    for _ in range(60):
        await ended(pool, "lost")
    await noted(pool, GoneHosts(pool, "shop", is_gone), await ended(pool, "here"))


async def test_a_machine_whose_node_has_another_name_by_now_is_asked_by_that_name(
    pool: asyncpg.Pool[Any],
) -> None:
    asked: dict[str, str | None] = {}

    async def is_gone(process: Process) -> bool:
        asked[process.node] = process.near
        return process.near is not None

    before = await ended(pool, "before", "machine a")
    for node, machine in (("elsewhere", "machine b"), ("unknown", "")):
        await ended(pool, node, machine)
    await registered(pool, "unknown as well")
    await registered(pool, "after", "machine a")
    await noted(pool, GoneHosts(pool, "shop", is_gone), before)
    assert asked == {"before": "after", "elsewhere": None, "unknown": None}


async def test_nobody_looks_any_more_once_the_coordinator_has_ended(pool: asyncpg.Pool[Any]) -> None:
    looks: list[asyncio.Task[Any] | None] = []

    async def is_gone(process: Process) -> bool:
        looks.append(asyncio.current_task())
        coordinator.look_soon()
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    await ended(pool, "lost")
    await pool.execute(query("register_domain"), "shop", 1, "{}", [], "", "")
    epoch = await claim_coordinator(pool, "shop", "test")
    nothing: Any = None
    coordinator = DomainCoordinator(pool, LoopbackTransport(), nothing, "shop", epoch)
    GoneHosts(pool, "shop", is_gone).join(coordinator)
    leads = asyncio.create_task(coordinator.run())
    async with asyncio.timeout(10):
        while not looks:  # noqa: ASYNC110  # a task of the coordinator's own
            await asyncio.sleep(0.01)
        await cancelled(leads)
        [look] = looks
        assert look is not None
        await asyncio.wait([look])
    assert look.cancelled()


async def test_a_domain_of_which_no_host_can_be_started_is_led_on(pool: asyncpg.Pool[Any]) -> None:
    """Its stored domain.yaml is of a release that reads otherwise: the hosts that run go on, and so do their tasks."""
    starts, led = 0, asyncio.Event()

    class Launcher:
        async def start(self, domain: str, host: str) -> Any:
            nonlocal starts
            starts += 1
            raise InvalidDomainFile("The stored domain.yaml is wrong.")

    async def work() -> None:
        if starts == 2:  # it is tried again, and not in every round
            led.set()
        coordinator.look_soon()

    await pool.execute(query("register_domain"), "shop", 1, "{}", [], "", "")
    await pool.execute(query("set_host_target"), "shop", 1)
    nothing: Any = Launcher()
    epoch = await claim_coordinator(pool, "shop", "test")
    coordinator = DomainCoordinator(pool, LoopbackTransport(), nothing, "shop", epoch)
    coordinator.every_round.append(work)
    leads = asyncio.create_task(coordinator.run())
    async with asyncio.timeout(5):
        await led.wait()
    await cancelled(leads)
    assert starts == 2
