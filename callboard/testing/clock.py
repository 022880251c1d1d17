"""A clock that stands still until it is moved."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count
from typing import Any

from actors.scope import Clock

START = 1_767_225_600.0  # 2026-01-01T00:00:00Z: any fixed time makes tests repeatable


class VirtualClock(Clock):
    """Database time for tests. A pause ends at the next move, however short: its loop finds nothing due."""

    def __init__(self, start: float = START) -> None:
        super().__init__()
        self._now = start
        self._order = count()
        self._calls: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._pauses: list[asyncio.Future[None]] = []

    def now(self) -> float:
        return self._now

    def correct(self, database_now: float) -> None:
        """Nothing corrects a clock that is moved by hand."""

    def call_at(self, when: float, callback: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._calls, (when, next(self._order), callback, arguments))

    async def pause(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        self._pauses.append(future)
        await future

    @property
    def next_call(self) -> float | None:
        """When the first callback is due."""
        return self._calls[0][0] if self._calls else None

    def move_to(self, when: float) -> None:
        """Make it `when` (never earlier than now), call what is due by then, end every pause."""
        self._now = max(self._now, when)
        while self._calls and self._calls[0][0] <= self._now:
            _, _, callback, arguments = heapq.heappop(self._calls)
            callback(*arguments)
        ended, self._pauses = self._pauses, []
        for future in ended:
            if not future.done():
                future.set_result(None)
