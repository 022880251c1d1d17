"""Whether a task has come to a standstill: everything of it is handled, or is stuck, and nobody has ended it."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from callboard.cli.connection import Opened
    from storage.domains import Connection
    from storage.inspect import TaskView

_LOOK_EVERY_S = 5.0


class IdleLook:
    """A look at what waits in the whole deployment, at most every five seconds, once its log has not grown for so long."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        self._looked = 0.0
        self._found = False

    async def __call__(self, task: TaskView, *, quiet_s: float, events_waiting: int | None) -> bool:
        """Raises StorageUnavailable."""
        from storage.inspect import is_idle

        if task.status not in ("running", "stuck") or quiet_s < _LOOK_EVERY_S or events_waiting != 0:
            self._looked, self._found = 0.0, False
        elif time.monotonic() - self._looked >= _LOOK_EVERY_S:
            self._found = await is_idle(self._db, task)
            self._looked = time.monotonic()
        return self._found


async def is_seen_idle(at: Opened, task: TaskView) -> bool:
    """The same at once; not where NATS does not say whether events wait."""
    # Imported here, because the driver brings an HTTP client along: 0.3 s for a task that goes on.
    from bus.errors import ServiceUnavailable
    from storage.inspect import is_idle

    if task.status != "running" or not await is_idle(at.db, task):
        return False
    from bus.nats import NatsTransport
    from callboard.cli.waiting_events import WaitingEvents

    with suppress(ServiceUnavailable, TimeoutError):
        transport = await NatsTransport.connect(at.endpoints.nats_url, name="callboard task", timeout_s=1.0)
        try:
            return await WaitingEvents(at.db, transport)(task.domain, now=True) == 0
        finally:
            await transport.close()
    return False
