"""The lease to replace hosts where the cluster is full: one domain at a time has it.

A host that leaves for one with newer code leaves its room to whoever waits, so one domain at a time has hosts leave. All
others take back what waits in vain: none of them takes that room, and none is waited for.
"""

from __future__ import annotations

from typing import Any

import asyncpg

from storage.lack import settle_lease


class Lease:
    """What a domain's coordinator knows of it. It is settled in Postgres, and given back by whoever needs it no more."""

    def __init__(self, pool: asyncpg.Pool[Any], domain: str, epoch: int) -> None:
        self._pool = pool
        self._domain = domain
        self._epoch = epoch
        self._whose: str | None = None
        self.waits = False  # until another domain's is over, this one starts no hosts

    @property
    def is_mine(self) -> bool:
        return self._whose == self._domain

    @property
    def waits_for(self) -> str | None:
        """The domain that has it, where this one waits for that."""
        return self._whose if self.waits else None

    async def settle(self, *, full: bool, coming: bool, replaces: bool) -> None:
        """To be called every round: whether the cluster is `full` for the hosts that are `coming`, and hosts with older code
        are there yet, which they are to replace.

        Raises Fenced.
        """
        if not (full or self.waits or self.is_mine):
            return
        wants = replaces and (full or self.waits or (self.is_mine and coming))
        self._whose = await settle_lease(self._pool, self._domain, self._epoch, wants=wants)
        self.waits = self._whose not in (None, self._domain) and (full or self.waits)
