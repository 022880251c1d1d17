"""Which numbers of handled messages are remembered: enough to know a copy, and no more."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import ExitStack
from typing import Any

import pytest

from actors.activation import Activation
from actors.agent import agent_type
from actors.books import Books
from actors.domain import LimitSpec
from callboard.testing import TestKit
from storage.records import Share
from tests.unit.agents import Keeper, Note

MOST = 8


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.books.MAX_SEEN", MOST)


def test_what_a_read_may_find_once_more_is_known_until_it_has_ended() -> None:
    books, keeper = Books(LimitSpec()), Activation("default", "keeper/k", 0, agent_type(Keeper))
    with books.reading():
        for number in range(1, 101):
            books.handled(keeper, number)
        assert len(books.seen) == 100
    books.handled(keeper, 101)
    assert sorted(books.seen) == list(range(102 - MOST, 102))


def test_reads_that_follow_each_other_without_a_pause_let_what_was_handled_before_them_be_forgotten() -> None:
    books, keeper = Books(LimitSpec()), Activation("default", "keeper/k", 0, agent_type(Keeper))
    reads: deque[ExitStack] = deque()
    for number in range(1, 1_001):
        reads.append(ExitStack())
        reads[-1].enter_context(books.reading())
        if len(reads) > 2:
            reads.popleft().close()
        books.handled(keeper, number)
        assert len(books.seen) <= MOST + 2


async def test_a_mailbox_that_cannot_be_read_makes_nobody_remember_more_and_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with TestKit([Keeper]) as kit:
        load_agent = kit.store.load_agent
        tries = 0

        async def broken(
            domain: str, partition: int, tenant: str, agent: str, share: Share, **more: Any
        ) -> Any:
            nonlocal tries
            if agent == "keeper/broken":
                tries += 1
                raise RuntimeError("broken")
            return await load_agent(domain, partition, tenant, agent, share, **more)

        monkeypatch.setattr(kit.store, "load_agent", broken)
        await kit.send("test/keeper/broken", Note(text="x"))
        for number in range(10 * MOST):
            await kit.send("test/keeper/k", Note(text=f"{number}"))
        async with asyncio.timeout(20):
            while len(kit.state("test/keeper/k").notes) < 10 * MOST:  # noqa: ASYNC110  # of a turn, none signals
                await asyncio.sleep(0.01)
        assert tries
        [running] = kit._running
        number = 10 * MOST
        async with asyncio.timeout(20):
            # A read that was under way for long when the last of them was handled lets them go with the next one.
            while len(running.host.mailboxes.books.seen) > MOST + 1:
                await kit.send("test/keeper/k", Note(text=f"{number}"))
                number += 1
                while len(kit.state("test/keeper/k").notes) < number:  # noqa: ASYNC110  # of a turn, none signals
                    await asyncio.sleep(0.01)
