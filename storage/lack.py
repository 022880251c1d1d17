"""Hosts for which the cluster has no room, as their coordinators tell it, and the lease to make some."""

from __future__ import annotations

from typing import Any

import asyncpg
import msgspec

from storage.boundary import translated
from storage.placement import leading
from storage.queries import query

_KEPT_S = 10.0  # a coordinator that has not renewed its lease for so long is frozen or gone


class Lack(msgspec.Struct, frozen=True, kw_only=True):
    """`hosts` of a domain wait for room in Ray, each for `cpus` CPUs.

    `free` CPUs has the node with the most of them, `largest` the largest node in all. `others` is how much else waits in
    that Ray, and `behind` the domain whose hosts are replaced before these are started.
    """

    hosts: int
    cpus: float
    free: float
    largest: float
    others: int
    behind: str | None = None


async def report_lack(pool: asyncpg.Pool[Any], domain: str, epoch: int, lack: Lack | None) -> None:
    """Tell `status` and the others what the domain's hosts wait for; None: they wait no more. Raises Fenced."""
    told = None if lack is None else msgspec.json.encode(lack).decode()
    async with leading(pool, domain, epoch) as db:
        await db.execute(query("report_lack"), domain, told)


def read_lack(told: str | None) -> Lack | None:
    """What was reported."""
    return None if told is None else msgspec.json.decode(told, type=Lack)


async def find_lack(db: Any, domain: str) -> Lack | None:
    """What the hosts of a domain wait for now."""
    with translated():
        return read_lack(await db.fetchval(query("find_lack"), domain))


async def settle_lease(
    pool: asyncpg.Pool[Any], domain: str, epoch: int, *, wants: bool, urgent: bool
) -> str | None:
    """The domain that has the lease to replace its hosts in a full cluster: this one, if it wants and no other has it.

    One that is `urgent` takes it from one that is not. Who wants it no more gives it back. Raises Fenced.
    """
    async with leading(pool, domain, epoch) as db:
        await db.execute(query("lock_lease"))  # two that look at once would both find that nobody has it
        whose = await db.fetchval(query("settle_lease"), domain, wants, _KEPT_S, urgent)
    return None if whose is None else str(whose)
