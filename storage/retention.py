"""What is dropped when it is old, and the monthly tables that are made ahead.

History goes in whole months: dropping a table costs nothing, where deleting rows would cost a scan and leave
holes. What waits (mailboxes, timers, dead letters, open tasks, calls whose outcome nobody knows) is never touched.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import asyncpg
import msgspec

from bus import faultpoints
from bus.errors import Overloaded, StorageError, StorageUnavailable
from storage.boundary import translated
from storage.connect import FROZEN_AFTER_MS, connect
from storage.queries import query

MONTHS_AHEAD = 3
HOSTS_KEPT_DAYS = 30  # ended hosts explain the last weeks; neither history nor dead letters refer to them
HOSTS_KEPT = 10  # of each domain, however old: why the last ones ended
CODE_KEPT_HOURS = 24  # stored code is named by its domain seconds later, unless the command was cut off
_LOCK = 0x72657461  # "reta": only retention uses it, so that two never drop the same tables
_BATCH = 5_000  # rows deleted in one statement: short locks, and a vacuum can follow
_LOCK_TIMEOUT_MS = 500  # dropping a month stops every commit while it waits: rather try again
_TRIES = 20
_PAUSE_S = 0.2


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """What was dropped, or would be with a dry run. `transitions` is an estimate; no cut-off keeps all history.

    Keys, hosts and domains' code have ages of their own, whatever the cut-off.
    """

    cutoff: datetime | None
    months: list[str]
    transitions: int
    bytes: int
    seen: int
    hosts: int
    code: int
    tasks: int
    blobs: int
    promises: int
    calls: int
    months_made: list[str]
    dry_run: bool


async def retain(url: str, *, months: int | None, dry_run: bool = False) -> Retention:
    """Keep this month and `months` before it (None: all of them); make the tables of the months to come.

    Raises Overloaded while another retention runs, or StorageUnavailable when a table stays in use.
    """
    if months is not None and months < 1:
        raise StorageError("At least one whole month of history is kept.", fix="Give --months 1 or more.")
    db = await connect(url, application="callboard-retention", unhurried=True)
    try:
        with translated():
            if not await db.fetchval(query("retention_lock"), _LOCK):
                raise Overloaded("Another retention is running.", fix="Wait for it to end.")
            cutoff = None
            if months is not None:
                cutoff = await db.fetchval(query("retention_cutoff"), months)
            return await (_count if dry_run else _drop)(db, cutoff)
    finally:
        await db.close()


async def _count(db: asyncpg.Connection[Any], cutoff: datetime | None) -> Retention:
    # A comparison with null is never true: without a cut-off nothing is old.
    old = await db.fetch(query("retention_old_months"), cutoff)
    astray = await db.fetchval(query("retention_astray_count"), cutoff)
    missing = await db.fetch(query("retention_missing_months"), MONTHS_AHEAD)
    blobs = 0
    if await db.fetchval(query("retention_blobs_old"), cutoff):
        blobs = await db.fetchval(query("retention_blobs_count"), cutoff)
    return Retention(
        cutoff=cutoff,
        months=sorted({row["month"] for row in old}),
        transitions=sum(row["transitions"] for row in old) + astray,
        bytes=sum(row["bytes"] for row in old),
        seen=await db.fetchval(query("retention_seen_count")),
        hosts=await db.fetchval(query("retention_hosts_count"), HOSTS_KEPT_DAYS, HOSTS_KEPT),
        code=await db.fetchval(query("retention_code_count"), CODE_KEPT_HOURS),
        tasks=await db.fetchval(query("retention_tasks_count"), cutoff),
        blobs=blobs,
        promises=await db.fetchval(query("retention_promises_count"), cutoff),
        calls=await db.fetchval(query("retention_ledger_count"), cutoff),
        months_made=sorted({row["month"] for row in missing}),
        dry_run=True,
    )


async def _drop(db: asyncpg.Connection[Any], cutoff: datetime | None) -> Retention:
    counted = await _count(db, cutoff)
    await make_months(db)
    for row in await db.fetch(query("retention_old_months"), cutoff):
        anchors = f"select anchor_histories('{row['name']}')" if row["is_history"] else None
        await _patiently(db, f"drop table {row['name']}", first=anchors)
    for name in (
        "retention_astray_delete",
        "retention_astray_journal_delete",
        "retention_promises_delete",
        "retention_ledger_delete",
    ):
        await db.execute(query(name), cutoff)
    while _rows(await db.execute(query("retention_seen_delete"), _BATCH)):
        pass
    while await db.fetchval(query("retention_tasks_delete"), cutoff, _BATCH):
        pass
    while await db.fetchval(query("retention_task_agents_delete"), cutoff, _BATCH):
        pass
    while await db.fetchval(query("purge_answers"), _BATCH):
        pass
    await db.execute(query("retention_hosts_delete"), HOSTS_KEPT_DAYS, HOSTS_KEPT)
    await db.execute(query("retention_cancellations_delete"))
    await db.execute(query("retention_pauses_delete"))
    await db.execute(query("retention_code_delete"), CODE_KEPT_HOURS)
    if counted.blobs:
        await db.execute(query("retention_blobs_delete"), cutoff)
    return msgspec.structs.replace(counted, dry_run=False)


async def make_months(db: asyncpg.Connection[Any]) -> list[str]:
    """Make the monthly tables up to MONTHS_AHEAD; rows that went to the default one meanwhile move over."""
    made = set()
    for row in await db.fetch(query("retention_missing_months"), MONTHS_AHEAD):
        parent, table = row["parent"], f"{row['parent']}_{row['month']}"
        span = f"at >= '{row['first']}' and at < '{row['next']}'"
        await _patiently(
            db,
            # First, or a row that another transaction puts there between the delete and the attaching is in the way.
            f"lock table {parent}_default in access exclusive mode;"  # noqa: S608  # digits and dates
            f"create table {table} (like {parent} including all);"
            f"with astray as (delete from {parent}_default where {span} returning *)"
            f" insert into {table} select * from astray;"
            f"alter table {parent} attach partition {table}"
            f" for values from ('{row['first']}') to ('{row['next']}')",
        )
        made.add(str(row["month"]))
    return sorted(made)


async def _patiently(db: asyncpg.Connection[Any], statements: str, *, first: str | None = None) -> None:
    """What needs a lock that every commit waits for: tried for as long as nobody waits much, in one transaction with
    what comes `first` and needs no such lock."""
    async with db.transaction():
        if first is not None:
            await db.execute(first)
        for tries_left in reversed(range(_TRIES)):
            try:
                async with db.transaction():  # taken back with it: between tries nobody waits for this one
                    await db.execute(
                        f"set local lock_timeout = {_LOCK_TIMEOUT_MS};"
                        f"set local idle_in_transaction_session_timeout = {FROZEN_AFTER_MS}"
                    )
                    await db.execute(statements)
                break
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
                if not tries_left:
                    raise StorageUnavailable(
                        "A table of the history stays in use; nothing more was dropped.",
                        fix="Try again when no long query runs on it.",
                    ) from error
                await asyncio.sleep(_PAUSE_S)
        faultpoints.reached("retention.before_commit")


def _rows(status: str) -> int:
    return int(status.rsplit(" ", 1)[1])
