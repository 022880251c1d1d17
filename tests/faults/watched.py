"""A deployment seen through its database: what its hosts own and have done, and waits for that to change."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg

from bus.errors import CallboardError
from storage.connect import connect
from storage.placement import HostRow, live_hosts

POLL_S = 0.02
SOON_S = 90.0  # what takes a moment takes long on a machine that has much else to do

T = TypeVar("T")


class Void(AssertionError):
    """The run proves nothing: what should have happened did not."""


class Watched:
    """One domain of a deployment. `sql` waits out a Postgres that is away."""

    def __init__(self, postgres_url: str, domain: str) -> None:
        self.postgres_url = postgres_url
        self._domain = domain
        self._free: list[asyncpg.Connection[Any]] = []

    async def sql(self, text: str, *arguments: Any) -> list[Any]:
        """Rows of a query; tried again for as long as Postgres is away."""
        rows: list[Any] = await self.retried(lambda db: db.fetch(text, *arguments))
        return rows

    async def value(self, text: str, *arguments: Any) -> Any:
        rows = await self.sql(text, *arguments)
        return rows[0][0] if rows else None

    async def hosts(self) -> list[HostRow]:
        return await self.retried(lambda db: live_hosts(db, self._domain))

    async def retried(self, work: Callable[[Any], Awaitable[T]], timeout_s: float = SOON_S) -> T:
        deadline = time.monotonic() + timeout_s
        while True:
            connection = self._free.pop() if self._free else None
            try:
                if connection is None or connection.is_closed():
                    connection = await connect(self.postgres_url, application="fault-test")
                result = await work(connection)
                self._free.append(connection)
                return result
            except (CallboardError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                if connection is not None:
                    connection.terminate()
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(POLL_S)
            except BaseException:
                if connection is not None:
                    connection.terminate()
                raise

    async def until(
        self,
        condition: Callable[[], Awaitable[Any]],
        what: str,
        timeout_s: float = SOON_S,
        poll_s: float = POLL_S,
    ) -> Any:
        """Wait until the condition gives something true, and return that; raises Void after the timeout."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = await condition()
            if found:
                return found
            self.attend()
            if time.monotonic() > deadline:
                raise Void(f"not within {timeout_s:.0f} s: {what}")
            await asyncio.sleep(poll_s)

    def attend(self) -> None:
        """Called again and again during a wait; what it raises ends the wait."""

    async def settled(self, target: int | None = None, timeout_s: float = SOON_S) -> list[HostRow]:
        """Wait until the hosts wanted own all partitions, each its share."""

        async def look() -> list[HostRow] | None:
            wanted, partitions = (await self.sql("select hosts, partitions from domains"))[0]
            hosts = await self.hosts()
            fine = all(h.ready and h.owned == h.wanted and not h.draining for h in hosts)
            shares = [len(host.owned) for host in hosts]
            if len(hosts) == (target or wanted) and fine and sum(shares) == partitions:
                return hosts if max(shares) - min(shares) <= 1 else None
            return None

        found: list[HostRow] = await self.until(look, "the hosts to own their shares", timeout_s)
        return found

    async def ended(self, epoch: int, timeout_s: float = SOON_S) -> str:
        """Wait until an epoch has ended; return why."""

        async def look() -> Any:
            return await self.value(
                "select ended_why from hosts where epoch = $1 and ended_at is not null", epoch
            )

        return str(await self.until(look, f"epoch {epoch} to be ended", timeout_s))

    async def turns(self) -> int:
        return int(await self.value("select coalesce(sum(version), 0) from agents"))

    async def waiting(self) -> int:
        """Messages and timers not handled yet, and turns that have not ended."""
        return int(
            await self.value(
                "select (select count(*) from mailbox) + (select count(*) from timers) + (select count(*) from turns)"
            )
        )

    async def progress(self, turns: int, timeout_s: float = SOON_S) -> None:
        """Wait until so many more turns have been committed."""
        goal = await self.turns() + turns

        async def look() -> bool:
            return await self.turns() >= goal

        await self.until(look, f"{turns} more turns", timeout_s)

    def forget(self) -> None:
        """Close the connections."""
        for connection in self._free:
            connection.terminate()
