"""A coordinator learns whose processes are gone, and is not kept by a node that is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from coordinators import gone
from coordinators.gone import GoneHosts
from storage.connect import create_pool
from storage.migrate import migrate
from storage.queries import query


@pytest.fixture
async def pool(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncpg.Pool[Any]]:
    monkeypatch.setattr(gone, "LOOK_EVERY_S", 0.0)
    await migrate(database)
    pool = await create_pool(database, application="callboard-test")
    yield pool
    await pool.close()


async def ended(pool: asyncpg.Pool[Any], node: str) -> int:
    epoch = int(await pool.fetchval(query("register_host"), "shop", "h", node, 1, "", "", "1.0", 1))
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

    async def is_gone(node: str, pid: int, was: str) -> bool:
        if node == "lost":
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
    async def is_gone(node: str, pid: int, was: str) -> bool:
        return node == "here"

    for _ in range(60):
        await ended(pool, "lost")
    await noted(pool, GoneHosts(pool, "shop", is_gone), await ended(pool, "here"))
