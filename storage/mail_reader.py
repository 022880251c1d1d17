"""The mailboxes of single agents, read many at a time: messages from outside come for hundreds of agents at once."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec

from storage.queries import query

MOST_TOGETHER = 100  # mailboxes in one query


class Mailbox(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is to be read of one: the messages whose numbers are below a bound, so many, until they have so many bytes."""

    domain: str
    tenant: str
    partition: int
    agent: str
    below: int
    messages: int
    size: int


class MailReader:
    """One query at a time; what is asked for while it is under way goes with the next. After one that has failed the next
    has one mailbox, until one succeeds: whatever is wrong with a mailbox, others that are asked for beside it again and
    again are read."""

    def __init__(self, connection: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        self._connection = connection
        self._asked: list[tuple[Mailbox, asyncio.Future[list[Any]]]] = []
        self._work: asyncio.Task[None] | None = None
        self._together = MOST_TOGETHER

    async def read(self, mailbox: Mailbox) -> list[Any]:
        """The rows of `load_agent_mail` for this one; raises what the query raised, for all that were in it."""
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._asked.append((mailbox, answer))
        if self._work is None:
            self._work = asyncio.create_task(self._read_all())
        return await answer

    async def close(self) -> None:
        """Who still waits is cancelled."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait((self._work,))
            self._work = None
        for _, answer in self._asked:
            answer.cancel()

    async def _read_all(self) -> None:
        try:
            while self._asked:
                group, self._asked = self._asked[: self._together], self._asked[self._together :]
                await self._read(group)
        finally:
            self._work = None

    async def _read(self, group: list[tuple[Mailbox, asyncio.Future[list[Any]]]]) -> None:
        try:
            found = await self._fetch([mailbox for mailbox, _ in group])
        except Exception as error:  # who waits hears of it, whatever it is
            self._together = 1
            for _, answer in group:
                if not answer.done():
                    answer.set_exception(error)
            return
        except BaseException:
            for _, answer in group:
                answer.cancel()
            raise
        self._together = MOST_TOGETHER
        for place, (_, answer) in enumerate(group, start=1):
            if not answer.done():
                answer.set_result(found[place])

    async def _fetch(self, mailboxes: list[Mailbox]) -> defaultdict[int, list[Any]]:
        columns = zip(*map(msgspec.structs.astuple, mailboxes), strict=True)
        found: defaultdict[int, list[Any]] = defaultdict(list)
        async with self._connection() as connection:
            for row in await connection.fetch(query("load_agent_mail"), *map(list, columns)):
                found[row["place"]].append(row)
        return found
