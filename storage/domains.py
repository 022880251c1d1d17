"""The domains that this deployment knows: registered, asleep beside a run of another, or removed.

A removed domain has its data, and comes back with it when it is registered again; deleting takes the data away,
table by table, and its name at the end, so that a deletion that was cut off goes on where it stood.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import asyncpg

from bus.errors import DomainBusy, StorageError, UnknownDomain
from storage.boundary import translated
from storage.queries import query

ACTIVE, ASLEEP, REMOVED, DELETING = "active", "asleep", "removed", "deleting"

_ROWS_AT_ONCE = 20_000


class DomainRow(NamedTuple):
    """A domain: its fixed partition count, domain.yaml as JSON, its agent kinds, the folder it came from."""

    domain: str
    partitions: int
    spec: str
    kinds: list[str]
    home: str
    code: str
    hosts: int = 0
    state: str = ACTIVE


Connection: TypeAlias = "asyncpg.Connection[Any] | asyncpg.pool.PoolConnectionProxy[Any] | asyncpg.Pool[Any]"


async def register_domain(db: Connection, row: DomainRow) -> int:
    """Add or update a domain; return its partition count, which stays what it was when it was created.

    A removed one is back with its data. Raises StorageError while its data is being deleted.
    """
    with translated():
        partitions = await db.fetchval(
            query("register_domain"), row.domain, row.partitions, row.spec, row.kinds, row.home, row.code
        )
    if partitions is None:
        raise StorageError(
            f"The data of the domain {row.domain!r} is being deleted.",
            fix=f"`callboard domains remove {row.domain} --delete-data` ends that; then register it again.",
        )
    return int(partitions)


async def all_domains(db: Connection, *, removed: bool = False) -> list[DomainRow]:
    """The registered domains by name; with `removed` also those that were removed and have data still."""
    with translated():
        return [DomainRow(**dict(row)) for row in await db.fetch(query("all_domains"), removed)]


async def find_domain(db: Connection, domain: str, *, removed: bool = False) -> DomainRow:
    """Raises UnknownDomain, also for a removed one unless `removed`."""
    for row in await all_domains(db, removed=True):
        if row.domain == domain:
            if removed or row.state in (ACTIVE, ASLEEP):
                return row
            raise UnknownDomain(
                f"The domain {domain!r} was removed.",
                fix="`callboard up DOMAIN_DIR` registers it again, with its data.",
            )
    raise UnknownDomain(f"There is no domain {domain!r}.")


# -- asleep ------------------------------------------------------------------------------------------


async def put_others_to_sleep(db: Connection, domain: str, *, last_event: int = 0) -> None:
    """Only this domain gets hosts; each other one as soon as a message, an event or a task is sent to it.

    `last_event` is the last number of the stream of events: what it has by then wakes nobody.
    """
    with translated():
        await db.execute(query("put_others_to_sleep"), domain, last_event)


async def wake_all_domains(db: Connection) -> None:
    with translated():
        await db.execute(query("wake_all_domains"))


async def wake_domain(db: Connection, domain: str) -> None:
    """Wake one that sleeps; nothing happens to any other."""
    with translated():
        await db.execute(query("wake_domain"), domain)


async def wake_if_due(db: Connection, domain: str) -> str | None:
    """Wake a domain that sleeps if there is something for it to do; why it wakes, or None."""
    with translated():
        why: str | None = await db.fetchval(query("wake_if_due"), domain)
        return why


# -- removed -----------------------------------------------------------------------------------------


async def unregister_domain(db: Connection, domain: str, *, force: bool = False) -> None:
    """From now on it gets no hosts, messages or tasks; what it has stays. Nothing changes for a removed one.

    Raises UnknownDomain, or DomainBusy while it has tasks that have not ended, unless `force`.
    """
    row = await find_domain(db, domain, removed=True)
    with translated():
        await db.execute(query("unregister_domain"), domain, force)
        row = await find_domain(db, domain, removed=True)
        if row.state in (ACTIVE, ASLEEP):
            raise _busy(domain)


def _busy(domain: str) -> DomainBusy:
    return DomainBusy(
        f"The domain {domain!r} has tasks that have not ended.",
        fix=f"`callboard tasks --domain {domain} --open` lists them; wait for them, or give --force.",
    )


async def begin_deleting(db: Connection, domain: str, *, force: bool = False) -> None:
    """From now on a removed domain cannot be registered before it is deleted; can be called again.

    Raises UnknownDomain, or DomainBusy: it was registered again, or has tasks that have not ended, unless `force`.
    """
    with translated():
        await db.execute(query("begin_deleting_domain"), domain, force)
    state = (await find_domain(db, domain, removed=True)).state
    if state == REMOVED:
        raise _busy(domain)
    if state != DELETING:
        raise DomainBusy(
            f"The domain {domain!r} was registered again meanwhile: nothing is deleted.",
            fix="Remove it again.",
        )


async def delete_domain(db: Connection, domain: str, deleted: Callable[[str, int], None]) -> None:
    """Delete the rows of a removed domain whose hosts have ended, and the domain; can be called again.

    `deleted` is told of each batch: the table's name and its rows. Raises DomainBusy for a domain that is registered, and
    UnknownDomain.
    """
    await begin_deleting(db, domain, force=True)
    with translated():
        for table in await db.fetch(query("domain_deletions")):
            count = _ROWS_AT_ONCE
            while count == _ROWS_AT_ONCE:
                count = int((await db.execute(table["statement"], domain, _ROWS_AT_ONCE)).split()[-1])
                if count:
                    deleted(table["name"], count)
        await db.execute(query("forget_coordinator"), domain)
        await db.execute(query("forget_domain"), domain)


async def forget_coordinator(db: Connection, domain: str) -> None:
    with translated():
        await db.execute(query("forget_coordinator"), domain)
