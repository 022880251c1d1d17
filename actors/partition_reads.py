"""The reading of whole partitions: what a host has just been given, or may have missed messages of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from actors.activation import Activation
from actors.books import Books
from actors.roster import Roster
from actors.scope import Scope
from bus.envelope import Envelope
from storage.records import PAGE_AGENTS, PAGE_BYTES
from storage.store import MailboxStore

PAGES_AT_ONCE = 2  # read and not merged yet, however many partitions are read

Merge = Callable[[int, list[Envelope], set[tuple[str, str]]], None]


class PartitionReads:
    """Reads page by page, and hands each to `merge`: partition, messages, and the agents that have more on disk."""

    def __init__(self, scope: Scope, store: MailboxStore, books: Books, roster: Roster, merge: Merge) -> None:
        self._scope = scope
        self._store = store
        self._books = books
        self._roster = roster
        self._merge = merge
        self._pages = asyncio.Semaphore(PAGES_AT_ONCE)
        self._under_way = 0

    async def read(self, partition: int) -> None:
        """Read all of it; raises StorageUnavailable."""
        self._under_way += 1
        self._expect_more(partition)
        try:
            with self._books.reading():
                await self._read(partition)
        finally:
            self._under_way -= 1
            self._expect_more(partition)

    @property
    def is_at_rest(self) -> bool:
        return not self._under_way

    async def _read(self, partition: int) -> None:
        place: tuple[str, str] | None = ("", "")
        while place is not None:
            async with self._pages:
                open_, place = await self._store.load_turns(self._scope.domain, partition, after=place)
                self._merge(partition, open_, set())
                del open_  # before the next page comes
        start: tuple[str, str] | None = ("", "")
        while start is not None:
            async with self._pages:
                found, more, start = await self._store.load_partition(
                    self._scope.domain,
                    partition,
                    after=start,
                    agents=PAGE_AGENTS,
                    each=self._books.share(),
                    page_bytes=PAGE_BYTES,
                )
                self._merge(partition, found, more)
                del found  # before the next page comes

    def turn_opened_or_ended(self, activation: Activation) -> None:
        """A read that is under way may have seen its turn open."""
        if self._under_way:
            activation.more = True

    def _expect_more(self, partition: int) -> None:
        """A read leaves out what waits for an agent whose turn is open, here as in Postgres: there may be more of it than
        what will come."""
        for activation in self._roster.in_partitions((partition,)):
            if activation.journal is not None or activation.uncommitted:
                activation.more = True
