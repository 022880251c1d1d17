"""Whether there is room for what comes from outside. What agents send in their turns is never asked about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from bus.errors import Overloaded
from storage.boundary import translated
from storage.domains import Connection
from storage.queries import query

RETRY_AFTER_S = 5

Recipient: TypeAlias = tuple[str, int, str]
"""Tenant, partition and `kind/key`."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How many messages one mailbox may hold, and all of the domain's together, before nothing more is taken in.

    They are kept to within what is being committed at the same moment.
    """

    mailbox: int
    backlog: int


class Lack(msgspec.Struct, frozen=True, kw_only=True):
    """There is no room; `agent` is whose mailbox is full, None where all of the domain's are together."""

    domain: str
    bound: int
    agent: str | None = None

    def error(self) -> Overloaded:
        """What the sender is told."""
        whom = f"{self.domain}/{self.agent}" if self.agent is not None else self.domain
        return Overloaded(
            f"Too many messages wait for {whom}: {self.bound:,} is the limit.", retry_after_s=RETRY_AFTER_S
        )


async def lack_of_room(
    db: Connection, domain: str, wanted: Mapping[Recipient, int], bounds: Bounds
) -> Lack | None:
    """What keeps so many messages for each of the recipients from being taken in; None when nothing does.

    More for one mailbox than half of its bound need no more room than that half, or they would never have enough.
    """
    recipients = list(wanted)
    count = sum(wanted.values())
    with translated():
        in_all, *rooms = await db.fetchval(
            query("rooms"),
            domain,
            [tenant for tenant, _, _ in recipients],
            [partition for _, partition, _ in recipients],
            [agent for _, _, agent in recipients],
            bounds.mailbox,
            bounds.backlog,
            count,
        )
    return find_lack(domain, wanted, bounds, in_all, rooms)


def find_lack(
    domain: str, wanted: Mapping[Recipient, int], bounds: Bounds, in_all: int, rooms: list[int]
) -> Lack | None:
    if in_all < _needed(sum(wanted.values()), bounds.backlog):
        return Lack(domain=domain, bound=bounds.backlog)
    for ((_, _, agent), count), room in zip(wanted.items(), rooms, strict=True):
        if room < _needed(count, bounds.mailbox):
            return Lack(domain=domain, bound=bounds.mailbox, agent=agent)
    return None


def _needed(count: int, bound: int) -> int:
    return min(count, (bound + 1) // 2)
