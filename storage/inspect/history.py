"""An agent's transitions, and whether they still hash to what their chain says."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import asyncpg
import msgspec

from bus.address import Address
from bus.errors import BrokenChain
from storage import chain
from storage.boundary import translated
from storage.domains import Connection
from storage.inspect.rows import fetch_all
from storage.queries import query
from storage.records import StoredState

LAST_VERSION = 2**63 - 1
_AT_ONCE = 1_000  # transitions in memory


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One row of an agent's history; `body` is its JSON exactly as hashed."""

    version: int
    at: datetime
    body: str
    prev: bytes
    hash: bytes


class ChainVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a history hashes to what its chain says, from its oldest stored transition to the state.

    `broken` says where and how it does not. `since` is above 1 when retention has dropped older months.
    """

    intact: bool
    length: int
    since: int | None
    broken: str | None


async def list_history(
    db: Connection, address: Address, *, tenant: str, below: int = LAST_VERSION, limit: int = 20
) -> list[Transition]:
    """A page of an agent's history, newest first, of the versions below one."""
    place = (address.domain, tenant, address.agent)
    return await fetch_all(db, Transition, "inspect_history", *place, below, limit)


async def verify_history(db: Connection, address: Address, *, tenant: str) -> ChainVerdict:
    """Check the hash chain of an agent's whole history on one snapshot, never holding all of it."""
    if isinstance(db, asyncpg.Pool):
        async with db.acquire() as connection:
            return await _verify(connection, address, tenant)
    return await _verify(db, address, tenant)


async def _verify(db: Any, address: Address, tenant: str) -> ChainVerdict:
    followed = chain.Chain(str(address))
    since: int | None = None
    try:
        with translated():
            async with db.transaction(isolation="repeatable_read", readonly=True):
                place = (address.domain, tenant, address.agent)
                async for row in db.cursor(query("inspect_chain"), *place, prefetch=_AT_ONCE):
                    since = since or row["version"]
                    followed.follow(chain.Transition(**dict(row)))
                newest = await fetch_all(
                    db, StoredState, "load_states", address.domain, [tenant], [address.agent]
                )
                if newest:
                    followed.end(newest[0])
    except BrokenChain as error:
        return ChainVerdict(intact=False, length=followed.length, since=since, broken=error.message)
    return ChainVerdict(intact=True, length=followed.length, since=since, broken=None)
