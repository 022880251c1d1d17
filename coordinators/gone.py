"""Which ended hosts are known to be gone: a process that was merely stopped may wake up, and make a call of a tool that it
had begun. Only once it is gone may such a call be made again (storage/ledger.py)."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from actors.birth import born
from storage.boundary import translated
from storage.queries import query

_logger = logging.getLogger("callboard.coordinator")

LOOK_EVERY_S = 1.0

IsGone = Callable[[str, int, str], Awaitable[bool]]  # node, process id, and which process of that number


class GoneHosts:
    """Called every round of a domain's coordinator; notes in the hosts' rows whose processes are gone."""

    def __init__(self, db: Any, domain: str, is_gone: IsGone) -> None:
        self._db = db
        self._domain = domain
        self._is_gone = is_gone
        self._looked_at = 0.0

    async def __call__(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        with translated():
            rows = await self._db.fetch(query("hosts_not_known_gone"), self._domain)
        for row in rows:
            if await self._is_gone(row["node"], row["pid"], row["born"]):
                with translated():
                    await self._db.execute(query("host_gone"), self._domain, row["epoch"])


def has_ended(pid: int, was: str) -> bool:
    """Whether a process of this machine has ended, and perhaps its number is another's now."""
    return born(pid) != was
