"""An agent's transitions, and whether they still hash to what their chain says."""

from __future__ import annotations

from datetime import datetime

import msgspec

from bus.address import Address
from storage.boundary import translated
from storage.domains import Connection
from storage.inspect.rows import fetch_all, in_index_order
from storage.inspect.verify import verify_agent

LAST_VERSION = 2**63 - 1


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One row of an agent's history; `body` is its JSON exactly as hashed."""

    version: int
    at: datetime
    body: str
    prev: bytes
    hash: bytes


class ChainVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a history hashes to what its chain says, from its oldest stored transition to the state.

    `broken` says where and how it does not. `dropped` is the newest version that retention has dropped.
    """

    intact: bool
    length: int
    since: int | None
    broken: str | None
    dropped: int | None = None
    dropped_at: datetime | None = None


async def list_history(
    db: Connection, address: Address, *, tenant: str, below: int = LAST_VERSION, limit: int = 20
) -> list[Transition]:
    """A page of an agent's history, newest first, of the versions below one."""
    place = (address.domain, tenant, address.agent)
    with translated():
        async with in_index_order(db) as snapshot:
            return await fetch_all(snapshot, Transition, "inspect_history", *place, below, limit)


async def verify_history(db: Connection, address: Address, *, tenant: str) -> ChainVerdict:
    """Check the hash chain of an agent's whole history, and its journals, never holding all of it."""
    found = await verify_agent(db, address, tenant=tenant)
    broken = found.broken
    text = (
        f"The history of {address} is broken: version {broken.version} {broken.detail}." if broken else None
    )
    return ChainVerdict(
        intact=broken is None, length=found.length, since=found.since, broken=text,
        dropped=found.dropped.version if found.dropped else None,
        dropped_at=found.dropped.dropped_at if found.dropped else None,
    )  # fmt: skip
