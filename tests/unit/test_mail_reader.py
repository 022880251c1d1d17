"""Mailboxes of many agents are read in one query, and each reader gets its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bus.errors import StorageUnavailable
from storage.mail_reader import MOST_TOGETHER, Mailbox, MailReader


class Postgres:
    """One message in each mailbox, which names its agent; `open` lets the queries go on."""

    def __init__(self) -> None:
        self.queries: list[list[str]] = []
        self.open = asyncio.Event()
        self.error: Exception | None = None
        self.broken: str | None = None  # the agent whose mailbox cannot be read

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Postgres]:
        yield self

    async def fetch(self, statement: str, *columns: list[Any]) -> list[dict[str, Any]]:
        agents = columns[3]
        self.queries.append(agents)
        await self.open.wait()
        if self.error is not None:
            raise self.error
        if self.broken in agents:
            raise StorageUnavailable("A page of the table is broken.")
        return [{"place": place, "agent": agent} for place, agent in enumerate(agents, start=1)]


def mailbox(agent: str) -> Mailbox:
    return Mailbox(
        domain="shop", tenant="default", partition=0, agent=agent, below=2**63 - 1, messages=1, size=1
    )


async def agents_of(reader: MailReader, agent: str) -> list[str]:
    return [row["agent"] for row in await reader.read(mailbox(agent))]


async def test_what_is_asked_for_at_once_or_meanwhile_is_read_together() -> None:
    postgres = Postgres()
    reader = MailReader(postgres.connection)
    first = [asyncio.create_task(agents_of(reader, f"order/{n}")) for n in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    later = [asyncio.create_task(agents_of(reader, f"order/{n}")) for n in range(3, MOST_TOGETHER + 4)]
    await asyncio.sleep(0)
    postgres.open.set()
    assert await asyncio.gather(*first, *later) == [[f"order/{n}"] for n in range(MOST_TOGETHER + 4)]
    assert [len(agents) for agents in postgres.queries] == [3, MOST_TOGETHER, 1]


@pytest.mark.parametrize(
    "error", [StorageUnavailable("The connection failed."), ValueError("a row of no kind")]
)
async def test_an_error_reaches_all_that_asked_and_the_next_query_is_made(error: Exception) -> None:
    postgres = Postgres()
    reader = MailReader(postgres.connection)
    postgres.open.set()
    postgres.error = error
    found = await asyncio.gather(*(agents_of(reader, f"order/{n}") for n in range(2)), return_exceptions=True)
    assert found == [postgres.error, postgres.error]
    postgres.error = None
    assert await agents_of(reader, "order/2") == ["order/2"]


async def test_a_mailbox_that_cannot_be_read_keeps_no_other_from_being_read() -> None:
    """Who could not be read asks again after the same pause as the broken one, and so together with it."""
    postgres = Postgres()
    reader = MailReader(postgres.connection)
    postgres.open.set()
    postgres.broken = "order/0"
    waiting = [f"order/{n}" for n in range(20)]
    for _ in range(3):
        found = await asyncio.gather(*(agents_of(reader, agent) for agent in waiting), return_exceptions=True)
        waiting = [a for a, rows in zip(waiting, found, strict=True) if isinstance(rows, Exception)]
    assert waiting == ["order/0"]
    assert len(postgres.queries) <= 6  # those that can be read go together again


async def test_one_that_no_longer_waits_takes_nothing_from_the_others() -> None:
    postgres = Postgres()
    reader = MailReader(postgres.connection)
    gone, stays = (asyncio.create_task(agents_of(reader, f"order/{n}")) for n in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    postgres.open.set()
    assert await stays == ["order/1"]
    assert gone.cancelled()


@pytest.mark.parametrize("rounds", [0, 1, 2])
async def test_nobody_waits_for_ever_for_a_reader_that_is_closed(rounds: int) -> None:
    postgres = Postgres()
    reader = MailReader(postgres.connection)
    waiting = [asyncio.create_task(agents_of(reader, f"order/{n}")) for n in range(MOST_TOGETHER + 1)]
    await asyncio.sleep(0)
    for _ in range(rounds):
        await asyncio.sleep(0)
    await reader.close()
    await asyncio.wait(waiting)
    assert all(task.cancelled() for task in waiting)
