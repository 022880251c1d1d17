"""Which ended hosts are known to be gone: a process that was merely stopped may wake up, and make a call of a tool that it
had begun. Only once it is gone may such a call be made again (storage/ledger.py)."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from actors.birth import born
from bus.errors import StorageUnavailable
from storage.boundary import translated
from storage.queries import query

_logger = logging.getLogger("callboard.coordinator")

LOOK_EVERY_S = 1.0

IsGone = Callable[[str, int, str], Awaitable[bool]]  # node, process id, and which process of that number


class GoneHosts:
    """Called every round of a domain's coordinator; notes in the hosts' rows whose processes are gone.

    It looks at each beside the rounds: a node that is lost keeps its question waiting, and nothing else.
    """

    def __init__(self, db: Any, domain: str, is_gone: IsGone) -> None:
        self._db = db
        self._domain = domain
        self._is_gone = is_gone
        self._looked_at = float("-inf")
        self._looks: dict[int, asyncio.Task[None]] = {}  # by epoch

    async def __call__(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        with translated():
            rows = await self._db.fetch(query("hosts_not_known_gone"), self._domain)
        for row in rows:
            epoch = row["epoch"]
            if epoch not in self._looks:
                look = asyncio.create_task(self._look(epoch, row["node"], row["pid"], row["born"]))
                self._looks[epoch] = look
                look.add_done_callback(functools.partial(self._has_looked, epoch))

    async def _look(self, epoch: int, node: str, pid: int, was: str) -> None:
        if await self._is_gone(node, pid, was):
            with translated():
                await self._db.execute(query("host_gone"), self._domain, epoch)

    def _has_looked(self, epoch: int, look: asyncio.Task[None]) -> None:
        del self._looks[epoch]
        if look.cancelled() or (error := look.exception()) is None:
            return
        if isinstance(error, StorageUnavailable):
            _logger.warning("whether epoch %d is gone is looked up again: %s", epoch, error.message)
        else:
            _logger.error("whether epoch %d is gone cannot be told", epoch, exc_info=error)


def has_ended(pid: int, was: str) -> bool:
    """Whether a process of this machine has ended, and perhaps its number is another's now."""
    return born(pid) != was
