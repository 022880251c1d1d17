"""The lease to replace hosts where the cluster is full: one domain at a time has it.

A host that leaves for one with newer code leaves its room to whoever waits, so one domain at a time has hosts leave. All
others take back what waits in vain: none of them takes that room, and none is waited for.

A domain none of whose hosts is ready does nothing at all, so it waits for nobody's replacement, and takes the lease from
whoever only replaces: that one gives up what it has beyond its number, which may be the room that a dead host has left.
It has this precedence for a time only, since it may be that nobody has such room, and others have newer code.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import asyncpg

from storage.lack import settle_lease

URGENT_FOR_S = 30.0  # what others can give up is free by then


class Lease:
    """What a domain's coordinator knows of it. It is settled in Postgres, and given back by whoever needs it no more."""

    def __init__(
        self, pool: asyncpg.Pool[Any], domain: str, epoch: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pool = pool
        self._domain = domain
        self._epoch = epoch
        self._clock = clock
        self._whose: str | None = None
        self._lacks_since: float | None = None  # room for the only host
        self.waits = False  # until another domain's is over, this one starts no hosts

    @property
    def is_mine(self) -> bool:
        return self._whose == self._domain

    @property
    def waits_for(self) -> str | None:
        """The domain that has it, where this one waits for that."""
        return self._whose if self.waits else None

    async def settle(self, *, full: bool, coming: bool, replaces: bool, serves: bool) -> None:
        """To be called every round: whether the cluster is `full` for the hosts that are `coming`, hosts with older code
        are there yet, which they are to replace, and any host `serves`.

        Raises Fenced.
        """
        urgent = self._is_urgent(full or self.waits, serves)
        had_it = self.is_mine
        if not (full or self.waits or had_it):
            return
        wants = (replaces or urgent) and (full or self.waits or (had_it and coming))
        self._whose = await settle_lease(self._pool, self._domain, self._epoch, wants=wants, urgent=urgent)
        is_anothers = self._whose not in (None, self._domain)
        self.waits = is_anothers and not urgent and (full or self.waits or (had_it and wants))

    def _is_urgent(self, lacks: bool, serves: bool) -> bool:
        if serves or not lacks:
            self._lacks_since = None
        elif self._lacks_since is None:
            self._lacks_since = self._clock()
        return not serves and (self._lacks_since is None or self._clock() - self._lacks_since < URGENT_FOR_S)
