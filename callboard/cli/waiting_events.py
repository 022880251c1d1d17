"""Events that were published and that nobody has taken into a mailbox yet."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from actors.event_place import count_waiting
from bus.errors import ServiceUnavailable
from bus.events import EventStream
from callboard.untaken import takes_events
from storage.domains import all_domains
from storage.inspect import find_event_cursor

if TYPE_CHECKING:
    import asyncpg

    from bus.nats import NatsTransport

_ANSWERS_WITHIN_S = 1.0
_LOOK_EVERY_S = 1.0


class WaitingEvents:
    """Their number, out of the stream and the cursor of each domain; none for one that takes no events, whatever is
    published for it (callboard/untaken.py)."""

    def __init__(self, db: asyncpg.Pool[Any], transport: NatsTransport) -> None:
        self._db = db
        self._stream = EventStream(transport)
        self._looked: dict[str, tuple[float, int | None]] = {}

    async def __call__(self, domain: str, *, now: bool = False) -> int | None:
        """At most a second old, or as it is `now`; None while NATS does not answer. Raises StorageUnavailable."""
        at, count = self._looked.get(domain, (-_LOOK_EVERY_S, None))
        if now or time.monotonic() - at >= _LOOK_EVERY_S:
            count = await self._count(domain)
            self._looked[domain] = time.monotonic(), count
        return count

    async def _count(self, domain: str) -> int | None:
        rows = await all_domains(self._db)
        if not any(row.domain == domain and takes_events(row) for row in rows):
            return 0
        cursor = await find_event_cursor(self._db, domain)
        try:
            async with asyncio.timeout(_ANSWERS_WITHIN_S):
                return await count_waiting(self._stream, cursor, domain)
        except (TimeoutError, ServiceUnavailable):
            return None
