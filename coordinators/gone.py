"""Which ended hosts are known to be gone: a process that was merely stopped may wake up, and make a call of a tool that it
had begun. Only once it is gone may such a call be made again (storage/ledger.py)."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from actors.birth import born, was_here
from bus.errors import StorageUnavailable
from coordinators.domain import DomainCoordinator
from storage.boundary import translated
from storage.queries import query

_logger = logging.getLogger("callboard.coordinator")

LOOK_EVERY_S = 1.0


class Process(NamedTuple):
    """A host's process, as its row has it: see actors/birth.py. `near` is the node of a live host on its machine, which an
    earlier Ray has called otherwise."""

    node: str
    near: str | None
    machine: str
    pid: int
    born: str


IsGone = Callable[[Process], Awaitable[bool]]


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

    def join(self, coordinator: DomainCoordinator) -> None:
        """Look for as long as it leads."""
        coordinator.every_round.append(self)
        coordinator.at_end.append(self._close)

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
                look = asyncio.create_task(self._look(epoch, Process(*row[1:])))
                self._looks[epoch] = look
                look.add_done_callback(functools.partial(self._has_looked, epoch))

    async def _look(self, epoch: int, process: Process) -> None:
        if await self._is_gone(process):
            with translated():
                await self._db.execute(query("host_gone"), self._domain, epoch)

    def _close(self) -> None:
        for look in self._looks.values():
            look.cancel()

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


def has_ended_as_seen_from(node: str, process: Process) -> bool:
    """Whether a process is known to have ended, as asked on a node: its own, or one that may be on the same machine."""
    is_here = node == process.node or was_here(process.machine, process.born)
    return is_here and has_ended(process.pid, process.born)
