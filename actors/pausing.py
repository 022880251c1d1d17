"""What a host does about paused tasks and domains: it begins nothing of them, and lets go of it when they go on."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from bus.errors import StorageUnavailable

if TYPE_CHECKING:
    from actors.host import Host

_logger = logging.getLogger("callboard.pausing")

_LOOK_EVERY_S = 0.25  # each host reads Postgres so often, for nothing nearly always
_RETRY_S = 0.5


class Pausing:
    """Looks again and again for the rows that are open, so that nothing depends on a message of the bus.

    An agent whose next message is part of something that is paused waits with it; so do its later messages. Wake-ups
    of turns that wait stay in the mailbox. A turn that runs goes on to its next call that is not on record, and waits
    there in memory: there are never more of them than ran when the pause came. The agents that lead tasks go on.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._known: frozenset[tuple[str, str]] = frozenset()

    async def begin(self) -> None:
        """Read what was paused before this host came."""
        while not self._host.has_ended:
            try:
                await self.look()
                return
            except StorageUnavailable as error:
                _logger.warning("pauses cannot be read yet: %s", error.message)
                await asyncio.sleep(_RETRY_S)

    async def run(self) -> None:
        """Runs for ever."""
        while True:
            await self._host.scope.clock.pause(_LOOK_EVERY_S)
            try:
                await self.look()
            except StorageUnavailable as error:
                _logger.warning("pauses wait for storage: %s", error.message)
                await asyncio.sleep(_RETRY_S)

    async def look(self) -> None:
        host = self._host
        found = frozenset(await host.store.read_pauses(host.fence.domain))
        before, self._known, host.scope.paused = self._known, found, found
        if found - before:
            for activation in host.in_memory():
                if activation.journal is not None and host.scope.is_at_held_work(activation.at_work):
                    activation.journal.branches.hold()
        if before - found:
            self.let_go()

    def let_go(self) -> None:
        """Whatever is held is looked at once more: it may go on, or have to end."""
        for activation in self._host.in_memory():
            if activation.journal is not None and not self._host.scope.is_at_held_work(activation.at_work):
                activation.journal.branches.let_go()
        self._host.mailboxes.held.let_go()
