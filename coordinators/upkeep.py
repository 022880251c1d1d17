"""What the master does once a day: the history's tables of the months to come; keys, hosts and code that are over."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from bus.errors import CallboardError
from storage.retention import retain

_logger = logging.getLogger("callboard.upkeep")

EVERY_S = 24 * 3600.0
TRY_AGAIN_S = 300.0  # what was in the way (Postgres away, a long query) is seldom there for a day


class Upkeep:
    """Called every round; it works beside the rounds, since dropping a table may have to wait.

    `months` of history are kept, None keeps all.
    """

    def __init__(
        self, postgres_url: str, *, months: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = postgres_url
        self._months = months
        self._clock = clock
        self._due_at = 0.0
        self._task: asyncio.Task[None] | None = None

    async def __call__(self) -> None:
        if self._clock() >= self._due_at and self._task is None:
            self._task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        again_s = TRY_AGAIN_S
        try:
            done = await retain(self._url, months=self._months)
            _logger.info("upkeep: %s", done)
            again_s = EVERY_S
        except CallboardError as error:
            _logger.warning("upkeep is put off for %.0f minutes: %s", TRY_AGAIN_S / 60, error)
        except Exception:
            _logger.exception("upkeep failed")
        finally:
            self._due_at = self._clock() + again_s
            self._task = None
