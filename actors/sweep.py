"""Messages that the bus has lost and nothing else has found: they lie in Postgres, unknown to their owner."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from actors.mailboxes import Mailboxes
from actors.scope import Scope
from bus.errors import StorageUnavailable
from storage.records import MailHead
from storage.store import MailboxStore

_logger = logging.getLogger("callboard.sweep")

EVERY_S = 3.0  # from the beginning of one sweep to the next, unless its share of the work makes it slower
LOOK_AGENTS = 2_000  # looked at in one query, a few milliseconds
ON_ITS_WAY_S = 1.0  # a message not known for so long does not come over the bus any more
WORK_SHARE = 0.01  # of one Postgres connection, which bounds what a sweep over very many agents costs


class Sweep:
    """Compares the first message of each agent that has mail with those known here.

    One that is committed is on its way here, handled soon, or lost; so an unknown one is looked at once more, in
    memory, before its mailbox is read. What comes behind the first message is seen once it is the first.
    """

    def __init__(
        self, scope: Scope, store: MailboxStore, mailboxes: Mailboxes, owned: Callable[[], list[int]]
    ) -> None:
        self._scope = scope
        self._store = store
        self._mailboxes = mailboxes
        self._owned = owned

    async def run(self) -> None:
        """Sweep for ever."""
        clock = self._scope.clock
        while True:
            began = clock.now()
            place: tuple[str, int, str] | None = ("", 0, "")
            while place is not None:
                place = await self._look(place)
            await clock.pause(min(EVERY_S, max(0.0, began + EVERY_S - clock.now())))

    async def _look(self, place: tuple[str, int, str]) -> tuple[str, int, str] | None:
        """Look at the next agents, and read those of which a message is lost; return where to go on."""
        real = asyncio.get_running_loop().time
        began = real()
        try:
            heads, following = await self._store.mail_heads(
                self._scope.domain, place, self._owned(), LOOK_AGENTS
            )
        except StorageUnavailable as error:
            _logger.debug("the sweep waits for storage: %s", error.message)
            heads, following = [], place
        unknown = [head for head in heads if not self._mailboxes.knows(head.seq)]
        await self._scope.clock.pause(max(ON_ITS_WAY_S, (real() - began) / WORK_SHARE))
        self._read(unknown)
        return following

    def _read(self, unknown: list[MailHead]) -> None:
        owned = set(self._owned())
        for head in unknown:
            if head.partition in owned and not self._mailboxes.knows(head.seq):
                _logger.info("a message of %s did not come over the bus, and is read", head.agent)
                self._mailboxes.read_agent(head.tenant, head.agent, head.partition)
