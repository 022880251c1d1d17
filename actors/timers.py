"""Timers and promises that are due: their messages go into the mailboxes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from actors.scope import WHOLE, Scope
from bus.errors import Fenced, StorageUnavailable
from storage.records import Fence
from storage.store import TurnStore

if TYPE_CHECKING:
    from actors.holdings import Holdings

_EVERY_S = 0.1
_BATCH = 500


class Timers:
    """Looks for what is due in the partitions that this host has open."""

    def __init__(
        self,
        scope: Scope,
        fence: Fence,
        store: TurnStore,
        holdings: Holdings,
        fenced: Callable[[], Awaitable[bool]],
    ) -> None:
        self._scope = scope
        self._fence = fence
        self._store = store
        self._holdings = holdings
        self._fenced = fenced

    async def run(self) -> None:
        """Runs until the incarnation has ended."""
        while True:
            await self._scope.clock.pause(_EVERY_S)
            owned = self._holdings.open_partitions()
            if (
                not owned or WHOLE in self._scope.paused
            ):  # what comes due meanwhile acts when the domain goes on
                continue
            try:
                due = await self._store.fire_timers(self._fence, owned, _BATCH)
                due += await self._store.settle_due(self._fence, owned, _BATCH)
            except Fenced:
                if not await self._fenced():
                    return
                continue
            except StorageUnavailable:
                for partition in owned:  # they may have fired all the same
                    self._holdings.read_again(partition)
                await asyncio.sleep(1.0)
                continue
            self._holdings.read_agents(due)
