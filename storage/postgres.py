"""A host's storage in Postgres."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Self

import asyncpg

from bus import faultpoints
from bus.errors import Fenced, StorageUnavailable
from storage.batch import commit_call
from storage.boundary import translated
from storage.connect import close_pool, connect, create_pool, host_application
from storage.postgres_edges import PostgresEdges
from storage.postgres_mail import PostgresMail
from storage.postgres_rounds import PostgresRounds
from storage.queries import query
from storage.records import Fence, Mark, TurnRecord, Write
from storage.spending import charging, read_reached, spent_argument
from storage.spent import Reached

_SETTLE_LOCK_TIMEOUT_MS = 500  # a look waits this long for the old backend before it ends that backend


class PostgresStore(PostgresMail, PostgresRounds, PostgresEdges):
    """Implements HostStore. One connection commits, a small pool does the rest; `open` makes both.

    The commit connection is remade when it breaks; whoever got StorageUnavailable settles first.
    """

    def __init__(self, url: str, application: str, pool: asyncpg.Pool[Any], code: str) -> None:
        super().__init__(pool)
        self._url = url
        self._code = code
        self._application = application
        self.on_limit: Callable[[Reached], None] = lambda reached: None
        self._committer: asyncpg.Connection[Any] | None = None

    @classmethod
    async def open(cls, url: str, fence: Fence, code: str = "") -> Self:
        """`code` is the digest of the domain's code that this host runs: it stands on the turns that open here."""
        application = host_application(fence.domain, fence.epoch)
        return cls(url, application, await create_pool(url, application=application, by_key=True), code)

    async def close(self) -> None:
        """Close what is open; a connection that does not answer is cut."""
        self._drop_committer()
        await self._mail.close()
        await close_pool(self._pool)

    # -- turns ---------------------------------------------------------------------------------------

    async def commit(self, fence: Fence, writes: Sequence[Write], marks: Sequence[Mark]) -> list[int | None]:
        name, arguments = commit_call(fence, writes, marks, self._code)
        statement, journal = query(name), name != "commit_turns"
        spent = spent_argument(writes)
        if spent is not None:
            statement = charging(name, len(arguments))
            arguments.append(spent)
        connection = await self._commit_connection()
        faultpoints.reached("commit.before")
        if journal:
            faultpoints.reached("flush.before")
        try:
            with translated():
                if faultpoints.is_armed("commit.between_fence_and_commit"):
                    async with connection.transaction():
                        row = await connection.fetchrow(statement, *arguments)
                        faultpoints.reached("commit.between_fence_and_commit")
                else:
                    row = await connection.fetchrow(statement, *arguments)
        except StorageUnavailable:
            self._drop_committer()
            raise
        if journal:
            faultpoints.reached("flush.after")
        assert row is not None
        if spent is not None:
            for reached in read_reached(row["over"]):
                self.on_limit(reached)
        return row["numbers"] or []

    async def settle(self, fence: Fence, write: Write) -> bool:
        """The share lock of an unfinished commit keeps this waiting; past a bound its backend is ended."""
        connection = await connect(self._url, application=f"{self._application} settle"[:63])
        try:
            for last_try in (False, True):
                try:
                    with translated():
                        return await self._look(connection, fence, write)
                except StorageUnavailable:
                    if last_try:
                        raise
                    with translated():
                        await connection.execute(query("terminate_backends"), self._application)
            raise AssertionError("unreachable")
        finally:
            with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await connection.close(timeout=2.0)

    async def _look(self, connection: asyncpg.Connection[Any], fence: Fence, write: Write) -> bool:
        async with connection.transaction():
            await connection.execute(f"set local lock_timeout = {_SETTLE_LOCK_TIMEOUT_MS}")
            row = await connection.fetchrow(query("lock_host"), fence.domain, fence.epoch)
            if row is None or not row["live"] or write.partition not in row["owned"]:
                raise Fenced(
                    f"Epoch {fence.epoch} of {fence.domain} no longer owns partition {write.partition}."
                )
            proof: tuple[Any, ...] = (fence.domain, write.tenant, write.agent)
            if isinstance(write, TurnRecord):
                name = "turn_committed"
                proof += write.version, write.hash
            else:
                name = "turn_flushed"
                journal = write.journal
                if not journal.leaves_trace:
                    return False
                proof += journal.turn, journal.recorded + journal.adds
            return bool(await connection.fetchval(query(name), *proof))

    # -- connections ---------------------------------------------------------------------------------

    async def _commit_connection(self) -> asyncpg.Connection[Any]:
        if self._committer is None or self._committer.is_closed():
            self._committer = await connect(self._url, application=self._application, by_key=True)
        return self._committer

    def _drop_committer(self) -> None:
        if self._committer is not None:
            self._committer.terminate()
            self._committer = None
